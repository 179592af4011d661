"""Loads and validates the checkpoint that a run continues from, and extends its plan."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from utils.checkpoint.format import (
    BEST,
    LAST,
    Best,
    DeployCheckpoint,
    TrainingCheckpoint,
    deploy_info,
    no_progress,
    plan_digest,
)
from utils.checkpoint.store import load_with_fallback, read_checkpoint
from utils.errors import UserError
from utils.history import ITERATION_COLUMN
from utils.options.train_options import TrainOptions, TrainRequest
from utils.runs.folder import TRUNK_FILE, run_folder_of
from utils.solver.continuation import Extension, counted_from, extend_plan
from utils.solver.guard import check_extension_trains, check_planned_rates, check_recorded_rates
from utils.solver.plan_forensics import describe_plan
from utils.solver.schedule import Plan
from utils.upstream.import_run import import_run
from utils.upstream.reader import is_upstream_file

log = logging.getLogger("yolo")

EPOCH_OPTIONS = frozenset({"batch_size", "imgsz", "rect", "seed"})
"""Options that change the batches of an epoch or its validation; for data see `Run.with_data`."""


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run continues from, and the plan that it follows."""

    path: Path
    """The file that was read: `last_prev.pt` if `last.pt` is damaged."""
    folder: Path | None
    """The run folder; None for a run of YOLOv5, whose folder is only read."""
    written: int
    """Time at which the file was written, in nanoseconds."""
    checkpoint: TrainingCheckpoint
    saved: Plan
    """The saved plan, without an extension that is replaced, see `replaces`."""
    plan: Plan
    """The plan to follow: the saved one, with a new segment if the run is extended."""
    next_seam: int
    """Completed epochs at the start of an extension; an epoch under way keeps the old plan."""
    extension: Extension | None
    """The extension of the command line; None if the run is only resumed."""
    counts_from_seam: bool
    """Whether the new segment starts instead of the epochs that were left, not after them."""
    replaces: bool
    """Whether the new segment replaces a saved one of which no epoch was trained."""
    ended: bool
    """Whether training is over and only the final steps are left: best.pt, metrics, plots."""
    best: DeployCheckpoint | Path | None
    """The weights of the best epoch so far, if the checkpoint itself does not contain them."""

    @property
    def extended(self) -> bool:
        """Whether the plan has a new segment."""
        return self.extension is not None

    @property
    def completed(self) -> int:
        """Epochs trained so far."""
        return self.checkpoint["position"]["epoch"]

    def with_average(self, options: TrainOptions, given: Collection[str]) -> TrainOptions:
        """The options with the `--average` that applies from here on; logs the averaged epochs.

        An extension does not inherit it, since it was for the planned end before the seam.

        Raises:
            UserError: if an epoch to average is before the extension, or missing in the mean.
        """
        if self.extended and "average" not in given:
            return replace(options, average=0)
        last, total, start = options.average, self.plan.total_epochs, self.plan.segments[-1].start
        if last > total - start:
            which = "extension" if start else "run"
            raise UserError(
                f"--average {last}: the {which} has fewer epochs; use at most {total - start}."
            )
        due, mean = self.plan.averaged(last, self.completed), self.checkpoint.get("average")
        if due and (mean is None or mean["updates"] != due):
            raise UserError(
                f"--average {last}: {due} of the last {last} planned epochs are done, but their "
                f"mean is not in the checkpoint; use at most {total - self.completed}, or the "
                "value that the run began with."
            )
        if last:
            log.info(
                "weights/average.pt will be the mean of the weights after epochs %d to %d; an "
                "early stop writes none.",
                *(total - last, total - 1),
            )
        return options

    def with_restarted_epoch(self, what: str) -> ResumePoint:
        """A copy in which the epoch under way begins again, because something changed.

        Args:
            what: subject of the message, for example "classes have".
        """
        if self.checkpoint["progress"]["batches"] == 0:
            return self
        log.warning(
            "The %s changed, so epoch %d, which was under way, restarts.", what, self.completed
        )
        return replace(self, checkpoint=_restarted(self.checkpoint))


class _Source(NamedTuple):
    """A checkpoint to continue from, in the format of this project, and its origin."""

    path: Path
    folder: Path | None
    checkpoint: TrainingCheckpoint
    best: DeployCheckpoint | Path | None


