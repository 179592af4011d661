"""What `train.py` can be told: the options of a run, and how to go on with one."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from utils.errors import UserError
from utils.solver.continuation import SLOPES, Extension
from utils.solver.schedule import MODES

FREE_ON_RESUME = frozenset(
    {"device", "workers", "cache", "patience", "project", "name", "exist_ok"}
    | {"nosave", "noval", "noplots", "save_period"}
)
"""Options that may differ when a run goes on: they change its outputs, not its steps."""

OF_THE_COMMAND = frozenset({"exist_ok", "nosave", "noval", "noplots"})
"""Those of them that a run does not hand on: they hold for the command they were given with."""

ALLOWABLE = frozenset(
    {"data", "hyp", "batch_size", "nominal_batch_size", "imgsz", "optimizer", "seed", "freeze"}
    | {"rect", "multi_scale", "label_smoothing", "amp"}
)
"""Options that change the training, but with which a run can go on where that is wanted."""

SMALLEST_IMAGE = 32


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
    amp: str = "auto"
    multi_scale: bool = False
    single_cls: bool = False
    optimizer: str = "SGD"
    workers: int = 8
    project: str = "runs/train"
    name: str = "exp"
    exist_ok: bool = False
    cos_lr: bool = False
    label_smoothing: float = 0.0
    patience: int = 100
    freeze: list[int] = field(default_factory=lambda: [0])
    save_period: int = -1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("nominal_batch_size", 1),
            ("workers", 0),
        ):
            if getattr(self, name) < least:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} {getattr(self, name)}: give at least {least}.")
        if self.imgsz < SMALLEST_IMAGE:
            raise UserError(f"--imgsz {self.imgsz}: give at least {SMALLEST_IMAGE} pixels.")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"--label-smoothing {self.label_smoothing}: give a number from 0 to below 1."
            )
        if self.seed < 0 or self.patience < 0:
            raise UserError("--seed and --patience cannot be negative.")

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
    lr_continuation: str = "rebase"
    slope: str = "fit"
    lrf: float | None = None
    peak: float | None = None
    rewarm_epochs: int = 0
    cooldown_epochs: int = 0
    seam_epochs: int = 5
    allow_change: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        unknown = sorted(self.allow_change - ALLOWABLE)
        if unknown:
            known = ", ".join(sorted(name.replace("_", "-") for name in ALLOWABLE))
            raise UserError(f"--allow-change {', '.join(unknown)}: what can be allowed is {known}.")
        if self.seam_epochs < 0:
            raise UserError(f"--seam-epochs {self.seam_epochs}: give a number from 0 up.")

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
class Request:
    """A parsed command line."""

    options: TrainOptions
    given: frozenset[str]
    """Names of the options that the user wrote, as against those left at their default."""
    continuation: Continuation


def build_parser() -> argparse.ArgumentParser:
    """The command line of `train.py`; an option that is not given is left out of the result."""
    parser = argparse.ArgumentParser(
        prog="train.py",
        description="Train a YOLOv5 detector, resume a run, or extend one beyond its planned end.",
        argument_default=argparse.SUPPRESS,
    )
    default = TrainOptions()
    _add_run_options(parser.add_argument_group("what to train"), default)
    _add_training_options(parser.add_argument_group("how to train"), default)
    _add_machine_options(parser.add_argument_group("machine and outputs"), default)
    _add_continuation_options(parser.add_argument_group("going on with a run"))
    return parser


def _add_run_options(group: argparse._ArgumentGroup, default: TrainOptions) -> None:
    group.add_argument(
        "--weights", help=f"initial weights, '' for none (default {default.weights})"
    )
    group.add_argument("--cfg", help="model file, e.g. yolov5n.yaml (default: that of the weights)")
    group.add_argument("--data", help=f"data-set file (default {default.data})")
    group.add_argument("--hyp", help=f"hyper-parameter file (default {default.hyp})")
    group.add_argument("--epochs", type=int, help=f"planned total (default {default.epochs})")
    group.add_argument(
        "--batch-size", type=int, help=f"images per batch (default {default.batch_size})"
    )
    group.add_argument(
        "--imgsz", "--img", "--img-size", type=int, help=f"pixels (default {default.imgsz})"
    )
    group.add_argument("--single-cls", action="store_true", help="treat all classes as one")
    group.add_argument(
        "--seed", type=int, help=f"of order, augmentation and weights ({default.seed})"
    )


def _add_training_options(group: argparse._ArgumentGroup, default: TrainOptions) -> None:
    group.add_argument("--optimizer", choices=("SGD", "Adam", "AdamW"), help="default SGD")
    group.add_argument(
        "--nominal-batch-size",
        type=int,
        help=f"sum gradients up to this many images (default {default.nominal_batch_size})",
    )
    group.add_argument(
        "--cos-lr", action="store_true", help="cosine instead of linear learning rate"
    )
    group.add_argument("--label-smoothing", type=float, help=f"default {default.label_smoothing}")
    group.add_argument(
        "--freeze", nargs="+", type=int, help="N: first N layers; several: these layers"
    )
    group.add_argument("--rect", action="store_true", help="rectangular batches, no mosaic")
    group.add_argument("--multi-scale", action="store_true", help="vary the image size by half")
    group.add_argument("--noautoanchor", action="store_true", help="keep the model's anchors")
    group.add_argument(
        "--patience", type=int, help=f"epochs without gain, 0 endless ({default.patience})"
    )
    group.add_argument(
        "--amp", choices=("auto", "off", "bf16", "fp16"), help="number format of the forward"
    )


def _add_machine_options(group: argparse._ArgumentGroup, default: TrainOptions) -> None:
    group.add_argument(
        "--device", help="cpu, mps or the number of a GPU (default: first GPU, else cpu)"
    )
    group.add_argument("--workers", type=int, help=f"loader processes (default {default.workers})")
    group.add_argument(
        "--cache", nargs="?", const="ram", choices=("ram", "disk"), help="keep images in"
    )
    group.add_argument("--project", help=f"folder of runs (default {default.project})")
    group.add_argument("--name", help=f"folder of this run (default {default.name})")
    group.add_argument("--exist-ok", action="store_true", help="write into an existing folder")
    group.add_argument("--nosave", action="store_true", help="save only after the last epoch")
    group.add_argument("--noval", action="store_true", help="validate only after the last epoch")
    group.add_argument("--noplots", action="store_true", help="draw no pictures")
    group.add_argument("--save-period", type=int, help="keep epochN.pt every so many epochs")


def _add_continuation_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="PATH",
        help="checkpoint or run folder (default: latest)",
    )
    group.add_argument(
        "--extend-epochs", type=int, metavar="X", help="epochs to add to the planned total"
    )
    group.add_argument(
        "--lr-continuation", choices=MODES, help="learning rate after the seam (default rebase)"
    )
    group.add_argument(
        "--slope", choices=SLOPES, help="slope-match: down to the last epoch, or as it was (fit)"
    )
    group.add_argument("--lrf", type=float, help="final fraction in the extension (the run's own)")
    group.add_argument("--peak", type=float, metavar="P", help="start from this fraction of lr0")
    group.add_argument(
        "--rewarm-epochs", type=int, metavar="K", help="ramp up to --peak, or to restart's rate"
    )
    group.add_argument(
        "--cooldown-epochs", type=int, metavar="K", help="straight descent at the end"
    )
    group.add_argument(
        "--seam-epochs", type=int, metavar="K", help="validate raw weights K epochs long (5)"
    )
    group.add_argument(
        "--allow-change",
        type=_option_names,
        metavar="A,B",
        help="let these options differ from the run's, e.g. batch-size,data",
    )


def _option_names(text: str) -> frozenset[str]:
    return frozenset(name.strip().lstrip("-").replace("-", "_") for name in text.split(","))


def parse_request(argv: Sequence[str] | None = None) -> Request:
    """Read the command line.

    Raises:
        UserError: the options contradict each other.
    """
    given = vars(build_parser().parse_args(argv))
    continuation = {
        f.name: given.pop(f.name) for f in dataclasses.fields(Continuation) if f.name in given
    }
    if "extend_epochs" in continuation and "resume" not in continuation:
        raise UserError("--extend-epochs goes on with an existing run: add --resume PATH.")
    for name in ("seam_epochs", "allow_change"):
        if name in continuation and "resume" not in continuation:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} goes on with an existing run: add --resume PATH.")
    lonely = set(continuation) - {"resume", "extend_epochs", "seam_epochs", "allow_change"}
    if lonely and "extend_epochs" not in continuation:
        flag = "--" + min(lonely).replace("_", "-")
        raise UserError(f"{flag} needs --extend-epochs: say how many epochs to add.")
    request = Request(TrainOptions(**given), frozenset(given), Continuation(**continuation))
    request.continuation.extension()  # contradictions are told before any file is read
    return request


class ResumedOptions(NamedTuple):
    """The options of a run that goes on, and which of them were allowed to change."""

    options: TrainOptions
    allowed: frozenset[str]


def resumed_options(request: Request, saved: Mapping[str, Any]) -> ResumedOptions:
    """The run's own options, with the free and the allowed ones that the user gave replaced.

    Raises:
        UserError: an option was given that would change the training.
    """
    changes, allowed = {}, set()
    for name in sorted(request.given):
        old, new = saved.get(name), getattr(request.options, name)
        if name in FREE_ON_RESUME:
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
