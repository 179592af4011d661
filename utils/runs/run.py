"""Sets up a run: a new one, a resumed one or an extended one."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from utils.checkpoint.format import LAST
from utils.errors import UserError
from utils.files.writable import is_writable
from utils.hyp import MOSAIC_BATCHES, Hyp, load_hyp
from utils.options.resumed_options import resumed_options
from utils.options.train_options import CLASSES, Continuation, TrainOptions, TrainRequest
from utils.runs.changes import changed_hyp, continued_warmup, data_changes
from utils.runs.classes import ClassChange, class_change
from utils.runs.folder import latest_checkpoint, name_within, resolve_checkpoint
from utils.runs.resume import ResumePoint, load_resume_point
from utils.solver.continuation import check_close_mosaic
from utils.solver.schedule import Plan, WarmUp, accumulation, base_segment, warmup_iterations
from utils.upstream.import_run import with_batches_per_epoch

log = logging.getLogger("yolo")

SEAMS_FILE = "seams.json"


@dataclass(frozen=True)
class Run:
    """The resolved configuration of a run, before anything is built or written."""

    options: TrainOptions
    hyp: Hyp
    resume_point: ResumePoint | None
    """None for a new run."""
    folder: Path | None
    """The existing folder to continue in; None to create a new one."""
    project: Path
    """Parent of a new folder."""
    allowed: frozenset[str] = frozenset()
    """Names of the options that --allow-change let differ from those of the run so far."""
    continuation: Continuation = field(default_factory=Continuation)
    classes: ClassChange | None = None
    """How the classes change; None if they stay."""
    opened: float = field(default_factory=time.monotonic)
    """Value of `time.monotonic()` at the start."""

    @property
    def mosaic_batches(self) -> int | None:
        """See `Config`; a run keeps what it began with."""
        point = self.resume_point
        return MOSAIC_BATCHES if point is None else point.checkpoint["config"].get("mosaic_batches")

    @property
    def deadline(self) -> float:
        """Value of `time.monotonic()` after which the run stops."""
        hours = self.options.max_hours
        return math.inf if hours is None else self.opened + hours * 3600

    def with_data(self, data: Mapping[str, str | int], batches_per_epoch: int) -> Run:
        """A copy that continues on these data.

        It has the position and warm-up that depend on the number of batches. If the data changed,
        an epoch under way begins again, since its batches are others. Data that only moved to
        another place have not changed.

        Args:
            data: fingerprint of the data set, see `TrainingData.fingerprint`.
            batches_per_epoch: batches per epoch of the training loader.

        Raises:
            UserError: if it is not the data set that the run saved, and this is not allowed.
        """
        point = self.resume_point
        if point is None:
            return self
        checkpoint = with_batches_per_epoch(point.checkpoint, batches_per_epoch)
        plan = replace(point.plan, warmup=continued_warmup(checkpoint, batches_per_epoch))
        point = replace(point, checkpoint=checkpoint, plan=plan)
        changed = data_changes(checkpoint["config"], data)
        if not changed:
            return replace(self, resume_point=point)
        if "data" not in self.continuation.allow_change:
            raise UserError(
                f"{data['file']} is not the data set that the run was trained on: "
                f"{', '.join(changed)}; restore it, give its new place with --data FILE, or allow "
                "the change with --allow-change data."
            )
        point = point.with_restarted_epoch("data set has")
        return replace(self, resume_point=point, allowed=self.allowed | {"data"})

    def with_names(self, names: Sequence[str]) -> Run:
        """A copy that continues with the classes of its data set, matched by name.

        If more than names changes, an epoch under way begins again.

        Raises:
            UserError: if the classes changed and this is not allowed, or a rename is impossible.
        """
        point, how = self.resume_point, self.continuation
        if self.options.single_cls and (how.rename_class or CLASSES in how.allow_change):
            raise UserError(
                "the run treats all classes as one (--single-cls), so its classes cannot change; "
                "omit --rename-class, and use --allow-change data."
            )
        if point is None or self.options.single_cls:
            return self
        old = point.checkpoint["config"]["names"]
        change = class_change(old, names, how, self.options.data)
        if change is None:
            return self
        if not change.only_renames:
            if point.ended:
                raise UserError(f"{point.path} has no epoch left to train; add --extend-epochs X.")
            point = point.with_restarted_epoch("classes have")
        return replace(self, resume_point=point, classes=change, allowed=self.allowed | {CLASSES})


def open_run(request: TrainRequest) -> Run:
    """Resolve a command line to a run; reads files but writes none.

    Raises:
        UserError: if the hyp file, the checkpoint or the combination of options is invalid.
    """
    if request.continuation.resume is None:
        options = request.options
        if Path(options.data).is_file():  # also for a resume in another folder
            options = replace(options, data=str(Path(options.data).absolute()))
        check_close_mosaic(options.close_mosaic, options.epochs)
        return Run(options, load_hyp(options.hyp), None, None, Path(options.project))
    target = request.continuation.resume
    path = resolve_checkpoint(target) if target else latest_checkpoint(request.options.project)
    resume_point = load_resume_point(path, request)
    config = resume_point.checkpoint["config"]
    options, allowed = resumed_options(request, config["options"])
    options = replace(options, close_mosaic=resume_point.plan.segments[-1].close_mosaic)
    options = resume_point.with_average(options, request.given)
    if "name" not in request.given:
        options = replace(options, name=name_within(options.name))
    _check_stop(options, resume_point)
    saved_hyp = Hyp.from_dict(config["hyp"], origin=str(path))
    hyp = changed_hyp(saved_hyp, options.hyp, request) if "hyp" in request.given else saved_hyp
    plan = replace(
        resume_point.plan, accumulate=accumulation(options.nominal_batch_size, options.batch_size)
    )
    return Run(
        options=options,
        hyp=hyp,
        resume_point=replace(resume_point, plan=plan),
        folder=_folder_in_place(path, resume_point, request),
        project=_project(path, resume_point, request),
        allowed=allowed | {"hyp"} if hyp != saved_hyp else allowed,
        continuation=request.continuation,
    )


def _check_stop(options: TrainOptions, resume_point: ResumePoint) -> None:
    if options.stop_after is not None and options.stop_after <= resume_point.completed:
        raise UserError(
            f"--stop-after {options.stop_after}: {resume_point.completed} epochs are done already; "
            "give a larger number, or omit it."
        )


def _folder_in_place(path: Path, resume_point: ResumePoint, request: TrainRequest) -> Path | None:
    """The folder of the run to continue in; None to create a new one.

    Raises:
        UserError: if it is read-only, or another checkpoint than the last one is to be continued.
    """
    elsewhere = "project" in request.given and request.continuation.resume != ""
    parent = resume_point.folder
    if "name" in request.given or elsewhere or parent is None or request.continuation.plan:
        return None
    if path.name != LAST and (parent / "weights" / LAST).is_file():
        raise UserError(
            f"{path} is an earlier checkpoint of the run in {parent}; "
            "add --name NAME to branch off into a new folder."
        )
    if not (is_writable(parent) and is_writable(parent / "weights")):
        raise UserError(
            f"{parent} is read-only, so the run cannot continue there; continue it in a new folder "
            "with --project FOLDER --name NAME, or make it writable."
        )
    return parent


def _project(path: Path, resume_point: ResumePoint, request: TrainRequest) -> Path:
    """Parent of a new folder: --project if given, else the parent of the resumed run's folder."""
    in_a_run = path.resolve().parent.name == "weights"
    if "project" in request.given or resume_point.folder is None or not in_a_run:
        return Path(request.options.project)
    return resume_point.folder.parent


def plan_of(run: Run, batches_per_epoch: int) -> Plan:
    """The learning-rate plan of a run: from its checkpoint, or a new one."""
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
        segments=(base_segment(options.epochs, options.law, hyp.lrf, options.close_mosaic),),
    )
