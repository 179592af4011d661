"""A run as it is recorded on disk, to be looked at rather than trained on."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

from utils.checkpoint.format import LAST
from utils.errors import UserError
from utils.history import Row, read_results
from utils.solver.schedule import Plan
from utils.solver.seam import EMA, SeamMetrics, seam_metrics

log = logging.getLogger("yolo")

REQUIRED_COLUMNS = frozenset(("epoch", "metrics/mAP_0.5", EMA))


@dataclass(frozen=True)
class RecordedRun:
    """What a run's last checkpoint, or else its results.csv, tells."""

    origin: Path
    """The run's folder; `folder/checkpoint` of any other checkpoint than the last one."""
    history: list[Row]
    """One row per epoch, at min_ticks one."""
    plan: Plan | None
    """None for a run that is known from its results.csv alone."""
    names: tuple[str, ...] | None
    """Class names; None likewise."""

    @property
    def seams(self) -> list[SeamMetrics]:
        """The figures of its seams, oldest first."""
        return seam_metrics(self.plan, self.history) if self.plan else []


def read_run(target: Path) -> RecordedRun:
    """Read a run.

    Args:
        target: its folder, in which results.csv alone will do, or a training checkpoint.

    Raises:
        UserError: there is no such run, or it has no completed epoch.
    """
    if not target.is_dir():
        return read_checkpoint_run(target)
    last, results = target / "weights" / LAST, target / "results.csv"
    if last.is_file():
        try:
            return read_checkpoint_run(last)
        except UserError as error:
            if not results.is_file():
                raise
            log.warning("%s Going by %s instead: no plan, no seams.", error, results)
    if not results.is_file():
        raise UserError(f"{target} holds neither weights/{LAST} nor results.csv; name a run.")
    return RecordedRun(target.resolve(), read_history(results), plan=None, names=None)


def read_checkpoint_run(path: Path) -> RecordedRun:
    """Read a run from a training checkpoint of ours.

    Raises:
        UserError: it cannot be read, or holds no history.
    """
    # Imports torch, which a command line that is refused need not wait for.
    from utils.checkpoint.store import load_checkpoint
    from utils.upstream.reader import is_upstream_file

    if is_upstream_file(path):
        raise UserError(
            f"{path} is a checkpoint of YOLOv5; name its run's folder, which has a results.csv."
        )
    checkpoint = load_checkpoint(path)
    if checkpoint["kind"] != "training":
        raise UserError(f"{path} is stripped of its history; name the run's folder or its {LAST}.")
    if not checkpoint["history"]:
        raise UserError(f"{path} has no completed epoch; train the run first.")
    try:
        plan = Plan.from_dict(checkpoint["plan"])
        planned = len(plan.factors())
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path} is damaged: its plan is unreadable ({error!r}).") from error
    if checkpoint["history"][-1]["epoch"] >= planned:
        raise UserError(
            f"{path} is damaged: its plan of {planned} epochs ends before its history; "
            "name an earlier checkpoint of the run."
        )
    folder = path.resolve().parent
    folder = folder.parent if folder.name == "weights" else folder
    return RecordedRun(
        folder if path.name == LAST else folder / path.stem,
        checkpoint["history"],
        plan,
        tuple(checkpoint["config"]["names"]),
    )


def read_history(path: Path) -> list[Row]:
    """Read a results.csv, ours or upstream's.

    Raises:
        UserError: it holds no epochs with mAP.
    """
    try:
        rows = read_results(path)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is not the record of a run: {error}.") from error
    if not rows or not rows[0].keys() >= REQUIRED_COLUMNS:
        raise UserError(f"{path} holds no epochs with mAP; name another run.")
    return rows
