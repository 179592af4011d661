"""Plot of several runs, mainly branches of one run: compare.png; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.plots.figure import BLUE, GREEN, INK, ORANGE, PURPLE, save_figure
from utils.plots.flags import POLE_ZORDER, Flag, draw_flags, place_flags, rows_height
from utils.plots.panels import (
    GAP,
    HEADROOM,
    LEFT,
    METRICS,
    PANEL_WIDTH,
    RATES,
    RIGHT,
    TINTS,
    WIDTH,
    Panel,
    epoch_ticks,
    scale_rate_axis,
    stack_panels,
    write_title,
)
from utils.plots.series import Floats, column
from utils.tools.compare.branches import (
    MAP50_95_COLUMN,
    MAP50_COLUMN,
    RunCurves,
    best_epoch,
    shared_rows,
)
from utils.tools.compare.table import EXTRA_LINES, LINE, write_table

AXIS_MARGIN = 0.75  # inches below the panels, for tick labels and label of the epoch axis
# Without vermilion, the color of seams. #56B4E9 is the sky blue of Okabe and Ito's palette.
COLORS = (BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", INK)
MARKERS = "osD^v"  # one fewer than colors, so pairs repeat after 30 runs instead of 6
SHARED = "#9aa0a6"
SHARED_ORDER = 1.9  # below all other lines, above the grid
PALE = 0.35  # weight of the run's color in the color of mAP50; the rest is the background
LINE_WIDTH, MAX_LINE_WIDTH, LINE_WIDTH_STEP = 1.5, 4.5, 0.9  # points
MARKER_SIZE, END_SIZE, STAR_SIZE = 4.0, 8.0, 15.0  # points
MARKERS_PER_AXIS = 40
# Higher than for a single run, because branches must be distinguishable.
LOG_SCALE_BELOW = 0.1
MARGIN = 0.12  # above and below the enlarged range, as a fraction of it


class _Panels(NamedTuple):
    """Figure and axes of compare.png, from top to bottom."""

    figure: Figure
    metrics: Axes
    enlarged: Axes | None
    """mAP50-95 in the range of the branches, whose differences are small in the whole range."""
    rates: Axes
    table: Axes

    @property
    def curves(self) -> list[Axes]:
        """Return the panels over the epoch axis, from top to bottom."""
        return [axes for axes in (self.metrics, self.enlarged, self.rates) if axes is not None]


class _Style(NamedTuple):
    """Line style that distinguishes a run from the others."""

    color: str
    marker: str
    rate_width: float
    """Line width of the rate; it decreases from run to run, so that equal rates remain visible."""
    markevery: tuple[int, int]
    """First row with a marker and distance to the next, different for every run."""


class _RowRange(NamedTuple):
    """A range of rows of a run; curves start at the last known value before it."""

    run: RunCurves
    start: int
    end: int


def save_comparison(runs: Sequence[RunCurves], path: Path) -> None:
    """Plot mAP (above) and learning rate (below) over one epoch axis, with all seams.

    Rows that branches of a run share are drawn once, in grey. If there are branches, one panel
    enlarges their mAP50-95.

    Args:
        runs: At least one.
        path: Output file.
    """
    ends = [int(run.epochs[-1]) + 1 for run in runs if run.rows]
    epochs = max([1, *ends, *(seam.epoch for run in runs for seam in run.seams)])
    shared = [[shared_rows(run.rows, other.rows) for other in runs] for run in runs]
    flags = place_flags(_marks(runs, epochs), PANEL_WIDTH)
    own = [
        max(common[:number] + common[number + 1 :], default=0)
        for number, common in enumerate(shared)
    ]
    panels = _lay_out(len(runs), epochs, flags, enlarge=any(own))
    styles = [_style(number, len(runs), epochs) for number in range(len(runs))]
    for number, (run, style) in enumerate(zip(runs, styles, strict=True)):
        drawn = max(shared[number][:number], default=0)
        _draw_shared(panels, _RowRange(run, drawn, own[number]))
        _draw_own(panels, _RowRange(run, own[number], len(run.rows)), style)
        _draw_best(panels, run, own[number], style)
    _scale_metrics(panels, runs, own)
    _scale_rate_axis(panels.rates, runs)
    draw_flags(panels.metrics, flags)
    for axes in panels.curves[1:]:
        draw_flags(axes, [flag._replace(text="") for flag in flags], pole_top=GAP)
    _write_title(panels, runs)
    write_table(panels.table, runs, [(style.color, style.marker) for style in styles])
    save_figure(panels.figure, path)


def _marks(runs: Sequence[RunCurves], epochs: int) -> list[tuple[float, str]]:
    """Return one mark for all seams at the same epoch: position on the axis, and label."""
    modes: dict[int, list[str]] = {}
    for seam in (seam for run in runs for seam in run.seams):
        modes.setdefault(seam.epoch, []).append(seam.mode)
    return [
        (epoch / epochs, f"epoch {epoch}: {', '.join(dict.fromkeys(modes[epoch]))}")
        for epoch in sorted(modes)
    ]


def _lay_out(runs: int, epochs: int, flags: Sequence[Flag], *, enlarge: bool) -> _Panels:
    """Create the figure: title, flags, panels and table, from top to bottom."""
    table_height = LINE * (runs + EXTRA_LINES)
    stack = [Panel("validation mAP", METRICS, rows_height(flags)), Panel("", RATES, GAP)]
    if enlarge:
        stack.insert(1, Panel("mAP50-95, enlarged", METRICS, GAP))
    figure, curves = stack_panels(stack, epochs, table_height + AXIS_MARGIN)
    for axes in curves:
        axes.set_facecolor(TINTS[0])
    metrics, *between, rates = curves
    rates.xaxis.set_major_locator(epoch_ticks(min_ticks=1))
    height = table_height / figure.get_figheight()
    table = figure.add_axes((LEFT / WIDTH, 0, PANEL_WIDTH / WIDTH, height))
    return _Panels(figure, metrics, between[0] if enlarge else None, rates, table)


def _style(number: int, runs: int, epochs: int) -> _Style:
    widest = min(LINE_WIDTH + LINE_WIDTH_STEP * (runs - 1), MAX_LINE_WIDTH)
    every = ceil(epochs / MARKERS_PER_AXIS)
    return _Style(
        COLORS[number % len(COLORS)],
        MARKERS[number % len(MARKERS)],
        widest + (LINE_WIDTH - widest) * number / max(runs - 1, 1),
        (number * every // runs, every),
    )


def _pale(color: str) -> tuple[float, float, float]:
    """Return a pale, opaque color; transparent lines would be darker where they cross."""
    red, green, blue = (
        PALE * strong + (1 - PALE) * ground
        for strong, ground in zip(to_rgb(color), to_rgb(TINTS[0]), strict=True)
    )
    return red, green, blue


def _draw(axes: Axes, row_range: _RowRange, values: Floats, **look: Any) -> None:  # noqa: ANN401 - matplotlib's own
    """Draw the known values of a row range and the one before it, which closes the gap."""
    known = np.flatnonzero(np.isfinite(values[: row_range.end]))
    part = known[max(np.searchsorted(known, row_range.start) - 1, 0) :]
    axes.plot(row_range.run.epochs[part], values[part], **look)


def _draw_shared(panels: _Panels, row_range: _RowRange) -> None:
    """Draw rows that are shared with other runs in grey, unless they are drawn already."""
    if row_range.start >= row_range.end:
        return
    look = {"color": SHARED, "lw": 2 * LINE_WIDTH, "zorder": SHARED_ORDER}
    map50, map50_95 = (column(row_range.run.rows, name) for name in (MAP50_COLUMN, MAP50_95_COLUMN))
    _draw(panels.metrics, row_range, map50, **look | {"color": _pale(SHARED)})
    for axes in panels.curves[:-1]:
        _draw(axes, row_range, map50_95, **look)
    _draw(panels.rates, row_range, row_range.run.rates, **look)


def _draw_own(panels: _Panels, row_range: _RowRange, style: _Style) -> None:
    """Draw the rows that no other run has; if there are none, draw the last row."""
    look = {"color": style.color, "marker": style.marker, "mew": 0, "lw": LINE_WIDTH}
    if row_range.start < row_range.end:
        look |= {"ms": MARKER_SIZE, "markevery": style.markevery}
    else:
        look |= {"ms": END_SIZE, "zorder": POLE_ZORDER + 2}
    map50, map50_95 = (column(row_range.run.rows, name) for name in (MAP50_COLUMN, MAP50_95_COLUMN))
    _draw(panels.metrics, row_range, map50, **look | {"color": _pale(style.color)})
    for axes in panels.curves[:-1]:
        _draw(axes, row_range, map50_95, **look)
    _draw(panels.rates, row_range, row_range.run.rates, **look | {"lw": style.rate_width})


def _draw_best(panels: _Panels, run: RunCurves, own: int, style: _Style) -> None:
    """Mark the best epoch, in grey if several runs share it."""
    best = best_epoch(run.rows)
    if best is None:
        return
    color = style.color if best.row >= own else SHARED
    for axes in panels.curves[:-1]:
        (star,) = axes.plot(best.epoch, best.map50_95, "*", ms=STAR_SIZE, color=color, mec="white")
        star.set_zorder(POLE_ZORDER + 1)


def _scale_metrics(panels: _Panels, runs: Sequence[RunCurves], own: Sequence[int]) -> None:
    """Scale the upper panel to the whole range of mAP, the enlarged one to the unshared rows."""
    top = max((np.nanmax(column(run.rows, MAP50_COLUMN), initial=0) for run in runs), default=0)
    panels.metrics.set_ylim(0, HEADROOM * top or 1)
    if panels.enlarged is None:
        return
    values = np.concatenate(
        [
            column(run.rows, MAP50_95_COLUMN)[start - 1 :]
            for run, start in zip(runs, own, strict=True)
            if start  # otherwise the run is not a branch
        ]
    )
    values = values[np.isfinite(values)]
    if np.ptp(values) if len(values) else 0:
        margin = MARGIN * np.ptp(values)
        panels.enlarged.set_ylim(values.min() - margin, values.max() + margin)


def _scale_rate_axis(axes: Axes, runs: Sequence[RunCurves]) -> None:
    """Label and scale the panel of the rates; the label says if all of them are planned rates."""
    planned = "planned " if all(run.plan_rates for run in runs) else ""
    shown = np.concatenate([run.rates for run in runs])
    shown = shown[np.isfinite(shown)]
    peaks = [
        np.nanmax(part, initial=0)
        for run in runs
        for part in np.split(run.rates, [seam.epoch for seam in run.seams])
        if np.isfinite(part).any()
    ]
    scale_rate_axis(axes, shown, peaks, LOG_SCALE_BELOW, f"{planned}learning rate")


def _write_title(panels: _Panels, runs: Sequence[RunCurves]) -> None:
    """Write the title at the upper left and the legend at the upper right."""
    title = f"Comparison of {len(runs)} runs" if len(runs) > 1 else runs[0].label
    y = write_title(panels.figure, title)
    handles = [
        Line2D([], [], color=INK, lw=LINE_WIDTH, label="mAP50-95"),
        Line2D([], [], color=_pale(INK), lw=LINE_WIDTH, label="mAP50"),
        Line2D([], [], color=INK, ls="", marker="*", ms=12, mec="white", label="best epoch"),
    ]
    if panels.enlarged is not None:
        shared = Line2D([], [], color=SHARED, lw=2 * LINE_WIDTH, label="shared by several runs")
        handles.append(shared)
    panels.figure.legend(
        handles=handles,
        loc="center right",
        bbox_to_anchor=(1 - RIGHT / WIDTH, y),
        ncols=len(handles),
        borderaxespad=0,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
