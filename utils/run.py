"""Beginning a run: a new one, one that goes on where it stopped, or one that is extended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.atomic_files import copy_replacing
from utils.checkpoint.format import Best, deploy_facts
from utils.checkpoint.store import PREVIOUS, load_whole, read_checkpoint, save_checkpoint
from utils.checkpoint.upstream import is_upstream_file
from utils.config import Hyp, load_hyp
from utils.errors import UserError
from utils.options import Request, TrainOptions, resumed_options
from utils.run_folder import checkpoint_of, latest_checkpoint, numbered_run_folder, run_folder_of
from utils.solver.continuation import extend_plan
from utils.solver.schedule import Plan, WarmUp, base_segment, warmup_iterations

log = logging.getLogger("yolo")

LAST = "last.pt"
BEST = "best.pt"
SEAMS = "seams.json"
PLAN_KEYS = ("lr0", "lrf", "momentum", "warmup_epochs", "warmup_momentum", "warmup_bias_lr")


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a run goes on from."""

    path: Path
    checkpoint: dict[str, Any]
    plan: Plan
    """The plan to go on with: the saved one, with the new segment when the run is extended."""
    planned_before: int
    """Epochs of the saved plan."""
    extended: bool
    ended: bool
    """Whether all is trained and only what comes after was cut off: best.pt, figures, pictures."""
    missing: tuple[str, ...] = ()
    """What a checkpoint of another program did not hold, in sentences."""

    @property
    def completed(self) -> int:
        """Epochs trained so far."""
        return int(self.checkpoint["position"]["epoch"])


@dataclass(frozen=True)
class Run:
    """What to train, resolved, before anything is built or written."""

    options: TrainOptions
    hyp: Hyp
    origin: Origin | None
    """None for a new run."""
    folder: Path | None
    """The folder to write in when the run goes on in place; None when a new one is to be made."""
    project: Path
    """Where a new folder is made."""
    allowed: frozenset[str] = frozenset()
    """Options that differ from those that the run was trained with so far."""
    seam_epochs: int = 0
    """Epochs after a seam in which the raw weights are validated too."""

    def require_names(self, names: Sequence[str]) -> None:
        """Check that the data set still has the classes that the run was trained on.

        Raises:
            UserError: it has others.
        """
        if self.origin is None:
            return
        trained = self.origin.checkpoint["config"]["names"]
        if list(names) != list(trained):
            raise UserError(
                f"{self.options.data} has the classes {list(names)}, "
                f"the run was trained on {list(trained)}; go on with the same data set."
            )


def open_run(request: Request) -> Run:
    """Resolve a command line to a run; reads files but writes none.

    Raises:
        UserError: the hyp file, the checkpoint or the combination of options is refused.
    """
    if request.continuation.resume is None:
        options = request.options
        return Run(options, load_hyp(options.hyp), None, None, Path(options.project))
    target = request.continuation.resume
    path = checkpoint_of(target) if target else latest_checkpoint(request.options.project)
    if is_upstream_file(path):
        raise UserError(
            f"{path} was written by YOLOv5 and cannot be resumed here; "
            f"start a new run from it: --weights {path}."
        )
    source, checkpoint = load_whole(path)
    if checkpoint["kind"] != "training":
        raise UserError(
            f"{path} holds weights only, no optimizer and no schedule; "
            f"resume from the run's weights/{LAST}."
        )
    config = checkpoint["config"]
    options, allowed = resumed_options(request, config["options"])
    saved = _saved_plan(checkpoint, path)
    hyp = Hyp.from_dict(config["hyp"], origin=str(path))
    if "hyp" in allowed:
        hyp = _allowed_hyp(hyp, load_hyp(options.hyp))
    ended = _has_ended(checkpoint, saved, request)
    if ended and not _lacks_its_end(path):
        raise UserError(f"{path}: {_why_ended(checkpoint, saved)}; add --extend-epochs X to go on.")
    parent = run_folder_of(path)
    in_a_run = path.resolve().parent.name == "weights"
    beside = parent.parent if in_a_run else Path(options.project)
    return Run(
        options=options,
        hyp=hyp,
        origin=Origin(
            source,
            {**checkpoint, "best": _best_at_hand(source, checkpoint)},
            replace(_plan_from_here(checkpoint, saved, request), accumulate=accumulation(options)),
            planned_before=saved.total_epochs,
            extended=request.continuation.extend_epochs is not None,
            ended=ended,
        ),
        folder=_folder_in_place(path, parent, request),
        project=Path(options.project) if "project" in request.given else beside,
        allowed=allowed,
        seam_epochs=request.continuation.seam_epochs,
    )


def accumulation(options: TrainOptions) -> int:
    """Batches whose gradients are summed for one step after the warm-up."""
    return max(round(options.nominal_batch_size / options.batch_size), 1)


def _allowed_hyp(old: Hyp, new: Hyp) -> Hyp:
    """The new values, unless they are of the learning-rate plan, which an extension changes."""
    fixed = [name for name in PLAN_KEYS if getattr(old, name) != getattr(new, name)]
    if fixed:
        raise UserError(
            f"--hyp changes {', '.join(fixed)}, which belong to the run's learning-rate plan; keep "
            "them, and use --extend-epochs with --lr-continuation to change the rate."
        )
    return new


def _saved_plan(checkpoint: dict[str, Any], path: Path) -> Plan:
    try:
        plan = Plan.from_dict(checkpoint["plan"])
        plan.factors()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged: its schedule is unreadable ({error}).") from error
    return plan


