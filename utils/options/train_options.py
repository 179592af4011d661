"""The options of `train.py`: of a run, and of resuming or extending one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from utils.errors import UserError
from utils.options.option import (
    IMAGE_SIZE_FLAGS,
    MAX_IMAGE_SIZE,
    MAX_SEED,
    MAX_WORKERS,
    OnResume,
    check,
    flag_of,
    option,
    option_names,
)
from utils.solver.continuation import SLOPES, Extension
from utils.solver.modes import CONTINUATIONS, COOLDOWN_SHAPES, DEFAULT_MODE, FINISH_MODE
from utils.solver.optimizers import DEFAULT_OPTIMIZER, OPTIMIZERS
from utils.solver.schedule import LAWS, MODES

FREE, ALLOWABLE, NOT_INHERITED = OnResume.FREE, OnResume.ALLOWABLE, OnResume.NOT_INHERITED
MIN_IMAGE_SIZE = 32
MIN_HOURS = 0.001
MAX_EPOCHS = 1_000_000
CLASSES = "classes"
"""What --allow-change accepts besides options: the class names of the data-set file."""
AUTO_BATCH = -1


@dataclass(frozen=True)
class TrainOptions:
    """The options of a run, with the names of YOLOv5; saved in its checkpoints."""

    weights: str = option(
        "yolov5s.pt",
        "initial weights, a file or URL, '' to train from scratch",
        group="model and data",
    )
    cfg: str = option("", "model file, e.g. yolov5n.yaml (default: model of the weights)")
    data: str = option("data/streets.yaml", "data-set file", ALLOWABLE)
    hyp: str = option("hyp/hyp.scratch-low.yaml", "hyper-parameter file", ALLOWABLE)
    epochs: int = option(100, "planned epochs", minimum=1, maximum=MAX_EPOCHS)
    batch_size: int = option(
        16,
        "images per batch of all processes, -1 to measure how many fit into the GPU",
        ALLOWABLE,
        minimum=AUTO_BATCH,
    )
    imgsz: int = option(
        640,
        "image size in pixels",
        ALLOWABLE,
        flags=IMAGE_SIZE_FLAGS,
        minimum=MIN_IMAGE_SIZE,
        maximum=MAX_IMAGE_SIZE,
    )
    single_cls: bool = option(False, "treat all classes as one")
    seed: int = option(0, "random seed", ALLOWABLE, minimum=0, maximum=MAX_SEED)

    optimizer: str = option(
        DEFAULT_OPTIMIZER, "optimizer", ALLOWABLE, choices=OPTIMIZERS, group="training"
    )
    nominal_batch_size: int = option(
        64, "accumulate gradients over about this many images per step", ALLOWABLE, minimum=1
    )
    cos_lr: bool = option(False, "cosine instead of linear learning-rate schedule")
    label_smoothing: float = option(
        0.0, "label smoothing of the class loss", ALLOWABLE, minimum=0, below=1
    )
    freeze: list[int] = option(
        [0],
        "freeze the first N layers, or the listed layers if there are several (default: none)",
        ALLOWABLE,
        minimum=0,
    )
    freeze_bn: bool = option(
        False, "also hold the batch-norm statistics of frozen layers", ALLOWABLE
    )
    rect: bool = option(False, "rectangular batches, without mosaic", ALLOWABLE)
    multi_scale: bool = option(False, "vary the image size from 0.5x to 1.5x", ALLOWABLE)
    noautoanchor: bool = option(False, "disable AutoAnchor")
    patience: int = option(
        100, "stop after this many epochs without improvement, 0 to disable", FREE, minimum=0
    )
    clip_grad_norm: float = option(
        10.0,
        "maximum gradient norm, 0 to disable clipping (default: {default:g})",
        ALLOWABLE,
        metavar="NORM",
        minimum=0,
    )
    max_bad_steps: int = option(
        10, "abort after K consecutive non-finite steps", FREE, metavar="K", minimum=1
    )
    close_mosaic: int = option(
        0,
        "train the last K epochs of the run, or of the extension, without mosaic and mixup",
        NOT_INHERITED,
        metavar="K",
        minimum=0,
    )
    sync_bn: bool = option(False, "synchronize batch norm across processes", ALLOWABLE)
    amp: str = option(
        "auto", "precision of the forward pass", ALLOWABLE, choices=("auto", "off", "bf16", "fp16")
    )

    device: str = option(
        "",
        "GPU index, cpu or mps (default: first GPU if available, else cpu)",
        NOT_INHERITED,
        group="hardware and output",
    )
    compile: bool = option(
        False,
        "compile the forward pass with torch.compile: the first steps take minutes, later ones "
        "are faster (default: off)",
        FREE,
    )
    workers: int | None = option(
        None,
        "data-loader processes of this machine, divided by its training processes "
        "(default: as many as help)",
        FREE,
        minimum=0,
        maximum=MAX_WORKERS,
    )
    cache: Literal["ram", "disk"] | None = option(
        None,
        "cache images in RAM or on disk (default: no cache)",
        FREE,
        choices=("ram", "disk"),
        const="ram",
    )
    project: str = option("runs/train", "parent folder of runs", FREE)
    name: str = option("exp", "name of the run folder, numbered if it exists", FREE)
    exist_ok: bool = option(False, "write into an existing run folder", NOT_INHERITED)
    nosave: bool = option(False, "save checkpoints only after the last epoch", NOT_INHERITED)
    noval: bool = option(False, "validate only after the last epoch", NOT_INHERITED)
    noplots: bool = option(False, "do not save plots", NOT_INHERITED)
    stop_after: int | None = option(
        None,
        "stop when E epochs are completed, with exit code 85; the plan stays that of all epochs",
        NOT_INHERITED,
        metavar="E",
        minimum=1,
    )
    max_hours: float | None = option(
        None,
        "stop after the step at which H hours are over, with exit code 85",
        NOT_INHERITED,
        metavar="H",
        minimum=MIN_HOURS,
    )
    save_period: int = option(
        -1, "also save epochN.pt every SAVE_PERIOD epochs, -1 to disable", FREE
    )
    save_steps: int = option(
        0, "also save last.pt every K batches, 0 to disable", FREE, metavar="K", minimum=0
    )
    average: int = option(
        0,
        "also write average.pt, the mean of the weights after each of the last K planned epochs, "
        "0 to disable; an extension does not inherit it",
        FREE,
        metavar="K",
        minimum=0,
    )
    export_yolov5: bool = option(
        False, "at the end, also write best_yolov5.pt, a copy of best.pt that YOLOv5 loads", FREE
    )
    seam_epochs: int = option(
        5,
        "also evaluate the non-EMA weights for K epochs after a seam",
        FREE,
        metavar="K",
        minimum=0,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.batch_size == 0:
            raise UserError("--batch-size 0: must be at least 1, or -1 to measure it.")
        if not self.name:
            raise UserError("--name '': must not be empty.")

    @property
    def law(self) -> str:
        """The base law of the learning rate: cosine or linear."""
        return "cosine" if self.cos_lr else "linear"

    def frozen_layers(self) -> range | list[int]:
        """Frozen layers: the first ten for `--freeze 10`, layers 0 to 2 for `--freeze 0 1 2`."""
        return range(self.freeze[0]) if len(self.freeze) == 1 else self.freeze

    def to_dict(self) -> dict[str, Any]:  # each value is of its field's type
        """The options as plain data, for the checkpoint and opt.yaml."""
        return dataclasses.asdict(self)


NOT_INHERITED_NAMES = option_names(TrainOptions, NOT_INHERITED)
"""Options that apply only to the command that gives them; a resumed run does not inherit them."""


@dataclass(frozen=True)
class Continuation:
    """How to resume or extend an existing run; not saved with the options of the run."""

    resume: str | None = option(
        None,
        "checkpoint or run folder to resume (default: latest run in --project)",
        const="",
        metavar="PATH",
        group="resume and extend",
    )
    """None: start a new run. Empty: the latest run. Otherwise a checkpoint or a run folder."""
    auto_resume: bool = option(
        False,
        "start the run of --name, resume it if it exists, or end at once if it is complete; with "
        "--extend-epochs, extend it once when it has ended",
    )
    extend_epochs: int | None = option(
        None,
        "epochs to add to the planned total, or after an early stop to those done",
        metavar="X",
    )
    finish_epochs: int | None = option(
        None,
        "end the run in K epochs, before its planned total, with a descent to the final rate",
        metavar="K",
        minimum=1,
    )
    lr_continuation: str = option(
        DEFAULT_MODE,
        "how the learning rate continues after the seam (default: {default}); "
        + "; ".join(f"{mode.name}: {mode.summary}" for mode in CONTINUATIONS),
        choices=MODES,
    )
    slope: str = option(
        "fit",
        "of slope-match; fit: flatten the line so that it lasts to the last epoch; original: keep "
        "its slope",
        choices=SLOPES,
    )
    lrf: float | None = option(
        None,
        "final rate of the extension, as a fraction of lr0 (default: lrf of the run)",
        minimum=0,
        maximum=1,
    )
    peak: float | None = option(
        None,
        "rate after --rewarm-epochs, as a fraction of lr0 (default: rate at the seam)",
        metavar="P",
    )
    rewarm_epochs: int = option(
        0, "epochs of the ramp up to --peak, or to the rate of restart", metavar="K", minimum=0
    )
    cooldown_epochs: int = option(
        0, "epochs of decay to the final rate at the end", metavar="K", minimum=0
    )
    cooldown_shape: str = option(
        COOLDOWN_SHAPES[0],
        "shape of the decay of --cooldown-epochs or --finish-epochs",
        choices=COOLDOWN_SHAPES,
    )
    plan: bool = option(False, "print and plot the learning rate of each mode; do not train")
    allow_change: frozenset[str] = option(
        frozenset(),
        "what may differ from the run: options, or classes; e.g. batch-size,data",
        metavar="A,B",
    )
    rename_class: list[str] = option(
        [],
        "new name of a class, e.g. --rename-class car=vehicle; repeatable",
        metavar="OLD=NEW",
        repeatable=True,
    )
    schedule: str | None = option(
        None,
        "learning-rate schedule of a YOLOv5 run; linear-v5.0 is the linear one of v5.0 "
        "(default: read from its files)",
        choices=LAWS,
    )
    completed_epochs: int | None = option(
        None, "completed epochs of a stripped YOLOv5 checkpoint", metavar="N", minimum=1
    )
    allow_partial_state: bool = option(False, "resume a stripped YOLOv5 checkpoint anyway")

    def __post_init__(self) -> None:
        check(self)
        if self.extend_epochs is not None and not 1 <= self.extend_epochs <= MAX_EPOCHS:
            raise UserError(
                f"--extend-epochs {self.extend_epochs}: must be between 1 and {MAX_EPOCHS}; to end "
                "a run earlier, use --finish-epochs K."
            )
        for text in self.rename_class:
            if not all(text.partition("=")):
                raise UserError(f"--rename-class {text}: must be OLD=NEW, for example car=vehicle.")

    def for_upstream_only(self) -> str | None:
        """The first given option that applies only to YOLOv5 checkpoints; None if there is none."""
        names = ("schedule", "completed_epochs", "allow_partial_state")
        given = (name for name in names if getattr(self, name) != getattr(Continuation, name))
        return next(map(flag_of, given), None)

    def extension(self, close_mosaic: int = 0) -> Extension | None:
        """The extension to train after the seam; None if the run is not extended.

        Args:
            close_mosaic: its last epochs without mosaic.

        Raises:
            UserError: if the options of the extension contradict each other.
        """
        epochs = self.finish_epochs or self.extend_epochs
        if epochs is None:
            return None
        return Extension(
            epochs=epochs,
            mode=FINISH_MODE.name if self.finish_epochs else self.lr_continuation,
            slope=self.slope,
            lrf=self.lrf,
            peak=self.peak,
            rewarm_epochs=self.rewarm_epochs,
            cooldown_epochs=self.cooldown_epochs,
            cooldown_shape=self.cooldown_shape,
            close_mosaic=close_mosaic,
        )


@dataclass(frozen=True)
class TrainRequest:
    """A parsed command line."""

    options: TrainOptions
    given: frozenset[str]
    """Names of the options on the command line; the others have their defaults."""
    continuation: Continuation

    @property
    def extension(self) -> Extension | None:
        """The extension to train after the seam; None if the run is not extended."""
        return self.continuation.extension(self.options.close_mosaic)

    def __post_init__(self) -> None:
        allowable = option_names(type(self.options), OnResume.ALLOWABLE) | {CLASSES}
        unknown = sorted(self.continuation.allow_change - allowable)
        if unknown:
            known = ", ".join(sorted(name.replace("_", "-") for name in allowable))
            raise UserError(f"--allow-change {','.join(unknown)}: choose one or more of {known}.")
        average, epochs = self.options.average, self.options.epochs
        if self.continuation.resume is None and average > epochs:
            raise UserError(f"--average {average}: the run has fewer epochs; use at most {epochs}.")
        if self.options.batch_size == AUTO_BATCH and "batch_size" in self.continuation.allow_change:
            raise UserError(
                f"--batch-size {AUTO_BATCH}: is measured only when a run starts; give a number "
                "with --allow-change batch-size."
            )
