import json
from pathlib import Path
from typing import Any

import pytest

from tests.paths import DATASETS, requires_shared
from utils.errors import UserError
from utils.evaluation.citypersons_files import (
    PedestrianGroundTruth,
    read_detections,
    read_ground_truth,
)

PERSON: dict[str, Any] = {"id": 1, "image_id": 3, "category_id": 1, "ignore": 0, "height": 40}
PERSON |= {"bbox": [947, 406, 17, 40], "vis_ratio": 0.75}
IMAGES = [{"id": 5, "im_name": "b.png"}, {"id": 3, "im_name": "a.png"}]
FOUND: dict[str, Any] = {"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4.5], "score": 0.5}


def truth_in(folder: Path, *people: object, images: object = IMAGES) -> PedestrianGroundTruth:
    file = folder / "gt.json"
    file.write_text(json.dumps({"images": images, "annotations": people}))
    return read_ground_truth(file)


def test_ground_truth(tmp_path: Path) -> None:
    rider = {**PERSON, "image_id": 5, "ignore": 1}
    truth = truth_in(tmp_path, rider, PERSON, {**PERSON, "category_id": 2})
    assert truth.image_ids.tolist() == [3, 5]
    assert truth.image_names == ("a.png", "b.png")
    assert truth.image.tolist() == [1, 0]
    assert truth.boxes.tolist() == [[947, 406, 17, 40]] * 2
    assert (truth.height.tolist(), truth.visibility.tolist()) == ([40, 40], [0.75, 0.75])
    assert truth.ignore.tolist() == [True, False]


@requires_shared
def test_ground_truth_of_the_benchmark() -> None:
    truth = read_ground_truth(DATASETS / "citypersons" / "val_gt.json")
    assert len(truth.image_ids) == len(set(truth.image_names)) == 500
    assert (len(truth.boxes), int((~truth.ignore).sum())) == (5795, 3157)


def test_detections(tmp_path: Path) -> None:
    truth = truth_in(tmp_path, PERSON)
    (tmp_path / "dt.json").write_text(json.dumps([FOUND, {**FOUND, "category_id": 3}]))
    found = read_detections(tmp_path / "dt.json", truth)
    assert found.image.tolist() == [1]
    assert found.boxes.tolist() == [[1, 2, 3, 4.5]]
    assert found.score.tolist() == [0.5]
    (tmp_path / "dt.json").write_text("[]")
    assert len(read_detections(tmp_path / "dt.json", truth).score) == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bbox": [1, 2, 3]}, r"annotations\[1\] has 'bbox' \[1, 2, 3\]; it must be a list of 4"),
        ({"bbox": [1, 2, 3, None]}, "it must be a list of 4 finite numbers"),
        ({"height": "40"}, "has 'height' '40'; it must be a finite number"),
        ({"vis_ratio": float("nan")}, "has 'vis_ratio' nan"),
        ({"height": 10**400}, "has 'height' 1000"),
        ({"image_id": 4}, "has image_id 4, which is not one of the 2 images of"),
    ],
)
def test_invalid_values_in_ground_truth_are_refused(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        truth_in(tmp_path, PERSON, {**PERSON, **change})


@pytest.mark.parametrize(
    ("images", "people", "sentence"),
    [
        ([], [], "has no `images` and `annotations`"),
        ([{"id": 3}, {"id": 3}], [], "has images with the same id"),
        ([7], [], r"images\[0\] has no 'id'"),
        (IMAGES, [[]], r"annotations\[0\] has no 'category_id'"),
        (IMAGES, [{"category_id": 1}], r"annotations\[0\] has no 'image_id'"),
    ],
)
def test_invalid_ground_truth_is_refused(
    tmp_path: Path, images: object, people: list[object], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        truth_in(tmp_path, *people, images=images)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", r"is damaged \("),
        (b"\xff\xfe\xfd", r"is damaged \("),
        (b"{}", "is not a list of detections"),
        (b'[{"category_id": 1}]', r"dt.json\[0\] has no 'image_id'"),
        (b'[{"category_id": 2}]', "has no detection with category_id 1"),
        (b"[1]", "has no 'category_id'"),
    ],
)
def test_invalid_detections_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "dt.json").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        read_detections(tmp_path / "dt.json", truth_in(tmp_path, PERSON))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*; give a JSON file"):
        read_ground_truth(tmp_path / "nothing.json")
    with pytest.raises(UserError, match=r"cannot read .*; give a JSON file"):
        read_ground_truth(tmp_path)
