"""The answers of benchmarks/scaling.py: the figures of measured points, in order, by question."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.scaling_points import BATCH, DATA, MODEL, MODEL_BATCH, SIZE, Measured, Point
from benchmarks.timing import MEGABYTE, Spread
from models.cost import gflops
from models.detector import Detector
from models.spec import load_spec

TIMES = {
    "training sample, ms": "making a training sample",
    "indexing anew, ms/image": "indexing anew",
    "indexing from the cache, ms/image": "indexing from the cache",
    "step, ms": "training step",
}
"""Figures that are drawn, and what they are called."""
PEAK, INDEX = "peak memory, MB", "index, bytes/image"


class Look(NamedTuple):
    """What is written around the curves of a question."""

    title: str
    setting: str
    """What the points have in common."""
    axis: str
    """What the positions are, with the unit."""


class Panel(NamedTuple):
    """The answer to one question, point by point."""

    question: str
    """Its name on the command line."""
    look: Look
    positions: Sequence[float]
    """Of the points on the axis, ascending."""
    ticks: Sequence[str]
    """What stands there."""
    times: Mapping[str, Sequence[Spread]]
    """Milliseconds per image, by what takes them; several are drawn on a logarithmic axis."""
    memory: Sequence[Spread]
    """Peak memory of the process, or what was allocated on the GPU; MB."""
    note: str = ""
    """About the memory."""

    @property
    def doubling(self) -> bool:
        """Whether equal distances on the axis are equal ratios; else they are equal costs."""
        return self.question in (BATCH, DATA)


def panels_of(points: Sequence[Point], measured: Measured, args: Namespace) -> list[Panel]:
    """The questions to which there are measured points.

    Args:
        points: that are asked for.
        measured: the figures of some of them.
        args: the command line, for what the points of a question have in common.
    """
    found = []
    for question, look in _looks(args).items():
        own = [p for p in points if p.question == question and p.command in measured]
        if own:
            found.append(panel_of(look, own, measured, args.imgsz))
    return found


def _looks(args: Namespace) -> dict[str, Look]:
    """What is written around the curves, by question."""
    model, sides = Path(args.cfg).stem, f"{args.imgsz} px"
    return {
        SIZE: Look(
            "What does a larger image cost?",
            f"training step of {model}, batches of {args.batch_size}",
            "side of the images, px (spaced by area)",
        ),
        BATCH: Look(
            "What does a larger batch save?",
            f"training step of {model}, {sides}",
            "images of a batch, doubling",
        ),
        MODEL: Look(
            "What does a larger model cost?",
            f"training step, {sides}, batches of {MODEL_BATCH}",
            "model, and GFLOPs of its forward pass for an image",
        ),
        DATA: Look(
            "Does an image cost more in a larger data set?",
            f"images of {Path(args.data).stem}, {sides}, one core",
            "images of the data set",
        ),
    }


def panel_of(look: Look, points: Sequence[Point], measured: Measured, side: int) -> Panel:
    """The curves of one question.

    Args:
        look: what is written around them.
        points: of the question, measured.
        measured: their figures.
        side: of the images for which models are compared, px.
    """
    question = points[0].question
    placed = sorted(((_position(p, side), p) for p in points), key=lambda pair: pair[0])
    result = [measured[point.command] for _, point in placed]
    times = {
        title: [_per_image(f[name], p.images) for f, (_, p) in zip(result, placed, strict=True)]
        for name, title in TIMES.items()
        if name in result[0]
    }
    positions = [position for position, _ in placed]
    memory = [f[PEAK] for f in result]
    ticks = [_tick(point, position) for position, point in placed]
    note = ""
    if question == DATA:
        note = f"index: {result[-1][INDEX].median:,.0f} bytes per image"
        if len(placed) > 1:
            note += f"; peak: {growth(positions, memory):+,.0f} bytes per image"
    return Panel(question, look, positions, ticks, times, memory, note)


def growth(images: Sequence[float], memory: Sequence[Spread]) -> float:
    """Bytes of peak memory for an image more, between the least and the largest of data sets.

    Args:
        images: of the data sets, ascending, at least two.
        memory: peaks, MB.
    """
    return (memory[-1].median - memory[0].median) * MEGABYTE / (images[-1] - images[0])


def _position(point: Point, side: int) -> float:
    """Where a point stands: in proportion to its cost, if the panel begins at 0."""
    if point.question == MODEL:
        with torch.device("meta"):  # only its shape is of interest
            return gflops(Detector(load_spec(Path(str(point.value)))), side)
    return float(point.value) ** 2 if point.question == SIZE else float(point.value)


def _tick(point: Point, position: float) -> str:
    if point.question == MODEL:
        return f"{Path(str(point.value)).stem.removeprefix('yolov5')}\n{position:.3g}"
    return f"{point.value:,}"


def _per_image(spread: Spread, images: int) -> Spread:
    return Spread(*(value / images for value in spread))
