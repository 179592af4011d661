import contextlib
import io
import json
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.datasets.dataset import Batch, Frame
from utils.datasets.description import load_description
from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.index import Index
from utils.datasets.packed_strings import PackedStrings
from utils.errors import UserError
from utils.evaluation import coco_eval as module
from utils.evaluation.coco_eval import (
    METRICS,
    CocoBenchmark,
    CocoIds,
    coco_metrics,
    default_ids,
    log_coco_metrics,
    published_ids,
    save_ground_truth,
    save_results,
)
from utils.evaluation.evaluate import Evaluation
from utils.evaluation.metrics import ap_per_class, match_detections

IMAGES = 12
CELLS = [(100.0 * column, 100.0 * row) for row in range(3) for column in range(3)]


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU [m, n] of boxes given as left, top, width, height."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    shared = (high - low).clip(0).prod(-1)
    return shared / (a[:, 2:].prod(-1)[:, None] + b[:, 2:].prod(-1)[None] - shared)


class RandomData:
    """Random images of 3 x 3 cells, most with a labelled box, and detections near the boxes.

    Boxes of different cells do not overlap, so that the matching is unique.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.truth: dict[str, Any] = {"info": {}, "images": [], "annotations": []}
        self.truth["categories"] = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
        self.results: list[dict[str, Any]] = []
        for number in range(IMAGES):
            name = f"image_{number}"
            self.truth["images"].append({"id": name, "width": 300, "height": 300})
            for corner in CELLS:
                box = np.array([corner[0] + 20, corner[1] + 20, *rng.integers(20, 60, 2)])
                label = int(rng.integers(2))
                if rng.random() < 0.8:
                    self._annotate(name, label, box)
                for _ in range(rng.integers(3)):
                    found = np.round(box + rng.normal(0, 2, 4), 3)
                    entry = {"image_id": name, "category_id": label, "bbox": found.tolist()}
                    self.results.append({**entry, "score": round(rng.random(), 5)})

    def _annotate(self, image: str, label: int, box: np.ndarray) -> None:
        self.truth["annotations"].append(
            {
                "id": len(self.truth["annotations"]) + 1,
                "image_id": image,
                "category_id": label,
                "bbox": box.tolist(),
                "area": float(box[2:].prod()),
                "iscrowd": 0,
            }
        )

    def save(self, folder: Path) -> tuple[Path, Path]:
        truth, results = folder / "truth.json", folder / "results.json"
        truth.write_text(json.dumps(self.truth))
        results.write_text(json.dumps(self.results))
        return truth, results

    def matched(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return true positives, scores and classes of our matching, and classes of the labels."""
        tp, score, predicted, labels = [], [], [], []
        for image in self.truth["images"]:
            labelled = [a for a in self.truth["annotations"] if a["image_id"] == image["id"]]
            found = [r for r in self.results if r["image_id"] == image["id"]]
            found.sort(key=lambda row: -row["score"])
            a, b = (
                np.array([r["bbox"] for r in rows]).reshape(-1, 4) for rows in (labelled, found)
            )
            classes = [
                np.array([r["category_id"] for r in rows], int) for rows in (labelled, found)
            ]
            tp.append(match_detections(box_iou(a, b), *classes))
            score.append(np.array([row["score"] for row in found]))
            labels.append(classes[0])
            predicted.append(classes[1])
        parts = [np.concatenate(column) for column in (tp, score, predicted, labels)]
        return parts[0], parts[1], parts[2], parts[3]


