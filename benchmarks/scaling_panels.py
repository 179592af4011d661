"""The panels of benchmarks/scaling.py: the results of measured points, in order, by question."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.scaling_points import BATCH, DATA, MODEL, MODEL_BATCH, SIZE, Point, PointResults
from benchmarks.timing import MEGABYTE, Spread
from models.cost import gflops
from models.detector import Detector
from models.spec import load_spec

TIME_LABELS = {
    "training sample, ms": "making a training sample",
    "indexing from scratch, ms/image": "indexing from scratch",
    "indexing from the cache, ms/image": "indexing from the cache",
    "step, ms": "training step",
}
"""Label of each metric that is plotted."""
PEAK_MEMORY_KEY, INDEX_SIZE_KEY = "peak memory, MB", "index, bytes/image"


class PanelText(NamedTuple):
    """The text of a panel."""

    title: str
    setting: str
    """What the points have in common, as a subtitle."""
    axis: str
    """Label of the x axis, with the unit."""


class Panel(NamedTuple):
    """The data of one panel, which answers one question."""

    question: str
    """One of `QUESTIONS`."""
    text: PanelText
    positions: Sequence[float]
    """x positions of the points, ascending."""
    ticks: Sequence[str]
    """Tick labels of the points."""
    times: Mapping[str, Sequence[Spread]]
    """Milliseconds per image, by curve; several curves share a logarithmic axis."""
    memory: Sequence[Spread]
    """Peak memory of the process, or peak allocation on the GPU; MB."""
    note: str = ""
    """A remark in the plot of memory."""

    @property
    def log_scale(self) -> bool:
        """Whether the x axis is logarithmic; otherwise it is linear in the expected cost."""
        return self.question in (BATCH, DATA)


def build_panels(points: Sequence[Point], measured: PointResults, args: Namespace) -> list[Panel]:
    """Return the panels of the questions with measured points.

    Args:
        points: the requested points.
        measured: results of some of them.
        args: the command line, for the text of the panels.
    """
    panels = []
    for question, text in _panel_texts(args).items():
        own = [p for p in points if p.question == question and p.command in measured]
        if own:
            panels.append(build_panel(text, own, measured, args.imgsz))
    return panels


def _panel_texts(args: Namespace) -> dict[str, PanelText]:
    """Return the text of the panels, by question."""
    model, sides = Path(args.cfg).stem, f"{args.imgsz} px"
    return {
        SIZE: PanelText(
            "What does a larger image cost?",
            f"training step of {model}, batches of {args.batch_size}",
            "side of the images, px (spaced by area)",
        ),
        BATCH: PanelText(
            "What does a larger batch save?",
            f"training step of {model}, {sides}",
            "images per batch",
        ),
        MODEL: PanelText(
            "What does a larger model cost?",
            f"training step, {sides}, batches of {MODEL_BATCH}",
            "model, and GFLOPs of its forward pass per image",
        ),
        DATA: PanelText(
            "Does an image cost more in a larger data set?",
            f"images of {Path(args.data).stem}, {sides}, one core",
            "images in the data set",
        ),
    }


def build_panel(
    text: PanelText, points: Sequence[Point], measured: PointResults, side: int
) -> Panel:
    """Return the panel of one question.

    Args:
        text: text of the panel.
        points: the measured points of the question.
        measured: their results.
        side: side of the images for which models are compared, px.
    """
    question = points[0].question
    placed = sorted(((_position(p, side), p) for p in points), key=lambda pair: pair[0])
    result = [measured[point.command] for _, point in placed]
    times = {
        title: [_per_image(f[name], p.images) for f, (_, p) in zip(result, placed, strict=True)]
        for name, title in TIME_LABELS.items()
        if name in result[0]
    }
    positions = [position for position, _ in placed]
    memory = [f[PEAK_MEMORY_KEY] for f in result]
    ticks = [_tick(point, position) for position, point in placed]
    note = ""
    if question == DATA:
        note = f"index: {result[-1][INDEX_SIZE_KEY].median:,.0f} bytes per image"
        if len(placed) > 1:
            note += f"; peak: {memory_growth(positions, memory):+,.0f} bytes per image"
    return Panel(question, text, positions, ticks, times, memory, note)


def memory_growth(images: Sequence[float], memory: Sequence[Spread]) -> float:
    """Return bytes of peak memory per additional image, from the smallest to the largest data set.

    Args:
        images: number of images of each data set, ascending, at least two.
        memory: peak memory of each, MB.
    """
    return (memory[-1].median - memory[0].median) * MEGABYTE / (images[-1] - images[0])


def _position(point: Point, side: int) -> float:
    """Return the x position of a point: proportional to its expected cost on a linear axis."""
    if point.question == MODEL:
        with torch.device("meta"):  # only the shapes of its weights are needed
            return gflops(Detector(load_spec(Path(str(point.value)))), side)
    return float(point.value) ** 2 if point.question == SIZE else float(point.value)


def _tick(point: Point, position: float) -> str:
    if point.question == MODEL:
        return f"{Path(str(point.value)).stem.removeprefix('yolov5')}\n{position:.3g}"
    return f"{point.value:,}"


def _per_image(spread: Spread, images: int) -> Spread:
    return Spread(*(value / images for value in spread))
