"""Where a run reports its progress: the console, results.csv and seams.json, TensorBoard."""

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
from utils.history import COLUMNS, MISS_RATE, RAW_MAP, SKIPPED, Row, write_results
from utils.runs.run import SEAMS
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
    """What is logged of a run at one moment; a copy, since the training goes on meanwhile."""

    epoch: int
    """Completed epochs."""
    history: list[Row]
    """One row per completed epoch."""
    continuations: list[ContinuationRecord]
    best_epoch: int
    stopped_early: bool

    @staticmethod
    def of(state: TrainingState) -> RunLog:
        """The log of a state as it is now."""
        return RunLog(
            epoch=state.epoch,
            history=[dict(row) for row in state.history],
            continuations=list(state.continuations),
            best_epoch=state.best_epoch,
            stopped_early=state.stopped_early,
        )


class Logger:
    """Reports the events of a run in one place; here it ignores all of them.

    Args:
        name: for the message when it fails.
    """

    at_once: ClassVar[bool] = False
    """Whether it logs before the checkpoint of the same epoch is written, not after it."""
    failures: ClassVar[tuple[type[Exception], ...]] = (OSError,)
    """Errors after which the run goes on."""
    retries: ClassVar[bool] = True
    """Whether it is called again after a failure."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, run: RunLog, audit: Audit | None) -> None:
        """The first step of this process is next.

        Args:
            run: as restored, or new.
            audit: of the restored state; None for a new run.
        """

    def epoch(self, run: RunLog) -> None:
        """An epoch is completed."""

    def seam(self, seam: SeamMetrics) -> None:
        """The next epoch is the first one of an extension."""

    def end(self) -> None:
        """The last epoch is completed."""


class ConsoleLogger(Logger):
    """Prints what is found of a restored state and of an epoch, beside the tables of validation."""

    at_once = True

    def __init__(self) -> None:
        super().__init__("console")

    def begin(self, run: RunLog, audit: Audit | None) -> None:
        """Print the audit of a restored state."""
        if audit is not None:
            log_audit(audit.items, audit.check)

    def epoch(self, run: RunLog) -> None:
        """Print how many batches were left out, and that the run stops early."""
        row = run.history[-1]
        if SKIPPED in row:
            log.warning("Epoch %d left out %d batches.", row["epoch"], row[SKIPPED])
        if run.stopped_early:
            log.info(
                "No gain since epoch %d: stopping early after %d epochs.", run.best_epoch, run.epoch
            )


class ResultsLogger(Logger):
    """Writes results.csv, whole each time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "results.csv"
        super().__init__(str(self._path))

    def begin(self, run: RunLog, audit: Audit | None) -> None:
        """Write the epochs so far: what was cut off, or failed, is there again."""
        write_results(run.history, self._path)

    def epoch(self, run: RunLog) -> None:
        """Write all epochs."""
        write_results(run.history, self._path)


class SeamsLogger(Logger):
    """Writes seams.json: what every seam cost and gained, and how the run went on each time."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._path = folder / SEAMS
        self._plan = plan
        super().__init__(str(self._path))

    def begin(self, run: RunLog, audit: Audit | None) -> None:
        """Write it, unless the run neither has a seam nor was resumed."""
        self.epoch(run)

    def epoch(self, run: RunLog) -> None:
        """Write it with the results of the last epoch."""
        seams = [seam.to_dict() for seam in seam_metrics(self._plan, run.history)]
        if not seams and not run.continuations:
            return
        content = {"seams": seams, "continuations": run.continuations}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        atomic_write_text(self._path, text)


class TensorBoardLogger(Logger):
    """Writes an event file for TensorBoard: a scalar per result and epoch, a text per seam."""

    failures = (Exception,)  # whatever a package that is not ours raises
    retries = False

    def __init__(self, folder: Path, plan: Plan) -> None:
        super().__init__("the event file of TensorBoard")
        self._folder = folder
        self._plan = plan
        self._writer: SummaryWriter | None = None

    def begin(self, run: RunLog, audit: Audit | None) -> None:
        """Open an event file, which hides the epochs that are trained again."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=run.epoch)

    def epoch(self, run: RunLog) -> None:
        """Write the results of the last epoch."""
        row = run.history[-1]
        for tag, value in scalars(row).items():
            self._open_writer.add_scalar(tag, value, int(row["epoch"]))
        self._open_writer.flush()

    def seam(self, seam: SeamMetrics) -> None:
        """Write what changes at the seam, and the results before it."""
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
    """The results of an epoch by tag: the columns of results.csv, and what else was measured."""
    extra = [name for name in row if name == RAW_MAP or name.startswith(MISS_RATE)]
    return {name: row[name] for name in (*COLUMNS[1:], *extra)} | {SKIPPED: row.get(SKIPPED, 0.0)}


