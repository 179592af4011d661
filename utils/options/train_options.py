"""What `train.py` can be told: the options of a run, and how to go on with one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from utils.errors import UserError
from utils.options.option import OnResume, Option, check, flag_of, names_of, option, options_of
from utils.solver.continuation import SLOPES, Extension
from utils.solver.modes import DEFAULT_MODE
from utils.solver.optimizers import DEFAULT_OPTIMIZER, OPTIMIZERS
from utils.solver.schedule import LAWS, MODES

FREE, ALLOWABLE = OnResume.FREE, OnResume.ALLOWABLE
MIN_IMAGE_SIZE = 32
TOO_SMALL = "{flag} {value}: give at least {minimum} pixels."
NEGATIVE = "--seed, --patience and --freeze cannot be negative."


@dataclass(frozen=True)
class TrainOptions:
    """Everything that describes a run, under upstream's names; kept in its checkpoints."""

    weights: str = option(
        "yolov5s.pt", "initial weights, '' for none (default {default})", group="what to train"
    )
    cfg: str = option("", "model file, e.g. yolov5n.yaml (default: that of the weights)")
    data: str = option("data/streets.yaml", "data-set file (default {default})", resume=ALLOWABLE)
    hyp: str = option(
        "hyp/hyp.scratch-low.yaml", "hyper-parameter file (default {default})", resume=ALLOWABLE
    )
    epochs: int = option(100, "planned total (default {default})", minimum=1)
    batch_size: int = option(
        16, "images per batch (default {default})", minimum=1, resume=ALLOWABLE
    )
    imgsz: int = option(
        640,
        "pixels (default {default})",
        flags=("--img", "--img-size"),
        minimum=MIN_IMAGE_SIZE,
        refusal=TOO_SMALL,
        resume=ALLOWABLE,
    )
    single_cls: bool = option(False, "treat all classes as one")
    seed: int = option(
        0,
        "of order, augmentation and weights ({default})",
        minimum=0,
        refusal=NEGATIVE,
        resume=ALLOWABLE,
    )

    optimizer: str = option(
        DEFAULT_OPTIMIZER,
        "default {default}",
        choices=OPTIMIZERS,
        group="how to train",
        resume=ALLOWABLE,
    )
    nominal_batch_size: int = option(
        64, "sum gradients up to this many images (default {default})", minimum=1, resume=ALLOWABLE
    )
    cos_lr: bool = option(False, "cosine instead of linear learning rate")
    label_smoothing: float = option(0.0, "default {default}", minimum=0, below=1, resume=ALLOWABLE)
    freeze: list[int] = option(
        [0],
        "N: first N layers; several: these layers",
        minimum=0,
        refusal=NEGATIVE,
        resume=ALLOWABLE,
    )
    rect: bool = option(False, "rectangular batches, no mosaic", resume=ALLOWABLE)
    multi_scale: bool = option(False, "vary the image size by half", resume=ALLOWABLE)
    noautoanchor: bool = option(False, "keep the model's anchors")
    patience: int = option(
        100, "epochs without gain, 0 endless ({default})", minimum=0, refusal=NEGATIVE, resume=FREE
    )
    clip_grad_norm: float = option(
        10.0,
        "shorten longer gradients to it, 0 off (default {default:g})",
        metavar="NORM",
        minimum=0,
        resume=ALLOWABLE,
    )
    max_bad_steps: int = option(
        10,
        "stop after K non-finite steps in a row (default {default})",
        metavar="K",
        minimum=1,
        resume=FREE,
    )
    sync_bn: bool = option(False, "batch norm over all processes' images", resume=ALLOWABLE)
    amp: str = option(
        "auto",
        "number format of the forward",
        choices=("auto", "off", "bf16", "fp16"),
        resume=ALLOWABLE,
    )

    device: str = option(
        "",
        "cpu, mps or the number of a GPU (default: first GPU, else cpu)",
        group="machine and outputs",
        resume=FREE,
    )
    compile: bool = option(
        False,
        "let torch compile the forward pass: the first steps take minutes, the others less",
        resume=FREE,
    )
    workers: int = option(8, "loader processes (default {default})", minimum=0, resume=FREE)
    cache: Literal["ram", "disk"] | None = option(
        None, "keep images in", choices=("ram", "disk"), const="ram", resume=FREE
    )
    project: str = option("runs/train", "folder of runs (default {default})", resume=FREE)
    name: str = option("exp", "folder of this run (default {default})", resume=FREE)
    exist_ok: bool = option(False, "write into an existing folder", resume=OnResume.OF_THE_COMMAND)
    nosave: bool = option(False, "save only after the last epoch", resume=OnResume.OF_THE_COMMAND)
    noval: bool = option(
        False, "validate only after the last epoch", resume=OnResume.OF_THE_COMMAND
    )
    noplots: bool = option(False, "draw no pictures", resume=OnResume.OF_THE_COMMAND)
    save_period: int = option(-1, "keep epochN.pt every so many epochs", resume=FREE)
    save_steps: int = option(
        0, "save last.pt every K batches too (0: not)", metavar="K", minimum=0, resume=FREE
    )
    seam_epochs: int = option(
        5,
        "validate raw weights too, K epochs after a seam ({default})",
        metavar="K",
        minimum=0,
        resume=FREE,
    )

    def __post_init__(self) -> None:
        check(self)
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


