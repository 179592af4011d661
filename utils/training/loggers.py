"""Loggers of a run: console, results.csv, seams.json and TensorBoard."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from utils.checkpoint.format import ContinuationRecord
from utils.files.atomic_write import atomic_write_text
from utils.history import (
    COLUMNS,
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
from utils.solver.seam import SeamMetrics, seam_metrics
from utils.training.audit import Audit, log_audit
from utils.training.state import TrainingState

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("yolo")


class RunLog(NamedTuple):
    """The logged data of a run; a copy, because the training continues while it is logged."""

    epoch: int
    """Completed epochs."""
    history: list[Row]
    """One row per completed epoch."""
    continuations: list[ContinuationRecord]
    best_epoch: int
    stopped_early: bool

    @staticmethod
    def from_state(state: TrainingState) -> RunLog:
        """Copy the logged data of a state."""
        return RunLog(
            epoch=state.epoch,
            history=[dict(row) for row in state.history],
            continuations=list(state.continuations),
            best_epoch=state.best_epoch,
            stopped_early=state.stopped_early,
        )


class Logger:
    """Base class: logs the events of a run to one destination; ignores all events by default.

    Args:
        name: name of the destination, for the message if the logger fails.
    """

    before_checkpoint: ClassVar[bool] = False
    """Whether to log before the checkpoint of the same epoch is written, instead of after it."""
    caught_errors: ClassVar[tuple[type[Exception], ...]] = (OSError,)
    """Errors after which the run continues."""
    retry_after_failure: ClassVar[bool] = True
    """Whether to call the logger again after it failed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, run: RunLog, audit: Audit | None) -> None:
        """Called before the first step of this process.

        Args:
            run: the restored or new run.
            audit: audit of the restored state; None for a new run.
        """

    def epoch(self, run: RunLog) -> None:
        """Called after each epoch."""

    def seam(self, seam: SeamMetrics) -> None:
        """Called before the first epoch of an extension."""

    def end(self) -> None:
        """Called after the last epoch."""


class ConsoleLogger(Logger):
    """Prints the audit of a restored state, skipped batches and an early stop."""

    before_checkpoint = True

    def __init__(self) -> None:
        super().__init__("console")

    def begin(self, run: RunLog, audit: Audit | None) -> None:
        """Print the audit of a restored state."""
        if audit is not None:
            log_audit(audit.items, audit.check)

    def epoch(self, run: RunLog) -> None:
        """Print the number of skipped batches, and whether the run stops early."""
        row = run.history[-1]
        if SKIPPED_COLUMN in row:
            log.warning("Epoch %d: skipped %d batches.", row["epoch"], row[SKIPPED_COLUMN])
        if run.stopped_early:
            log.info(
                "No improvement since epoch %d: stopping early after %d epochs.",
                *(run.best_epoch, run.epoch),
            )


class ResultsLogger(Logger):
    """Writes results.csv; rewrites all rows each time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "results.csv"
        super().__init__(str(self._path))

    def begin(self, run: RunLog, audit: Audit | None) -> None:
        """Write the epochs so far, which restores rows that were lost."""
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

    def begin(self, run: RunLog, audit: Audit | None) -> None:
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

    caught_errors = (Exception,)  # a third-party package can raise anything
    retry_after_failure = False

    def __init__(self, folder: Path, plan: Plan) -> None:
        super().__init__("the TensorBoard event file")
        self._folder = folder
        self._plan = plan
        self._writer: SummaryWriter | None = None

    def begin(self, run: RunLog, audit: Audit | None) -> None:
        """Open an event file; epochs that are trained again are purged."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=run.epoch)

    def epoch(self, run: RunLog) -> None:
        """Write the results of the last epoch."""
        row = run.history[-1]
        for tag, value in scalars(row).items():
            self._open_writer.add_scalar(tag, value, int(row["epoch"]))
        self._open_writer.flush()

    def seam(self, seam: SeamMetrics) -> None:
        """Write the change of the learning rate, and the metrics before the seam."""
        total = self._plan.segment_at(seam.epoch).stop
        self._open_writer.add_text("seam", describe_seam(seam, total), seam.epoch)
        self._open_writer.flush()

    def end(self) -> None:
        """Close the event file."""
        self._open_writer.close()

    @property
    def _open_writer(self) -> SummaryWriter:
        if self._writer is None:
            raise ValueError("begin was not called")
        return self._writer


