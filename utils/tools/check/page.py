"""A page about a data set: statistics, findings, and plots of its boxes and images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from models.anchors import MIN_SIDE
from utils.plots.figure import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    QUIET,
    VERMILION,
    new_figure,
    save_figure,
    style_axes,
)
from utils.plots.fonts import drawable_names
from utils.tools.check.findings import NOTE, STOP, WARNING
from utils.tools.check.report import DatasetReport, table_rows
from utils.tools.check.splits import Split

WIDTH, HEIGHT = 14.0, 14.6  # inches
LAYOUT = "AAABBB;CCCCCC;DDEEFF;GGHHII"  # a letter per panel, a row of panels up to a semicolon
ROW_HEIGHTS = (4.3, 1.9, 2.5, 2.5)  # relative
TOP = -4.0  # of the first row, in lines of text above the table
TITLES_WIDTH = 0.35  # of the table's first column, as a fraction
TWO = 2  # splits; with more, the cells have a smaller font
LINES = 15  # of the table, and of the findings that are shown
CHARACTERS = 76  # per line of a finding
LEVEL_WIDTH = 0.13  # as a fraction of a line
LEVEL_COLOURS = {STOP: VERMILION, WARNING: ORANGE, NOTE: QUIET}
SPLIT_COLOURS = {"train": BLUE, "val": ORANGE, "test": GREEN}
LINE_WIDTHS = {"train": 3.0, "val": 1.5, "test": 0.8}  # points
CLASSES_DRAWN = 80
MIN_SLOTS = 8  # for bars, so that a few bars do not fill the whole width
LEVEL_NAMES = 12  # more names than this are rotated by 90 degrees
MAX_NAME_LENGTH = 18  # characters
IMBALANCE = 30  # ratio between classes above which the axis is logarithmic
POINTS_DRAWN = 20_000
MAX_OPAQUE_POINTS = 1500  # number of points up to which points are nearly opaque
LEAST_SIDE = 0.5  # px, where the axes begin at the latest
SCALE_OCTAVES, ASPECT_OCTAVES = (0, 12), (-4, 4)  # 1 to 4096 px; width over height 1:16 to 16:1
BINS_PER_OCTAVE = 3
MARGIN = 1.2  # factor by which a logarithmic axis exceeds the extremes
BOX_COUNT_BINS = (0, 1, 2, 3, 5, 9, 17, 33, 65, 129, 257)  # smallest number of boxes of each bar
SIZES_DRAWN = 400
SIZES_NAMED = 3
CELLS = 32  # bins of the histogram of centres, in each direction


def save_dataset_page(report: DatasetReport, path: Path) -> None:
    """Save the page of a data set with at least one readable split.

    Args:
        report: the checked data set.
        path: the image file to write.
    """
    figure = new_figure(WIDTH, HEIGHT)
    figure.set_layout_engine("constrained", w_pad=0.2, h_pad=0.15)
    panels = figure.subplot_mosaic(LAYOUT, height_ratios=ROW_HEIGHTS)
    table, findings, classes, sides, scales, aspects, per_image, sizes, centres = panels.values()
    for text in (table, findings):
        text.set_axis_off()
        text.set(xlim=(0, 1), ylim=(LINES - 0.5, TOP))
    _write_title(table, report)
    _write_table(table, report)
    _write_findings(findings, report)
    draw_classes(classes, report.splits, drawable_names(report.data.names))
    draw_sides(sides, report)
    draw_scales(scales, report)
    draw_aspects(aspects, report.splits)
    draw_boxes_per_image(per_image, report.splits)
    draw_image_sizes(sizes, report.splits)
    draw_centres(centres, report.splits[0])
    save_figure(figure, path)


def _write_title(axes: Axes, report: DatasetReport) -> None:
    """Write the name of the data set, the verdict, and the path of the data set."""
    title = f"{report.data.root.name} at {report.image_size} px"
    axes.text(0, TOP, title, size=17, weight="bold", color=INK, va="top", parse_math=False)
    colour = GREEN if report.can_start else VERMILION
    axes.text(0, TOP + 1.7, report.verdict, size=11, weight="bold", color=colour, va="center")
    place = str(report.data.root)
    axes.text(0, TOP + 2.6, place, fontsize=9, color=QUIET, va="center", parse_math=False)


def _write_table(axes: Axes, report: DatasetReport) -> None:
    """Write the table, with a header in the colours of the splits."""
    header, *rows = table_rows(report)
    ends = np.linspace(TITLES_WIDTH, 1, len(header))[1:]  # of the columns of the splits
    size = 9.5 if len(ends) <= TWO else 7.5
    for end, name in zip(ends, header[1:], strict=True):
        colour = SPLIT_COLOURS[name]
        axes.text(end, 0, name, size=size, weight="bold", color=colour, ha="right", va="center")
    for line, (title, *cells) in enumerate(rows, start=1):
        axes.text(0, line, title, size=9.5, color=INK, va="center")
        for end, cell in zip(ends, cells, strict=True):
            axes.text(end, line, cell, size=size, color=INK, ha="right", va="center")


def _write_findings(axes: Axes, report: DatasetReport) -> None:
    """Write the findings, most severe first; the files are listed in the JSON file."""
    lines = []
    for finding in report.findings:
        first, *others = textwrap.wrap(finding.sentence, CHARACTERS)
        lines += [(finding.level, first), *(("", other) for other in others)]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], ("", "… and more in the JSON file")]
    for line, (level, text) in enumerate(lines or [("", "No findings.")]):
        colour = LEVEL_COLOURS.get(level, INK)
        axes.text(0, line, level, size=9.5, weight="bold", color=colour, va="center")
        axes.text(LEVEL_WIDTH, line, text, size=9.5, color=INK, va="center", parse_math=False)


def draw_classes(axes: Axes, splits: Sequence[Split], names: Sequence[str]) -> None:
    """Plot the number of boxes per class, most frequent first; names of empty classes are red."""
    order = np.argsort(-splits[0].per_class, kind="stable")
    more = len(order) - CLASSES_DRAWN
    order = order[:CLASSES_DRAWN]
    _style(axes, "Boxes per class" + (f", without {more} rarer ones" if more > 0 else ""))
    counts = np.stack([split.per_class[order] for split in splits])  # [splits, classes]
    _draw_bars(axes, splits, list(counts), [_shortened(names[i]) for i in order])
    if counts.any() and counts.max() > IMBALANCE * counts[counts > 0].min():
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    if len(order) > LEVEL_NAMES:
        axes.tick_params("x", rotation=90, labelsize=7)
    for label, boxes in zip(axes.get_xticklabels(), counts.sum(axis=0), strict=True):
        label.set_color(INK if boxes else VERMILION)
    axes.legend(loc="upper right", frameon=False, fontsize=9, labelcolor=INK, ncols=len(splits))


def draw_boxes_per_image(axes: Axes, splits: Sequence[Split]) -> None:
    """Plot the share of images by their number of boxes."""
    _style(axes, "Boxes per image", "boxes", "% of images")
    most = max(int(split.per_image.max()) for split in splits)
    starts = [start for start in BOX_COUNT_BINS if start <= most]
    ends = [*(start - 1 for start in starts[1:]), most]
    shares = [
        100 * np.histogram(split.per_image, [*starts, most + 1])[0] / len(split.per_image)
        for split in splits
    ]
    names = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    _draw_bars(axes, splits, shares, names)


def _draw_bars(
    axes: Axes, splits: Sequence[Split], heights: Sequence[np.ndarray], names: Sequence[str]
) -> None:
    """Plot one group of bars per name, with one bar per split."""
    width = 0.8 / len(splits)
    places = np.arange(len(names))
    for number, (split, height) in enumerate(zip(splits, heights, strict=True)):
        start = places - 0.4 + number * width
        colour = SPLIT_COLOURS[split.name]
        axes.bar(start, height, width, align="edge", color=colour, label=split.name)
    axes.set_xticks(places, names, parse_math=False)
    axes.set_xlim(-0.7, max(len(names), MIN_SLOTS) - 0.3)
    axes.grid(visible=False, axis="x")


def draw_sides(axes: Axes, report: DatasetReport) -> None:
    """Plot widths and heights of the first split's boxes at the training size, and the anchors."""
    split = report.splits[0]
    points = split.sides[:: -(-len(split.sides) // POINTS_DRAWN) or 1]
    _style(axes, f"Boxes of {split.name}, and the anchors", "width, px", "height, px")
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=5,
        color=SPLIT_COLOURS[split.name],
        alpha=float(np.clip(MAX_OPAQUE_POINTS / max(len(points), 1), 0.12, 0.7)),
        linewidths=0,
    )
    axes.plot(*report.grid.anchors.T, "s", mfc="none", mec=INK, mew=1.6, ms=7)
    _pixel_scale(axes, report, "x")
    _pixel_scale(axes, report, "y")


def draw_scales(axes: Axes, report: DatasetReport) -> None:
    """Plot the sizes of boxes at the training size, with the cell size of the finest level."""
    _style(axes, "Size of boxes", "√area, px", "% of boxes")
    _outline(axes, {split.name: split.scales for split in report.splits}, *SCALE_OCTAVES)
    _pixel_scale(axes, report, "x")
    top = axes.get_ylim()[1]
    for side, name in ((MIN_SIDE, "2 px"), (report.grid.cell, "cell")):
        axes.text(side * 1.05, top, name, fontsize=8, color=QUIET, va="top")


def _pixel_scale(axes: Axes, report: DatasetReport, direction: Literal["x", "y"]) -> None:
    """Set a logarithmic axis up to the training size or largest anchor; mark the cell and 2 px."""
    smallest = min(split.sides.min(initial=MIN_SIDE) for split in report.splits)
    least = max(smallest / MARGIN, LEAST_SIDE)
    most = max(report.image_size, report.grid.anchors.max()) * MARGIN
    across = direction == "x"
    axis, set_scale = (axes.xaxis, axes.set_xscale) if across else (axes.yaxis, axes.set_yscale)
    set_scale("log", base=2)
    axis.set_major_formatter("{x:g}")
    axes.set(**{f"{direction}lim": (least, most)})
    draw_line = axes.axvline if across else axes.axhline
    for side in (MIN_SIDE, report.grid.cell):
        draw_line(side, color=QUIET, linewidth=1, linestyle="--")


def draw_aspects(axes: Axes, splits: Sequence[Split]) -> None:
    """Plot the aspect ratios, width over height, of boxes."""
    _style(axes, "Shape of boxes", "width : height", "% of boxes")
    _outline(axes, {split.name: split.aspects for split in splits}, *ASPECT_OCTAVES)
    octaves = range(ASPECT_OCTAVES[0], ASPECT_OCTAVES[1] + 1)
    names = [f"{2 ** max(octave, 0)}:{2 ** max(-octave, 0)}" for octave in octaves]
    axes.set_xticks(np.exp2(octaves), names)


def draw_image_sizes(axes: Axes, splits: Sequence[Split]) -> None:
    """Plot image sizes; areas show the numbers of images, the most frequent sizes are labelled."""
    _style(axes, "Size of images", "width, px", "height, px")
    largest = max(int(split.image_sizes.max()) for split in splits)
    for split in splits:
        widths, heights, images = np.transpose(split.frequent_sizes(SIZES_DRAWN))
        areas = 8 + 400 * images / len(split.index)
        colour = SPLIT_COLOURS[split.name]
        axes.scatter(widths, heights, areas, color=colour, alpha=0.45, linewidths=0)
    lines = [
        f"{width} × {height}: {images / len(splits[0].index):.0%} of {splits[0].name}"
        for width, height, images in splits[0].frequent_sizes(SIZES_NAMED)
    ]
    corner = axes.annotate("\n".join(lines), (0.03, 0.96), xycoords="axes fraction", va="top")
    corner.set(fontsize=8.5, color=INK, linespacing=1.6)
    axes.plot([0, largest], [0, largest], color=QUIET, linewidth=0.8, linestyle=":")
    axes.set(xlim=(0, largest * 1.12), ylim=(0, largest * 1.12))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def draw_centres(axes: Axes, split: Split) -> None:
    """Plot the positions of the centres of a split's boxes in the image."""
    _style(axes, f"Centres of boxes of {split.name}", "x / width", "y / height")
    x, y = split.centres.T
    axes.hist2d(x, y, bins=CELLS, range=((0, 1), (0, 1)), cmap="Blues")
    axes.invert_yaxis()
    axes.grid(visible=False)


def _outline(axes: Axes, values: Mapping[str, np.ndarray], first: int, last: int) -> None:
    """Plot histograms by split in percent, from 2 ** `first` to 2 ** `last` on a logarithmic axis.

    Each is a line with a light fill; later splits have thinner lines. Values beyond the axis are
    counted in the first or the last bin.
    """
    edges = np.exp2(np.linspace(first, last, (last - first) * BINS_PER_OCTAVE + 1))
    for split, found in values.items():
        if len(found):
            counts, _ = np.histogram(found.clip(edges[0], edges[-1]), edges)
            shares, colour = 100 * counts / len(found), SPLIT_COLOURS[split]
            axes.stairs(shares, edges, color=colour, linewidth=LINE_WIDTHS[split])
            axes.stairs(shares, edges, color=colour, fill=True, alpha=0.12)
    axes.set_xscale("log", base=2)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def _style(axes: Axes, title: str, across: str = "", upward: str = "") -> None:
    style_axes(axes)
    axes.set_title(title, loc="left", fontsize=11, weight="bold", color=INK, pad=8)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.set_ylabel(upward, fontsize=9, color=INK)
