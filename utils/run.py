"""Beginning a run: a new one, one that goes on where it stopped, or one that is extended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from utils.atomic_files import copy_replacing
from utils.checkpoint.store import PREVIOUS, save_checkpoint
from utils.config import Hyp, load_hyp
from utils.errors import UserError
from utils.options import Request, TrainOptions, resumed_options
from utils.origin import BEST, LAST, Origin, holds_best, read_origin
from utils.run_folder import (
    checkpoint_of,
    clear_run,
    latest_checkpoint,
    numbered_run_folder,
    run_folder_of,
)
from utils.solver.continuation import flat_from
from utils.solver.schedule import Plan, WarmUp, base_segment, warmup_iterations

log = logging.getLogger("yolo")

SEAMS = "seams.json"
PLAN_KEYS = ("lr0", "lrf", "momentum", "warmup_epochs", "warmup_momentum", "warmup_bias_lr")


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

    def settled(self, batches_per_epoch: int) -> Run:
        """The run with what a checkpoint of YOLOv5 leaves open until the data are known."""
        if self.origin is None:
            return self
        return replace(self, origin=self.origin.settled(batches_per_epoch))

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
    origin = read_origin(path, request)
    config = origin.checkpoint["config"]
    if origin.adopted is not None:  # YOLOv5 does not record it, so there is nothing to keep to
        request = request.allowing("amp")
    options, allowed = resumed_options(request, config["options"])
    hyp = Hyp.from_dict(config["hyp"], origin=str(path))
    if "hyp" in request.given:
        new = load_hyp(options.hyp)
        if new != hyp and "hyp" not in request.continuation.allow_change:
            raise UserError(
                f"--hyp {options.hyp} would change {_differences(hyp, new)}; "
                "leave it out, or allow it with --allow-change hyp."
            )
        allowed = allowed | {"hyp"} if new != hyp else allowed
        hyp = _allowed_hyp(hyp, new)
    plan = replace(origin.plan, accumulate=accumulation(options))
    return Run(
        options=options,
        hyp=hyp,
        origin=replace(origin, plan=plan),
        folder=_folder_in_place(path, origin, request),
        project=_project(path, origin, request),
        allowed=allowed,
    )


def accumulation(options: TrainOptions) -> int:
    """Batches whose gradients are summed for one step after the warm-up."""
    return max(round(options.nominal_batch_size / options.batch_size), 1)


def _differences(old: Hyp, new: Hyp) -> str:
    before = old.to_dict()
    pairs = [(name, before[name], after) for name, after in new.to_dict().items()]
    return ", ".join(f"{name} {was} → {will}" for name, was, will in pairs if was != will)


def _allowed_hyp(old: Hyp, new: Hyp) -> Hyp:
    """The new values, unless they are of the learning-rate plan, which an extension changes."""
    fixed = [name for name in PLAN_KEYS if getattr(old, name) != getattr(new, name)]
    if fixed:
        raise UserError(
            f"--hyp changes {', '.join(fixed)}, which belong to the run's learning-rate plan; keep "
            "them, and use --extend-epochs with --lr-continuation to change the rate."
        )
    return new


def _folder_in_place(path: Path, origin: Origin, request: Request) -> Path | None:
    """The folder of the run that goes on; None if a new one is to be made.

    A run of YOLOv5 always goes on in a new folder, so that its own files stay as they are.
    """
    elsewhere = "project" in request.given and request.continuation.resume != ""
    if "name" in request.given or elsewhere or origin.adopted or request.continuation.plan:
        return None
    parent = run_folder_of(path)
    if path.name != LAST and (parent / "weights" / LAST).is_file():
        raise UserError(
            f"{path} is an earlier point of the run in {parent}; "
            "give --name to branch off into a new folder."
        )
    return parent


def _project(path: Path, origin: Origin, request: Request) -> Path:
    """Where a new folder is made: as --project says, else beside the run that goes on."""
    in_a_run = path.resolve().parent.name == "weights"
    if "project" in request.given or origin.adopted is not None or not in_a_run:
        return Path(request.options.project)
    return run_folder_of(path).parent


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
    folder takes the best weights so far along. What another run left in the folder is deleted.

    Raises:
        UserError: the folder cannot be made, or is that of the YOLOv5 run that goes on.
    """
    folder = run.folder or numbered_run_folder(run.project, run.options.name, run.options.exist_ok)
    weights = folder / "weights"
    origin = run.origin
    if origin is None or folder.resolve() != run_folder_of(origin.path).resolve():
        clear_run(folder)
    elif origin.adopted is not None:
        raise UserError(f"{folder} is the folder of the YOLOv5 run itself; give another --name.")
    weights.mkdir(exist_ok=True)
    if origin is None:
        return folder
    seam = weights / f"seam_{origin.next_seam}.pt"
    if origin.extended and not (origin.replaces and seam.is_file()):
        save_checkpoint(origin.checkpoint, seam)
    if run.folder is not None and origin.path.name == PREVIOUS:
        # last.pt is damaged; put the good one in its place, before a save makes it the previous.
        copy_replacing(origin.path, weights / LAST)
    _keep_best(origin, weights / BEST)
    return folder


