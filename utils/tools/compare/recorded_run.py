"""Read a recorded run from its last checkpoint or its results.csv."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from utils.checkpoint.format import LAST
from utils.errors import UserError
from utils.history import Row, read_results
from utils.solver.schedule import Plan
from utils.solver.seam import EMA_MAP_COLUMN, SeamMetrics, seam_metrics

log = logging.getLogger("yolo")

REQUIRED_COLUMNS = frozenset(("epoch", "metrics/mAP_0.5", EMA_MAP_COLUMN))


@dataclass(frozen=True)
class RecordedRun:
    """History, plan and class names of a run, from a checkpoint or else from results.csv."""

    path: Path
    """The run's folder; `folder/STEM` for a checkpoint other than the last one."""
    history: list[Row]
    """One row per epoch, at least one."""
    plan: Plan | None
    """None if only results.csv was read."""
    names: tuple[str, ...] | None
    """Class names; None if only results.csv was read."""

    @property
    def seams(self) -> list[SeamMetrics]:
        """Metrics of the seams, oldest first."""
        return seam_metrics(self.plan, self.history) if self.plan else []


def read_run(target: Path) -> RecordedRun:
    """Read a run.

    Args:
        target: run folder with weights/last.pt or results.csv, or a training checkpoint.

    Raises:
        UserError: the run does not exist, is damaged, or has no completed epoch.
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
            log.warning("%s Reading %s instead, which has no plan and no seams.", error, results)
    if not results.is_file():
        raise UserError(
            f"{target} contains neither weights/{LAST} nor results.csv; use the folder of a run."
        )
    return RecordedRun(target.resolve(), read_history(results), plan=None, names=None)


def read_checkpoint_run(path: Path) -> RecordedRun:
    """Read a run from a training checkpoint of this project.

    Raises:
        UserError: the checkpoint cannot be read, or has no history.
    """
    # These import torch, which is slow; an invalid command line must fail fast.
    from utils.checkpoint.store import load_checkpoint
    from utils.upstream.reader import is_upstream_file

    if is_upstream_file(path):
        raise UserError(
            f"{path} is a checkpoint of YOLOv5; use the folder of its run, which has a results.csv."
        )
    checkpoint = load_checkpoint(path)
    if checkpoint["kind"] != "training":
        raise UserError(f"{path} has no history; use the folder of its run or its {LAST}.")
    if not checkpoint["history"]:
        raise UserError(f"{path} has no completed epoch; train the run first.")
    try:
        plan = Plan.from_dict(checkpoint["plan"])
        planned = len(plan.factors())
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{path} is damaged (its plan is unreadable: {error!r}); "
            "use an earlier checkpoint of the run."
        ) from error
    if checkpoint["history"][-1]["epoch"] >= planned:
        raise UserError(
            f"{path} is damaged (its plan of {planned} epochs ends before its history); "
            "use an earlier checkpoint of the run."
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
    """Read a results.csv of this project or of upstream.

    Raises:
        UserError: the file cannot be read, or has no epochs with mAP.
    """
    try:
        rows = read_results(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; use another run.") from error
    if not rows or not rows[0].keys() >= REQUIRED_COLUMNS:
        raise UserError(f"{path} has no epochs with mAP; use another run.")
    return rows
