"""Hyper-parameter files: published values, and errors in one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.paths import GOLDENS, ROOT
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name: str) -> None:
    """The file has exactly the published keys; missing ones have the defaults of `Hyp`."""
    published = json.loads((GOLDENS / "hyps.json").read_text())[name]
    assert yaml.safe_load((ROOT / "hyp" / name).read_text(encoding="utf-8")) == published
    assert load_hyp(name).to_dict() == Hyp().to_dict() | published


def test_every_published_file_exists() -> None:
    current = json.loads((GOLDENS / "hyps.json").read_text())
    assert sorted(name for name in current if not name.startswith("v5.0 ")) == PUBLISHED


@pytest.mark.parametrize("path", sorted((ROOT / "hyp").glob("*.yaml")), ids=lambda path: path.name)
def test_every_file_states_its_purpose(path: Path) -> None:
    """A file starts with a comment on its purpose and its command, and loads."""
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert "python train.py" in header
    assert load_hyp(path).lr0 > 0


def test_defaults_are_those_of_scratch_low() -> None:
    assert load_hyp("hyp.scratch-low.yaml") == Hyp()


def test_found_by_path_and_by_bare_name(tmp_path: Path) -> None:
    own = tmp_path / "hyp.scratch-low.yaml"
    own.write_text("lr0: 0.5\n", encoding="utf-8")
    assert load_hyp(own).lr0 == 0.5  # an existing path takes precedence over hyp/
    assert load_hyp(tmp_path / "absent" / "hyp.scratch-low.yaml").lr0 == 0.01


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0.1}, "unknown key lr; known keys are anchor_t, anchors, box"),
        ({1: 2}, "unknown key 1;"),
        ({"lr0": "fast"}, "lr0 'fast': must be a number"),
        ({"lr0": None}, "lr0 None: must be a number"),
        ({"mosaic": True}, "mosaic True: must be a number"),
        ({"box": [0.05]}, r"box \[0.05\]: must be a number"),
        ({"weight_decay": -0.1}, "weight_decay -0.1: must be at least 0 and finite"),
        ({"mosaic": 1.01}, "mosaic 1.01: must be between 0 and 1"),
        ({"flipud": 2}, "flipud 2: must be between 0 and 1"),
        ({"fliplr": 2}, "fliplr 2: must be between 0 and 1"),
        ({"mixup": 2}, "mixup 2: must be between 0 and 1"),
        ({"copy_paste": 2}, "copy_paste 2: must be between 0 and 1"),
        ({"lr0": 0}, "lr0 0: must be greater than 0"),
        ({"lrf": 1.5}, "lrf 1.5: must be between 0 and 1"),
        ({"anchor_t": 1}, "anchor_t 1: must be greater than 1"),
        ({"lr0": float("nan")}, "lr0"),
        ({"box": float("inf")}, "box"),
    ],
)
def test_invalid_values_are_errors(tmp_path: Path, values: dict[Any, Any], message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_hyp(file)


def test_bounds_are_allowed() -> None:
    edge = Hyp.from_dict({"mosaic": 1, "mixup": 0, "lrf": 1.0, "weight_decay": 0}, origin="test")
    assert (edge.mosaic, edge.mixup, edge.lrf, edge.weight_decay) == (1, 0, 1.0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- lr0\n", "is not a mapping; write `name: value` lines"),
        ("", "is not a mapping; write `name: value` lines"),
        ("lr0: [", r"is damaged \(while parsing"),
        ("lr0: !!python/object/apply:os.getcwd []", r"is damaged \(could not determine"),
    ],
)
def test_files_with_other_content_are_errors(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        load_hyp(file)
    assert "own.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_binary_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="does not exist; give the path of a file, or the name of one in hyp/"
    ):
        load_hyp(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match=r"is damaged \(.*; correct the YAML"):
        load_hyp(tmp_path / "binary.yaml")


def test_round_trip_and_frozen() -> None:
    hyp = Hyp(lr0=0.02, mixup=0.5)
    assert Hyp.from_dict(hyp.to_dict(), origin="test") == hyp
    with pytest.raises(AttributeError):
        hyp.lr0 = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(Hyp().to_dict()))
def test_every_value_has_a_maximum(name: str) -> None:
    with pytest.raises(UserError, match=f"^hyp: {name} 1e[+]300: must be "):
        Hyp.from_dict({name: 1e300}, "hyp")
    with pytest.raises(UserError, match=f"^hyp: {name} 1000.*: must be "):
        Hyp.from_dict({name: 10**400}, "hyp")
