"""Measures each part of a training step, and the GFLOP/s compared with the machine's peak.

Usage: python benchmarks/step.py --batch-size 8 --imgsz 640 --against='--amp bf16'
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import add_common_options, compare
from benchmarks.timing import MILLISECONDS, Measure, Measurements, PartTimes, PeakMemory
from utils.options.script import OptionParser, run_script
from utils.solver.optimizers import OPTIMIZERS

# Slow modules are imported inside the functions that use them: --help must be fast.
if TYPE_CHECKING:
    import torch

    from models.assigner import ShapeRatioAssigner
    from models.detector import Detector
    from models.loss import DetectionLoss, DetectionLosses
    from utils.datasets.dataset import Batch
    from utils.runtime.device import Precision
    from utils.runtime.distributed import Distributed
    from utils.training.batch_norm import BatchNormStats
    from utils.training.engine import TrainContext
    from utils.training.state import TrainingState

MATRIX_SIDES = {"cpu": 2048, "cuda": 8192, "mps": 4096}
"""Side of the square matrices, by device type: large enough to reach peak speed."""
MATMUL_REPEATS = 5
BOX_SIDES = 0.05, 0.5  # minimum and maximum, relative to the image
GIGA = 1e9


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options."""
    parser = OptionParser(
        prog="python benchmarks/step.py",
        description="Measure the parts of `train_step` on random images, in milliseconds.",
    )
    add = parser.add_argument
    add("--cfg", default="yolov5n.yaml", help="model file (default: yolov5n.yaml)")
    add("--imgsz", type=int, default=640, help="image size in pixels (default: 640)")
    add("--batch-size", type=int, default=8, help="batch size (default: 8)")
    add("--boxes", type=int, default=16, help="boxes per image (default: 16)")
    add("--optimizer", choices=OPTIMIZERS, default="SGD", help="optimizer (default: SGD)")
    add(
        "--amp",
        choices=("auto", "off", "bf16", "fp16"),
        default="off",
        help="precision, as for train.py (default: off)",
    )
    add(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="channels-last memory format for weights and images (default: on)",
    )
    add("--compile", action="store_true", help="compile the model with torch.compile")
    add("--device", default="", help="device, as for train.py (default: first GPU, else cpu)")
    add(
        "--matrix",
        type=int,
        help="side of the matrices whose product gives the peak (default: by device)",
    )
    add("--steps", type=int, default=2, help="steps per round (default: 2)")
    add_common_options(parser, rounds=5, against="--amp bf16")
    return parser


def main() -> None:
    """Measure the variants of the command line."""
    compare(build_parser(), prepare)


def prepare(args: argparse.Namespace) -> Measure:
    """Build the training state of a variant; a round is `--steps` training steps.

    Raises:
        UserError: an option is invalid.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from utils.training.engine import train_step

    training = build_training(args)
    state, context, parts = training.state, training.context, training.parts
    batch = random_batch(args.batch_size, args.imgsz, args.boxes, state.model.classes)
    side = args.matrix or MATRIX_SIDES[context.device.type]
    with FlopCounterMode(display=False) as counter:
        train_step(state, context, batch, last=True)
    flops = counter.get_total_flops()
    if args.compile:
        training.model.compile()

    def measure() -> Measurements:
        peak = matmul_peak(context.precision, context.device, side)
        parts.milliseconds()  # discards the marks of earlier steps
        memory = PeakMemory(context.device)
        parts.mark("begin")
        for _ in range(args.steps):
            train_step(state, context, batch, last=True)
            parts.mark("outcome")
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


class InstrumentedTraining(NamedTuple):
    """Arguments of `train_step` that set a mark after each of its parts."""

    state: TrainingState
    context: TrainContext
    model: Detector
    """The model itself, without marks."""
    parts: PartTimes


def build_training(args: argparse.Namespace) -> InstrumentedTraining:
    """Build state and context as train.py does, for a run with an optimizer step per batch.

    Raises:
        UserError: an option is invalid.
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
    from utils.runtime.signals import SignalHandler
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
        raise UserError(
            f"--imgsz {args.imgsz}: must be a multiple of the stride {model.max_stride}."
        )
    plan = plan_of(run, batches_per_epoch=1000)
    state = build_state(run, model.train(), plan, precision, SINGLE_PROCESS)
    loss = build_loss(model, run.hyp, image_size=args.imgsz, label_smoothing=0.0)
    context = build_context(run.options, model, plan, loss, precision, SignalHandler())
    parts = PartTimes(device)
    return InstrumentedTraining(*add_marks(state, context, parts, memory_format), model, parts)


