"""Beginning a run: a new one, one that goes on where it stopped, or one that is extended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from utils.checkpoint.format import BEST, LAST, PREVIOUS
from utils.checkpoint.store import save_checkpoint
from utils.errors import UserError
from utils.files.atomic_write import copy_replacing
from utils.hyp import Hyp, load_hyp
from utils.options.option import OnResume, names_of
from utils.options.train_options import TrainOptions, TrainRequest, resumed_options
from utils.runs.folder import (
    checkpoint_of,
    clear_run,
    latest_checkpoint,
    numbered_run_folder,
    run_folder_of,
)
from utils.runs.resume import ResumePoint, load_resume_point
from utils.solver.continuation import first_flat_epoch
from utils.solver.schedule import Plan, WarmUp, accumulation, base_segment, warmup_iterations

log = logging.getLogger("yolo")

SEAMS = "seams.json"
PLAN_KEYS = ("lr0", "lrf", "momentum", "warmup_epochs", "warmup_momentum", "warmup_bias_lr")


@dataclass(frozen=True)
class Run:
    """What to train, resolved, before anything is built or written."""

    options: TrainOptions
    hyp: Hyp
    resume_point: ResumePoint | None
    """None for a new run."""
    folder: Path | None
    """The folder to write in when the run goes on in place; None when a new one is to be made."""
    project: Path
    """Where a new folder is made."""
    allowed: frozenset[str] = frozenset()
    """Options that differ from those that the run was trained with so far."""

    def with_batches_per_epoch(self, batches: int) -> Run:
        """The run with what of its position is open until the data are known."""
        if self.resume_point is None:
            return self
        return replace(self, resume_point=self.resume_point.with_batches_per_epoch(batches))

    def require_names(self, names: Sequence[str]) -> None:
        """Check that the data set still has the classes that the run was trained on.

        Raises:
            UserError: it has others.
        """
        if self.resume_point is None:
            return
        trained = self.resume_point.checkpoint["config"]["names"]
        if list(names) != list(trained):
            raise UserError(
                f"{self.options.data} has the classes {list(names)}, "
                f"the run was trained on {list(trained)}; go on with the same data set."
            )


def open_run(request: TrainRequest) -> Run:
    """Resolve a command line to a run; reads files but writes none.

    Raises:
        UserError: the hyp file, the checkpoint or the combination of options is refused.
    """
    if request.continuation.resume is None:
        options = request.options
        return Run(options, load_hyp(options.hyp), None, None, Path(options.project))
    target = request.continuation.resume
    path = checkpoint_of(target) if target else latest_checkpoint(request.options.project)
    resume_point = load_resume_point(path, request)
    config = resume_point.checkpoint["config"]
    allowable = names_of(TrainOptions, OnResume.ALLOWABLE)
    for name in sorted((request.given & allowable) - config["options"].keys()):
        request = request.allowing(name)  # it is not on record, so there is nothing to keep to
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
    plan = replace(
        resume_point.plan, accumulate=accumulation(options.nominal_batch_size, options.batch_size)
    )
    return Run(
        options=options,
        hyp=hyp,
        resume_point=replace(resume_point, plan=plan),
        folder=_folder_in_place(path, resume_point, request),
        project=_project(path, resume_point, request),
        allowed=allowed,
    )


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


def _folder_in_place(path: Path, resume_point: ResumePoint, request: TrainRequest) -> Path | None:
    """The folder of the run that is continued; None if a new one is to be made."""
    elsewhere = "project" in request.given and request.continuation.resume != ""
    parent = resume_point.folder
    if "name" in request.given or elsewhere or parent is None or request.continuation.plan:
        return None
    if path.name != LAST and (parent / "weights" / LAST).is_file():
        raise UserError(
            f"{path} is an earlier point of the run in {parent}; "
            "give --name to branch off into a new folder."
        )
    return parent


def _project(path: Path, resume_point: ResumePoint, request: TrainRequest) -> Path:
    """Where a new folder is made: as --project says, else beside the run that goes on."""
    in_a_run = path.resolve().parent.name == "weights"
    if "project" in request.given or resume_point.folder is None or not in_a_run:
        return Path(request.options.project)
    return resume_point.folder.parent


def plan_of(run: Run, batches_per_epoch: int) -> Plan:
    """The learning-rate plan: the checkpoint's, or a new one from options and hyper-parameters."""
    if run.resume_point is not None:
        return run.resume_point.plan
    options, hyp = run.options, run.hyp
    return Plan(
        lr0=hyp.lr0,
        momentum=hyp.momentum,
        accumulate=accumulation(options.nominal_batch_size, options.batch_size),
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
    resume_point = run.resume_point
    if resume_point is None or folder.resolve() != run_folder_of(resume_point.path).resolve():
        clear_run(folder)
    elif resume_point.folder is None:
        raise UserError(f"{folder} is the folder of the YOLOv5 run itself; give another --name.")
    weights.mkdir(exist_ok=True)
    if resume_point is None:
        return folder
    seam = weights / f"seam_{resume_point.next_seam}.pt"
    if resume_point.extended and not (resume_point.replaces and seam.is_file()):
        save_checkpoint(resume_point.checkpoint, seam)
    if run.folder is not None and resume_point.path.name == PREVIOUS:
        # last.pt is damaged; put the good one in its place, before a save makes it the previous.
        copy_replacing(resume_point.path, weights / LAST)
    _keep_best(resume_point, weights / BEST)
    return folder


def _keep_best(resume_point: ResumePoint, target: Path) -> None:
    """Put the best weights so far in their place; none if the run has none yet."""
    best = resume_point.best
    if isinstance(best, Path):
        if best.resolve() != target.resolve():
            copy_replacing(best, target)
    elif best is not None:
        save_checkpoint(best, target)
    elif resume_point.checkpoint["best"]["epoch"] >= 0:
        save_checkpoint(resume_point.checkpoint, target)


def plan_folder(resume_point: ResumePoint) -> Path:
    """Where the plots of a plan go: the run's folder, or the current one if it is not ours."""
    return resume_point.folder or Path()


def announce(run: Run, plan: Plan, folder: Path) -> None:
    """Say what is about to happen; at a seam, what the learning rate does there."""
    resume_point = run.resume_point
    if resume_point is None:
        log.info("Training %d epochs into %s", plan.total_epochs, folder)
        return
    if not resume_point.extended:
        under_way = resume_point.checkpoint["progress"]["batches"]
        log.info(
            "Resuming %s: %d of %d epochs are done%s",
            *(resume_point.path, resume_point.completed, plan.total_epochs),
            f", and {under_way} batches of the next one" if under_way else "",
        )
        return
    seam = plan.segments[-1]
    before, after = plan.factor(seam.start - 1), plan.factor(seam.start)
    log.info(
        "Extending %s at epoch %d to %d epochs with `%s`, in %s: the learning rate goes from %.6g "
        "to %.6g (%.4gx) and ends at %.6g",
        *(resume_point.path, seam.start, plan.total_epochs, seam.mode, folder),
        *(plan.lr0 * before, plan.lr0 * after, after / before if before else float("inf")),
        plan.lr0 * plan.factor(plan.total_epochs - 1),
    )
    flat = first_flat_epoch(seam)
    if flat is not None:
        log.warning(
            "From epoch %d on the rate is flat, at %.4g; --slope fit comes down to the last epoch.",
            *(flat, plan.lr0 * plan.factor(flat)),
        )
    if resume_point.replaces:
        log.info("It takes the place of an extension of which no epoch was trained.")
    _warn_of_unfinished_extension(resume_point, plan)
    log_warmup(resume_point)


def log_warmup(resume_point: ResumePoint) -> None:
    """Log that rates are not yet the planned ones, where the warm-up is known not to be over."""
    if "open_position" in resume_point.checkpoint:
        return
    iteration, warmup = (
        resume_point.checkpoint["position"]["iteration"],
        resume_point.plan.warmup.iterations,
    )
    if iteration <= warmup:
        log.info(
            "The warm-up is still on, in iteration %d of %d: it goes on across the seam, and the "
            "rate that is applied is on its way to the planned one.",
            *(iteration, warmup),
        )


def _warn_of_unfinished_extension(resume_point: ResumePoint, plan: Plan) -> None:
    """Say that a command that was given again after an interruption adds its epochs again."""
    saved = resume_point.saved
    stopped = resume_point.checkpoint["stopped_early"]
    if saved.seams and resume_point.next_seam < saved.total_epochs and not stopped:
        log.warning(
            "The extension to %d epochs is unfinished, %d are done; --resume alone goes on with "
            "it. --extend-epochs adds another one on top: %d epochs in all. Should that not be "
            "meant, stop here and finish the earlier one with --resume %s --name NAME.",
            *(saved.total_epochs, resume_point.completed, plan.total_epochs),
            resume_point.path.with_name(f"seam_{resume_point.next_seam}.pt"),
        )
