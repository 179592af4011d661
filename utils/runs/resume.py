"""The checkpoint that a run continues from: read, checked, its plan extended if asked for."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from utils.checkpoint.format import (
    BEST,
    LAST,
    Best,
    Checkpoint,
    DeployCheckpoint,
    DeployInfo,
    TrainingCheckpoint,
    deploy_info,
    no_progress,
    plan_digest,
)
from utils.checkpoint.store import load_whole, read_checkpoint
from utils.errors import UserError
from utils.history import ITERATION
from utils.options.train_options import TrainRequest
from utils.runs.folder import run_folder_of
from utils.solver.continuation import extend_plan
from utils.solver.guard import check_planned_rates, check_recorded_rates
from utils.solver.plan_forensics import describe_plan
from utils.solver.schedule import Plan
from utils.upstream.import_run import ImportOptions, import_run, with_batches_per_epoch
from utils.upstream.reader import is_upstream_file

log = logging.getLogger("yolo")

OF_AN_EPOCH = frozenset({"batch_size", "data", "imgsz", "rect", "seed"})
"""Options that decide which images make a batch, or by what an epoch is judged."""


@dataclass(frozen=True)
class ResumePoint:
    """Where a run continues from, and on which plan."""

    path: Path
    """The file that was read: `last_prev.pt` if `last.pt` is damaged."""
    folder: Path | None
    """The run's folder; None if the run is not one of ours, and its folder is only read."""
    checkpoint: TrainingCheckpoint
    saved: Plan
    """The plan as it was saved, without the extension that is replaced, see `replaces`."""
    plan: Plan
    """The plan to continue on: the saved one, with the new segment when the run is extended."""
    extended: bool
    replaces: bool
    """Whether the new segment takes the place of one that was saved with no epoch of it trained."""
    ended: bool
    """Whether all is trained and only what comes after was cut off: best.pt, metrics, plots."""
    best: DeployCheckpoint | Path | None
    """The weights of the best epoch so far, where the checkpoint itself does not hold them."""

    @property
    def completed(self) -> int:
        """Epochs trained so far."""
        return self.checkpoint["position"]["epoch"]

    @property
    def next_seam(self) -> int:
        """Epochs completed where an extension begins; an epoch under way ends on the old plan."""
        return next_seam(self.checkpoint)

    def with_batches_per_epoch(self, batches: int) -> ResumePoint:
        """Complete what of the position is open until the data are known.

        Args:
            batches: in an epoch of the loader that the run continues with.
        """
        checkpoint = with_batches_per_epoch(self.checkpoint, batches)
        warmup = Plan.from_dict(checkpoint["plan"]).warmup
        return replace(self, checkpoint=checkpoint, plan=replace(self.plan, warmup=warmup))


class _Source(NamedTuple):
    """A checkpoint to continue from, in our terms, and where it comes from."""

    path: Path
    folder: Path | None
    checkpoint: TrainingCheckpoint
    best: DeployCheckpoint | Path | None


def load_resume_point(path: Path, request: TrainRequest) -> ResumePoint:
    """Read the checkpoint to continue from, ours or one of YOLOv5, and plan what comes.

    Raises:
        UserError: the file is refused, its recorded rates are not those of its plan, nothing is
            left to train, or the extension is impossible.
    """
    source = _imported(path, request) if is_upstream_file(path) else _own(path, request)
    checkpoint = source.checkpoint
    found = _saved_plan(checkpoint, path)
    checkpoint = _with_whole_epoch(checkpoint, request)
    # Rates of an imported history are rounded and lag; its law was checked when it was read.
    check_recorded_rates(found, [row for row in checkpoint["history"] if ITERATION in row])
    _require_unedited(checkpoint, found, path)
    ended = _has_ended(checkpoint, found, request)
    if ended and checkpoint["closed"]:
        raise UserError(f"{path}: {_why_ended(checkpoint, found)}; add --extend-epochs X to go on.")
    extension = request.continuation.extension()
    saved = plan = found
    if extension is not None:
        saved = _without_untrained_extension(found, next_seam(checkpoint))
        plan = extend_plan(saved, next_seam(checkpoint), extension)
    check_planned_rates(plan, checkpoint["position"]["epoch"])
    checkpoint = checkpoint.copy()
    checkpoint["plan"] = saved.to_dict()
    checkpoint["plan_digest"] = plan_digest(checkpoint["plan"])
    if source.best is None and not holds_best(checkpoint):
        checkpoint["best"] = _no_best(checkpoint, source.path)
    return ResumePoint(
        path=source.path,
        folder=source.folder,
        checkpoint=checkpoint,
        saved=saved,
        plan=plan,
        extended=extension is not None,
        replaces=saved != found,
        ended=ended,
        best=source.best,
    )


def _with_whole_epoch(checkpoint: TrainingCheckpoint, request: TrainRequest) -> TrainingCheckpoint:
    """Begin the epoch under way anew where its batches or its validation are no longer the same."""
    if checkpoint["progress"]["batches"] == 0:
        return checkpoint
    old = checkpoint["config"]["options"]
    wanted = request.given & request.continuation.allow_change & OF_AN_EPOCH
    changed = [name for name in sorted(wanted) if old.get(name) != getattr(request.options, name)]
    if not changed:
        return checkpoint
    log.warning(
        "--%s makes another epoch: epoch %d, which was under way, begins anew.",
        *(changed[0].replace("_", "-"), checkpoint["position"]["epoch"]),
    )
    whole = checkpoint.copy()
    whole["progress"] = no_progress()
    return whole


