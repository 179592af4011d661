"""Import of YOLOv5's best.pt: its epoch is found and must be the imported run's best."""

import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.paths import SHARED, requires_shared
from utils.checkpoint.format import DeployCheckpoint, TrainingCheckpoint, validate_checkpoint
from utils.options.train_options import Continuation
from utils.upstream import best
from utils.upstream.import_run import import_run
from utils.upstream.reader import read_upstream

LEGACY = SHARED / "legacy" / "v7"
FITNESS = 0.07723735035398523  # of epoch 1, as in the file

pytestmark = requires_shared


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """A run of two epochs; the second is the best."""
    return dict(import_run(LEGACY / "epoch1.pt", Continuation()).checkpoint)


def import_best(path: Path, checkpoint: dict[str, Any]) -> DeployCheckpoint | None:
    return best.import_best(path.parent, cast("TrainingCheckpoint", checkpoint))


def best_of(folder: Path, source: str, *beside: str) -> Path:
    for name in beside:
        shutil.copyfile(LEGACY / name, folder / name)
    return Path(shutil.copyfile(LEGACY / source, folder / "best.pt"))


def test_unstripped_file_needs_no_history(tmp_path: Path, imported: dict[str, Any]) -> None:
    """The file has its own epoch and fitness; the history may be empty."""
    path = best_of(tmp_path, "epoch1.pt")
    no_record = [{**row, "metrics/mAP_0.5:0.95": float("nan")} for row in imported["history"]]
    found = import_best(path, imported | {"history": no_record})
    assert found is not None
    assert validate_checkpoint(found, "it")["kind"] == "deploy"
    assert (found["epoch"], found["fitness"]) == (1, FITNESS)
    ema_state = read_upstream(path).ema_state
    assert ema_state is not None
    for name, kept in found["weights"].items():
        assert torch.equal(kept, ema_state[name]), name


def test_epoch_of_a_stripped_file_is_that_of_the_best_row(
    tmp_path: Path, imported: dict[str, Any]
) -> None:
    path = best_of(tmp_path, "last_stripped.pt", "results.csv")
    # the best row is epoch 3, which a run that is resumed from epoch 1 has not trained
    assert import_best(path, imported) is None
    lines = (tmp_path / "results.csv").read_text().splitlines()
    (tmp_path / "results.csv").write_text("\n".join(lines[:3]))
    found = import_best(path, imported)
    assert found is not None
    assert (found["epoch"], found["fitness"]) == (1, FITNESS)
    (tmp_path / "results.csv").unlink()
    assert import_best(path, imported) is None


@pytest.mark.parametrize(
    "run",
    [
        {"position": {"epoch": 1, "iteration": 8}},  # resumed from an earlier epoch
        {"best": {"fitness": 0.5, "epoch": 0}},  # another epoch is better
        {"best": {"fitness": float("-inf"), "epoch": -1}},  # never validated
    ],
)
def test_file_of_another_epoch_is_not_imported(
    tmp_path: Path, imported: dict[str, Any], run: dict[str, Any]
) -> None:
    assert import_best(best_of(tmp_path, "epoch1.pt"), imported | run) is None


def test_file_of_other_classes_or_another_model_is_not_imported(
    tmp_path: Path, imported: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = best_of(tmp_path, "epoch1.pt")
    config = imported["config"]
    renamed = config | {"names": ["x", *config["names"][1:]]}
    assert import_best(path, imported | {"config": renamed}) is None
    wider = config | {"spec": config["spec"] | {"width_multiple": 0.5}}
    assert import_best(path, imported | {"config": wider}) is None
    assert "lacks" in caplog.messages[-1]


def test_damaged_file_is_reported(
    tmp_path: Path, imported: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(b"PK not a zip file")
    assert import_best(path, imported) is None
    assert str(path) in caplog.messages[-1]
