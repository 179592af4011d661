import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.datasets.dataset import Batch, Frame
from utils.datasets.description import load_description
from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.index import Index
from utils.datasets.packed_strings import PackedStrings
from utils.errors import UserError
from utils.evaluation.coco_json import (
    CocoIds,
    CocoResults,
    category_ids,
    default_ids,
    image_ids,
    published_ids,
    save_ground_truth,
)

IMAGES = ["/x/images/a.jpg", "/x/images/b.jpg"]
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
    assert published_ids(published(tmp_path), ["cat", "dog"], IMAGES) == CocoIds(
        (90, 1), {"/x/images/a.jpg": 10, "/x/images/b.jpg": 11}
    )


def test_default_ids_without_a_file(tmp_path: Path) -> None:
    assert published_ids(None, NAMES, IMAGES) is None
    assert published_ids(tmp_path / "nothing.json", NAMES, IMAGES) is None
    expected = CocoIds((0, 1, 2), {"/x/images/a.jpg": "a", "/x/images/b.jpg": "b"})
    assert default_ids(NAMES, IMAGES) == expected


@pytest.mark.parametrize(
    ("names", "images", "unknown"),
    [(["cat", "cow"], IMAGES, "cow"), (["cat"], [*IMAGES, "/x/images/c.jpg"], "/x/images/c.jpg")],
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
        published_ids(published(tmp_path, content), NAMES, IMAGES)


def test_ground_truth_from_labels(tmp_path: Path) -> None:
    index = Index(
        paths=PackedStrings.of(IMAGES),
        sizes=np.array([[100, 200], [50, 50]], np.int32),
        boxes=np.array([[0, 0.5, 0.5, 0.5, 0.25], [2, 0.5, 0.5, 1, 1]], np.float32),
        offsets=np.array([0, 1, 2]),
        messages=PackedStrings.of([]),
    )
    region = IgnoreRegions(np.array([[0.5, 0.25, 0.5, 0.5]], np.float32), np.array([0, 0, 1]))
    file = tmp_path / "truth.json"
    save_ground_truth(index, NAMES, default_ids(NAMES, IMAGES), region, file)
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
FRAME = Frame("x/000042.jpg", original=(100, 200), ratio=(1.0, 1.0), pad=(0.0, 50.0))
FOUND = torch.tensor([[20.0, 70.0, 60.0, 90.0, 0.75, 1.0], [0.0, 50.0, 10.0, 60.0, 0.5, 0.0]])


def test_results_file(tmp_path: Path) -> None:
    frames = (FRAME, FRAME._replace(path="x/7.jpg"), FRAME._replace(path="x/empty.jpg"))
    batch = Batch(
        images=torch.zeros(3, 3, 200, 200, dtype=torch.uint8),
        targets=torch.zeros(0, 6),
        indices=torch.arange(3),
        frames=frames,
    )
    before = FOUND.clone()
    results = CocoResults([1, 90], {"x/000042.jpg": 42, "x/7.jpg": 7, "x/empty.jpg": 8})
    results(batch, [FOUND, FOUND[:1], FOUND[:0]])
    results.save(tmp_path / "results.json")
    entry = {"category_id": 90, "bbox": [20.0, 20.0, 40.0, 20.0], "score": 0.75}
    assert json.loads((tmp_path / "results.json").read_text()) == [
        {"image_id": 42, **entry},
        {"image_id": 42, "category_id": 1, "bbox": [0.0, 0.0, 10.0, 10.0], "score": 0.5},
        {"image_id": 7, **entry},
    ]
    assert torch.equal(FOUND, before)


def test_no_detections_give_an_empty_list(tmp_path: Path) -> None:
    CocoResults([1], {}).save(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_coco_category_ids_have_gaps() -> None:
    numbers = category_ids(load_description("coco128.yaml").names)
    assert (len(numbers), len(set(numbers))) == (80, 80)
    # person, fire hydrant, stop sign, backpack, tv, toothbrush
    assert [numbers[i] for i in (0, 10, 11, 24, 62, 79)] == [1, 11, 13, 27, 72, 90]
    assert category_ids(("cat", "dog")) == (0, 1)


def test_image_ids_are_unique_and_of_one_type() -> None:
    assert image_ids(["a/000042.jpg", "b/7.png"]) == {"a/000042.jpg": 42, "b/7.png": 7}
    assert image_ids(["a/42.jpg", "a/x_1.jpg"]) == {"a/42.jpg": "42", "a/x_1.jpg": "x_1"}
    assert image_ids(["a/1.jpg", "b/01.jpg"]) == {"a/1.jpg": 1, "b/01.jpg": 2}
    assert image_ids(["a/x.jpg", "b/x.jpg"]) == {"a/x.jpg": 1, "b/x.jpg": 2}
