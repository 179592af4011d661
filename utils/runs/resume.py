"""The checkpoint that a run goes on from: read, checked, its plan extended if asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.checkpoint.format import (
    Best,
    DeployCheckpoint,
    DeployInfo,
    deploy_info,
    no_progress,
    plan_digest,
)
from utils.checkpoint.store import load_whole, read_checkpoint
from utils.errors import UserError
from utils.history import ITERATION
from utils.options.train_options import TrainRequest
from utils.solver.continuation import extend_plan
from utils.solver.guard import check_future, check_past
from utils.solver.plan_forensics import described
from utils.solver.schedule import Plan
from utils.upstream.best import convert_best
from utils.upstream.import_run import ImportedRun, ImportOptions, import_run, settled
from utils.upstream.reader import is_upstream_file

log = logging.getLogger("yolo")

LAST = "last.pt"
BEST = "best.pt"
OF_AN_EPOCH = frozenset({"batch_size", "data", "imgsz", "rect", "seed"})
"""Options that decide which images make a batch, or by what an epoch is judged."""


@dataclass(frozen=True)
class ResumePoint:
    """Where a run goes on from, and on which plan."""

    path: Path
    """The file that was read: `last_prev.pt` if `last.pt` is damaged."""
    checkpoint: dict[str, Any]
    saved: Plan
    """The plan as it was saved, without the extension that is replaced, see `replaces`."""
    plan: Plan
    """The plan to go on with: the saved one, with the new segment when the run is extended."""
    extended: bool
    replaces: bool
    """Whether the new segment takes the place of one that was saved with no epoch of it trained."""
    ended: bool
    """Whether all is trained and only what comes after was cut off: best.pt, figures, pictures."""
    adopted: ImportedRun | None
    """What was found in a checkpoint of YOLOv5; None for one of ours."""
    best_weights: DeployCheckpoint | None
    """Those of a best.pt of YOLOv5, to be taken along; None if there is none or it does not fit."""

    @property
    def completed(self) -> int:
        """Epochs trained so far."""
        return int(self.checkpoint["position"]["epoch"])

    @property
    def next_seam(self) -> int:
        """Epochs completed where an extension begins; an epoch under way ends on the old plan."""
        return next_seam(self.checkpoint)

    @property
    def missing(self) -> Mapping[str, str]:
        """What a checkpoint of YOLOv5 did not hold, part by part."""
        return {} if self.adopted is None else self.adopted.missing

    def settled(self, batches_per_epoch: int) -> ResumePoint:
        """Complete what a checkpoint of YOLOv5 leaves open until the data are known.

        Args:
            batches_per_epoch: of the loader that the run goes on with.
        """
        if self.adopted is None:
            return self
        complete = settled(self.adopted, batches_per_epoch).checkpoint
        checkpoint = {**complete, "best": self.checkpoint["best"]}
        warmup = Plan.from_dict(checkpoint["plan"]).warmup
        return replace(self, checkpoint=checkpoint, plan=replace(self.plan, warmup=warmup))


def load_resume_point(path: Path, request: TrainRequest) -> ResumePoint:
    """Read the checkpoint to go on from, ours or one of YOLOv5, and plan what comes.

    Raises:
        UserError: the file is refused, its recorded rates are not those of its plan, nothing is
            left to train, or the extension is impossible.
    """
    if is_upstream_file(path):
        taken = _adopted(path, request)
        source, checkpoint, adopted = path, taken.checkpoint, taken
    else:
        source, checkpoint = _own(path, request)
        adopted = None
    saved = found = _saved_plan(checkpoint, path)
    checkpoint = _with_whole_epoch(checkpoint, request)
    # Rates of an adopted history are rounded and lag; its law was checked when it was read.
    check_past(saved, [row for row in checkpoint["history"] if ITERATION in row])
    _require_unedited(checkpoint, saved, path)
    ended = _has_ended(checkpoint, saved, request)
    if ended and checkpoint["closed"]:
        raise UserError(f"{path}: {_why_ended(checkpoint, saved)}; add --extend-epochs X to go on.")
    extension = request.continuation.extension()
    if extension is None:
        plan = saved
    else:
        saved = _without_untrained_extension(found, next_seam(checkpoint))
        plan = extend_plan(saved, next_seam(checkpoint), extension)
    check_future(plan, checkpoint["position"]["epoch"])
    taken_best = None if adopted is None else _best_of_upstream(path, checkpoint)
    best = _best_at_hand(source, checkpoint) if taken_best is None else _told_best(taken_best)
    return ResumePoint(
        source,
        {
            **checkpoint,
            "plan": saved.to_dict(),
            "plan_digest": plan_digest(saved.to_dict()),
            "best": best,
        },
        saved,
        plan,
        extended=extension is not None,
        replaces=saved != found,
        ended=ended,
        adopted=adopted,
        best_weights=taken_best,
    )


def _with_whole_epoch(checkpoint: dict[str, Any], request: TrainRequest) -> dict[str, Any]:
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
    return {**checkpoint, "progress": no_progress()}


def next_seam(checkpoint: Mapping[str, Any]) -> int:
    """Epochs completed where an extension of a checkpoint begins, the one under way included."""
    under_way = checkpoint["progress"]["batches"] > 0
    return int(checkpoint["position"]["epoch"]) + under_way


def _adopted(path: Path, request: TrainRequest) -> ImportedRun:
    how = request.continuation
    wishes = ImportOptions(
        data=request.options.data if "data" in request.given else None,
        schedule=how.schedule,
        completed_epochs=how.completed_epochs,
        allow_partial_state=how.allow_partial_state,
    )
    adopted = import_run(path, wishes)
    log.info("%s was written by YOLOv5. Taken over: %s.", path, "; ".join(adopted.restored))
    return adopted


def _own(path: Path, request: TrainRequest) -> tuple[Path, dict[str, Any]]:
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
    return source, checkpoint


def _saved_plan(checkpoint: dict[str, Any], path: Path) -> Plan:
    try:
        plan = Plan.from_dict(checkpoint["plan"])
        plan.factors()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged: its schedule is unreadable ({error}).") from error
    return plan


def _require_unedited(checkpoint: Mapping[str, Any], plan: Plan, path: Path) -> None:
    """Catch an edit of which the recorded rates know nothing yet."""
    if checkpoint["plan_digest"] != plan_digest(checkpoint["plan"]):
        raise UserError(
            f"the learning-rate plan in {path} was edited since the run saved it: it now has "
            f"{described(plan)}. Go on from a checkpoint as the run "
            "wrote it, such as weights/last_prev.pt; --extend-epochs adds epochs."
        )


def _without_untrained_extension(plan: Plan, seam: int) -> Plan:
    """The plan that an extension at this seam goes on from: choosing anew replaces the choice."""
    trained = tuple(segment for segment in plan.segments if segment.start < seam)
    return replace(plan, segments=trained or plan.segments[:1])


def _has_ended(checkpoint: dict[str, Any], plan: Plan, request: TrainRequest) -> bool:
    """Whether nothing is left to train: no extension, and all done or stopped for want of gain."""
    if request.continuation.extend_epochs is not None:
        return False
    old, new = checkpoint["config"]["options"]["patience"], request.options.patience
    more_patience = "patience" in request.given and (new == 0 or new > old)
    stopped = checkpoint["stopped_early"] and not more_patience
    return bool(stopped or checkpoint["position"]["epoch"] >= plan.total_epochs)


def _why_ended(checkpoint: dict[str, Any], plan: Plan) -> str:
    completed = checkpoint["position"]["epoch"]
    if completed < plan.total_epochs:
        return (
            f"the run stopped early after {completed} of {plan.total_epochs} epochs, "
            "and would again without a longer --patience"
        )
    return f"all {plan.total_epochs} planned epochs are done"


def _best_at_hand(path: Path, checkpoint: dict[str, Any]) -> Best:
    """The best epoch that the checkpoint tells of, if its weights are there: in it, or in best.pt.

    They are not when the run is branched off from an earlier point, when best.pt was left behind,
    or when the best epoch was not saved. Then the best is looked for anew.
    """
    best: Best = checkpoint["best"]
    if best["epoch"] < 0 or holds_best(checkpoint):
        return best
    found = _facts_of(path.with_name(BEST))
    if found == DeployInfo(epoch=best["epoch"], fitness=best["fitness"]):
        return best
    log.warning(
        "The weights of the best epoch so far, %d, are not beside %s; the best is looked for anew.",
        *(best["epoch"], path),
    )
    return Best(fitness=float("-inf"), epoch=-1)


def holds_best(checkpoint: Mapping[str, Any]) -> bool:
    """Whether the weights in a training checkpoint are those of the best epoch so far."""
    between_epochs = checkpoint["progress"]["batches"] == 0
    return between_epochs and checkpoint["best"]["epoch"] == checkpoint["position"]["epoch"] - 1


def _best_of_upstream(path: Path, checkpoint: dict[str, Any]) -> DeployCheckpoint | None:
    """The best.pt beside a checkpoint of YOLOv5, as one of ours; None if it does not belong."""
    best = path.with_name(BEST)
    if path.name == BEST or not best.is_file():
        return None
    return convert_best(best, checkpoint)


def _told_best(weights: DeployCheckpoint) -> Best:
    return Best(fitness=weights["fitness"], epoch=weights["epoch"])


def _facts_of(best: Path) -> DeployInfo | None:
    """Which epoch's weights a best.pt of ours holds; None if there is no such file, or not ours."""
    if not best.is_file() or is_upstream_file(best):
        return None
    try:
        found = read_checkpoint(best)
    except UserError as error:
        log.warning("%s", error)
        return None
    if found["kind"] == "training":
        return deploy_info(found)
    return DeployInfo(epoch=found["epoch"], fitness=found["fitness"])
