"""How long a training step takes, part by part, and how much of the machine it uses.

Usage: python benchmarks/step.py --batch-size 8 --imgsz 640 --against='--amp bf16'
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if __name__ == "__main__":
    # Python looks for modules beside this file; they are imported from the root, as everywhere.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_common_options, compare
from benchmarks.timing import MILLISECONDS, Measure, PartTimes, PeakMemory, Results
from utils.options.script import OptionParser, run_script
from utils.solver.optimizers import OPTIMIZERS

# What is heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    import torch

    from models.detector import Detector
    from models.loss import DetectionLoss, DetectionLosses
    from utils.datasets.dataset import Batch
    from utils.runtime.device import Precision
    from utils.runtime.distributed import Distributed
    from utils.training.batch_norm import BatchNormStats
    from utils.training.engine import TrainContext
    from utils.training.state import TrainingState

MATRIX = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""By device, the side of matrices that are large enough for its best."""
PRODUCTS = 5
BOX_SIDES = 0.05, 0.5  # of the image
GIGA = 1e9


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python benchmarks/step.py",
        description="The parts of `train_step` on made-up images, in milliseconds.",
    )
    add = parser.add_argument
    add("--cfg", default="yolov5n.yaml", help="model file (default: yolov5n.yaml)")
    add("--imgsz", type=int, default=640, help="pixels (default: 640)")
    add("--batch-size", type=int, default=8, help="images (default: 8)")
    add("--boxes", type=int, default=16, help="per image (default: 16)")
    add("--optimizer", choices=OPTIMIZERS, default="SGD", help="default: SGD")
    add("--amp", choices=("auto", "off", "bf16", "fp16"), default="off", help="default: off")
    add(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="memory format of weights and images",
    )
    add("--compile", action="store_true", help="torch.compile the model")
    add("--device", default="", help="as of train.py (default: first GPU, else cpu)")
    add("--matrix", type=int, help="side of the matrices whose product is the machine's peak")
    add("--steps", type=int, default=2, help="that make a round (default: 2)")
    add_common_options(parser, rounds=5, against="--amp bf16")
    return parser


def main() -> None:
    """Measure the variants that the command line asks for."""
    compare(build_parser(), prepare)


