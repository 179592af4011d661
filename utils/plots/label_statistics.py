"""Plots of the labels of a data set: class counts, positions and sizes of the boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from utils.plots.figure import BLUE, label_axes, new_figure, save_figure, style_axes
from utils.plots.fonts import drawable_names
from utils.plots.images import class_color, one_line

MAX_OVERLAID_BOXES = 1000  # more would be a solid area
MAX_NAMED_CLASSES = 40  # class names that fit below the histogram
MAX_HORIZONTAL_NAMES = 5  # class names that fit next to each other
COORDINATES = ("center x", "center y", "width", "height")
BINS = {"bins": 50, "binrange": (0, 1)}
MAX_COUNTED_BOXES = 100_000  # more take seconds and 200 MB, and look the same
DENSITY_VMIN = 0.3  # count drawn in white: a single box must be visible


def save_labels_plot(boxes: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Plot the labels of a data set: class counts, positions and sizes of the boxes.

    Args:
        boxes: [n, 5] class, center x, center y, width, height; normalized to the image size.
        names: class names by index.
        path: output file.
    """
    figure = new_figure(10.0, 10.0)
    figure.set_layout_engine("tight")
    panels = figure.subplots(2, 2)
    _class_histogram(panels[0, 0], boxes[:, 0].astype(int), drawable_names(names))
    _overlaid_boxes(panels[0, 1], boxes)
    sample = _evenly(boxes, MAX_COUNTED_BOXES)
    _density(panels[1, 0], sample, 0, 1)
    panels[1, 0].invert_yaxis()
    _density(panels[1, 1], sample, 2, 3)
    save_figure(figure, path)


def save_labels_correlogram(boxes: np.ndarray, path: Path) -> None:
    """Plot the distribution of each box coordinate, and of each pair of them.

    Args:
        boxes: [n, 5] class, center x, center y, width, height; normalized to the image size.
        path: output file.
    """
    sample = _evenly(boxes, MAX_COUNTED_BOXES)
    figure = new_figure(10.0, 10.0)
    figure.set_layout_engine("tight")
    panels = figure.subplots(len(COORDINATES), len(COORDINATES))
    for (y, x), axes in np.ndenumerate(panels):
        if x < y:
            _density(axes, sample, x, y)
        elif x == y:
            sns.histplot(x=sample[:, 1 + x], **BINS, color=BLUE, linewidth=0, ax=axes)
            style_axes(axes, x=COORDINATES[x], y="boxes")
            axes.set_xlim(0, 1)
        else:
            axes.set_axis_off()
    save_figure(figure, path)


def _evenly(boxes: np.ndarray, most: int) -> np.ndarray:
    """Return at most this number of boxes, evenly spaced."""
    return boxes[:: math.ceil(len(boxes) / most) or 1]


def _class_histogram(axes: Axes, classes: np.ndarray, names: Sequence[str]) -> None:
    numbers = range(len(names))
    counts = np.bincount(classes, minlength=len(names))[: len(names)]
    sns.histplot(x=numbers, weights=counts, discrete=True, shrink=0.8, linewidth=0, ax=axes)
    for index, bar in enumerate(axes.patches):
        bar.set(facecolor=_rgb(index), alpha=1)
    named = len(names) <= MAX_NAMED_CLASSES
    style_axes(axes, x="" if named else "class", y="instances")
    if named:
        rotation = 90 if len(names) > MAX_HORIZONTAL_NAMES else 0
        shown = [one_line(name) for name in names]
        axes.set_xticks(numbers, shown, rotation=rotation, parse_math=False)


def _rgb(index: int) -> tuple[float, float, float]:
    """Return the color of a class as matplotlib needs it."""
    blue, green, red = class_color(index)
    return red / 255, green / 255, blue / 255


def _overlaid_boxes(axes: Axes, boxes: np.ndarray) -> None:
    """Draw a sample of the boxes around a common center."""
    sample = _evenly(boxes, MAX_OVERLAID_BOXES)
    patches = [Rectangle((0.5 - w / 2, 0.5 - h / 2), w, h) for w, h in sample[:, 3:]]
    colors = [(*_rgb(int(label)), 0.35) for label in sample[:, 0]]
    collection = PatchCollection(
        patches, facecolor="none", edgecolor=colors or "none", linewidth=0.8
    )
    axes.add_collection(collection)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
    label_axes(axes, x="box sizes relative to the image")


def _density(axes: Axes, boxes: np.ndarray, x: int, y: int) -> None:
    """Draw the distribution of two of the `COORDINATES` on a logarithmic color scale."""
    if len(boxes):
        norm = LogNorm(vmin=DENSITY_VMIN)
        across, upward = boxes[:, 1 + x], boxes[:, 1 + y]
        sns.histplot(
            x=across, y=upward, **BINS, cmap="Blues", norm=norm, vmin=None, vmax=None, ax=axes
        )
    style_axes(axes, x=COORDINATES[x], y=COORDINATES[y])
    axes.set(xlim=(0, 1), ylim=(0, 1))
