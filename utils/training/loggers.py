"""Loggers of a run: results.csv, seams.json and TensorBoard."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from typing import ClassVar, NamedTuple

from utils.checkpoint.format import ContinuationRecord
from utils.datasets.loading_times import WaitTimes
from utils.files.atomic_write import atomic_write_text
from utils.history import (
    COLUMNS,
    COMMON_PREFIX,
    MISS_RATE_PREFIX,
    RAW_MAP_COLUMN,
    SKIPPED_COLUMN,
    Row,
    write_results,
)
from utils.runs.run import SEAMS_FILE
from utils.runtime.background import BackgroundWorker
from utils.runtime.distributed import Distributed
from utils.solver.schedule import Plan
from utils.solver.seam import COMMON_CLASSES, SeamMetrics, seam_metrics
from utils.training.state import TrainingState

log = logging.getLogger("yolo")

WAITING_TAG = "time/waiting_for_data_percent"


class RunLog(NamedTuple):
    """The logged data of a run; a copy, because the training continues while it is logged."""

    epoch: int
    """Completed epochs."""
    history: list[Row]
    """One row per completed epoch."""
    continuations: list[ContinuationRecord]
    waiting: float
    """Percentage of the time of the last epoch in which training waited for data."""

    @staticmethod
    def from_state(state: TrainingState, waiting: float) -> RunLog:
        """Copy the logged data of a state."""
        rows = [dict(row) for row in state.history]
        return RunLog(state.epoch, rows, list(state.continuations), waiting)


class Logger:
    """Base class: logs the events of a run to one destination; ignores all events by default.

    Args:
        name: name of the destination, for the message if the logger fails.
    """

    third_party: ClassVar[bool] = False
    """Whether another package writes. It can raise anything, and is not called again after that.
    Otherwise only an OSError is caught, and the next event is logged again."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, run: RunLog) -> None:
        """Called before the first step of this process, with the restored or new run."""

    def epoch(self, run: RunLog) -> None:
        """Called after each epoch."""

    def seam(self, seam: SeamMetrics) -> None:
        """Called before the first epoch of an extension."""

    def end(self) -> None:
        """Called after the last epoch."""


class ResultsLogger(Logger):
    """Writes results.csv; rewrites all rows each time, which restores rows that were lost."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "results.csv"
        super().__init__(str(self._path))

    def begin(self, run: RunLog) -> None:
        """Write the epochs so far."""
        write_results(run.history, self._path)

    def epoch(self, run: RunLog) -> None:
        """Write all epochs."""
        write_results(run.history, self._path)


class SeamsLogger(Logger):
    """Writes seams.json: the metrics of each seam, and a record of each resume and extension."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._path = folder / SEAMS_FILE
        self._plan = plan
        super().__init__(str(self._path))

    def begin(self, run: RunLog) -> None:
        """Write the file if the run has a seam or was resumed."""
        self.epoch(run)

    def epoch(self, run: RunLog) -> None:
        """Write the file with the results of the last epoch."""
        seams = [seam.to_dict() for seam in seam_metrics(self._plan, run.history)]
        if not seams and not run.continuations:
            return
        content = {"seams": seams, "continuations": run.continuations}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        atomic_write_text(self._path, text)


