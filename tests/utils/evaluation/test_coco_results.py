import json
from pathlib import Path

import torch

from utils.datasets.dataset import Batch, Frame
from utils.datasets.description import load_description
from utils.evaluation.coco_results import CocoResults, category_ids, image_ids

# 100 px high, 200 px wide; letterboxed without scaling to 200 x 200.
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


def test_no_detections_are_an_empty_list(tmp_path: Path) -> None:
    CocoResults([1], {}).save(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text()) == []


def test_coco_numbers_its_classes_with_gaps() -> None:
    numbers = category_ids(load_description("coco128.yaml").names)
    assert (len(numbers), len(set(numbers))) == (80, 80)
    # person, fire hydrant, stop sign, backpack, tv, toothbrush
    assert [numbers[i] for i in (0, 10, 11, 24, 62, 79)] == [1, 11, 13, 27, 72, 90]
    assert category_ids(("cat", "dog")) == (0, 1)


def test_image_ids_are_of_one_type_and_differ() -> None:
    assert image_ids(["a/000042.jpg", "b/7.png"]) == {"a/000042.jpg": 42, "b/7.png": 7}
    assert image_ids(["a/42.jpg", "a/x_1.jpg"]) == {"a/42.jpg": "42", "a/x_1.jpg": "x_1"}
    assert image_ids(["a/1.jpg", "b/01.jpg"]) == {"a/1.jpg": 1, "b/01.jpg": 2}
    assert image_ids(["a/x.jpg", "b/x.jpg"]) == {"a/x.jpg": 1, "b/x.jpg": 2}