def add_marks(
    state: TrainingState,
    context: TrainContext,
    parts: PartTimes,
    memory_format: torch.memory_format,
) -> tuple[TrainingState, TrainContext]:
    """Return a state and a context with which `train_step` marks the end of each part.

    Args:
        state: state of the run; hooks are registered on its optimizer in place.
        context: context of the run.
        parts: receives the marks.
        memory_format: memory format to convert the images to.
    """
    compute_loss = copy.copy(context.loss)
    assign = compute_loss.assigner

    def marked_assigner(*args: object) -> object:
        parts.mark("loss")  # what it did before, if anything
        assignments = cast("Callable[..., object]", assign)(*args)
        parts.mark("assignment")
        return assignments

    compute_loss.assigner = cast("ShapeRatioAssigner", marked_assigner)

    def loss(*args: object, **kwargs: object) -> DetectionLosses:
        losses = cast("Callable[..., DetectionLosses]", compute_loss)(*args, **kwargs)
        parts.mark("loss")
        return losses

    state.optimizer.register_step_pre_hook(lambda *_: parts.mark("gradient norm"))
    state.optimizer.register_step_post_hook(lambda *_: parts.mark("optimizer"))
    model: Any = InstrumentedModel(state.model, parts, memory_format)
    statistics: Any = InstrumentedBatchNormStats(context.statistics, parts)
    marked = dataclasses.replace(state, model=model)
    settle = marked.settle

    def marked_settle(*args: object) -> None:
        cast("Callable[..., None]", settle)(*args)
        parts.mark("EMA")

    marked.settle = marked_settle  # type: ignore[assignment, method-assign] # of this object only
    return (
        marked,
        dataclasses.replace(context, loss=cast("DetectionLoss", loss), statistics=statistics),
    )


class InstrumentedModel:
    """Wraps a model: marks the start and the end of its forward pass, delegates all else."""

    def __init__(
        self, model: Detector, parts: PartTimes, memory_format: torch.memory_format
    ) -> None:
        self._model = model
        self._parts = parts
        self._memory_format = memory_format

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Run `Detector.forward`."""
        images = images.contiguous(memory_format=self._memory_format)
        self._parts.mark("to device")
        raw: list[torch.Tensor] = self._model(images)
        self._parts.mark("forward")
        return raw


class InstrumentedBatchNormStats:
    """Wraps `BatchNormStats`: `average`, called right after the backward pass, marks its end."""

    def __init__(self, statistics: BatchNormStats, parts: PartTimes) -> None:
        self._statistics = statistics
        self._parts = parts

    def __getattr__(self, name: str) -> object:
        return getattr(self._statistics, name)

    def average(self, distributed: Distributed) -> None:
        """Run `BatchNormStats.average`."""
        self._parts.mark("backward")
        self._statistics.average(distributed)


def random_batch(images: int, size: int, boxes: int, classes: int) -> Batch:
    """Return a batch of noise images with random boxes.

    Args:
        images: number of images.
        size: side of the images, px.
        boxes: number of boxes per image.
        classes: number of classes.
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
    """Return the GFLOP/s of the fastest of `MATMUL_REPEATS` square matrix products.

    Args:
        precision: precision of the training step; gives the dtype.
        device: where to compute.
        side: side of the matrices.
    """
    import torch

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    matrix = torch.rand(side, side, device=device).to(dtypes[precision.name])
    parts = PartTimes(device)
    best = float("inf")
    for _ in range(MATMUL_REPEATS):
        parts.mark("begin")
        torch.mm(matrix, matrix)
        parts.mark("product")
        best = min(best, parts.milliseconds()["product"])
    return 2 * side**3 / GIGA / (best / MILLISECONDS)


if __name__ == "__main__":
    run_script(main)
