"""AutoAnchor checks the anchors of a new run against its data; later they do not change."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import yaml

from models.anchors import best_possible_recall, fit_anchors
from models.spec import load_spec
from tests.checkpoints import read_checkpoint
from tests.paths import DATASETS, requires_shared
from tests.promises.test_resume import killed_after
from tests.toy import make_toy, toy_arguments
from train import train
from utils.autoanchor import GOOD_RECALL, box_sizes, with_fitting_anchors
from utils.datasets.index import build_index
from utils.errors import UserError
from utils.options.parser import parse_request

FAR_TOO_LARGE = [(600.0, 600.0) * 3] * 3
"""Anchors that match no box of the toy data set, whose sides are 12 to 28 pixels."""


def arguments(
    folder: Path, more: str, anchors: Sequence[tuple[float, ...]] = FAR_TOO_LARGE
) -> list[str]:
    """A command line for the toy model with these anchors, and with AutoAnchor."""
    given = toy_arguments(folder, f"--epochs 2 {more}")
    spec = replace(load_spec(Path("yolov5n.yaml")), width_multiple=0.01).with_anchors(anchors)
    Path(given[given.index("--cfg") + 1]).write_text(yaml.safe_dump(spec.to_dict()))
    return [argument for argument in given if argument != "--noautoanchor"]


def anchors_of(run: Path) -> tuple[list[list[float]], list[Any]]:
    """Anchors in pixels of the last checkpoint, and the anchor buffers of model and EMA."""
    checkpoint = read_checkpoint(run / "weights" / "last.pt")
    states = (checkpoint["model"], checkpoint["ema"]["weights"])
    buffers = [
        tensor.tolist() for state in states for name, tensor in state.items() if "anchors" in name
    ]
    return checkpoint["config"]["spec"]["anchors"], buffers


def toy_sizes(folder: Path) -> np.ndarray:
    return box_sizes(build_index([folder / "data" / "images" / "train"], ["green", "red"]), 64)


@pytest.fixture
def _fitting_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes any check or fit of anchors fail."""

    def fail(*_: object) -> NoReturn:
        raise AssertionError("the anchors of an existing run are fixed")

    monkeypatch.setattr("utils.autoanchor.best_possible_recall", fail)
    monkeypatch.setattr("utils.autoanchor.fit_anchors", fail)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that started with anchors that match no box."""
    folder = tmp_path_factory.mktemp("fitted")
    return train(parse_request(arguments(folder, "--seed 3 --name a")))


def test_new_run_fits_anchors_with_its_seed(fitted: Path) -> None:
    sizes = toy_sizes(fitted.parents[1])
    rows, buffers = anchors_of(fitted)
    expected = fit_anchors(sizes, 9, 4.0, seed=3)
    assert np.reshape(rows, (9, 2)).tolist() == expected.tolist()
    assert best_possible_recall(sizes, expected, 4.0).recall == 1
    strides = np.array([8, 16, 32]).reshape(3, 1, 1)
    assert len(buffers) == 2
    for buffer in buffers:
        np.testing.assert_allclose(buffer * strides, np.reshape(rows, (3, 3, 2)), rtol=1e-6)
    assert not np.allclose(fit_anchors(sizes, 9, 4.0, seed=4), expected)


def test_the_same_command_fits_the_same_anchors(fitted: Path, tmp_path: Path) -> None:
    again = train(parse_request(arguments(tmp_path, "--seed 3 --epochs 1")))
    assert anchors_of(again) == anchors_of(fitted)


@pytest.mark.usefixtures("_fitting_fails")
def test_resuming_keeps_the_anchors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("utils.autoanchor.best_possible_recall", best_possible_recall)
        patch.setattr("utils.autoanchor.fit_anchors", fit_anchors)
        killed_after(1, patch, arguments(tmp_path, "--name a"))
    run = tmp_path / "runs" / "a"
    before = anchors_of(run)
    assert before[0] != [list(row) for row in FAR_TOO_LARGE]
    assert train(parse_request(["--resume", str(run), "--noplots"])) == run
    assert len(read_checkpoint(run / "weights" / "last.pt")["history"]) == 2
    assert anchors_of(run) == before


@pytest.mark.usefixtures("_fitting_fails")
@pytest.mark.parametrize("other_data", [False, True])
def test_extending_keeps_the_anchors_for_any_data(
    fitted: Path, tmp_path: Path, *, other_data: bool
) -> None:
    extension = ["--resume", str(fitted), "--extend-epochs", "1", "--noplots", "--name", "b"]
    if other_data:
        extension += ["--data", str(make_toy(tmp_path / "other", images=6))]
        extension += ["--allow-change", "data", "--name", "c"]
    run = train(parse_request(extension))
    assert run != fitted
    assert len(read_checkpoint(run / "weights" / "last.pt")["history"]) == 3
    assert anchors_of(run) == anchors_of(fitted)


def test_matching_anchors_are_kept(tmp_path: Path) -> None:
    good = [(10.0, 13, 16, 30, 33, 23), (30.0, 61, 62, 45, 59, 119), (99.0, 90, 99, 99, 99, 99)]
    run = train(parse_request(arguments(tmp_path, "--epochs 1", good)))
    assert anchors_of(run)[0] == [list(row) for row in good]


def test_noautoanchor_keeps_the_anchors(tmp_path: Path) -> None:
    run = train(parse_request([*arguments(tmp_path, "--epochs 1"), "--noautoanchor"]))
    assert anchors_of(run)[0] == [list(row) for row in FAR_TOO_LARGE]


@pytest.mark.parametrize(("misfits", "kept"), [(1, True), (2, False), (3, False)])
def test_recall_above_98_percent_keeps_the_anchors(
    tmp_path: Path, misfits: int, *, kept: bool
) -> None:
    """`misfits` of the 100 boxes in each image of the toy data set match no anchor."""
    assert GOOD_RECALL == 0.98
    given = arguments(tmp_path, "--epochs 1", [(8.0, 8.0) * 3] * 3)
    places = [f"0 {0.1 + 0.008 * n:.3f} .5 .1 .1\n" for n in range(100 - misfits)]  # 6.4 px
    places += [f"1 .5 .5 .9 {0.8 + 0.05 * n:.3f}\n" for n in range(misfits)]  # 51 px or more
    for label in (tmp_path / "data" / "labels" / "train").iterdir():
        label.write_text("".join(places))
    rows = anchors_of(train(parse_request(given)))[0]
    assert (rows == [[8.0] * 6] * 3) == kept


def sizes_with_tiny_boxes() -> np.ndarray:
    """Half of 40 boxes fit the published anchors, half are 1.5 px wide."""
    return np.array([[20.0, 20.0]] * 20 + [[1.5, 20.0]] * 20)


def checked(
    sizes: np.ndarray, caplog: pytest.LogCaptureFixture, *, per_level: int = 0, fit: bool = True
) -> tuple[bool, str]:
    """Whether the anchors of yolov5n are kept, and all messages."""
    spec = load_spec(Path("yolov5n.yaml"))
    caplog.clear()
    with caplog.at_level(logging.INFO, "yolo"):
        found = with_fitting_anchors(
            spec, sizes, ratio_limit=4.0, per_level=per_level, fit=fit, seed=0
        )
    return found.anchors == spec.anchors, "\n".join(caplog.messages)


def test_recall_counts_boxes_that_are_too_small_to_learn(caplog: pytest.LogCaptureFixture) -> None:
    kept, text = checked(sizes_with_tiny_boxes(), caplog)
    assert kept
    assert "20 of 40 boxes have a side below 2 pixels at this --imgsz" in text
    assert "kept the anchors: best possible recall 0.5000, " in text  # no fit is better
    assert "20 of 40 boxes" in checked(sizes_with_tiny_boxes(), caplog, fit=False)[1]
    wide = np.array([[2.5, 1.9]] * 2 + [[2.1, 2.1]] * 98)  # the smallest anchor is 10x13
    kept, text = checked(wide, caplog)
    assert not kept
    assert "best possible recall 1.0000, before 0.0000" in text


@pytest.mark.parametrize(("usable", "per_level", "needed"), [(8, 0, 9), (11, 4, 12)])
def test_too_few_boxes_to_check_are_reported(
    usable: int, per_level: int, needed: int, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = np.array([[200.0, 3.0]] * usable + [[1.0, 1.0]] * 5)
    kept, text = checked(sizes, caplog, per_level=per_level)
    assert kept
    assert f"kept the anchors without a check: {needed} anchors need as many boxes" in text
    assert text.endswith(f"there are {usable}.")


@requires_shared
def test_recall_of_coco128_at_96_pixels(caplog: pytest.LogCaptureFixture) -> None:
    index = build_index([DATASETS / "coco128" / "images"], [str(i) for i in range(80)])
    sizes = box_sizes(index, 96)
    anchors = np.array(load_spec(Path("yolov5n.yaml")).anchors).reshape(-1, 1, 2)
    ratios = np.maximum(sizes / anchors, anchors / np.maximum(sizes, 1e-9)).max(2)  # [9, n]
    expected = (ratios.min(0) < 4).mean()
    assert f"{expected:.4f}" == "0.7115"
    assert ", before 0.7115," in checked(sizes, caplog)[1]


def test_anchors_of_a_number_are_always_fitted(tmp_path: Path) -> None:
    spec = replace(load_spec(Path("yolov5n.yaml")), width_multiple=0.01)
    given = arguments(tmp_path, "--epochs 1 --noautoanchor")
    model = Path(given[given.index("--cfg") + 1])
    model.write_text(yaml.safe_dump(spec.to_dict() | {"anchors": 2}))
    run = train(parse_request([*given, "--noautoanchor"]))
    rows = anchors_of(run)[0]
    expected = fit_anchors(toy_sizes(tmp_path), 6, 4.0, seed=0)
    assert np.reshape(rows, (6, 2)).tolist() == expected.tolist()
    model.write_text(yaml.safe_dump(spec.to_dict() | {"anchors": 50}))
    with pytest.raises(UserError, match="asks for 150 anchors, but there are 15 boxes"):
        train(parse_request(given))


def test_anchors_of_levels_from_coarse_to_fine_are_reversed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = arguments(tmp_path, "--epochs 1")
    model = Path(given[given.index("--cfg") + 1])
    spec = yaml.safe_load(model.read_text())
    levels = spec["head"][-1][0]
    for anchors in (FAR_TOO_LARGE, load_spec(Path("yolov5n.yaml")).anchors):  # fitted, kept
        spec["head"][-1][0], spec["anchors"] = levels[::-1], [list(row) for row in anchors]
        model.write_text(yaml.safe_dump(spec))
        run = train(parse_request(given))
        assert "strides (32, 16, 8): the anchors are used in reverse order" in caplog.text
        areas = [np.prod(np.reshape(row, (3, 2)), 1).sum() for row in anchors_of(run)[0]]
        assert areas == sorted(areas, reverse=True)