def describe_seam(seam: SeamMetrics, total: int) -> str:
    """Two sentences on a seam, as it is before its first step.

    Args:
        seam: of it, what was before.
        total: epochs that the run is extended to.
    """
    ema, raw = (
        "not measured" if value is None else f"{value:.5f}"
        for value in (seam.ema_before, seam.raw_before)
    )
    return (
        f"Extended at epoch {seam.epoch} to {total} epochs with `{seam.mode}`: the learning rate "
        f"goes from {seam.rate_before:.6g} to {seam.rate_after:.6g}. mAP50-95 before the seam: "
        f"average {ema}, raw weights {raw}."
    )


class Loggers:
    """All loggers of a run.

    Those of the console log at once; those that write files do so in the background, after the
    checkpoint that was begun before, so that no file runs ahead of it. One that fails is reported
    once, and never ends the run.

    Args:
        loggers: in their order; of several processes, only the main one has any.
        plan: of the run; says where the seams are.
        background: also writes the checkpoints.
    """

    def __init__(self, loggers: Sequence[Logger], plan: Plan, background: BackgroundWorker) -> None:
        self._at_once = [logger for logger in loggers if logger.at_once]
        self._after_checkpoint = [logger for logger in loggers if not logger.at_once]
        self._plan = plan
        self._background = background
        self._failed: set[Logger] = set()

    def begin(self, state: TrainingState, audit: Audit | None) -> None:
        """Log that the first step is next."""
        run = RunLog.of(state)
        self._log(lambda logger: logger.begin(run, audit))
        self._log_seam(run)

    def epoch(self, state: TrainingState) -> None:
        """Log a completed epoch."""
        run = RunLog.of(state)
        self._log(lambda logger: logger.epoch(run))
        self._log_seam(run)

    def end(self) -> None:
        """Log that the last epoch is completed."""
        self._log(lambda logger: logger.end())

    def _log_seam(self, run: RunLog) -> None:
        """Log a seam where the run stands at one; again if it is resumed there, as epochs are."""
        for seam in seam_metrics(self._plan, run.history):
            if seam.epoch == run.epoch:
                self._log(methodcaller("seam", seam))

    def _log(self, event: Callable[[Logger], None]) -> None:
        def log_later() -> None:
            for logger in self._after_checkpoint:
                self._call(logger, event)

        for logger in self._at_once:
            self._call(logger, event)
        if self._after_checkpoint:
            self._background.enqueue(log_later)

    def _call(self, logger: Logger, event: Callable[[Logger], None]) -> None:
        if logger in self._failed and not logger.retries:
            return
        try:
            event(logger)
        except logger.failures as error:
            if logger not in self._failed:
                self._failed.add(logger)
                _report_failure(logger, error)


def _report_failure(logger: Logger, error: Exception) -> None:
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    log.warning(
        "Cannot write %s: %s. The run goes on%s.",
        *(logger.name, reason, "; the next epoch tries again" if logger.retries else " without it"),
    )


def build_loggers(
    folder: Path, plan: Plan, distributed: Distributed, background: BackgroundWorker
) -> Loggers:
    """The loggers of a run: of several processes the main one has all, the others have none.

    TensorBoard is used where it is installed.
    """
    loggers: list[Logger] = []
    if distributed.is_main:
        loggers += [ConsoleLogger(), ResultsLogger(folder), SeamsLogger(folder, plan)]
        if find_spec("tensorboard") is not None:
            loggers.append(TensorBoardLogger(folder, plan))
    return Loggers(loggers, plan, background)
