import contextlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from utils.errors import UserError
from utils.evaluation import coco_eval as module
from utils.evaluation.coco_eval import (
    LIBRARIES,
    METRICS,
    CocoMetrics,
    Library,
    coco_metrics,
    installed_library,
    log_coco_metrics,
)
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


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.package)
def test_our_ap_differs_only_by_interpolation(tmp_path: Path, library: Library) -> None:
    data = RandomData(seed=0)
    names = [image["id"] for image in data.truth["images"]]
    theirs = coco_metrics(*data.save(tmp_path), names, library).values
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
def test_libraries_agree(tmp_path: Path, seed: int) -> None:
    data = RandomData(seed)
    files, names = data.save(tmp_path), [image["id"] for image in data.truth["images"]]
    first, second = (coco_metrics(*files, names, library) for library in LIBRARIES)
    assert first.values == pytest.approx(second.values, abs=1e-9)
    assert first.library.startswith("faster-coco-eval 1.")
    assert second.library.startswith("pycocotools 2.")


def test_only_evaluated_images_count(tmp_path: Path) -> None:
    data = RandomData(seed=1)
    files = data.save(tmp_path)
    some = [image["id"] for image in data.truth["images"][:5]]
    data.results = [row for row in data.results if row["image_id"] in some]
    files[1].write_text(json.dumps(data.results))
    with_others = coco_metrics(*files, some, LIBRARIES[0]).values
    data.truth["images"] = data.truth["images"][:5]
    data.truth["annotations"] = [a for a in data.truth["annotations"] if a["image_id"] in some]
    assert coco_metrics(*data.save(tmp_path), some, LIBRARIES[0]).values == with_others


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.package)
def test_detection_in_a_crowd_is_not_a_false_positive(tmp_path: Path, library: Library) -> None:
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
    assert coco_metrics(*data.save(tmp_path), ["x"], library).values["AP"] == pytest.approx(0.5)
    data.truth["annotations"] = [cat, crowd]
    assert coco_metrics(*data.save(tmp_path), ["x"], library).values["AP"] == pytest.approx(1)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.package)
def test_no_detections(tmp_path: Path, library: Library) -> None:
    data = RandomData(seed=0)
    data.results = []
    names = [image["id"] for image in data.truth["images"]]
    found = coco_metrics(*data.save(tmp_path), names, library).values
    assert (found["AP"], found["AR100"], found["APl"]) == (0.0, 0.0, None)


def test_invalid_ground_truth_is_refused(tmp_path: Path) -> None:
    truth, results = RandomData(seed=0).save(tmp_path)
    truth.write_text("[]")
    with pytest.raises(UserError, match="is not a ground-truth file in COCO's format"):
        coco_metrics(truth, results, ["image_0"], LIBRARIES[0])


def test_results_load_in_pycocotools_unchanged(tmp_path: Path) -> None:
    data = RandomData(seed=0)
    truth, results = data.save(tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(truth)).loadRes(str(results))
    assert len(loaded.anns) == len(data.results)


def test_faster_library_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_library() is LIBRARIES[0]
    monkeypatch.setattr(module, "find_spec", lambda name: name == "pycocotools" or None)
    assert installed_library() is LIBRARIES[1]
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert installed_library() is None


def test_table(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    values: dict[str, float | None] = {name: 0.25 for name, _ in METRICS} | {"APs": None}
    with caplog.at_level(logging.INFO, logger="yolo"):
        log_coco_metrics(CocoMetrics("some library 1.0", values), map50=0.5, map50_95=0.125)
    lines = [line.split() for line in "\n".join(caplog.messages).splitlines() if line]
    assert lines[0] == ["COCO", "metrics", "by", "some", "library", "1.0", "COCO", "ours"]
    assert [line[0] for line in lines[1:]] == list(values)
    assert lines[1][-2:] == ["0.2500", "0.1250"]
    assert lines[2][-2:] == ["0.2500", "0.5000"]
    assert lines[4][-1] == "-"
