"""Common layout of plots over an epoch axis: title, panels with flags, legend, bottom margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from utils.plots.figure import INK, QUIET, Style, new_figure, style_axes, text_width
from utils.plots.flags import draw_flags, place_flags, rows_height

# Inches.
WIDTH, LEFT, RIGHT = 12.0, 1.1, 0.3
PANEL_WIDTH = WIDTH - LEFT - RIGHT
AXIS_LABEL_OFFSET = 0.8  # left of the panels, beyond tick labels with five decimals
AXIS_MARGIN = 0.75  # below the panels, for tick labels and label of the epoch axis
TITLE, GAP = 0.7, 0.25
METRICS, RATES = 3.1, 2.7  # heights of panels
TABLE_LINE = 0.26  # line height of the table
EXTRA_LINES = 1.5  # the header of the table, and the margin below it
SAMPLE, NAME = 0.4, 0.55  # length of the line sample, and left edge of the first column
COLUMN_GAP = 0.35
TABLE_FONT = 9.0  # points
BOLD_WIDTH = 1.12  # of bold text, as a factor
TINTS = ("#f4f6f9", "#fdf4e7")
HEADROOM = 1.08
LOG_MARGIN = 1.5
MARKER_BUDGET = 600.0  # points of marker width for all epochs together
MARKER_SIZE_LIMITS = (1.8, 5.0)  # points
EPOCH_STEPS = (1, 2, 5, 10)  # ticks at round numbers, like most planned totals


class Panel(NamedTuple):
    """A panel of the layout."""

    label: str
    """Label of the y axis; may be set later."""
    height: float
    """In inches."""
    marks: Sequence[tuple[int, str]] = ()
    """Epochs of the seams, ascending, and the labels of their flags."""


def stack_panels(
    panels: Sequence[Panel], epochs: int, bottom_margin: float
) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels stacked over one epoch axis, and the panels.

    Args:
        panels: From top to bottom.
        epochs: Number of epochs on the axis.
        bottom_margin: Space below the panels in inches, for tick labels and legend.
    """
    flags = [
        place_flags([(epoch / epochs, text) for epoch, text in panel.marks], PANEL_WIDTH)
        for panel in panels
    ]
    spaces = [rows_height(row) + (GAP if number else 0) for number, row in enumerate(flags)]
    heights = [panel.height for panel in panels]
    height = TITLE + sum(spaces) + sum(heights) + bottom_margin
    figure = new_figure(WIDTH, height)
    grid = figure.add_gridspec(
        2 * len(panels),
        height_ratios=np.column_stack([spaces, heights]).ravel(),
        hspace=0,
        left=LEFT / WIDTH,
        right=1 - RIGHT / WIDTH,
        top=1 - TITLE / height,
        bottom=bottom_margin / height,
    )
    stacked: list[Axes] = []
    for number, panel in enumerate(panels):
        place = grid[2 * number + 1]
        axes = figure.add_subplot(place, sharex=stacked[0] if stacked else None)
        style_axes(axes, y=panel.label)
        axes.yaxis.set_label_coords(-AXIS_LABEL_OFFSET / PANEL_WIDTH, 0.5)
        axes.tick_params(labelbottom=False)
        draw_flags(axes, flags[number], pole_top=spaces[number] if number else None)
        stacked.append(axes)
    lowest = stacked[-1]
    lowest.set_xlabel("epoch")
    lowest.tick_params(labelbottom=True)
    lowest.set_xlim(-0.5, epochs - 0.5)
    lowest.xaxis.set_major_locator(
        MaxNLocator(nbins=12, steps=EPOCH_STEPS, integer=True, min_n_ticks=1)
    )
    return figure, stacked


def write_title(figure: Figure, title: str, subtitle: str = "") -> float:
    """Write the title at the upper left and the subtitle at the upper right.

    Returns:
        The vertical position of the title, as a fraction of the figure's height.
    """
    y = 1 - TITLE / 2 / figure.get_figheight()
    left, right = LEFT / WIDTH, 1 - RIGHT / WIDTH
    figure.text(left, y, title, fontsize=15, weight="bold", color=INK, va="center")
    if subtitle:
        figure.text(right, y, subtitle, fontsize=10, color=QUIET, va="center", ha="right")
    return y


def tint_segments(panels: Sequence[Axes], edges: Sequence[int]) -> None:
    """Tint the segments between consecutive edges (epochs) with alternating colors."""
    for number, (start, end) in enumerate(pairwise(edges)):
        for axes in panels:
            axes.axvspan(start - 0.5, end - 0.5, color=TINTS[number % len(TINTS)], lw=0, zorder=0)


def marker_size(epochs: int) -> float:
    """Return the size of the markers of a curve with one marker per epoch, in points."""
    return float(np.clip(MARKER_BUDGET / max(epochs, 1), *MARKER_SIZE_LIMITS))


def write_table(
    figure: Figure,
    columns: Mapping[str, Sequence[str]],
    styles: Sequence[Style],
    *,
    left_aligned: Sequence[str],
    bold: Sequence[int] = (),
) -> None:
    """Write a table below the panels, as a legend: each row begins with a sample of its line.

    Args:
        figure: Figure of `stack_panels`, with `table_height` below the epoch axis.
        columns: The cells of each column by its heading.
        styles: Line style of each row.
        left_aligned: Headings of the columns of text; the others are right-aligned, like numbers.
        bold: Rows to emphasize.
    """
    rows = len(styles)
    height = table_height(rows) / figure.get_figheight()
    axes = figure.add_axes((LEFT / WIDTH, 0, PANEL_WIDTH / WIDTH, height))
    axes.set_axis_off()
    axes.set(xlim=(0, PANEL_WIDTH), ylim=(rows + EXTRA_LINES - 0.5, -0.5))  # inches, lines
    left = NAME
    for heading, column in columns.items():
        cells = [heading, *column]
        width = BOLD_WIDTH * max(text_width(cell, TABLE_FONT) for cell in cells)
        is_left = heading in left_aligned
        look: Style = {"ha": "left" if is_left else "right", "va": "center", "size": TABLE_FONT}
        for line, cell in enumerate(cells):
            look |= {"color": INK if line else QUIET, "weight": 700 if line - 1 in bold else 400}
            axes.text(left if is_left else left + width, line, cell, **look)
        left += width + COLUMN_GAP
    for line, style in enumerate(styles, start=1):
        axes.plot([0, SAMPLE / 2, SAMPLE], [line] * 3, **style | {"markevery": [1]})


def table_height(rows: int) -> float:
    """Return the height of a table with a header and this number of rows, in inches."""
    return TABLE_LINE * (rows + EXTRA_LINES)


def scale_rate_axis(
    axes: Axes, shown: NDArray[np.float64], peaks: Sequence[float], log_below: float, label: str
) -> None:
    """Scale the y axis of a panel to rates; logarithmic if a segment would otherwise be near zero.

    Args:
        axes: The panel.
        shown: All rates to show; finite.
        peaks: The highest rate of each segment.
        log_below: The scale is logarithmic if a peak is below this fraction of the highest rate.
        label: Label of the y axis.
    """
    top = shown.max(initial=0)
    if min(peaks, default=0) < log_below * top:
        axes.set_yscale("log")
        axes.set_ylim(shown[shown > 0].min() / LOG_MARGIN, top * LOG_MARGIN)
        axes.set_ylabel(f"{label} (log scale)")
    else:
        axes.set_ylabel(label)
        axes.set_ylim(0, HEADROOM * top or 1)
        axes.ticklabel_format(axis="y", style="plain")
