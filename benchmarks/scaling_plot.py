"""The plot of benchmarks/scaling.py: for each question, ms per image above, peak memory below."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from benchmarks.scaling_panels import Panel, PanelText
from benchmarks.timing import Spread
from utils.plots.figure import (
    BLUE,
    GREEN,
    INK,
    PURPLE,
    QUIET,
    VERMILION,
    new_figure,
    save_figure,
    style_axes,
)

COLUMNS = 2
# Layout in inches: the title above all panels, and each panel from top to bottom.
WIDTH, TITLE = 12.0, 0.75
LEFT, RIGHT = 0.95, 0.35  # beside the curves of a panel
QUESTION, SETTING, TIME, GAP, MEMORY, FOOT = 0.3, 0.35, 2.1, 0.18, 1.35, 0.95
PANEL = QUESTION + SETTING + TIME + GAP + MEMORY + FOOT
AXIS_NAME = 0.68  # left of the curves, clear of numbers with five digits
TIME_COLOURS, MEMORY_COLOUR = (BLUE, GREEN, PURPLE), VERMILION
HEADROOM = 1.25  # room for the numbers at the points
LOG_MARGIN = 4.0
MARGIN = 0.08  # beside the points, relative to the axis
SINGLE_POINT_RATIO = 1.5  # of the axis limits to the position of a single point
LINE, MARKER, CAP = 1.8, 5.0, 3.0  # points
NOTE = 0.025, 0.08  # position in the memory axes, relative to the lower left corner
APART, BESIDE = 6, 20  # points from a curve to its text: vertical and horizontal
WITHOUT_DECIMALS = 100  # from here on


def save_scaling_plot(panels: Sequence[Panel], setup: str, path: Path) -> None:
    """Plot the panels in two columns.

    Args:
        panels: at least one panel.
        setup: the machine, for the subtitle.
        path: the PNG file to write.
    """
    height = TITLE + ceil(len(panels) / COLUMNS) * PANEL
    figure = new_figure(WIDTH, height)
    y, left, right = 1 - TITLE / 2 / height, LEFT / WIDTH, 1 - RIGHT / WIDTH
    figure.text(left, y, "How cost grows", fontsize=15, weight="bold", color=INK, va="center")
    text = f"medians, bars from minimum to maximum · {setup}"
    figure.text(right, y, text, fontsize=10, color=QUIET, va="center", ha="right")
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        corner = column * WIDTH / COLUMNS + LEFT, height - TITLE - row * PANEL
        times, memory = _lay_out(figure, panel.text, corner)
        _draw_times(times, panel)
        _draw_memory(memory, panel)
        _scale_positions(memory, panel)
    save_figure(figure, path)


def _lay_out(figure: Figure, text: PanelText, corner: tuple[float, float]) -> tuple[Axes, Axes]:
    """Add the text of a panel; return its axes for times and for memory.

    Args:
        figure: figure of all panels.
        text: text of the panel.
        corner: upper left corner of the panel, in inches from the lower left of the figure.
    """
    height = figure.get_figheight()
    left, top = corner[0] / WIDTH, corner[1]
    width = (WIDTH / COLUMNS - LEFT - RIGHT) / WIDTH
    y = (top - QUESTION / 2) / height
    figure.text(left, y, text.title, fontsize=12, weight="bold", color=INK, va="center")
    y = (top - QUESTION - SETTING / 3) / height
    figure.text(left, y, text.setting, fontsize=9, color=QUIET, va="center").set_parse_math(False)
    upper = top - QUESTION - SETTING - TIME
    lower = upper - GAP - MEMORY
    memory = figure.add_axes((left, lower / height, width, MEMORY / height))
    times = figure.add_axes((left, upper / height, width, TIME / height), sharex=memory)
    for axes, name in ((times, "ms per image"), (memory, "peak memory, MB")):
        style_axes(axes)
        axes.set_ylabel(name, fontsize=10.5, color=INK)
        axes.yaxis.set_label_coords(-AXIS_NAME / (WIDTH * width), 0.5)
    times.tick_params(labelbottom=False)
    memory.set_xlabel(text.axis, fontsize=10.5, color=INK)
    return times, memory


def _draw_times(axes: Axes, panel: Panel) -> None:
    """Plot one curve from 0 upwards, or several labelled curves on a logarithmic axis."""
    spreads = [spread for curve in panel.times.values() for spread in curve]
    most = max(spread.most for spread in spreads)
    for (name, curve), colour in zip(panel.times.items(), TIME_COLOURS, strict=False):
        _draw(axes, panel.positions, curve, colour, marker="o")
        if len(panel.times) > 1:
            # The label extends from the first point to the second.
            place = panel.positions[0], min(spread.least for spread in curve[:2])
            _write(axes, name, place, -APART, colour)
    if len(panel.times) > 1:
        axes.set_yscale("log")
        axes.set_ylim(min(spread.least for spread in spreads) / LOG_MARGIN, most * LOG_MARGIN)
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, HEADROOM * most)


def _draw_memory(axes: Axes, panel: Panel) -> None:
    """Plot one curve from 0 upwards, and its note."""
    _draw(axes, panel.positions, panel.memory, MEMORY_COLOUR, marker="s")
    axes.set_ylim(0, HEADROOM * max(spread.most for spread in panel.memory))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.text(*NOTE, panel.note, transform=axes.transAxes, fontsize=8.5, color=MEMORY_COLOUR)


def _draw(
    axes: Axes, positions: Sequence[float], curve: Sequence[Spread], colour: str, marker: str
) -> None:
    """Plot the medians with their values, and error bars from minimum to maximum."""
    medians = [spread.median for spread in curve]
    below = [max(spread.median - spread.least, 0.0) for spread in curve]
    above = [max(spread.most - spread.median, 0.0) for spread in curve]
    axes.errorbar(
        positions,
        medians,
        yerr=(below, above),
        color=colour,
        marker=marker,
        markersize=MARKER,
        linewidth=LINE,
        capsize=CAP,
    )
    for position, spread in zip(positions, curve, strict=True):
        _write(axes, _number(spread.median), (position, spread.most), APART, INK)


def _write(axes: Axes, text: str, place: tuple[float, float], points: int, colour: str) -> None:
    """Write text centred above a point, or below it and to its right.

    Args:
        axes: axes of the curve.
        text: text to write.
        place: position on the curve, in data coordinates.
        points: distance above in points; negative for below.
        colour: colour of the text.
    """
    axes.annotate(
        text,
        place,
        xytext=(0 if points > 0 else BESIDE, points),
        textcoords="offset points",
        ha="center" if points > 0 else "left",
        va="bottom" if points > 0 else "top",
        fontsize=8.5,
        color=colour,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= WITHOUT_DECIMALS else f"{value:.3g}"


def _scale_positions(axes: Axes, panel: Panel) -> None:
    """Set the x axis: from 0, or logarithmic; with a tick for each point and no other ticks."""
    first, last = panel.positions[0], panel.positions[-1]
    if panel.log_scale:
        margin = (last / first) ** MARGIN if last > first else SINGLE_POINT_RATIO
        axes.set_xscale("log")
        axes.set_xlim(first / margin, last * margin)
    else:
        axes.set_xlim(0, last * (1 + MARGIN))
    axes.set_xticks(panel.positions, panel.ticks)
    axes.xaxis.set_minor_locator(NullLocator())