def next_seam(checkpoint: TrainingCheckpoint) -> int:
    """Epochs completed where an extension of a checkpoint begins, the one under way included."""
    under_way = checkpoint["progress"]["batches"] > 0
    return checkpoint["position"]["epoch"] + under_way


def _imported(path: Path, request: TrainRequest) -> _Source:
    how = request.continuation
    options = ImportOptions(
        data=request.options.data if "data" in request.given else None,
        schedule=how.schedule,
        completed_epochs=how.completed_epochs,
        allow_partial_state=how.allow_partial_state,
    )
    imported = import_run(path, options)
    found = "; ".join(imported.report.found)
    log.info("%s was written by YOLOv5. Taken over: %s.", path, found)
    return _Source(path, None, imported.checkpoint, imported.best)


def _own(path: Path, request: TrainRequest) -> _Source:
    given = request.continuation.for_upstream_only()
    if given:
        raise UserError(
            f"{given} is for checkpoints of YOLOv5; {path} is one of ours, leave it out."
        )
    source, checkpoint = load_whole(path)
    if checkpoint["kind"] != "training":
        raise UserError(
            f"{path} holds weights only, no optimizer and no schedule; "
            f"resume from the run's weights/{LAST}."
        )
    return _Source(source, run_folder_of(source), checkpoint, _best_beside(source, checkpoint))


def _saved_plan(checkpoint: TrainingCheckpoint, path: Path) -> Plan:
    try:
        plan = Plan.from_dict(checkpoint["plan"])
        plan.factors()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged: its schedule is unreadable ({error}).") from error
    return plan


def _require_unedited(checkpoint: TrainingCheckpoint, plan: Plan, path: Path) -> None:
    """Catch an edit of which the recorded rates know nothing yet."""
    if checkpoint["plan_digest"] != plan_digest(checkpoint["plan"]):
        raise UserError(
            f"the learning-rate plan in {path} was edited since the run saved it: it now has "
            f"{describe_plan(plan)}. Go on from a checkpoint as the run "
            "wrote it, such as weights/last_prev.pt; --extend-epochs adds epochs."
        )


def _without_untrained_extension(plan: Plan, seam: int) -> Plan:
    """The plan that an extension at this seam goes on from: choosing anew replaces the choice."""
    trained = tuple(segment for segment in plan.segments if segment.start < seam)
    return replace(plan, segments=trained or plan.segments[:1])


def _has_ended(checkpoint: TrainingCheckpoint, plan: Plan, request: TrainRequest) -> bool:
    """Whether nothing is left to train: no extension, and all done or stopped for want of gain."""
    if request.continuation.extend_epochs is not None:
        return False
    old, new = checkpoint["config"]["options"]["patience"], request.options.patience
    more_patience = "patience" in request.given and (new == 0 or new > old)
    stopped = checkpoint["stopped_early"] and not more_patience
    return bool(stopped or checkpoint["position"]["epoch"] >= plan.total_epochs)


def _why_ended(checkpoint: TrainingCheckpoint, plan: Plan) -> str:
    completed = checkpoint["position"]["epoch"]
    if completed < plan.total_epochs:
        return (
            f"the run stopped early after {completed} of {plan.total_epochs} epochs, "
            "and would again without a longer --patience"
        )
    return f"all {plan.total_epochs} planned epochs are done"


def _best_beside(path: Path, checkpoint: TrainingCheckpoint) -> Path | None:
    """The best.pt beside a checkpoint, if it holds the best epoch that the checkpoint names."""
    best, file = checkpoint["best"], path.with_name(BEST)
    if holds_best(checkpoint) or not file.is_file() or is_upstream_file(file):
        return None
    try:
        found = _info_of(read_checkpoint(file))
    except UserError as error:
        log.warning("%s", error)
        return None
    return file if found == DeployInfo(epoch=best["epoch"], fitness=best["fitness"]) else None


def _info_of(checkpoint: Checkpoint) -> DeployInfo:
    if checkpoint["kind"] == "training":
        return deploy_info(checkpoint)
    return DeployInfo(epoch=checkpoint["epoch"], fitness=checkpoint["fitness"])


def _no_best(checkpoint: TrainingCheckpoint, path: Path) -> Best:
    """The best of a run whose best weights are nowhere, so that the best is searched again.

    They are gone when the run is branched off from an earlier point, when best.pt was left behind,
    or when the best epoch was not saved.
    """
    best = checkpoint["best"]
    if best["epoch"] >= 0:
        log.warning(
            "The weights of the best epoch so far, %d, are not beside %s; the best is looked for "
            "anew.",
            *(best["epoch"], path),
        )
    return Best(fitness=float("-inf"), epoch=-1)


def holds_best(checkpoint: TrainingCheckpoint) -> bool:
    """Whether the weights in a training checkpoint are those of the best epoch so far."""
    best, completed = checkpoint["best"]["epoch"], checkpoint["position"]["epoch"]
    return checkpoint["progress"]["batches"] == 0 and best == completed - 1 and completed > 0
