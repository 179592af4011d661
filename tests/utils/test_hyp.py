"""Hyper-parameter files: the published ones are published ones, and a mistake gets a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.paths import GOLDENS, ROOT, requires_shared
from utils.errors import UserError
from utils.hyp import Hyp, load_hyp

PUBLISHED = [
    "hyp.Objects365.yaml",
    "hyp.VOC.yaml",
    "hyp.no-augmentation.yaml",
    "hyp.scratch-high.yaml",
    "hyp.scratch-low.yaml",
    "hyp.scratch-med.yaml",
]


@requires_shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name: str) -> None:
    """Every key the published file has, and no more; what it leaves out is Hyp's default."""
    published = json.loads((GOLDENS / "hyps.json").read_text())[name]
    assert yaml.safe_load((ROOT / "hyp" / name).read_text(encoding="utf-8")) == published
    assert load_hyp(name).to_dict() == Hyp().to_dict() | published


@requires_shared
def test_every_published_file_is_there() -> None:
    current = json.loads((GOLDENS / "hyps.json").read_text())
    assert sorted(name for name in current if not name.startswith("v5.0 ")) == PUBLISHED


@pytest.mark.parametrize("path", sorted((ROOT / "hyp").glob("*.yaml")), ids=lambda path: path.name)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    """A recipe opens with its purpose and its command, and loads."""
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "python train.py" in header
    assert load_hyp(path).lr0 > 0


def test_defaults_are_those_of_scratch_low() -> None:
    assert load_hyp("hyp.scratch-low.yaml") == Hyp()


def test_found_by_path_and_by_bare_name(tmp_path: Path) -> None:
    own = tmp_path / "hyp.scratch-low.yaml"
    own.write_text("lr0: 0.5\n", encoding="utf-8")
    assert load_hyp(own).lr0 == 0.5  # the file named wins over the one in hyp/
    assert load_hyp(tmp_path / "absent" / "hyp.scratch-low.yaml").lr0 == 0.01


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0.1}, "unknown hyper-parameter lr; known are anchor_t, anchors, box"),
        ({1: 2}, "unknown hyper-parameter 1;"),
        ({"lr0": "fast"}, "lr0 is 'fast'; give it a number"),
        ({"lr0": None}, "lr0 is None; give it a number"),
        ({"mosaic": True}, "mosaic is True; give it a number"),
        ({"box": [0.05]}, r"box is \[0.05\]; give it a number"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; give a finite number"),
        ({"mosaic": 1.01}, "mosaic is 1.01; a probability is at most 1"),
        ({"flipud": 2}, "flipud is 2; a probability is at most 1"),
        ({"fliplr": 2}, "fliplr is 2; a probability is at most 1"),
        ({"mixup": 2}, "mixup is 2; a probability is at most 1"),
        ({"copy_paste": 2}, "copy_paste is 2; a probability is at most 1"),
        ({"lr0": 0}, "lr0 must be above 0"),
        ({"lrf": 1.5}, "lrf, its final fraction, at most 1"),
        ({"anchor_t": 1}, "anchor_t is 1; a ratio of sides must be above 1"),
        ({"lr0": float("nan")}, "lr0"),
        ({"box": float("inf")}, "box"),
    ],
)
def test_bad_values_are_refused(tmp_path: Path, values: dict[Any, Any], message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_hyp(file)


def test_edges_are_allowed() -> None:
    edge = Hyp.from_dict({"mosaic": 1, "mixup": 0, "lrf": 1.0, "weight_decay": 0}, origin="test")
    assert (edge.mosaic, edge.mixup, edge.lrf, edge.weight_decay) == (1, 0, 1.0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- lr0\n", "must hold `name: value` lines"),
        ("", "must hold `name: value` lines"),
        ("lr0: [", r"is damaged \(while parsing"),
        ("lr0: !!python/object/apply:os.getcwd []", r"is damaged \(could not determine"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as refusal:
        load_hyp(file)
    assert "own.yaml" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_absent_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; ready ones are in hyp/"):
        load_hyp(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match=r"is damaged \(.*; correct the YAML"):
        load_hyp(tmp_path / "binary.yaml")


def test_round_trip_and_frozen() -> None:
    hyp = Hyp(lr0=0.02, mixup=0.5)
    assert Hyp.from_dict(hyp.to_dict(), origin="test") == hyp
    with pytest.raises(AttributeError):
        hyp.lr0 = 1.0  # type: ignore[misc]
