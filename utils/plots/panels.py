"""Common layout of plots over an epoch axis: title, panels, bottom margin."""

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
AXIS_LABEL_OFFSET = 0.8  # left of the panels, beyond tick labels with five decimals
TITLE, GAP = 0.7, 0.25
METRICS, RATES = 3.1, 2.7  # heights of panels
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
    above: float
    """Space above the panel in inches, for flags and for the gap to the panel above."""


def stack_panels(
    panels: Sequence[Panel], epochs: int, bottom_margin: float
) -> tuple[Figure, tuple[Axes, ...]]:
    """Return a figure with panels stacked over one epoch axis, and the panels.

    Args:
        panels: From top to bottom.
        epochs: Number of epochs on the axis.
        bottom_margin: Space below the panels in inches, for tick labels and legend.
    """
    height = TITLE
    for panel in panels:
        height = height + panel.above + panel.height
    height += bottom_margin
    figure = new_figure(WIDTH, height)
    left, width = LEFT / WIDTH, PANEL_WIDTH / WIDTH
    bottoms = [bottom_margin]
    for panel in reversed(panels[1:]):
        bottoms.insert(0, bottoms[0] + panel.height + panel.above)

    def place(panel: Panel, bottom: float, lowest: Axes | None = None) -> Axes:
        box = (left, bottom / height, width, panel.height / height)
        axes = figure.add_axes(box, sharex=lowest)
        style_axes(axes)
        axes.set_ylabel(panel.label, fontsize=10.5, color=INK)
        axes.yaxis.set_label_coords(-AXIS_LABEL_OFFSET / PANEL_WIDTH, 0.5)
        axes.tick_params(labelbottom=lowest is None)
        return axes

    lowest = place(panels[-1], bottoms[-1])
    lowest.set_xlabel("epoch", fontsize=10.5, color=INK)
    lowest.set_xlim(-0.5, epochs - 0.5)
    lowest.xaxis.set_major_locator(epoch_ticks())
    upper = zip(panels[:-1], bottoms[:-1], strict=True)
    return figure, (*(place(panel, bottom, lowest) for panel, bottom in upper), lowest)


def epoch_ticks(min_ticks: int = 2) -> MaxNLocator:
    """Return a locator of round epochs; with fewer than `min_ticks` ticks, also of fractions."""
    return MaxNLocator(nbins=12, steps=EPOCH_STEPS, integer=True, min_n_ticks=min_ticks)


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


def scale_rate_axis(
    axes: Axes, shown: Floats, peaks: Sequence[float], log_below: float, label: str
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
