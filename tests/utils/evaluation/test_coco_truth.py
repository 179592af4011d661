import json
import logging
from pathlib import Path

import numpy as np
import pytest

from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.index import Index
from utils.datasets.packed_strings import PackedStrings
from utils.errors import UserError
from utils.evaluation.coco_truth import CocoNumbers, own_numbers, published_numbers, save_truth

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


def test_a_published_file_tells_the_numbers(tmp_path: Path) -> None:
    assert published_numbers(published(tmp_path), ["cat", "dog"], IMAGES) == CocoNumbers(
        (90, 1), {"/x/images/a.jpg": 10, "/x/images/b.jpg": 11}
    )


def test_without_a_file_there_are_own_numbers(tmp_path: Path) -> None:
    assert published_numbers(None, NAMES, IMAGES) is None
    assert published_numbers(tmp_path / "nothing.json", NAMES, IMAGES) is None
    expected = CocoNumbers((0, 1, 2), {"/x/images/a.jpg": "a", "/x/images/b.jpg": "b"})
    assert own_numbers(NAMES, IMAGES) == expected


@pytest.mark.parametrize(
    ("names", "images", "strange"),
    [(["cat", "cow"], IMAGES, "cow"), (["cat"], [*IMAGES, "/x/images/c.jpg"], "/x/images/c.jpg")],
)
def test_a_file_of_other_data_is_left_aside(
    tmp_path: Path,
    names: list[str],
    images: list[str],
    strange: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    assert published_numbers(published(tmp_path), names, images) is None
    assert f"knows nothing of {strange}: the labels are the ground truth" in caplog.text


@pytest.mark.parametrize("content", [[1], {"images": [], "categories": []}, {"images": 3}])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(UserError, match="is no ground truth of COCO"):
        published_numbers(published(tmp_path, content), NAMES, IMAGES)


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
    save_truth(index, NAMES, own_numbers(NAMES, IMAGES), region, file)
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
