"""Output of every logger at every event; a failing logger is reported once."""

import errno
import json
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.utils.solver.test_schedule import plan_of
from tests.utils.training.test_engine import toy_state
from utils.checkpoint.format import ContinuationRecord
from utils.datasets.loading_times import WaitTimes
from utils.files.atomic_write import UnwritableError
from utils.history import (
    AT_SEAM_PREFIX,
    COLUMNS,
    ITERATION_COLUMN,
    MISS_RATE_PREFIX,
    RAW_MAP_COLUMN,
    SKIPPED_COLUMN,
    Row,
    read_results,
)
from utils.runtime.background import BackgroundWorker
from utils.runtime.distributed import SINGLE_PROCESS, Distributed
from utils.solver.continuation import Extension, extend_plan
from utils.solver.schedule import base_segment
from utils.solver.seam import EMA_MAP_COLUMN
from utils.training.loggers import WAITING_TAG, Logger, Loggers, RunLog, build_loggers
from utils.training.state import TrainingState

PLAN = extend_plan(plan_of(base_segment(2, "linear", 0.1)), 2, Extension(3, "hold"))
RESUMED = ContinuationRecord(epoch=1, kind="resumed", allowed_changes=[], audit=[], check={})
FULL = OSError(errno.ENOSPC, "No space left on device")
Call = tuple[Any, ...]
MISS_RATE_COLUMN = MISS_RATE_PREFIX + "Reasonable"
EMA_AT_SEAM, RAW_AT_SEAM = AT_SEAM_PREFIX + EMA_MAP_COLUMN, AT_SEAM_PREFIX + RAW_MAP_COLUMN


def row_of(epoch: int, **more: float) -> Row:
    row = {name: epoch + number / 100 for number, name in enumerate(COLUMNS)}
    return row | {"epoch": float(epoch), ITERATION_COLUMN: 3.0 * (epoch + 1)} | more