def scalars(row: Row) -> dict[str, float]:
    """The metrics of an epoch by tag: the columns of results.csv and those in checkpoints only."""
    extra = [name for name in row if name == RAW_MAP_COLUMN or name.startswith(MISS_RATE_PREFIX)]
    return {name: row[name] for name in (*COLUMNS[1:], *extra)} | {
        SKIPPED_COLUMN: row.get(SKIPPED_COLUMN, 0.0)
    }


def describe_seam(seam: SeamMetrics, total: int) -> str:
    """Describe a seam in two sentences, before its first step.

    Args:
        seam: metrics of the seam; only those before it are used.
        total: planned epochs of the extended run.
    """
    ema, raw = (
        "not measured" if value is None else f"{value:.5f}"
        for value in (seam.ema_before, seam.raw_before)
    )
    return (
        f"Extended from epoch {seam.epoch} to a total of {total} epochs with `{seam.mode}`: the "
        f"learning rate changes from {seam.rate_before:.6g} to {seam.rate_after:.6g}. mAP50-95 "
        f"before the seam: EMA weights {ema}, non-EMA weights {raw}."
    )


class Loggers:
    """All loggers of a run.

    The console logger is called at once. Loggers that write files are called in the background,
    after the pending checkpoint is written, so that no file is ahead of the checkpoint. A failing
    logger is reported once and does not end the run.

    Args:
        loggers: called in this order; empty except in the main process.
        plan: plan of the run, with its seams.
        background: also writes the checkpoints.
    """

    def __init__(self, loggers: Sequence[Logger], plan: Plan, background: BackgroundWorker) -> None:
        self._before_checkpoint = [logger for logger in loggers if logger.before_checkpoint]
        self._after_checkpoint = [logger for logger in loggers if not logger.before_checkpoint]
        self._plan = plan
        self._background = background
        self._failed: set[Logger] = set()

    def begin(self, state: TrainingState, audit: Audit | None) -> None:
        """Log the start of the run in this process."""
        run = RunLog.from_state(state)
        self._log(lambda logger: logger.begin(run, audit))
        self._log_seam(run)

    def epoch(self, state: TrainingState) -> None:
        """Log a completed epoch."""
        run = RunLog.from_state(state)
        self._log(lambda logger: logger.epoch(run))
        self._log_seam(run)

    def end(self) -> None:
        """Log the end of the run."""
        self._log(lambda logger: logger.end())

    def _log_seam(self, run: RunLog) -> None:
        """Log the seam at the current position, if there is one; again after a resume there."""
        for seam in seam_metrics(self._plan, run.history):
            if seam.epoch == run.epoch:
                self._log(methodcaller("seam", seam))

    def _log(self, event: Callable[[Logger], None]) -> None:
        def log_later() -> None:
            for logger in self._after_checkpoint:
                self._call(logger, event)

        for logger in self._before_checkpoint:
            self._call(logger, event)
        if self._after_checkpoint:
            self._background.enqueue(log_later)

    def _call(self, logger: Logger, event: Callable[[Logger], None]) -> None:
        if logger in self._failed and not logger.retry_after_failure:
            return
        try:
            event(logger)
        except logger.caught_errors as error:
            if logger not in self._failed:
                self._failed.add(logger)
                _report_failure(logger, error)


def _report_failure(logger: Logger, error: Exception) -> None:
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    then = " and retries after the next epoch" if logger.retry_after_failure else " without it"
    log.warning(
        "Cannot write %s: %s; the run continues%s.",
        *(logger.name, reason, then),
    )


def build_loggers(
    folder: Path, plan: Plan, distributed: Distributed, background: BackgroundWorker
) -> Loggers:
    """Create the loggers of a run; none except in the main process.

    TensorBoard is used if it is installed.
    """
    loggers: list[Logger] = []
    if distributed.is_main:
        loggers += [ConsoleLogger(), ResultsLogger(folder), SeamsLogger(folder, plan)]
        if find_spec("tensorboard") is not None:
            loggers.append(TensorBoardLogger(folder, plan))
    return Loggers(loggers, plan, background)