def load_resume_point(path: Path, request: TrainRequest) -> ResumePoint:
    """Load the checkpoint to continue from, of this project or of YOLOv5, and extend its plan.

    Raises:
        UserError: if the file is invalid, its recorded rates do not match its plan, no epoch is
            left to train, or the extension is impossible.
    """
    written = last_written(path)
    source = _load_upstream(path, request) if is_upstream_file(path) else _load_own(path, request)
    found = _saved_plan(source.checkpoint, path)
    checkpoint = _restart_changed_epoch(source.checkpoint, request)
    check_recorded_rates(found, checkpoint["history"])
    if checkpoint["plan_digest"] != plan_digest(checkpoint["plan"]):  # edited without a trace
        raise UserError(
            f"the learning-rate plan in {path} was edited after the run saved it: it now has "
            f"{describe_plan(found)}; resume from an unedited checkpoint of the run, such as "
            "weights/last_prev.pt, and add epochs with --extend-epochs."
        )
    end = _why_ended(checkpoint, found, request)
    if end and checkpoint["closed"]:
        raise UserError(f"{path}: {end}; add --extend-epochs X to extend the run.")
    completed, under_way = checkpoint["position"]["epoch"], checkpoint["progress"]["batches"] > 0
    next_seam = completed + under_way
    extension, replaces, instead = request.extension, False, False
    saved, plan, best = found, found, source.best
    if extension is not None:
        replaces = found.segments[-1].start >= max(next_seam, 1)
        if replaces:
            seam = source.path.with_name(f"seam_{next_seam}.pt")
            checkpoint = _before_extension(seam, checkpoint)
            best = _best_beside(source.path, checkpoint)
        instead = extension.finishes or _abandons_epochs(checkpoint, source.path, next_seam)
        if instead:
            extension = counted_from(next_seam, found, extension)
        plan = extend_plan(found, next_seam, extension)
        check_extension_trains(plan)
        before = Plan.from_dict(checkpoint["plan"])  # without the warm-up of a replaced choice
        saved = replace(before, segments=plan.segments[:-1])
        plan = replace(before, segments=plan.segments)
    check_planned_rates(plan, completed)
    checkpoint = checkpoint.copy()
    checkpoint["plan"] = saved.to_dict()
    checkpoint["plan_digest"] = plan_digest(checkpoint["plan"])
    if best is None and not _holds_best(checkpoint):
        checkpoint["best"] = _no_best(checkpoint, source.path)
    return ResumePoint(
        path=source.path,
        folder=source.folder,
        written=written,
        checkpoint=checkpoint,
        saved=saved,
        plan=plan,
        next_seam=next_seam,
        extension=extension,
        counts_from_seam=instead,
        replaces=replaces,
        ended=end is not None,
        best=best,
    )


def _abandons_epochs(checkpoint: TrainingCheckpoint, path: Path, seam: int) -> bool:
    """Whether an extension begins instead of the epochs that are left, and not after them."""
    if checkpoint["stopped_early"]:
        reason = "the run stopped early"
    elif TRUNK_FILE.fullmatch(path.name):
        reason = f"{path.name} is the state before a cooldown, which is left out"
    else:
        return False
    log.info("--extend-epochs counts from the %d epochs that are done, because %s.", seam, reason)
    return True


def _restart_changed_epoch(
    checkpoint: TrainingCheckpoint, request: TrainRequest
) -> TrainingCheckpoint:
    """Restart the epoch under way if its batches or its validation change."""
    if checkpoint["progress"]["batches"] == 0:
        return checkpoint
    old = checkpoint["config"]["options"]
    allowed = request.given & request.continuation.allow_change & EPOCH_OPTIONS
    changed = [name for name in sorted(allowed) if old.get(name) != getattr(request.options, name)]
    if not changed:
        return checkpoint
    log.warning(
        "--%s changes the batches or the validation of epoch %d, which was under way; the epoch "
        "restarts.",
        *(changed[0].replace("_", "-"), checkpoint["position"]["epoch"]),
    )
    return _restarted(checkpoint)


def _restarted(checkpoint: TrainingCheckpoint) -> TrainingCheckpoint:
    whole = checkpoint.copy()
    whole["progress"] = no_progress()
    return whole


def _before_extension(seam: Path, checkpoint: TrainingCheckpoint) -> TrainingCheckpoint:
    """The checkpoint from before an untrained extension, so that nothing of its options is left.

    Args:
        seam: the file that the extension saved first.
        checkpoint: saved at the start of the extension; returned if the file is not there.
    """
    before = read_checkpoint(seam) if seam.is_file() else checkpoint
    if before["kind"] == "training" and position(before) == position(checkpoint):
        return before
    return checkpoint


