"""CityPersons: from annotations to a trained, extended and evaluated detector."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import val
from tests.checkpoints import read_checkpoint
from tests.toy import make_toy_model
from tests.utils.tools.convert.cityscapes import Row, draw_images, person, write_annotations
from train import train
from utils.datasets.index import build_index
from utils.evaluation import evaluate
from utils.history import MISS_RATE_PREFIX
from utils.history import Row as EpochRow
from utils.options.arguments import parse_options
from utils.options.parser import parse_request
from utils.options.val_options import ValOptions
from utils.tools.convert.__main__ import main as convert

IGNORE, PEDESTRIAN, RIDER, GROUP = 0, 1, 2, 5
PLACE = (800, 300, 400)  # left, top and height of an upright person, px of the image
SMALL = person(PEDESTRIAN, 200, 400, 60)
HALF_HIDDEN = person(PEDESTRIAN, 1400, 300, 300, seen=0.5)

TRAIN: dict[str, list[Row]] = {
    f"{city}_000000_00000{i}_leftImg8bit.png": [
        person(PEDESTRIAN, 300 * i, 250 + 20 * i, 300 + 60 * i),
        person(PEDESTRIAN, 1950, 300, 350),  # extends beyond the image
        person(PEDESTRIAN, 1200, 500, 19),  # too low
        person(RIDER, 1500, 300, 250),
    ]
    for city in ("bonn", "ulm")
    for i in range(1, 5)
}
VAL: dict[str, list[Row]] = {
    "lindau_000000_000001_leftImg8bit.png": [person(PEDESTRIAN, *PLACE)],
    "lindau_000000_000002_leftImg8bit.png": [SMALL],
    "munster_000000_000001_leftImg8bit.png": [HALF_HIDDEN, person(IGNORE, *PLACE)],
    "munster_000000_000002_leftImg8bit.png": [person(GROUP, *PLACE)],
}
SUBSETS = ("Reasonable", "Reasonable_small", "Reasonable_occ=heavy", "All")
# Validation uses the precision of the training, and val.py uses fp32; hence --amp off.
OPTIONS = "--imgsz 128 --batch-size 4 --workers 0 --device cpu --amp off --hyp hyp.citypersons.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set that the converter creates from drawn images and their annotations."""
    original = tmp_path_factory.mktemp("cityscapes")
    for split, images in (("train", TRAIN), ("val", VAL)):
        write_annotations(original / "annotations", split, images)
        draw_images(original, split, images)
    folder = original.parent / "citypersons"
    source = str(original / "annotations")
    convert(["citypersons", source, "--images", str(original), "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def extended(data: Path) -> Path:
    """A run of two epochs, extended by one epoch in place."""
    run = trained(data, "--epochs 2 --noplots")
    again = f"--resume {run} --extend-epochs 1 --seam-epochs 1"
    return train(parse_request(again.split()))


def trained(data: Path, more: str) -> Path:
    files = ["--data", str(data / "data.yaml"), "--cfg", str(make_toy_model(data)), "--weights", ""]
    options = [*files, "--project", str(data / "runs"), *OPTIONS.split(), *more.split()]
    return train(parse_request(options))


def validate(data: Path, weights: Path, *more: str) -> dict[str, Any]:
    """Run val.py and return the content of metrics.json."""
    options = ["--data", str(data / "data.yaml"), "--weights", str(weights), "--imgsz", "128"]
    options += ["--batch-size", "8", "--device", "cpu", "--workers", "0", "--miss-rate", *more]
    options += ["--project", str(data / "evaluated")]
    return metrics_in(val.validate(parse_options(val.build_parser(), ValOptions, options)))


def metrics_in(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    del metrics["speed_ms_per_image"]
    return metrics


def miss_rates_in(row: EpochRow) -> dict[str, float]:
    return {
        name.removeprefix(MISS_RATE_PREFIX): value
        for name, value in row.items()
        if name.startswith(MISS_RATE_PREFIX)
    }


def test_labels_and_ignore_regions_match_the_annotations(data: Path) -> None:
    record = json.loads((data / "conversion.json").read_text())
    train_split, val_split = record["splits"]
    assert train_split["boxes"] == {"pedestrian": 16}
    assert train_split["ignored"] == {"lower than 20 px": 8, "of class rider": 8}
    assert train_split["cut"] == 8
    assert val_split["boxes"] == {"pedestrian": 3}
    assert val_split["ignored"] == {"of class ignore": 1, "of class group": 1}
    for split, counts in (("train", [2] * 8), ("val", [0, 0, 1, 1])):
        index = build_index([data / "images" / split], ["pedestrian"])
        assert [len(index.regions(i)) for i in range(len(index))] == counts


def test_every_epoch_has_miss_rates_also_after_the_seam(data: Path, extended: Path) -> None:
    last = read_checkpoint(extended / "weights" / "last.pt")
    assert last["position"]["epoch"] == 3
    assert [tuple(miss_rates_in(row)) for row in last["history"]] == [SUBSETS] * 3
    seam = read_checkpoint(extended / "weights" / "seam_2.pt")
    assert [miss_rates_in(row) for row in seam["history"]] == [
        miss_rates_in(row) for row in last["history"][:2]
    ]
    continuation = json.loads((extended / "seams.json").read_text())["continuations"][0]
    assert continuation["check"]["reproduced"] is True


def test_validation_of_the_same_weights_gives_the_same_metrics(data: Path, extended: Path) -> None:
    metrics = metrics_in(extended)
    assert (metrics["images"], metrics["instances"]) == (4, 3)
    assert tuple(metrics["miss_rate_percent"]) == SUBSETS
    assert validate(data, extended / "weights" / "best.pt", "--noplots") == metrics
    row = read_checkpoint(extended / "weights" / "last.pt")["history"][-1]
    last_metrics = validate(data, extended / "weights" / "last.pt", "--noplots")
    assert last_metrics["miss_rate_percent"] == miss_rates_in(row)
    assert last_metrics["map50_95"] == row["metrics/mAP_0.5:0.95"]


def test_miss_rate_curves_are_plotted(extended: Path) -> None:
    assert (extended / "miss_rate.png").stat().st_size > 10_000


@pytest.fixture
def one_box(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector with a single detection, at `PLACE` in every image."""
    # A sixteenth of 800, 300, 964 and 700 px, plus 16 px of padding from 64x128 to 96x160.
    row = [50 + 16, 18.75 + 16, 60.25 + 16, 43.75 + 16, 0.9, 0]

    def found(candidates: Sequence[Tensor], *_: object, **__: object) -> list[Tensor]:
        return [torch.tensor([row]) for _ in candidates]

    monkeypatch.setattr(evaluate, "suppress", found)


@pytest.mark.usefixtures("one_box")
def test_metrics_of_a_known_detector(data: Path, extended: Path) -> None:
    metrics = validate(data, extended / "weights" / "best.pt")
    # A true positive in the first image, a false positive in the second, ignored in the others.
    assert metrics["miss_rate_percent"] == {
        "Reasonable": pytest.approx(50),  # the small pedestrian is missed
        "Reasonable_small": 100,
        "Reasonable_occ=heavy": 100,
        "All": pytest.approx(200 / 3),
    }
    assert metrics["precision"] == pytest.approx(1 / 2, abs=0.001)
    assert metrics["recall"] == pytest.approx(1 / 3, abs=0.001)
    (data / "ignore").rename(data / "not-ignored")
    without = validate(data, extended / "weights" / "best.pt", "--noplots")
    (data / "not-ignored").rename(data / "ignore")
    assert without["precision"] == pytest.approx(1 / 4, abs=0.001)
    assert (
        without["miss_rate_percent"] == metrics["miss_rate_percent"]
    )  # has its own ignore regions


def test_rectangular_training(data: Path) -> None:
    run = trained(data, "--epochs 1 --rect --noplots --name rect")
    (row,) = read_checkpoint(run / "weights" / "last.pt")["history"]
    assert miss_rates_in(row) == metrics_in(run)["miss_rate_percent"]
