"""A failing logger does not end the run, and log files are never ahead of the checkpoint."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from tests.checkpoints import read_checkpoint, save_checkpoint
from tests.promises.test_extension import extension_of
from tests.promises.test_resume import killed_after, resumed, same_run
from tests.toy import toy_arguments
from tests.utils.training.test_loggers import Call, board, install_tensorboard
from train import train
from utils.errors import UserError
from utils.files.atomic_write import UnwritableError
from utils.history import COLUMNS, RAW_MAP_COLUMN, SKIPPED_COLUMN, read_results, write_results
from utils.options.parser import parse_request
from utils.training.loggers import WAITING_TAG

__all__ = ["board"]

WRITE_RESULTS = "utils.training.loggers.write_results"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loggers")
    return train(parse_request(toy_arguments(folder, "--epochs 3 --name whole")))


def failing_from(epochs: int, action: Callable[..., None], until: int = 99) -> Callable[..., None]:
    """The action with a full disk while the number of rows is from `epochs` to below `until`."""

    def act(rows: list[Any], path: Path) -> None:
        if epochs <= len(rows) < until:
            full = OSError(errno.ENOSPC, "No space left on device")
            raise UnwritableError(path, full)
        action(rows, path)

    return act


@pytest.mark.parametrize(("until", "left"), [(99, 0), (3, 3)])
def test_full_disk_for_results_does_not_end_a_run(
    whole: Path,
    until: int,
    left: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "yolo")
    monkeypatch.setattr(WRITE_RESULTS, failing_from(1, write_results, until))
    run = train(parse_request(toy_arguments(whole.parents[1], f"--epochs 3 --name full{until}")))
    (message,) = [message for message in caplog.messages if "Cannot write" in message]
    assert message == (
        f"Cannot write {run / 'results.csv'}: No space left on device; "
        "the run continues and retries after the next epoch."
    )
    assert len(read_results(run / "results.csv")) == left
    monkeypatch.undo()
    if left:  # all rows are written when there is space again
        assert same_run(whole, run) == []


def test_full_disk_for_a_checkpoint_ends_a_run(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(checkpoint: dict[str, Any], path: Path, **options: Any) -> None:
        if checkpoint["position"]["epoch"] == 2:
            raise UnwritableError(path, OSError(errno.ENOSPC, "No space left on device"))
        save_checkpoint(checkpoint, path, **options)

    arguments = toy_arguments(whole.parents[1], "--epochs 3 --name no-checkpoint")
    with monkeypatch.context() as patch:
        patch.setattr("utils.training.recorder.save_checkpoint", save)
        with pytest.raises(UserError, match=r"cannot write .*last\.pt: No space left on device"):
            train(parse_request(arguments))
    run = whole.with_name("no-checkpoint")
    assert read_checkpoint(run / "weights" / "last.pt")["position"]["epoch"] == 1
    assert len(read_results(run / "results.csv")) == 1  # the second epoch is not written
    assert same_run(whole, resumed(run)) == []


def test_results_are_never_ahead_of_the_checkpoint(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def write(rows: list[Any], path: Path) -> None:
        saved = read_checkpoint(path.with_name("weights") / "last.pt")
        seen.append((len(rows), saved["position"]["epoch"]))
        write_results(rows, path)

    monkeypatch.setattr(WRITE_RESULTS, write)
    run = train(parse_request(toy_arguments(whole.parents[1], "--epochs 2 --name order")))
    train(parse_request(extension_of(run, "--lr-continuation hold --name order-b")))
    assert seen == [(0, 0), (1, 1), (2, 2), (2, 2), (3, 3)]


def test_broken_tensorboard_does_not_end_a_run(
    whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install_tensorboard(monkeypatch)
    caplog.set_level(logging.WARNING, "yolo")
    run = train(parse_request(toy_arguments(whole.parents[1], "--epochs 3 --name broken")))
    (message,) = [message for message in caplog.messages if "TensorBoard" in message]
    assert message.startswith("Cannot write the TensorBoard event file: ImportError: ")
    assert same_run(whole, run) == []


def test_tensorboard_follows_a_run_across_a_kill_and_a_seam(
    whole: Path, board: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole.with_name("board")
    killed_after(1, monkeypatch, toy_arguments(whole.parents[1], "--epochs 2 --name board"))
    resumed(run)
    train(parse_request(extension_of(run, "--lr-continuation hold")))
    history = read_checkpoint(run / "weights" / "last.pt")["history"]

    def epoch(number: int, *more: str) -> list[Call]:
        row = history[number]
        scalars = [("add_scalar", tag, row[tag], number) for tag in (*COLUMNS[1:], *more)]
        scalars.append(("add_scalar", SKIPPED_COLUMN, 0.0, number))
        return [*scalars, ("add_scalar", WAITING_TAG, ANY, number), ("flush",)]

    text = next(call for call in board if call[0] == "add_text")
    assert board == [
        ("open", str(run), 0),  # the kill came before epoch 0 was logged
        ("open", str(run), 1),
        *epoch(1),
        ("close",),
        *(("open", str(run), 2), text, ("flush",)),
        *epoch(2, RAW_MAP_COLUMN),
        ("close",),
    ]
    assert text[1:2] + text[3:] == ("seam", 2)
    assert text[2].startswith(
        "Extended from epoch 2 to a total of 3 epochs with `hold`: the learning rate changes"
    )