OF_THE_COMMAND = names_of(TrainOptions, OnResume.OF_THE_COMMAND)
"""Options that a run does not hand on: they hold for the command they were given with."""


@dataclass(frozen=True)
class Continuation:
    """How to go on with an existing run; none of it describes the run itself."""

    resume: str | None = option(
        None,
        "checkpoint or run folder (default: latest)",
        const="",
        metavar="PATH",
        group="going on with a run",
    )
    """None: a new run. Empty: the most recent one. Else a checkpoint or a run folder."""
    extend_epochs: int | None = option(None, "epochs to add to the planned total", metavar="X")
    lr_continuation: str = option(
        DEFAULT_MODE, "learning rate after the seam (default {default})", choices=MODES
    )
    slope: str = option(
        "fit", "slope-match: down to the last epoch, or as it was ({default})", choices=SLOPES
    )
    lrf: float | None = option(None, "final fraction in the extension (the run's own)")
    peak: float | None = option(None, "start from this fraction of lr0", metavar="P")
    rewarm_epochs: int = option(0, "ramp up to --peak, or to restart's rate", metavar="K")
    cooldown_epochs: int = option(0, "straight descent at the end", metavar="K")
    plan: bool = option(False, "train nothing; show what each mode would do")
    allow_change: frozenset[str] = option(
        frozenset(), "let these options differ from the run's, e.g. batch-size,data", metavar="A,B"
    )
    schedule: str | None = option(None, "law of a run of YOLOv5, if not by its files", choices=LAWS)
    completed_epochs: int | None = option(None, "of a stripped checkpoint of YOLOv5", metavar="E")
    allow_partial_state: bool = option(False, "go on with a stripped one nonetheless")

    def __post_init__(self) -> None:
        check(self)

    def for_upstream_only(self) -> str | None:
        """The first option given that makes sense for checkpoints of YOLOv5 alone."""
        names = ("schedule", "completed_epochs", "allow_partial_state")
        given = (name for name in names if getattr(self, name) != getattr(Continuation, name))
        return next(map(flag_of, given), None)

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

    def __post_init__(self) -> None:
        allowable = names_of(type(self.options), OnResume.ALLOWABLE)
        unknown = sorted(self.continuation.allow_change - allowable)
        if unknown:
            known = ", ".join(sorted(name.replace("_", "-") for name in allowable))
            raise UserError(f"--allow-change {', '.join(unknown)}: what can be allowed is {known}.")

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
    kind = type(request.options)
    known = options_of(kind)
    changes, allowed = {}, set()
    for name in sorted(request.given):
        old, new = saved.get(name), getattr(request.options, name)
        if known[name].is_free or name == "hyp":  # whose values count, not its path
            changes[name] = new
        elif old != new and name in request.continuation.allow_change:
            changes[name] = new
            allowed.add(name)
        elif old != new:
            raise UserError(_refusal(name, known[name], old, new))
    kept = known.keys() - names_of(kind, OnResume.OF_THE_COMMAND)
    own = {name: value for name, value in saved.items() if name in kept}
    return ResumedOptions(kind(**{**own, **changes}), frozenset(allowed))


def _refusal(name: str, known: Option, old: object, new: object) -> str:
    flag = flag_of(name)
    if name == "epochs":
        remedy = "--extend-epochs adds epochs"
    elif name == "cos_lr":
        remedy = "--extend-epochs with --lr-continuation changes the learning rate"
    elif known.resume is ALLOWABLE:
        remedy = f"leave it out, or allow it with --allow-change {flag[2:]}"
    else:
        remedy = "leave it out; it is settled when a run begins"
    return f"{flag} {new} differs from the run's {old} and would change it; {remedy}."