class TensorBoardLogger(Logger):
    """Writes a TensorBoard event file: a scalar per metric and epoch, a text per seam."""

    third_party = True

    def __init__(self, folder: Path, plan: Plan) -> None:
        super().__init__("the TensorBoard event file")
        self._folder = folder
        self._plan = plan

    def begin(self, run: RunLog) -> None:
        """Open an event file; epochs that are trained again are purged.

        A folder without one, such as that of a branch, gets the curves of all earlier epochs.
        """
        from torch.utils.tensorboard import SummaryWriter

        known = any(self._folder.glob("events.out.tfevents.*"))
        self._writer = SummaryWriter(str(self._folder), purge_step=run.epoch)
        for row in () if known else run.history:
            self._write(row)

    def epoch(self, run: RunLog) -> None:
        """Write the results of the last epoch."""
        self._write(run.history[-1])
        self._writer.add_scalar(WAITING_TAG, run.waiting, run.epoch - 1)
        self._writer.flush()

    def _write(self, row: Row) -> None:
        for tag, value in scalars(row).items():
            self._writer.add_scalar(tag, value, int(row["epoch"]))

    def seam(self, seam: SeamMetrics) -> None:
        """Write the change of the learning rate, and the metrics before the seam."""
        total = self._plan.segment_at(seam.epoch).stop
        ema, raw = (
            "not measured" if value is None else f"{value:.5f}"
            for value in (seam.ema_before, seam.raw_before)
        )
        text = (
            f"Extended from epoch {seam.epoch} to a total of {total} epochs with `{seam.mode}`: "
            f"the learning rate changes from {seam.rate_before:.6g} to {seam.rate_after:.6g}. "
            f"mAP50-95{seam.common * COMMON_CLASSES} before the seam: EMA weights {ema}, non-EMA "
            f"weights {raw}."
        )
        self._writer.add_text("seam", text, seam.epoch)
        self._writer.flush()

    def end(self) -> None:
        """Close the event file."""
        self._writer.close()


def scalars(row: Row) -> dict[str, float]:
    """The metrics of an epoch by tag: the columns of results.csv and those in checkpoints only."""
    more = RAW_MAP_COLUMN, MISS_RATE_PREFIX, COMMON_PREFIX
    extra = [name for name in row if name.startswith(more)]
    return {name: row[name] for name in (*COLUMNS[1:], *extra)} | {
        SKIPPED_COLUMN: row.get(SKIPPED_COLUMN, 0.0)
    }


@dataclass(frozen=True)
class Loggers:
    """All loggers of a run.

    They are called in the background, after the pending checkpoint is written, so that no file is
    ahead of the checkpoint. A failing logger is reported once and does not end the run.
    """

    loggers: Sequence[Logger]
    """Called in this order; empty except in the main process."""
    plan: Plan
    background: BackgroundWorker
    """Also writes the checkpoints."""
    waiting: WaitTimes
    """Of the training loader. Not in the history: time differs between equal runs."""
    failed: set[Logger] = field(default_factory=set)

    def begin(self, state: TrainingState) -> None:
        """Log the start of the run in this process."""
        run = RunLog.from_state(state, self.waiting.percent)
        self._log(lambda logger: logger.begin(run))
        self._log_seam(run)

    def epoch(self, state: TrainingState) -> None:
        """Log a completed epoch."""
        run = RunLog.from_state(state, self.waiting.percent)
        self._log(lambda logger: logger.epoch(run))
        self._log_seam(run)

    def end(self) -> None:
        """Log the end of the run."""
        self._log(lambda logger: logger.end())

    def _log_seam(self, run: RunLog) -> None:
        """Log the seam at the current position, if there is one; again after a resume there."""
        for seam in seam_metrics(self.plan, run.history):
            if seam.epoch == run.epoch:
                self._log(methodcaller("seam", seam))

    def _log(self, event: Callable[[Logger], None]) -> None:
        def log_later() -> None:
            for logger in self.loggers:
                if not (logger.third_party and logger in self.failed):
                    self._call(logger, event)

        if self.loggers:
            self.background.enqueue(log_later)

    def _call(self, logger: Logger, event: Callable[[Logger], None]) -> None:
        caught: type[Exception] = Exception if logger.third_party else OSError
        try:
            event(logger)
        except caught as error:
            if logger not in self.failed:
                self.failed.add(logger)
                _report_failure(logger, error)


def _report_failure(logger: Logger, error: Exception) -> None:
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    then = " without it" if logger.third_party else " and retries after the next epoch"
    log.warning("Cannot write %s: %s; the run continues%s.", logger.name, reason, then)


def build_loggers(
    folder: Path,
    plan: Plan,
    distributed: Distributed,
    background: BackgroundWorker,
    waiting: WaitTimes,
) -> Loggers:
    """Create the loggers of a run; none except in the main process.

    TensorBoard is used if it is installed.
    """
    loggers: list[Logger] = []
    if distributed.is_main:
        loggers += [ResultsLogger(folder), SeamsLogger(folder, plan)]
        if find_spec("tensorboard") is not None:
            loggers.append(TensorBoardLogger(folder, plan))
    return Loggers(loggers, plan, background, waiting)
