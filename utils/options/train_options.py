"""What `train.py` can be told: the options of a run, and how to go on with one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from utils.errors import UserError
from utils.solver.continuation import Extension
from utils.solver.modes import DEFAULT_MODE
from utils.solver.optimizers import DEFAULT_OPTIMIZER

FREE_ON_RESUME = frozenset(
    {"device", "compile", "workers", "cache", "patience", "project", "name", "exist_ok"}
    | {"nosave", "noval", "noplots", "save_period", "save_steps", "seam_epochs", "max_bad_steps"}
)
"""Options that may differ when a run goes on: they change outputs or rounding, not its steps."""

OF_THE_COMMAND = frozenset({"exist_ok", "nosave", "noval", "noplots"})
"""Those of them that a run does not hand on: they hold for the command they were given with."""

ALLOWABLE = frozenset(
    {"data", "hyp", "batch_size", "nominal_batch_size", "imgsz", "optimizer", "seed", "freeze"}
    | {"rect", "multi_scale", "label_smoothing", "amp", "clip_grad_norm", "sync_bn"}
)
"""Options that change the training, but with which a run can go on where that is wanted."""

MIN_IMAGE_SIZE = 32


@dataclass(frozen=True)
class TrainOptions:
    """Everything that describes a run, under upstream's names; kept in its checkpoints."""

    weights: str = "yolov5s.pt"
    cfg: str = ""
    data: str = "data/streets.yaml"
    hyp: str = "hyp/hyp.scratch-low.yaml"
    epochs: int = 100
    batch_size: int = 16
    nominal_batch_size: int = 64
    imgsz: int = 640
    rect: bool = False
    nosave: bool = False
    noval: bool = False
    noautoanchor: bool = False
    noplots: bool = False
    cache: Literal["ram", "disk"] | None = None
    device: str = ""
    compile: bool = False
    amp: str = "auto"
    multi_scale: bool = False
    single_cls: bool = False
    optimizer: str = DEFAULT_OPTIMIZER
    workers: int = 8
    project: str = "runs/train"
    name: str = "exp"
    exist_ok: bool = False
    cos_lr: bool = False
    label_smoothing: float = 0.0
    patience: int = 100
    freeze: list[int] = field(default_factory=lambda: [0])
    save_period: int = -1
    save_steps: int = 0
    """Save inside epochs too, every so many batches; 0: not."""
    seam_epochs: int = 5
    """Epochs after a seam in which the raw weights are validated too."""
    clip_grad_norm: float = 10.0
    max_bad_steps: int = 10
    sync_bn: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("nominal_batch_size", 1),
            ("workers", 0),
            ("save_steps", 0),
            ("seam_epochs", 0),
            ("clip_grad_norm", 0),
            ("max_bad_steps", 1),
        ):
            if getattr(self, name) < least:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} {getattr(self, name)}: give at least {least}.")
        if self.imgsz < MIN_IMAGE_SIZE:
            raise UserError(f"--imgsz {self.imgsz}: give at least {MIN_IMAGE_SIZE} pixels.")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"--label-smoothing {self.label_smoothing}: give a number from 0 to below 1."
            )
        if self.seed < 0 or self.patience < 0 or min(self.freeze, default=0) < 0:
            raise UserError("--seed, --patience and --freeze cannot be negative.")
        if not self.name:
            raise UserError("--name '': give the run's folder a name.")

    @property
    def law(self) -> str:
        """The base law of the learning rate."""
        return "cosine" if self.cos_lr else "linear"

    def frozen_layers(self) -> range | list[int]:
        """Layers that are not trained: `--freeze 10` the first ten, `--freeze 0 1 2` these."""
        return range(self.freeze[0]) if len(self.freeze) == 1 else self.freeze

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the checkpoint and opt.yaml."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Continuation:
    """How to go on with an existing run; none of it describes the run itself."""

    resume: str | None = None
    """None: a new run. Empty: the most recent one. Else a checkpoint or a run folder."""
    extend_epochs: int | None = None
    lr_continuation: str = DEFAULT_MODE
    slope: str = "fit"
    lrf: float | None = None
    peak: float | None = None
    rewarm_epochs: int = 0
    cooldown_epochs: int = 0
    plan: bool = False
    """Only show what each choice would do."""
    allow_change: frozenset[str] = frozenset()
    schedule: str | None = None
    """The law of a run of YOLOv5, where its files do not tell."""
    completed_epochs: int | None = None
    allow_partial_state: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(self.allow_change - ALLOWABLE)
        if unknown:
            known = ", ".join(sorted(name.replace("_", "-") for name in ALLOWABLE))
            raise UserError(f"--allow-change {', '.join(unknown)}: what can be allowed is {known}.")

    def for_upstream_only(self) -> str | None:
        """The first option given that makes sense for checkpoints of YOLOv5 alone."""
        given = {
            "--schedule": self.schedule is not None,
            "--completed-epochs": self.completed_epochs is not None,
            "--allow-partial-state": self.allow_partial_state,
        }
        return next((flag for flag, is_given in given.items() if is_given), None)

    def extension(self) -> Extension | None:
        """What is asked for after the seam; None when the run is not extended.

        Raises:
            UserError: the wishes contradict each other.
        """
        if self.extend_epochs is None:
            return None
        return Extension(
            epochs=self.extend_epochs,
            mode=self.lr_continuation,
            slope=self.slope,
            lrf=self.lrf,
            peak=self.peak,
            rewarm_epochs=self.rewarm_epochs,
            cooldown_epochs=self.cooldown_epochs,
        )


@dataclass(frozen=True)
class TrainRequest:
    """A parsed command line."""

    options: TrainOptions
    given: frozenset[str]
    """Names of the options that the user wrote, as against those left at their default."""
    continuation: Continuation

    def allowing(self, option: str) -> TrainRequest:
        """The same with one more option that may differ from the run's."""
        allowed = self.continuation.allow_change | {option}
        return replace(self, continuation=replace(self.continuation, allow_change=allowed))


class ResumedOptions(NamedTuple):
    """The options of a run that goes on, and which of them were allowed to change."""

    options: TrainOptions
    allowed: frozenset[str]


def resumed_options(request: TrainRequest, saved: Mapping[str, Any]) -> ResumedOptions:
    """The run's own options, with the free and the allowed ones that the user gave replaced.

    Raises:
        UserError: an option was given that would change the training.
    """
    changes, allowed = {}, set()
    for name in sorted(request.given):
        old, new = saved.get(name), getattr(request.options, name)
        if name in FREE_ON_RESUME or name == "hyp":  # whose values count, not its path
            changes[name] = new
        elif old != new and name in request.continuation.allow_change:
            changes[name] = new
            allowed.add(name)
        elif old != new:
            raise UserError(_refusal(name, old, new))
    known = {f.name for f in dataclasses.fields(TrainOptions)}
    own = {name: value for name, value in saved.items() if name in known - OF_THE_COMMAND}
    return ResumedOptions(TrainOptions(**{**own, **changes}), frozenset(allowed))


def _refusal(name: str, old: object, new: object) -> str:
    flag = name.replace("_", "-")
    if name == "epochs":
        remedy = "--extend-epochs adds epochs"
    elif name == "cos_lr":
        remedy = "--extend-epochs with --lr-continuation changes the learning rate"
    elif name in ALLOWABLE:
        remedy = f"leave it out, or allow it with --allow-change {flag}"
    else:
        remedy = "leave it out; it is settled when a run begins"
    return f"--{flag} {new} differs from the run's {old} and would change it; {remedy}."
