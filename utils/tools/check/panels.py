"""Plots of a data set's page: classes, sizes, aspect ratios and positions of boxes, image sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from models.anchors import MIN_SIDE
from utils.plots.figure import BLUE, GREEN, INK, ORANGE, QUIET, VERMILION, style_axes
from utils.tools.check.measures import frequent_sizes

if TYPE_CHECKING:
    from utils.tools.check.measures import Measures
    from utils.tools.check.report import DatasetReport

SPLIT_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
LINE_WIDTHS = {"train": 3.0, "val": 1.5, "test": 0.8}  # points
CLASSES_DRAWN = 80
MIN_SLOTS = 8  # for bars, so that a few bars do not fill the whole width
LEVEL_NAMES = 12  # more names than this are rotated by 90 degrees
MAX_NAME_LENGTH = 18  # characters
IMBALANCE = 30  # ratio between classes above which the axis is logarithmic
POINTS_DRAWN = 20_000
MAX_OPAQUE_POINTS = 1500  # number of points up to which points are nearly opaque
PIXELS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
BINS_PER_OCTAVE = 3
MARGIN = 1.2  # factor by which a logarithmic axis exceeds the extremes
SHAPES = {1 / 16: "1:16", 1 / 8: "1:8", 1 / 4: "1:4", 1 / 2: "1:2", 1: "1:1"}
BOX_COUNT_BINS = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257)  # smallest number of boxes of each bar
SIZES_DRAWN = 400
SIZES_NAMED = 3
CELLS = 32  # bins of the histogram of centres, in each direction


def draw_classes(axes: Axes, measures: Sequence[Measures], names: Sequence[str]) -> None:
    """Plot the number of boxes per class, most frequent first; names of empty classes are red."""
    order = np.argsort(-measures[0].per_class, kind="stable")
    more = len(order) - CLASSES_DRAWN
    order = order[:CLASSES_DRAWN]
    width = 0.8 / len(measures)
    for number, one in enumerate(measures):
        places = np.arange(len(order)) - 0.4 + (number + 0.5) * width
        colour = SPLIT_COLOURS[one.split]
        axes.bar(places, one.per_class[order], width, color=colour, label=one.split)
    _style(axes, "Boxes per class" + (f", without {more} rarer ones" if more > 0 else ""))
    counts = np.concatenate([one.per_class[order] for one in measures])
    if counts.any() and counts.max() > IMBALANCE * counts[counts > 0].min():
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda boxes, _: f"{boxes:,.0f}"))
    upright = len(order) > LEVEL_NAMES
    axes.set_xticks(
        np.arange(len(order)),
        [_shortened(names[i]) for i in order],
        rotation=90 if upright else 0,
        fontsize=7 if upright else 9.5,
    )
    for i, label in zip(order, axes.get_xticklabels(), strict=True):
        label.set_color(INK if any(one.per_class[i] for one in measures) else VERMILION)
    axes.set_xlim(-0.7, max(len(order), MIN_SLOTS) - 0.3)
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper right", frameon=False, fontsize=9, labelcolor=INK, ncols=len(measures))


def draw_sides(axes: Axes, report: DatasetReport) -> None:
    """Plot widths and heights of the first split's boxes at the training size, and the anchors."""
    measures = report.measures[0]
    points = measures.sides[:: -(-len(measures.sides) // POINTS_DRAWN) or 1]
    _style(axes, f"Boxes of {measures.split}, and the anchors", "width, px", "height, px")
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=5,
        color=SPLIT_COLOURS[measures.split],
        alpha=float(np.clip(MAX_OPAQUE_POINTS / max(len(points), 1), 0.12, 0.7)),
        linewidths=0,
        rasterized=True,
    )
    axes.plot(*report.anchors.T, "s", mfc="none", mec=INK, mew=1.6, ms=7)
    _pixel_scale(axes, report, "x")
    _pixel_scale(axes, report, "y")


def draw_scales(axes: Axes, report: DatasetReport) -> None:
    """Plot the sizes of boxes at the training size, with the cell size of the finest level."""
    _style(axes, "Size of boxes", "√area, px", "% of boxes")
    edges = np.exp2(np.arange(0, np.log2(PIXELS[-1]) + 0.01, 1 / BINS_PER_OCTAVE))
    for measures in report.measures:
        _outline(axes, measures.scales.clip(edges[0], edges[-1]), edges, measures.split)
    _pixel_scale(axes, report, "x")
    axes.set_ylim(bottom=0)
    top = axes.get_ylim()[1]
    for side, name in ((MIN_SIDE, "2 px"), (report.cell, "cell")):
        axes.text(side * 1.05, top, name, fontsize=8, color=QUIET, va="top")


def _pixel_scale(axes: Axes, report: DatasetReport, direction: Literal["x", "y"]) -> None:
    """Set a logarithmic axis up to the training size or largest anchor; mark the cell and 2 px."""
    across = direction == "x"
    smallest = min((m.sides.min() for m in report.measures if len(m.sides)), default=MIN_SIDE)
    least = max(min(smallest, MIN_SIDE) / MARGIN, PIXELS[0] / 2)
    most = max(report.image_size, float(report.anchors.max())) * MARGIN
    axes.set(**{f"{direction}scale": "log", f"{direction}lim": (least, most)})
    axis = axes.xaxis if across else axes.yaxis
    axis.set_major_locator(FixedLocator([side for side in PIXELS if side <= most]))
    axis.set_major_formatter(FuncFormatter(lambda side, _: f"{side:g}"))
    axis.set_minor_locator(NullLocator())
    for side in (MIN_SIDE, report.cell):
        draw = axes.axvline if across else axes.axhline
        draw(side, color=QUIET, linewidth=1, linestyle="--")


def draw_aspects(axes: Axes, measures: Sequence[Measures]) -> None:
    """Plot the aspect ratios, width over height, of boxes."""
    _style(axes, "Shape of boxes", "width : height", "% of boxes")
    octaves = np.log2(1 / min(SHAPES))
    edges = np.exp2(np.arange(-octaves, octaves + 0.01, 1 / BINS_PER_OCTAVE))
    for one in measures:
        _outline(axes, one.aspects.clip(edges[0], edges[-1]), edges, one.split)
    axes.set_xscale("log", base=2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    wide = {1 / shape: ":".join(reversed(name.split(":"))) for shape, name in SHAPES.items()}
    named = SHAPES | wide
    axes.set_xticks(list(named), list(named.values()))
    axes.xaxis.set_minor_locator(NullLocator())


def draw_boxes_per_image(axes: Axes, measures: Sequence[Measures]) -> None:
    """Plot the share of images by their number of boxes."""
    _style(axes, "Boxes per image", "boxes", "% of images")
    most = max(int(one.per_image.max()) for one in measures)
    starts = [start for start in BOX_COUNT_BINS if start <= most]
    ends = [*(start - 1 for start in starts[1:]), most]
    width = 0.8 / len(measures)
    for number, one in enumerate(measures):
        counts = np.histogram(one.per_image, [*starts, most + 1])[0]
        places = np.arange(len(starts)) - 0.4 + (number + 0.5) * width
        colour = SPLIT_COLOURS[one.split]
        axes.bar(places, 100 * counts / len(one.per_image), width, color=colour)
    names = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    axes.set_xticks(np.arange(len(starts)), names, fontsize=8 if len(names) > MIN_SLOTS else 9)
    axes.set_xlim(-0.7, max(len(starts), MIN_SLOTS) - 0.3)
    axes.grid(visible=False, axis="x")


def draw_image_sizes(axes: Axes, measures: Sequence[Measures]) -> None:
    """Plot image sizes; areas show the numbers of images, the most frequent sizes are labelled."""
    _style(axes, "Size of images", "width, px", "height, px")
    largest = max(int(one.image_sizes.max()) for one in measures)
    for one in measures:
        sizes = np.array(frequent_sizes(one, SIZES_DRAWN))
        areas = 8 + 400 * sizes[:, 2] / len(one.image_sizes)
        colour = SPLIT_COLOURS[one.split]
        axes.scatter(sizes[:, 0], sizes[:, 1], areas, color=colour, alpha=0.45, linewidths=0)
    total, split = len(measures[0].image_sizes), measures[0].split
    for line, (width, height, images) in enumerate(frequent_sizes(measures[0], SIZES_NAMED)):
        axes.text(
            0.03,
            0.96 - 0.09 * line,
            f"{width} × {height}: {images / total:.0%} of {split}",
            transform=axes.transAxes,
            fontsize=8.5,
            color=INK,
            va="top",
        )
    axes.plot([0, largest], [0, largest], color=QUIET, linewidth=0.8, linestyle=":")
    axes.set_xlim(0, largest * 1.12)
    axes.set_ylim(0, largest * 1.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))


def draw_centres(axes: Axes, measures: Measures) -> None:
    """Plot the positions of the centres of the first split's boxes in the image."""
    _style(axes, f"Centres of boxes of {measures.split}", "x / width", "y / height")
    counts, _, _ = np.histogram2d(
        measures.centres[:, 1], measures.centres[:, 0], bins=CELLS, range=((0, 1), (0, 1))
    )
    axes.imshow(counts, cmap="Blues", extent=(0, 1, 1, 0), aspect="auto", interpolation="nearest")
    axes.grid(visible=False)


def _outline(axes: Axes, values: np.ndarray, edges: np.ndarray, split: str) -> None:
    """Plot a histogram in percent as a line with a light fill; later splits have thinner lines."""
    if len(values):
        shares = 100 * np.histogram(values, edges)[0] / len(values)
        colour = SPLIT_COLOURS[split]
        axes.stairs(shares, edges, color=colour, linewidth=LINE_WIDTHS[split])
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.12)


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def _style(axes: Axes, title: str, across: str = "", upward: str = "") -> None:
    style_axes(axes)
    axes.set_title(title, loc="left", fontsize=11, weight="bold", color=INK, pad=8)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.set_ylabel(upward, fontsize=9, color=INK)
