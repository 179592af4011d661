"""The layout that pictures over an epoch axis share: a title, panels, room at the foot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from utils.plots.figure import INK, QUIET, new_figure, style_axes
from utils.plots.series import Floats

# Inches.
WIDTH, LEFT, RIGHT = 12.0, 1.1, 0.3
PANEL_WIDTH = WIDTH - LEFT - RIGHT
AXIS_NAME = 0.8  # left of the panels, clear of rates with five decimals
TITLE, GAP = 0.7, 0.25
METRICS, RATES = 3.1, 2.7  # heights of panels
TINTS = ("#f4f6f9", "#fdf4e7")
HEADROOM = 1.08
LOG_MARGIN = 1.5
DOT_BUDGET = 600.0  # points of marker width for all epochs together
DOT_LIMITS = (1.8, 5.0)  # points
EPOCH_STEPS = (1, 2, 5, 10)  # ticks at round numbers, as planned totals are


class Panel(NamedTuple):
    """A panel to be placed."""

    label: str
    """Of its vertical axis; may be set later."""
    height: float
    """Inches."""
    above: float
    """Inches that are left free above it: for flags, and for a gap below another panel."""


def stack_panels(
    panels: Sequence[Panel], epochs: int, foot: float
) -> tuple[Figure, tuple[Axes, ...]]:
    """A figure with panels one above the other over one epoch axis, and these panels.

    Args:
        panels: From top to bottom.
        epochs: On the axis.
        foot: Inches left free below, for the axis' numbers and what explains the curves.
    """
    height = TITLE
    for panel in panels:
        height = height + panel.above + panel.height
    height += foot
    figure = new_figure(WIDTH, height)
    left, width = LEFT / WIDTH, PANEL_WIDTH / WIDTH
    bottoms = [foot]
    for panel in reversed(panels[1:]):
        bottoms.insert(0, bottoms[0] + panel.height + panel.above)

    def place(panel: Panel, bottom: float, lowest: Axes | None = None) -> Axes:
        box = (left, bottom / height, width, panel.height / height)
        axes = figure.add_axes(box, sharex=lowest)
        style_axes(axes)
        axes.set_ylabel(panel.label, fontsize=10.5, color=INK)
        axes.yaxis.set_label_coords(-AXIS_NAME / PANEL_WIDTH, 0.5)
        axes.tick_params(labelbottom=lowest is None)
        return axes

    lowest = place(panels[-1], bottoms[-1])
    lowest.set_xlabel("epoch", fontsize=10.5, color=INK)
    lowest.set_xlim(-0.5, epochs - 0.5)
    lowest.xaxis.set_major_locator(epoch_ticks())
    upper = zip(panels[:-1], bottoms[:-1], strict=True)
    return figure, (*(place(panel, bottom, lowest) for panel, bottom in upper), lowest)


def epoch_ticks(least: int = 2) -> MaxNLocator:
    """Round epochs; fractions of epochs too where there would be fewer ticks than `least`."""
    return MaxNLocator(nbins=12, steps=EPOCH_STEPS, integer=True, min_n_ticks=least)


def write_title(figure: Figure, title: str, story: str = "") -> float:
    """Name the picture at the upper left, and say what it shows at the upper right.

    Returns:
        The height of this line, as a share of the figure's.
    """
    y = 1 - TITLE / 2 / figure.get_figheight()
    left, right = LEFT / WIDTH, 1 - RIGHT / WIDTH
    figure.text(left, y, title, fontsize=15, weight="bold", color=INK, va="center")
    if story:
        figure.text(right, y, story, fontsize=10, color=QUIET, va="center", ha="right")
    return y


def shade(panels: Sequence[Axes], edges: Sequence[int]) -> None:
    """Tint stretches of epochs in turn, each from one edge up to the next."""
    for number, (start, end) in enumerate(pairwise(edges)):
        for axes in panels:
            axes.axvspan(start - 0.5, end - 0.5, color=TINTS[number % len(TINTS)], lw=0, zorder=0)


def dot_size(epochs: int) -> float:
    """Width of a marker for each epoch, in points."""
    return float(np.clip(DOT_BUDGET / max(epochs, 1), *DOT_LIMITS))


def scale_rates(
    axes: Axes, shown: Floats, peaks: Sequence[float], log_below: float, label: str
) -> None:
    """Scale a panel to rates, logarithmic if a segment would else lie flat on the floor.

    Args:
        axes: The panel.
        shown: All that are to be seen; finite.
        peaks: The highest rate of each segment.
        log_below: A peak below this share of the highest rate asks for the logarithmic scale.
        label: Of the vertical axis.
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
