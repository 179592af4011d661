import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from utils.datasets.dataset import Batch, Frame
from utils.datasets.description import DatasetDescription, load_description
from utils.errors import UserError
from utils.evaluation.citypersons import MissRateEvaluator, PedestrianTarget, pedestrian_target
from utils.evaluation.miss_rate import percentages

# 1000 x 500 px, shrunk to half and padded to a square of 500 px.
FRAME = Frame("x/images/b.jpg", original=(500, 1000), ratio=(0.5, 0.5), pad=(0.0, 125.0))
IMAGES = ["/x/images/a.jpg", "/x/images/b.jpg"]


def described(folder: Path, names: Sequence[str] = ("a", "b")) -> DatasetDescription:
    person = {"image_id": 2, "category_id": 1, "bbox": [100, 50, 40, 100], "ignore": 0}
    person |= {"height": 100, "vis_ratio": 1.0}
    images = [{"id": i, "im_name": f"{name}.png"} for i, name in enumerate(names, 1)]
    truth = {"images": images, "annotations": [person]}
    (folder / "gt.json").write_text(json.dumps(truth))
    file = folder / "data.yaml"
    file.write_text(f"path: {folder}\nval: images\nnames: [rider]\nmiss_rate_gt: gt.json\n")
    return load_description(file)


def target_in(folder: Path) -> PedestrianTarget:
    target = pedestrian_target(described(folder), ["rider", "pedestrian"], IMAGES)
    assert target is not None
    return target


def test_detections_are_evaluated_in_original_pixels(tmp_path: Path) -> None:
    target = target_in(tmp_path)
    assert target.label == 1
    batch = Batch(
        images=torch.zeros(2, 3, 500, 500, dtype=torch.uint8),
        targets=torch.zeros(0, 6),
        indices=torch.arange(2),
        frames=(FRAME, FRAME._replace(path="x/images/a.jpg")),
    )
    pedestrian = torch.tensor([[50.0, 150.0, 70.0, 200.0, 0.75, 1.0]])
    for label, expected in ((1.0, 0.0), (0.0, 100.0)):
        evaluator = MissRateEvaluator(target)
        pedestrian[:, 5] = label
        evaluator(batch, [pedestrian, pedestrian[:0]])
        assert percentages(evaluator.rates())["Reasonable"] == expected
    evaluator = MissRateEvaluator(target)
    pedestrian[:, 5] = 1
    evaluator(batch, [pedestrian[:0], pedestrian])  # in the other image
    assert percentages(evaluator.rates())["Reasonable"] == 100.0


def test_report(tmp_path: Path) -> None:
    evaluator = MissRateEvaluator(target_in(tmp_path))
    assert evaluator.report(tmp_path / "curves.png") == {
        "miss_rate_percent": {
            "Reasonable": 100.0,
            "Reasonable_small": None,
            "Reasonable_occ=heavy": None,
            "All": 100.0,
        }
    }
    assert (tmp_path / "curves.png").exists()


def test_no_target_without_the_key(tmp_path: Path) -> None:
    description = described(tmp_path)
    text = description.path.read_text().replace("miss_rate_gt: gt.json\n", "")
    description.path.write_text(text)
    assert pedestrian_target(description, ["pedestrian"], IMAGES) is None


def test_images_that_are_not_evaluated_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    pedestrian_target(described(tmp_path), ["anything"], IMAGES[:1])
    assert "1 images of" in caplog.messages[0]
    assert "are not evaluated; their pedestrians count as missed" in caplog.messages[0]


@pytest.mark.parametrize(
    ("in_truth", "names", "images", "sentence"),
    [
        (
            ("a", "b"),
            ["rider", "bike"],
            IMAGES,
            "but the classes are rider, bike; rename one of them",
        ),
        (("a", "b"), ["person"], ["/x/c.jpg"], "has no image with the name of /x/c.jpg"),
        (("a", "a"), ["person"], IMAGES[:1], "has images with the same name"),
    ],
)
def test_contradictory_inputs_are_refused(
    tmp_path: Path,
    in_truth: tuple[str, str],
    names: list[str],
    images: list[str],
    sentence: str,
) -> None:
    with pytest.raises(UserError, match=sentence):
        pedestrian_target(described(tmp_path, in_truth), names, images)


def test_missing_ground_truth_is_refused(tmp_path: Path) -> None:
    description = described(tmp_path)
    (tmp_path / "gt.json").unlink()
    with pytest.raises(UserError, match=r"gt\.json does not exist; .* remove `miss_rate_gt:`"):
        pedestrian_target(description, ["person"], IMAGES)


def test_pedestrian_class_is_found_by_name(tmp_path: Path) -> None:
    for names, label in ((["car", "person", "pedestrian"], 2), (["car", "person"], 1), (["x"], 0)):
        target = pedestrian_target(described(tmp_path), names, IMAGES)
        assert target is not None
        assert target.label == label