def _keep_best(origin: Origin, target: Path) -> None:
    """Put the best weights so far, of which `read_origin` knows where they are, in their place."""
    if origin.best_weights is not None:
        save_checkpoint(cast("dict[str, Any]", origin.best_weights), target)
    elif origin.checkpoint["best"]["epoch"] < 0:
        return
    elif holds_best(origin.checkpoint):
        save_checkpoint(origin.checkpoint, target)
    elif (source := origin.path.with_name(BEST)).resolve() != target.resolve():
        copy_replacing(source, target)


def plan_folder(origin: Origin) -> Path:
    """Where the pictures of a plan go: the run's folder, or this one for a run of YOLOv5."""
    return run_folder_of(origin.path) if origin.adopted is None else Path()


def announce(run: Run, plan: Plan, folder: Path) -> None:
    """Say what is about to happen; at a seam, what the learning rate does there."""
    origin = run.origin
    if origin is None:
        log.info("Training %d epochs into %s", plan.total_epochs, folder)
        return
    if not origin.extended:
        under_way = origin.checkpoint["progress"]["batches"]
        log.info(
            "Resuming %s: %d of %d epochs are done%s",
            *(origin.path, origin.completed, plan.total_epochs),
            f", and {under_way} batches of the next one" if under_way else "",
        )
        return
    seam = plan.segments[-1]
    before, after = plan.factor(seam.start - 1), plan.factor(seam.start)
    log.info(
        "Extending %s at epoch %d to %d epochs with `%s`, in %s: the learning rate goes from %.6g "
        "to %.6g (%.4gx) and ends at %.6g",
        *(origin.path, seam.start, plan.total_epochs, seam.mode, folder),
        *(plan.lr0 * before, plan.lr0 * after, after / before if before else float("inf")),
        plan.lr0 * plan.factor(plan.total_epochs - 1),
    )
    flat = flat_from(seam)
    if flat is not None:
        log.warning(
            "From epoch %d on the rate is flat, at %.4g; --slope fit comes down to the last epoch.",
            *(flat, plan.lr0 * plan.factor(flat)),
        )
    if origin.replaces:
        log.info("It takes the place of an extension of which no epoch was trained.")
    _warn_of_unfinished_extension(origin, plan)
    tell_of_warmup(origin)


def tell_of_warmup(origin: Origin) -> None:
    """Say that rates are not yet the planned ones, where the warm-up is not over."""
    iteration, warmup = origin.checkpoint["position"]["iteration"], origin.plan.warmup.iterations
    if iteration <= warmup:
        log.info(
            "The warm-up is still on, in iteration %d of %d: it goes on across the seam, and the "
            "rate that is applied is on its way to the planned one.",
            *(iteration, warmup),
        )


def _warn_of_unfinished_extension(origin: Origin, plan: Plan) -> None:
    """Say that a command that was given again after an interruption adds its epochs again."""
    saved = origin.saved
    stopped = origin.checkpoint["stopped_early"]
    if saved.seams and origin.next_seam < saved.total_epochs and not stopped:
        log.warning(
            "The extension to %d epochs is unfinished, %d are done; --resume alone goes on with "
            "it. --extend-epochs adds another one on top: %d epochs in all. Should that not be "
            "meant, stop here and finish the earlier one with --resume %s --name NAME.",
            *(saved.total_epochs, origin.completed, plan.total_epochs),
            origin.path.with_name(f"seam_{origin.next_seam}.pt"),
        )
