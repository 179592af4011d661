"""The command line of `train.py`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from utils.errors import UserError
from utils.options.script import OptionParser
from utils.options.train_options import Continuation, TrainOptions, TrainRequest
from utils.solver.continuation import SLOPES
from utils.solver.optimizers import OPTIMIZERS
from utils.solver.schedule import LAWS, MODES


def build_parser() -> argparse.ArgumentParser:
    """The command line of `train.py`; an option that is not given is left out of the result."""
    parser = OptionParser(
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
    group.add_argument("--optimizer", choices=OPTIMIZERS, help=f"default {default.optimizer}")
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
        "--clip-grad-norm",
        type=float,
        metavar="NORM",
        help=f"shorten longer gradients to it, 0 off (default {default.clip_grad_norm:g})",
    )
    group.add_argument(
        "--max-bad-steps",
        type=int,
        metavar="K",
        help=f"stop after K non-finite steps in a row (default {default.max_bad_steps})",
    )
    group.add_argument(
        "--sync-bn", action="store_true", help="batch norm over all processes' images"
    )
    group.add_argument(
        "--amp", choices=("auto", "off", "bf16", "fp16"), help="number format of the forward"
    )


def _add_machine_options(group: argparse._ArgumentGroup, default: TrainOptions) -> None:
    group.add_argument(
        "--device", help="cpu, mps or the number of a GPU (default: first GPU, else cpu)"
    )
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="let torch compile the forward pass: the first steps take minutes, the others less",
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
    group.add_argument(
        "--save-steps", type=int, metavar="K", help="save last.pt every K batches too (0: not)"
    )
    group.add_argument(
        "--seam-epochs",
        type=int,
        metavar="K",
        help=f"validate raw weights too, K epochs after a seam ({default.seam_epochs})",
    )


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
        "--plan", action="store_true", help="train nothing; show what each mode would do"
    )
    group.add_argument(
        "--allow-change",
        type=_option_names,
        metavar="A,B",
        help="let these options differ from the run's, e.g. batch-size,data",
    )
    group.add_argument(
        "--schedule", choices=LAWS, help="law of a run of YOLOv5, if not by its files"
    )
    group.add_argument(
        "--completed-epochs", type=int, metavar="E", help="of a stripped checkpoint of YOLOv5"
    )
    group.add_argument(
        "--allow-partial-state", action="store_true", help="go on with a stripped one nonetheless"
    )


def _option_names(text: str) -> frozenset[str]:
    return frozenset(name.strip().lstrip("-").replace("-", "_") for name in text.split(","))


def parse_request(argv: Sequence[str] | None = None) -> TrainRequest:
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
    alone = {"schedule", "completed_epochs", "allow_partial_state", "allow_change"}
    for name in sorted(alone & set(continuation)):
        if "resume" not in continuation:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} goes on with an existing run: add --resume PATH.")
    lonely = set(continuation) - {"resume", "extend_epochs"} - alone
    if lonely and "extend_epochs" not in continuation:
        flag = "--" + min(lonely).replace("_", "-")
        raise UserError(f"{flag} needs --extend-epochs: say how many epochs to add.")
    request = TrainRequest(TrainOptions(**given), frozenset(given), Continuation(**continuation))
    request.continuation.extension()  # contradictions are told before any file is read
    return request