def _plan_from_here(checkpoint: dict[str, Any], plan: Plan, request: Request) -> Plan:
    extension = request.continuation.extension()
    if extension is None:
        return plan
    completed = checkpoint["position"]["epoch"]
    if plan.seams and plan.seams[-1].start == completed:
        raise UserError(
            f"the run is extended to {plan.total_epochs} epochs already, and none of them is "
            "trained yet; go on with --resume alone, or choose anew from "
            f"weights/seam_{completed}.pt with --name."
        )
    return extend_plan(plan, completed, extension)


def _has_ended(checkpoint: dict[str, Any], plan: Plan, request: Request) -> bool:
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


def _lacks_its_end(path: Path) -> bool:
    """Whether a run was killed after its last epoch: best.pt is stripped when a run ends."""
    best = path.with_name(BEST)
    return best.is_file() and read_checkpoint(best)["kind"] == "training"


def _best_at_hand(path: Path, checkpoint: dict[str, Any]) -> Best:
    """The best epoch that the checkpoint tells of, if its weights are there: in it, or in best.pt.

    They are not when the run is branched off from an earlier point, when best.pt was left behind,
    or when the best epoch was not saved. Then the best is looked for anew.
    """
    best: Best = checkpoint["best"]
    if best["epoch"] < 0 or best["epoch"] == checkpoint["position"]["epoch"] - 1:
        return best
    file = path.with_name(BEST)
    if file.is_file():
        found = read_checkpoint(file)
        if found["kind"] == "training":
            found = dict(deploy_facts(found))
        if (found["epoch"], found["fitness"]) == (best["epoch"], best["fitness"]):
            return best
    log.warning(
        "The weights of the best epoch so far, %d, are not beside %s; the best is looked for anew.",
        *(best["epoch"], path),
    )
    return Best(fitness=float("-inf"), epoch=-1)


def _folder_in_place(path: Path, parent: Path, request: Request) -> Path | None:
    if "name" in request.given:
        return None
    if path.name != LAST and (parent / "weights" / LAST).is_file():
        raise UserError(
            f"{path} is an earlier point of the run in {parent}; "
            "give --name to branch off into a new folder."
        )
    return parent


def plan_of(run: Run, batches_per_epoch: int) -> Plan:
    """The learning-rate plan: the checkpoint's, or a new one from options and hyper-parameters."""
    if run.origin is not None:
        return run.origin.plan
    options, hyp = run.options, run.hyp
    return Plan(
        lr0=hyp.lr0,
        momentum=hyp.momentum,
        accumulate=accumulation(options),
        warmup=WarmUp(
            iterations=warmup_iterations(hyp.warmup_epochs, batches_per_epoch),
            bias_lr=hyp.warmup_bias_lr,
            momentum=hyp.warmup_momentum,
        ),
        segments=(base_segment(options.epochs, options.law, hyp.lrf),),
    )


def prepare_folder(run: Run) -> Path:
    """Make the run's folder, or take the one it goes on in, and keep what was there before.

    An extension leaves the checkpoint before the seam as `weights/seam_<E>.pt`; a branch into a new
    folder takes the best weights so far along.
    """
    folder = run.folder or numbered_run_folder(run.project, run.options.name, run.options.exist_ok)
    weights = folder / "weights"
    weights.mkdir(exist_ok=True)
    origin = run.origin
    if origin is None:
        for left in (LAST, PREVIOUS, BEST):  # of an older run, with --exist-ok
            (weights / left).unlink(missing_ok=True)
        (folder / SEAMS).unlink(missing_ok=True)
        return folder
    if origin.extended:
        save_checkpoint(origin.checkpoint, weights / f"seam_{origin.completed}.pt")
    if run.folder is not None and origin.path.name == PREVIOUS:
        # last.pt is damaged; put the good one in its place, before a save makes it the previous.
        copy_replacing(origin.path, weights / LAST)
    best = origin.checkpoint["best"]["epoch"]
    if best >= 0 and best == origin.completed - 1:
        save_checkpoint(origin.checkpoint, weights / BEST)
    elif best >= 0 and run.folder is None:
        copy_replacing(origin.path.with_name(BEST), weights / BEST)
    seams = run_folder_of(origin.path) / SEAMS
    if run.folder is None and seams.is_file():
        copy_replacing(seams, folder / SEAMS)
    return folder


def announce(run: Run, plan: Plan, folder: Path) -> None:
    """Say what is about to happen; at a seam, what the learning rate does there."""
    origin = run.origin
    if origin is None:
        log.info("Training %d epochs into %s", plan.total_epochs, folder)
        return
    if not origin.extended:
        log.info(
            "Resuming %s: %d of %d epochs are done",
            origin.path,
            origin.completed,
            plan.total_epochs,
        )
        return
    seam = plan.segments[-1]
    before, after = plan.factor(seam.start - 1), plan.factor(seam.start)
    log.info(
        "Extending %s at epoch %d to %d epochs with `%s`: the learning rate goes from %.6g to %.6g "
        "(%.4gx) and ends at %.6g",
        *(origin.path, seam.start, plan.total_epochs, seam.mode),
        *(plan.lr0 * before, plan.lr0 * after, after / before if before else float("inf")),
        plan.lr0 * plan.factor(plan.total_epochs - 1),
    )