def staircase_ap(tp: np.ndarray, labels: int) -> float:
    """Return COCO's average precision from true positives [n], most confident first."""
    recall, precision = tp.cumsum() / labels, tp.cumsum() / np.arange(1, len(tp) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.searchsorted(recall, np.linspace(0, 1, 101))
    return float(np.append(precision, 0)[steps].mean())


def test_our_ap_differs_only_by_interpolation(tmp_path: Path) -> None:
    data = RandomData(seed=0)
    names = [image["id"] for image in data.truth["images"]]
    theirs = coco_metrics(*data.save(tmp_path), names)
    tp, score, predicted, labels = data.matched()
    order = np.argsort(-score, kind="stable")
    steps = np.array(
        [
            [staircase_ap(tp[order][predicted[order] == c, t], (labels == c).sum()) for c in (0, 1)]
            for t in range(10)
        ]
    )
    assert theirs["AP"] == pytest.approx(steps.mean(), abs=1e-9)
    assert theirs["AP50"] == pytest.approx(steps[0].mean(), abs=1e-9)
    assert theirs["AP75"] == pytest.approx(steps[5].mean(), abs=1e-9)
    ours = ap_per_class(tp, score, predicted, labels).ap
    # The difference is large here, because the curves end at low recall and high precision.
    assert (theirs["AP"], ours.mean()) == pytest.approx((0.35798, 0.42676), abs=1e-5)
    assert (theirs["AP50"], ours[:, 0].mean()) == pytest.approx((0.56428, 0.63299), abs=1e-5)
    assert theirs["APl"] is None  # no box has more than 96 x 96 px


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_pycocotools(tmp_path: Path, seed: int) -> None:
    data = RandomData(seed)
    # pycocotools needs integer ids.
    for row in (*data.truth["images"], *data.truth["annotations"], *data.results):
        key = "image_id" if "image_id" in row else "id"
        row[key] = int(row[key].removeprefix("image_"))
    truth, results = data.save(tmp_path)
    ours = coco_metrics(truth, results, range(IMAGES))
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO(str(truth))
        evaluator = COCOeval(labels, labels.loadRes(str(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    theirs = [None if value < 0 else value for value in evaluator.stats.tolist()]
    assert list(ours.values()) == pytest.approx(theirs, abs=1e-9)


def test_only_evaluated_images_count(tmp_path: Path) -> None:
    data = RandomData(seed=1)
    files = data.save(tmp_path)
    some = [image["id"] for image in data.truth["images"][:5]]
    data.results = [row for row in data.results if row["image_id"] in some]
    files[1].write_text(json.dumps(data.results))
    with_others = coco_metrics(*files, some)
    data.truth["images"] = data.truth["images"][:5]
    data.truth["annotations"] = [a for a in data.truth["annotations"] if a["image_id"] in some]
    assert coco_metrics(*data.save(tmp_path), some) == with_others


def test_detection_in_a_crowd_is_not_a_false_positive(tmp_path: Path) -> None:
    data = RandomData(seed=0)
    data.truth["images"] = [{"id": "x", "width": 300, "height": 300}]
    base = {"image_id": "x", "category_id": 0}
    cat = {**base, "id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
    crowd = {**base, "id": 2, "bbox": [100, 100, 200, 200], "area": 40000, "iscrowd": 1}
    data.results = [
        {**base, "bbox": [120, 120, 50, 50], "score": 0.9},
        {**base, "bbox": [10, 10, 40, 40], "score": 0.8},
    ]
    data.truth["annotations"] = [cat]
    assert coco_metrics(*data.save(tmp_path), ["x"])["AP"] == pytest.approx(0.5)
    data.truth["annotations"] = [cat, crowd]
    assert coco_metrics(*data.save(tmp_path), ["x"])["AP"] == pytest.approx(1)


def test_no_detections(tmp_path: Path) -> None:
    data = RandomData(seed=0)
    data.results = []
    names = [image["id"] for image in data.truth["images"]]
    found = coco_metrics(*data.save(tmp_path), names)
    assert (found["AP"], found["AR100"], found["APl"]) == (0.0, 0.0, None)


def test_invalid_ground_truth_is_refused(tmp_path: Path) -> None:
    truth, results = RandomData(seed=0).save(tmp_path)
    truth.write_text("[]")
    with pytest.raises(UserError, match="is not a ground-truth file in COCO's format"):
        coco_metrics(truth, results, ["image_0"])


def test_table(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    values: dict[str, float | None] = {name: 0.25 for name, _ in METRICS} | {"APs": None}
    with caplog.at_level(logging.INFO, logger="yolo"):
        log_coco_metrics("some library 1.0", values, map50=0.5, map50_95=0.125)
    lines = [line.split() for line in "\n".join(caplog.messages).splitlines() if line]
    assert lines[0] == ["COCO", "metrics", "by", "some", "library", "1.0", "COCO", "ours"]
    assert [line[0] for line in lines[1:]] == list(values)
    assert lines[1][-2:] == ["0.2500", "0.1250"]
    assert lines[2][-2:] == ["0.2500", "0.5000"]
    assert lines[4][-1] == "-"


PATHS = ["/x/images/a.jpg", "/x/images/b.jpg"]
NAMES = ["cat", "dog", "cow"]


def published(folder: Path, content: object = None) -> Path:
    file = folder / "instances.json"
    content = content or {
        "images": [{"id": 11, "file_name": "b.jpg"}, {"id": 10, "file_name": "val/a.jpg"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 90, "name": "cat"}],
        "annotations": [],
    }
    file.write_text(json.dumps(content))
    return file


def test_ids_of_a_published_file(tmp_path: Path) -> None:
    assert published_ids(published(tmp_path), ["cat", "dog"], PATHS) == CocoIds(
        (90, 1), {"/x/images/a.jpg": 10, "/x/images/b.jpg": 11}
    )


def test_default_ids_without_a_file(tmp_path: Path) -> None:
    assert published_ids(None, NAMES, PATHS) is None
    assert published_ids(tmp_path / "nothing.json", NAMES, PATHS) is None
    expected = CocoIds((0, 1, 2), {"/x/images/a.jpg": "a", "/x/images/b.jpg": "b"})
    assert default_ids(NAMES, PATHS) == expected


@pytest.mark.parametrize(
    ("names", "images", "unknown"),
    [(["cat", "cow"], PATHS, "cow"), (["cat"], [*PATHS, "/x/images/c.jpg"], "/x/images/c.jpg")],
)
def test_file_of_other_data_is_not_used(
    tmp_path: Path,
    names: list[str],
    images: list[str],
    unknown: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    assert published_ids(published(tmp_path), names, images) is None
    assert f"does not have {unknown}; using the labels as ground truth" in caplog.text


@pytest.mark.parametrize("content", [[1], {"images": [], "categories": []}, {"images": 3}])
def test_invalid_file_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(UserError, match="is not a ground-truth file in COCO's format"):
        published_ids(published(tmp_path, content), NAMES, PATHS)


INDEX = Index(
    paths=PackedStrings.of(PATHS),
    sizes=np.array([[100, 200], [50, 50]], np.int32),
    boxes=np.array([[0, 0.5, 0.5, 0.5, 0.25], [2, 0.5, 0.5, 1, 1]], np.float32),
    offsets=np.array([0, 1, 2]),
    messages=PackedStrings.of([]),
)


def test_ground_truth_from_labels(tmp_path: Path) -> None:
    region = IgnoreRegions(np.array([[0.5, 0.25, 0.5, 0.5]], np.float32), np.array([0, 0, 1]))
    file = tmp_path / "truth.json"
    save_ground_truth(INDEX, NAMES, default_ids(NAMES, PATHS), region, file)
    truth = json.loads(file.read_text())
    assert truth["images"] == [
        {"id": "a", "file_name": "a.jpg", "width": 200, "height": 100},
        {"id": "b", "file_name": "b.jpg", "width": 50, "height": 50},
    ]
    assert truth["categories"] == [
        {"id": 0, "name": "cat"},
        {"id": 1, "name": "dog"},
        {"id": 2, "name": "cow"},
    ]
    columns = ("id", "image_id", "category_id", "iscrowd", "area", "bbox")
    assert [tuple(row[name] for name in columns) for row in truth["annotations"]] == [
        (1, "a", 0, 0, 2500, [50, 37.5, 100, 25]),
        (2, "b", 2, 0, 2500, [0, 0, 50, 50]),
        # The region is a crowd of each class that has labels.
        (3, "b", 0, 1, 625, [12.5, 0, 25, 25]),
        (4, "b", 2, 1, 625, [12.5, 0, 25, 25]),
    ]


# 100 px high, 200 px wide; letterboxed to 200 x 200 without scaling.
FRAME = Frame(PATHS[0], original=(100, 200), ratio=(1.0, 1.0), pad=(0.0, 50.0))
FOUND = torch.tensor([[20.0, 70.0, 60.0, 90.0, 0.75, 1.0], [0.0, 50.0, 10.0, 60.0, 0.5, 0.0]])


def test_results_file_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    batch = Batch(
        images=torch.zeros(2, 3, 200, 200, dtype=torch.uint8),
        targets=torch.zeros(0, 6),
        indices=torch.arange(2),
        frames=(FRAME, FRAME._replace(path=PATHS[1])),
    )
    before = FOUND.clone()
    benchmark = CocoBenchmark(INDEX, ["cat", "dog"], None, published(tmp_path))
    benchmark(batch, [FOUND, FOUND[:1]])
    ours = cast(Evaluation, None)  # is logged only next to the metrics of the library
    results = tmp_path / "results.json"
    assert benchmark.report(ours, results) == {}
    assert "is not installed; run: pip install faster-coco-eval" in caplog.text
    entry = {"category_id": 1, "bbox": [20.0, 20.0, 40.0, 20.0], "score": 0.75}
    assert json.loads(results.read_text()) == [
        {"image_id": 10, **entry},
        {"image_id": 10, "category_id": 90, "bbox": [0.0, 0.0, 10.0, 10.0], "score": 0.5},
        {"image_id": 11, **entry},
    ]
    assert torch.equal(FOUND, before)
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(tmp_path / "instances.json")).loadRes(str(results))
    assert len(loaded.anns) == 3


def test_no_detections_give_an_empty_list(tmp_path: Path) -> None:
    save_results({}, CocoIds((1,), {}), tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_coco_category_ids_have_gaps() -> None:
    numbers = default_ids(load_description("coco128.yaml").names, []).categories
    assert (len(numbers), len(set(numbers))) == (80, 80)
    # person, fire hydrant, stop sign, backpack, tv, toothbrush
    assert [numbers[i] for i in (0, 10, 11, 24, 62, 79)] == [1, 11, 13, 27, 72, 90]
    assert default_ids(("cat", "dog"), []).categories == (0, 1)


@pytest.mark.parametrize(
    ("images", "ids"),
    [
        (["a/000042.jpg", "b/7.png"], [42, 7]),
        (["a/42.jpg", "a/x_1.jpg"], ["42", "x_1"]),
        (["a/1.jpg", "b/01.jpg"], [1, 2]),
        (["a/x.jpg", "b/x.jpg"], [1, 2]),
    ],
)
def test_image_ids_are_unique_and_of_one_type(images: list[str], ids: list[int | str]) -> None:
    assert default_ids(["cat"], images).images == dict(zip(images, ids, strict=True))