def prepare(args: argparse.Namespace) -> Measure:
    """Build a training of one variant; a round is some of its steps.

    Raises:
        UserError: an option is refused.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from utils.training.engine import train_step

    training = build_training(args)
    state, context, parts = training.state, training.context, training.parts
    batch = made_up_batch(args.batch_size, args.imgsz, args.boxes, state.model.classes)
    side = args.matrix or MATRIX[context.device.type]
    with FlopCounterMode(display=False) as counter:
        train_step(state, context, batch, last=True)
    flops = counter.get_total_flops()
    if args.compile:
        training.model.compile()

    def measure() -> Results:
        peak = matmul_peak(context.precision, context.device, side)
        parts.milliseconds()  # forgets the marks of other steps
        memory = PeakMemory(context.device)
        parts.mark("begin")
        for _ in range(args.steps):
            train_step(state, context, batch, last=True)
            parts.mark("EMA")
        milliseconds = {part: t / args.steps for part, t in parts.milliseconds().items()}
        seconds = sum(milliseconds.values()) / MILLISECONDS
        rate = flops / GIGA / seconds
        return {f"{part}, ms": value for part, value in milliseconds.items()} | {
            "step, ms": seconds * MILLISECONDS,
            "images/s": args.batch_size / seconds,
            "GFLOP/s": rate,
            "matmul peak, GFLOP/s": peak,
            "% of matmul peak": 100 * rate / peak,
            "peak memory, MB": memory.megabytes(),
        }

    return measure


class WatchedTraining(NamedTuple):
    """What `train_step` takes, with a mark set after each of its parts."""

    state: TrainingState
    context: TrainContext
    model: Detector
    """The one that is trained, without marks."""
    parts: PartTimes


def build_training(args: argparse.Namespace) -> WatchedTraining:
    """State and rules of a run as train.py makes them, that steps after every batch.

    Raises:
        UserError: an option is refused.
    """
    import torch

    from models.detector import Detector
    from models.loss import build_loss
    from models.spec import load_spec
    from utils.errors import UserError
    from utils.options.parser import parse_request
    from utils.runs.run import open_run, plan_of
    from utils.runtime.device import choose_precision, keep_freed_memory, select_device
    from utils.runtime.distributed import SINGLE_PROCESS
    from utils.training.build import build_context, build_state

    options = {"--optimizer": args.optimizer, "--batch-size": args.batch_size}
    options |= {"--nominal-batch-size": args.batch_size, "--imgsz": args.imgsz}
    run = open_run(parse_request([str(word) for pair in options.items() for word in pair]))
    device = select_device(args.device)
    keep_freed_memory(device)  # as train.py and val.py do
    precision = choose_precision(args.amp, device)
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    torch.manual_seed(0)
    model = Detector(load_spec(Path(args.cfg))).to(device).to(memory_format=memory_format)
    if args.imgsz % model.max_stride:
        raise UserError(f"--imgsz {args.imgsz}: give a multiple of the stride {model.max_stride}.")
    plan = plan_of(run, batches_per_epoch=1000)
    state = build_state(run, model.train(), plan, precision, SINGLE_PROCESS)
    loss = build_loss(model, run.hyp, image_size=args.imgsz, label_smoothing=0.0)
    context = build_context(run.options, model, plan, loss, precision, SINGLE_PROCESS)
    parts = PartTimes(device)
    return WatchedTraining(*watched(state, context, parts, memory_format), model, parts)


def watched(
    state: TrainingState,
    context: TrainContext,
    parts: PartTimes,
    memory_format: torch.memory_format,
) -> tuple[TrainingState, TrainContext]:
    """State and rules with which `train_step` marks its parts when they have ended.

    Args:
        state: of the run; its optimizer is watched in place.
        context: of the run.
        parts: takes the marks.
        memory_format: given to the images.
    """
    evaluator: Callable[..., DetectionLosses] = context.loss

    def loss(*args: object, **kwargs: object) -> DetectionLosses:
        losses = evaluator(*args, **kwargs)
        parts.mark("loss")
        return losses

    state.optimizer.register_step_pre_hook(lambda *_: parts.mark("gradient norm"))
    state.optimizer.register_step_post_hook(lambda *_: parts.mark("optimizer"))
    model: Any = WatchedModel(state.model, parts, memory_format)
    statistics: Any = WatchedStatistics(context.statistics, parts)
    return (
        dataclasses.replace(state, model=model),
        dataclasses.replace(context, loss=cast("DetectionLoss", loss), statistics=statistics),
    )


class WatchedModel:
    """A model that marks the beginning and the end of its forward pass; else it is that model."""

    def __init__(
        self, model: Detector, parts: PartTimes, memory_format: torch.memory_format
    ) -> None:
        self._model = model
        self._parts = parts
        self._memory_format = memory_format

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """As `Detector.forward`."""
        images = images.contiguous(memory_format=self._memory_format)
        self._parts.mark("to device")
        raw: list[torch.Tensor] = self._model(images)
        self._parts.mark("forward")
        return raw


class WatchedStatistics:
    """Statistics of norms, which are averaged right after the backward pass, and mark its end."""

    def __init__(self, statistics: BatchNormStats, parts: PartTimes) -> None:
        self._statistics = statistics
        self._parts = parts

    def __getattr__(self, name: str) -> object:
        return getattr(self._statistics, name)

    def average(self, distributed: Distributed) -> None:
        """As `NormStatistics.average`."""
        self._parts.mark("backward")
        self._statistics.average(distributed)


def made_up_batch(images: int, size: int, boxes: int, classes: int) -> Batch:
    """Noise with boxes of all sizes in it.

    Args:
        images: in the batch.
        size: their side, px.
        boxes: in each image.
        classes: of the boxes.
    """
    import numpy as np
    import torch

    from utils.datasets.dataset import Batch, Frame

    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(images, size, size, 3), dtype=np.uint8)
    sides = rng.uniform(*BOX_SIDES, (images * boxes, 2))
    columns = (
        np.repeat(np.arange(images), boxes)[:, None],
        rng.integers(classes, size=(images * boxes, 1)),
        rng.uniform(sides / 2, 1 - sides / 2),
        sides,
    )
    targets = np.concatenate(columns, axis=1).astype(np.float32)  # [images * boxes, 6]
    frame = Frame("noise", (size, size), (1.0, 1.0), (0.0, 0.0))
    return Batch(
        torch.from_numpy(pixels).permute(0, 3, 1, 2),
        torch.from_numpy(targets),
        torch.arange(images),
        (frame,) * images,
    )


def matmul_peak(precision: Precision, device: torch.device, side: int) -> float:
    """GFLOP/s of the best of several products of square matrices in a step's number format."""
    import torch

    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    matrix = torch.rand(side, side, device=device).to(formats[precision.name])
    parts = PartTimes(device)
    best = float("inf")
    for _ in range(PRODUCTS):
        parts.mark("begin")
        torch.mm(matrix, matrix)
        parts.mark("product")
        best = min(best, parts.milliseconds()["product"])
    return 2 * side**3 / GIGA / (best / MILLISECONDS)


if __name__ == "__main__":
    run_script(main)