def last_written(path: Path) -> int:
    """Time at which a file was last written, in nanoseconds."""
    return path.stat().st_mtime_ns


def position(checkpoint: TrainingCheckpoint) -> tuple[int, int]:
    """Completed epochs, and batches of the epoch under way."""
    return checkpoint["position"]["epoch"], checkpoint["progress"]["batches"]


def _load_upstream(path: Path, request: TrainRequest) -> _Source:
    data = request.options.data if "data" in request.given else None
    imported = import_run(path, request.continuation, data)
    found = "; ".join(imported.found)
    log.info("%s was written by YOLOv5. Imported: %s.", path, found)
    return _Source(path, None, imported.checkpoint, imported.best)


def _load_own(path: Path, request: TrainRequest) -> _Source:
    given = request.continuation.for_upstream_only()
    if given:
        raise UserError(
            f"{given} applies only to YOLOv5 checkpoints, and {path} is not one; omit it."
        )
    source, checkpoint = load_with_fallback(path)
    if checkpoint["kind"] != "training":
        raise UserError(
            f"{path} contains only weights, no optimizer state and no learning-rate plan; "
            f"resume the run's weights/{LAST}."
        )
    return _Source(source, run_folder_of(source), checkpoint, _best_beside(source, checkpoint))


def _saved_plan(checkpoint: TrainingCheckpoint, path: Path) -> Plan:
    try:
        plan = Plan.from_dict(checkpoint["plan"])
        plan.factors()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{path} is damaged (its learning-rate plan is unreadable: {error}); resume another "
            "checkpoint, such as weights/last_prev.pt."
        ) from error
    return plan


def _why_ended(checkpoint: TrainingCheckpoint, plan: Plan, request: TrainRequest) -> str | None:
    """Why no epoch is left to train: all are done, or the run stopped early; None if some are."""
    completed = checkpoint["position"]["epoch"]
    if request.extension is not None:
        return None
    if completed >= plan.total_epochs:
        return f"all {plan.total_epochs} planned epochs are done"
    old, new = checkpoint["config"]["options"]["patience"], request.options.patience
    more_patience = "patience" in request.given and (new == 0 or new > old)
    if checkpoint["stopped_early"] and not more_patience:
        return (
            f"the run stopped early after {completed} of {plan.total_epochs} epochs, and would "
            "stop again without a larger --patience"
        )
    return None


def _best_beside(path: Path, checkpoint: TrainingCheckpoint) -> Path | None:
    """The best.pt in the folder of a checkpoint, if it is of the best epoch of that checkpoint."""
    best, file = checkpoint["best"], path.with_name(BEST)
    if _holds_best(checkpoint) or not file.is_file() or is_upstream_file(file):
        return None
    try:
        content = read_checkpoint(file)
    except UserError as error:
        log.warning("%s", error)
        return None
    found: Mapping[str, object] = content if content["kind"] == "deploy" else deploy_info(content)
    same = found["fitness"] in (best["fitness"], best.get("saved_fitness"))
    return file if same and found["epoch"] == best["epoch"] else None


def _no_best(checkpoint: TrainingCheckpoint, path: Path) -> Best:
    """An empty record of the best epoch, for a run whose best weights are missing.

    They are missing if the run branches off from an earlier checkpoint, if best.pt was not copied
    with the checkpoint, or if the best epoch was not saved.
    """
    best = checkpoint["best"]
    if best["epoch"] >= 0:
        log.warning(
            "The weights of the best epoch so far, %d, are not in the folder of %s; the next "
            "epochs determine a new best.",
            *(best["epoch"], path),
        )
    return Best(fitness=float("-inf"), epoch=-1)


def _holds_best(checkpoint: TrainingCheckpoint) -> bool:
    """Whether a training checkpoint contains the weights of the best epoch so far."""
    best, completed = checkpoint["best"]["epoch"], checkpoint["position"]["epoch"]
    if checkpoint["progress"]["batches"] or best != completed - 1 or completed == 0:
        return False
    iteration = checkpoint["position"]["iteration"]
    # An epoch that was restarted has left weights of later iterations.
    return checkpoint["history"][-1].get(ITERATION_COLUMN, iteration) == iteration
