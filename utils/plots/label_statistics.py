"""Plot of the labels of a data set: class counts, positions and sizes of the boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from utils.plots.figure import INK, new_figure, save_figure, style_axes
from utils.plots.images import class_color, one_line

MAX_OVERLAID_BOXES = 1000  # more would be a solid area
MAX_NAMED_CLASSES = 40  # class names that fit below the histogram
MAX_HORIZONTAL_NAMES = 5  # class names that fit next to each other
BINS = 50
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
    _class_histogram(panels[0, 0], boxes[:, 0].astype(int), names)
    _overlaid_boxes(panels[0, 1], boxes)
    _density(panels[1, 0], boxes[:, 1], boxes[:, 2], ("center x", "center y"))
    panels[1, 0].invert_yaxis()
    _density(panels[1, 1], boxes[:, 3], boxes[:, 4], ("width", "height"))
    save_figure(figure, path)


def _class_histogram(axes: Axes, classes: np.ndarray, names: Sequence[str]) -> None:
    counts = np.bincount(classes, minlength=len(names))[: len(names)]
    colors = ["#{2:02x}{1:02x}{0:02x}".format(*class_color(i)) for i in range(len(names))]
    axes.bar(range(len(names)), counts, color=colors)
    style_axes(axes)
    axes.set_ylabel("instances", color=INK)
    if len(names) > MAX_NAMED_CLASSES:
        axes.set_xlabel("class", color=INK)
        return
    axes.set_xticks(range(len(names)), [one_line(name) for name in names])
    for text in axes.get_xticklabels():
        text.set_parse_math(False)
        text.set_rotation(90 if len(names) > MAX_HORIZONTAL_NAMES else 0)


def _overlaid_boxes(axes: Axes, boxes: np.ndarray) -> None:
    """Draw an evenly spaced sample of the boxes around a common center."""
    step = max(1, math.ceil(len(boxes) / MAX_OVERLAID_BOXES))
    patches, colors = [], []
    for label, _, _, width, height in boxes[::step]:
        patches.append(Rectangle((0.5 - width / 2, 0.5 - height / 2), width, height))
        blue, green, red = class_color(int(label))
        colors.append((red / 255, green / 255, blue / 255, 0.35))
    collection = PatchCollection(
        patches, facecolor="none", edgecolor=colors or "none", linewidth=0.8
    )
    axes.add_collection(collection)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[], yticks=[])
    axes.set_xlabel("box sizes relative to the image", color=INK)


def _density(axes: Axes, x: np.ndarray, y: np.ndarray, titles: tuple[str, str]) -> None:
    style_axes(axes)
    if len(x):
        axes.hist2d(
            x,
            y,
            bins=BINS,
            range=[[0, 1], [0, 1]],
            cmap="Blues",
            norm=LogNorm(vmin=DENSITY_VMIN),
            zorder=2,
        )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel(titles[0], color=INK)
    axes.set_ylabel(titles[1], color=INK)