def state_after(*rows: Row) -> TrainingState:
    state = toy_state()
    state.epoch, state.history = len(rows), list(rows)
    return state


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Installs a TensorBoard that records its calls."""
    calls: list[Call] = []

    class SummaryWriter:
        def __init__(self, folder: str, *, purge_step: int) -> None:
            calls.append(("open", folder, purge_step))
            (Path(folder) / "events.out.tfevents.fake").touch()

        def __getattr__(self, method: str) -> Any:
            return lambda *arguments: calls.append((method, *arguments))

    install_tensorboard(monkeypatch, SummaryWriter)
    return calls


def install_tensorboard(monkeypatch: pytest.MonkeyPatch, writer: object = None) -> None:
    """Replace TensorBoard by a fake module; without a writer its import fails."""
    package, module = ModuleType("tensorboard"), ModuleType("torch.utils.tensorboard")
    package.__spec__ = ModuleSpec("tensorboard", None)
    if writer is not None:
        module.__dict__["SummaryWriter"] = writer
    monkeypatch.setitem(sys.modules, "tensorboard", package)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)


@pytest.fixture
def background() -> Iterator[BackgroundWorker]:
    with BackgroundWorker() as background:
        yield background


def loggers_of(folder: Path, background: BackgroundWorker) -> Loggers:
    return build_loggers(folder, PLAN, SINGLE_PROCESS, background, WaitTimes())


def test_tensorboard_logs_all_metrics_of_an_epoch(
    board: list[Call], tmp_path: Path, background: BackgroundWorker
) -> None:
    waiting = WaitTimes()
    waiting.total, waiting.waited = 8.0, 2.0
    loggers = build_loggers(tmp_path, PLAN, SINGLE_PROCESS, background, waiting)
    more = {RAW_MAP_COLUMN: 0.25, SKIPPED_COLUMN: 2.0, MISS_RATE_COLUMN: 31.5, EMA_AT_SEAM: 0.5}
    loggers.begin(state_after())
    loggers.epoch(state_after(row_of(0)))
    loggers.epoch(state_after(row_of(0), row_of(1), row_of(2, **more)))
    loggers.end()
    background.wait()
    columns = COLUMNS[1:]
    assert board == [
        ("open", str(tmp_path), 0),
        *(("add_scalar", name, row_of(0)[name], 0) for name in columns),
        ("add_scalar", SKIPPED_COLUMN, 0.0, 0),
        ("add_scalar", WAITING_TAG, 25.0, 0),
        ("flush",),
        *(("add_scalar", name, row_of(2)[name], 2) for name in columns),
        ("add_scalar", RAW_MAP_COLUMN, 0.25, 2),
        ("add_scalar", MISS_RATE_COLUMN, 31.5, 2),
        ("add_scalar", SKIPPED_COLUMN, 2.0, 2),
        ("add_scalar", WAITING_TAG, 25.0, 2),
        ("flush",),
        ("close",),
    ]


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({}, "EMA weights 1.07000, non-EMA weights not measured."),
        ({EMA_AT_SEAM: 0.5, RAW_AT_SEAM: 0.25}, "EMA weights 0.50000, non-EMA weights 0.25000."),
        ({EMA_MAP_COLUMN: float("nan")}, "EMA weights not measured, non-EMA weights not measured."),
    ],
)
def test_tensorboard_logs_a_seam_at_the_start(
    board: list[Call], tmp_path: Path, background: BackgroundWorker, measured: Row, expected: str
) -> None:
    loggers_of(tmp_path, background).begin(state_after(row_of(0), row_of(1, **measured)))
    background.wait()
    text = (
        "Extended from epoch 2 to a total of 5 epochs with `hold`: the learning rate changes from "
        f"0.0055 to 0.0055. mAP50-95 before the seam: {expected}"
    )
    assert board[0] == ("open", str(tmp_path), 2)
    assert board[-2:] == [("add_text", "seam", text, 2), ("flush",)]
    # the folder of a branch has no curve yet
    losses = [call[2:] for call in board[1:-2] if call[1] == "train/box_loss"]
    assert losses == [(row_of(epoch)["train/box_loss"], epoch) for epoch in (0, 1)]


def test_tensorboard_does_not_repeat_the_curve_of_a_resumed_run(
    board: list[Call], tmp_path: Path, background: BackgroundWorker
) -> None:
    (tmp_path / "events.out.tfevents.1.host").touch()
    loggers_of(tmp_path, background).begin(state_after(row_of(0)))
    background.wait()
    assert board == [("open", str(tmp_path), 1)]


def test_tensorboard_logs_a_later_seam_when_it_is_reached(
    board: list[Call], tmp_path: Path, background: BackgroundWorker
) -> None:
    loggers = loggers_of(tmp_path, background)
    loggers.begin(state_after(row_of(0)))
    loggers.epoch(state_after(row_of(0), row_of(1)))
    loggers.epoch(state_after(row_of(0), row_of(1), row_of(2)))
    background.wait()
    assert [call[0] for call in board if call[0] != "add_scalar"] == [
        *("open", "flush", "add_text", "flush", "flush"),
    ]


def test_missing_tensorboard_is_not_reported(
    tmp_path: Path,
    background: BackgroundWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    loggers = loggers_of(tmp_path, background)
    loggers.begin(state_after())
    background.wait()
    assert caplog.messages == []


def test_tensorboard_import_error_is_reported_once(
    tmp_path: Path,
    background: BackgroundWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install_tensorboard(monkeypatch)
    loggers = loggers_of(tmp_path, background)
    loggers.begin(state_after())
    loggers.epoch(state_after(row_of(0)))
    loggers.end()
    background.wait()
    (message,) = caplog.messages
    assert message.startswith(
        "Cannot write the TensorBoard event file: ImportError: cannot import name 'SummaryWriter"
    )
    assert message.endswith("; the run continues without it.")
    assert len(read_results(tmp_path / "results.csv")) == 1


def test_failing_tensorboard_is_not_called_again(
    tmp_path: Path,
    background: BackgroundWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: list[object] = []

    class SummaryWriter:
        def __init__(self, _: str, *, purge_step: int) -> None:
            calls.append(purge_step)

        def add_scalar(self, tag: str, *_: object) -> None:
            calls.append(tag)
            raise AttributeError("module 'numpy' has no\nattribute 'object'")

    install_tensorboard(monkeypatch, SummaryWriter)
    loggers = loggers_of(tmp_path, background)
    loggers.begin(state_after())
    loggers.epoch(state_after(row_of(0)))
    loggers.epoch(state_after(row_of(0), row_of(1)))
    loggers.end()
    background.wait()
    assert calls == [0, "train/box_loss"]
    assert caplog.messages == [
        "Cannot write the TensorBoard event file: AttributeError: module 'numpy' has no "
        "attribute 'object'; the run continues without it."
    ]


def test_unwritable_results_file_is_retried(
    tmp_path: Path, background: BackgroundWorker, caplog: pytest.LogCaptureFixture
) -> None:
    results = tmp_path / "results.csv"
    results.mkdir()
    loggers = loggers_of(tmp_path, background)
    rows = [row_of(epoch) for epoch in range(3)]
    loggers.begin(state_after())
    loggers.epoch(state_after(*rows[:1]))
    loggers.epoch(state_after(*rows[:2]))
    background.wait()
    retry = "the run continues and retries after the next epoch."
    assert caplog.messages == [f"Cannot write {results}: Is a directory; {retry}"]
    assert (tmp_path / "seams.json").is_file()  # other files are still written
    results.rmdir()
    loggers.epoch(state_after(*rows))
    background.wait()
    assert len(read_results(results)) == 3
    assert len(caplog.messages) == 1


class NoisyLogger(Logger):
    """Raises an error at every event."""

    def __init__(self, error: Exception) -> None:
        super().__init__("the noise")
        self._error = error

    def epoch(self, run: RunLog) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "No space left on device"),
        (UnwritableError(Path("a"), FULL), "No space left on device"),
        (ConnectionError("the share is gone"), "ConnectionError: the share is gone"),
    ],
)
def test_os_errors_are_logged_in_one_sentence(
    background: BackgroundWorker, error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    loggers = Loggers([NoisyLogger(error)], PLAN, background, WaitTimes())
    for _ in range(2):
        loggers.epoch(state_after(row_of(0)))
    background.wait()
    assert caplog.messages == [
        f"Cannot write the noise: {reason}; the run continues and retries after the next epoch."
    ]


def test_other_exceptions_of_a_logger_are_raised() -> None:
    with pytest.raises(KeyError, match="epoch"), BackgroundWorker() as background:
        Loggers([NoisyLogger(KeyError("epoch"))], PLAN, background, WaitTimes()).epoch(
            state_after(row_of(0))
        )


def test_files_follow_the_checkpoint(tmp_path: Path) -> None:
    def fail() -> None:
        raise UnwritableError(Path("last.pt"), FULL)

    def train_an_epoch() -> None:
        with BackgroundWorker() as background:
            background.submit(fail)
            loggers_of(tmp_path, background).epoch(state_after(row_of(0)))

    with pytest.raises(UnwritableError, match=r"last\.pt"):
        train_an_epoch()
    assert list(tmp_path.iterdir()) == []


def test_run_log_is_a_copy_of_the_state(tmp_path: Path) -> None:
    state = state_after(row_of(0))
    run = RunLog.from_state(state, 0.0)
    state.record_continuation(RESUMED, replaces=False)
    state.record_seam_check(0.5, 0.25)
    assert run == (1, [row_of(0)], [], 0.0)


def test_seams_file_is_written_after_a_seam_or_resume(
    tmp_path: Path, background: BackgroundWorker
) -> None:
    plan = plan_of(base_segment(2, "linear", 0.1))
    state = state_after(row_of(0))
    loggers = build_loggers(tmp_path, plan, SINGLE_PROCESS, background, WaitTimes())
    loggers.begin(state)
    background.wait()
    assert not (tmp_path / "seams.json").exists()
    state.record_continuation(RESUMED, replaces=False)
    loggers.epoch(state)
    background.wait()
    content = json.loads((tmp_path / "seams.json").read_text())
    assert content == {"seams": [], "continuations": [RESUMED]}
    loggers_of(tmp_path, background).begin(state_after(row_of(0), row_of(1)))
    background.wait()
    (seam,) = json.loads((tmp_path / "seams.json").read_text())["seams"]
    assert (seam["epoch"], seam["mode"], seam["ema_before"]) == (
        2,
        "hold",
        row_of(1)[EMA_MAP_COLUMN],
    )


def test_only_the_main_process_logs(tmp_path: Path, background: BackgroundWorker) -> None:
    other = Distributed(rank=1, local_rank=1, world_size=2, local_world_size=2)
    loggers = build_loggers(tmp_path, PLAN, other, background, WaitTimes())
    loggers.begin(state_after())
    loggers.epoch(state_after(row_of(0)))
    loggers.end()
    background.wait()
    assert list(tmp_path.iterdir()) == []
