"""Beginning a run: a new one, one that goes on where it stopped, or one that is extended."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.atomic_files import copy_replacing
from utils.checkpoint.store import load_checkpoint
from utils.checkpoint.upstream import is_upstream_file
from utils.config import Hyp, load_hyp
from utils.errors import UserError
from utils.options import Continuation, Request, TrainOptions, resumed_options
from utils.run_folder import checkpoint_of, latest_checkpoint, numbered_run_folder, run_folder_of
from utils.solver.continuation import extend_plan
from utils.solver.schedule import Plan, WarmUp, base_segment, warmup_iterations

log = logging.getLogger("yolo")

LAST = "last.pt"


@dataclass(frozen=True)
class Origin:
    """The checkpoint that a run goes on from."""

    path: Path
    checkpoint: dict[str, Any]
    plan: Plan
    """The plan to go on with: the saved one, with the new segment when the run is extended."""
    extended: bool

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
    checkpoint = load_checkpoint(path)
    if checkpoint["kind"] != "training":
        raise UserError(
            f"{path} holds weights only, no optimizer and no schedule; "
            f"resume from the run's weights/{LAST}."
        )
    config = checkpoint["config"]
    options = resumed_options(request, config["options"])
    plan = _plan_from_here(checkpoint, request, path)
    parent = run_folder_of(path)
    return Run(
        options=options,
        hyp=Hyp.from_dict(config["hyp"], origin=str(path)),
        origin=Origin(path, checkpoint, plan, request.continuation.extend_epochs is not None),
        folder=_folder_in_place(path, parent, request),
        project=Path(options.project) if "project" in request.given else parent.parent,
    )


def _plan_from_here(checkpoint: dict[str, Any], request: Request, path: Path) -> Plan:
    how: Continuation = request.continuation
    try:
        plan = Plan.from_dict(checkpoint["plan"])
        plan.factors()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged: its schedule is unreadable ({error}).") from error
    completed = checkpoint["position"]["epoch"]
    extension = how.extension()
    if extension is not None:
        return extend_plan(plan, completed, extension)
    if completed >= plan.total_epochs:
        raise UserError(
            f"{path}: all {plan.total_epochs} planned epochs are done; add --extend-epochs X."
        )
    if checkpoint["stopped_early"] and "patience" not in request.given:
        raise UserError(
            f"{path}: the run stopped early after {completed} of {plan.total_epochs} epochs; "
            "add --extend-epochs X or a longer --patience to go on."
        )
    return plan


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
        accumulate=max(round(options.nominal_batch_size / options.batch_size), 1),
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
    if run.origin is not None:
        source = run.origin.path
        if run.origin.extended:
            copy_replacing(source, weights / f"seam_{run.origin.completed}.pt")
        best = source.with_name("best.pt")
        if best.is_file() and best.parent.resolve() != weights.resolve():
            shutil.copyfile(best, weights / best.name)
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
