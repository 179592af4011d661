"""Plot of several runs, mainly branches of one run: compare.png; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.plots import panels
from utils.plots.figure import BLUE, GREEN, INK, ORANGE, PURPLE, Style, add_legend, save_figure
from utils.plots.flags import POLE_ZORDER
from utils.plots.panels import METRICS, RATES, RIGHT, TINTS, WIDTH, Panel
from utils.plots.run_curves import SeamMark
from utils.plots.series import MAP50, MAP50_95, Row, best_epoch, history_table

# Without vermilion, the color of seams. #56B4E9 is the sky blue of Okabe and Ito's palette.
COLORS = (BLUE, ORANGE, GREEN, PURPLE, "#56B4E9", INK)
MARKERS = "osD^v"  # one fewer than colors, so pairs repeat after 30 runs instead of 6
SHARED = "#9aa0a6"
SHARED_ORDER = 1.9  # below all other lines, above the grid
PALE = 0.35  # weight of the run's color in the color of mAP50; the rest is the background
LINE_WIDTH, MAX_LINE_WIDTH, LINE_WIDTH_STEP = 1.5, 4.5, 0.9  # points
MARKER_SIZE, TABLE_MARKER, END_SIZE, STAR_SIZE = 4.0, 6.0, 8.0, 15.0  # points
MARKERS_PER_AXIS = 40
# Higher than for a single run, because branches must be distinguishable.
LOG_SCALE_BELOW = 0.1
MARGIN = 0.12  # above and below the enlarged range, as a fraction of it
RATE = "rate"
# Branches of a run repeat its rows; those read from results.csv are rounded to five digits.
COMPARED_COLUMNS = ["epoch", "train/box_loss", "train/obj_loss", MAP50, MAP50_95]
FIVE_DIGITS_RTOL = 1e-4
MAX_LISTED_SEAMS = 4  # if there are more, only their number is written


class RunCurves(NamedTuple):
    """Curves of a run."""

    label: str
    table: pd.DataFrame
    """History, and in `RATE` the planned or else the recorded rate of the weights."""
    planned: bool
    """Whether the rates are the planned ones."""
    seams: Sequence[SeamMark]


def run_curves(
    label: str,
    rows: Sequence[Row],
    plan_rates: Sequence[float] = (),
    seams: Sequence[SeamMark] = (),
) -> RunCurves:
    """Return the curves of a run.

    Args:
        label: Its name.
        rows: History in the column names of results.csv; NaN or a missing value is not plotted.
        plan_rates: Planned rate of the weights for every epoch from 0; empty if unknown.
        seams: Seams of the run.
    """
    table = history_table(rows)
    planned = len(plan_rates) > 0
    epochs = table["epoch"].astype(int)
    table[RATE] = np.take(plan_rates, epochs) if planned else table["x/lr1"]
    return RunCurves(label, table, planned, seams)


class _Panels(NamedTuple):
    """The panels of compare.png, from top to bottom."""

    metrics: Axes
    enlarged: list[Axes]
    """mAP50-95 in the range of the branches, whose differences are small in the whole range; empty
    if there are no branches."""
    rates: Axes


def save_comparison(runs: Sequence[RunCurves], path: Path) -> None:
    """Plot mAP (above) and learning rate (below) over one epoch axis, with all seams.

    Rows that branches of a run share are drawn once, in grey. If there are branches, one panel
    enlarges their mAP50-95.

    Args:
        runs: At least one.
        path: Output file.
    """
    shared = [[shared_rows(run.table, other.table) for other in runs] for run in runs]
    own = [max(row[:number] + row[number + 1 :], default=0) for number, row in enumerate(shared)]
    ends = [int(run.table["epoch"].max()) + 1 for run in runs]
    epochs = max([*ends, *(seam.epoch for run in runs for seam in run.seams)])
    figure, stack = _lay_out(runs, epochs, enlarge=any(own))
    looks = [_look(number, len(runs), epochs) for number in range(len(runs))]
    for number, (run, look) in enumerate(zip(runs, looks, strict=True)):
        drawn = max(shared[number][:number], default=0)
        if drawn < own[number]:
            grey = {"color": SHARED, "lw": 2 * LINE_WIDTH, "zorder": SHARED_ORDER}
            _draw(stack, run.table[: own[number]], drawn, grey, 2 * LINE_WIDTH)
        own_look = look
        if own[number] == len(run.table):  # only its end is drawn
            own_look = look | {"ms": END_SIZE, "markevery": 1, "zorder": POLE_ZORDER + 2}
        _draw(stack, run.table, own[number], own_look, _rate_width(number, len(runs)))
        _draw_best(stack, run, own[number], look["color"])
    _scale_metrics(stack, runs, own)
    _scale_rate_axis(stack.rates, runs)
    _write_title(figure, runs, branches=any(own))
    samples = [look | {"ms": TABLE_MARKER} for look in looks]
    panels.write_table(figure, _table_columns(runs), samples, left_aligned=("run", "seams"))
    save_figure(figure, path)


def shared_rows(ours: pd.DataFrame, theirs: pd.DataFrame) -> int:
    """Return the number of equal rows at the start of two histories."""
    length = min(len(ours), len(theirs))
    a, b = (table[COMPARED_COLUMNS][:length] for table in (ours, theirs))
    equal = np.isclose(a, b, rtol=FIVE_DIGITS_RTOL, atol=0, equal_nan=True).all(axis=1)
    return int(equal.cumprod().sum())


def _lay_out(runs: Sequence[RunCurves], epochs: int, *, enlarge: bool) -> tuple[Figure, _Panels]:
    """Create the figure with its panels, and one flag for all seams at the same epoch."""
    modes: dict[int, list[str]] = {}
    for seam in (seam for run in runs for seam in run.seams):
        modes.setdefault(seam.epoch, []).append(seam.mode)
    marks = [
        (epoch, f"epoch {epoch}: {', '.join(dict.fromkeys(modes[epoch]))}")
        for epoch in sorted(modes)
    ]
    poles = [(epoch, "") for epoch, _ in marks]
    stack = [Panel("validation mAP", METRICS, marks), Panel("", RATES, poles)]
    if enlarge:
        stack.insert(1, Panel("mAP50-95, enlarged", METRICS, poles))
    bottom = panels.table_height(len(runs)) + panels.AXIS_MARGIN
    figure, (metrics, *enlarged, rates) = panels.stack_panels(stack, epochs, bottom)
    for axes in (metrics, *enlarged, rates):
        axes.set_facecolor(TINTS[0])
    return figure, _Panels(metrics, enlarged, rates)


def _look(number: int, runs: int, epochs: int) -> Style:
    """Return the line style that distinguishes a run from the others."""
    every = ceil(epochs / MARKERS_PER_AXIS)
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
        "markevery": (number * every // runs, every),
        "ms": MARKER_SIZE,
        "mew": 0,
        "lw": LINE_WIDTH,
    }


def _rate_width(number: int, runs: int) -> float:
    """Return a line width that decreases from run to run, so that equal rates remain visible."""
    widest = min(LINE_WIDTH + LINE_WIDTH_STEP * (runs - 1), MAX_LINE_WIDTH)
    return widest + (LINE_WIDTH - widest) * number / max(runs - 1, 1)


def _pale(color: str) -> tuple[float, float, float, float]:
    """Return a pale, opaque color; transparent lines would be darker where they cross."""
    return LinearSegmentedColormap.from_list("pale", [TINTS[0], color])(PALE)


def _draw(stack: _Panels, table: pd.DataFrame, start: int, look: Style, rate_width: float) -> None:
    """Draw the metrics and rates from a row on, and the last value before it: it closes the gap."""

    def draw(axes: Axes, name: str, **changed: object) -> None:
        known = table[["epoch", name]].dropna()
        first = max(known.index.searchsorted(start) - 1, 0)
        axes.plot(*known[first:].to_numpy().T, **look | changed)

    draw(stack.metrics, MAP50, color=_pale(look["color"]))
    for axes in (stack.metrics, *stack.enlarged):
        draw(axes, MAP50_95)
    draw(stack.rates, RATE, lw=rate_width)


def _draw_best(stack: _Panels, run: RunCurves, own: int, color: str) -> None:
    """Mark the best epoch, in grey if several runs share it."""
    best = best_epoch(run.table)
    if best is None:
        return
    look: Style = {"ms": STAR_SIZE, "mec": "white", "zorder": POLE_ZORDER + 1}
    for axes in (stack.metrics, *stack.enlarged):
        color = color if best.name >= own else SHARED
        axes.plot(best["epoch"], best[MAP50_95], "*", color=color, **look)


def _scale_metrics(stack: _Panels, runs: Sequence[RunCurves], own: Sequence[int]) -> None:
    """Scale the upper panel to the whole range of mAP, the enlarged one to the unshared rows."""
    top = pd.concat([run.table[MAP50] for run in runs]).fillna(0).max()
    stack.metrics.set_ylim(0, panels.HEADROOM * top or 1)
    for axes in stack.enlarged:
        branches = [
            run.table[MAP50_95][start - 1 :]
            for run, start in zip(runs, own, strict=True)
            if start  # otherwise the run is not a branch
        ]
        lowest, highest = pd.concat(branches).agg(["min", "max"])
        margin = MARGIN * (highest - lowest)
        if margin > 0:  # not if there is no value, or one
            axes.set_ylim(lowest - margin, highest + margin)


def _scale_rate_axis(axes: Axes, runs: Sequence[RunCurves]) -> None:
    """Label and scale the panel of the rates; the label says if all of them are planned rates."""
    planned = "planned " if all(run.planned for run in runs) else ""
    shown = pd.concat([run.table[RATE] for run in runs]).dropna().to_numpy()
    peaks: list[float] = []
    for run in runs:
        segments = np.digitize(run.table["epoch"], [seam.epoch for seam in run.seams])
        peaks += run.table[RATE].groupby(segments).max().dropna().tolist()
    panels.scale_rate_axis(axes, shown, peaks, LOG_SCALE_BELOW, f"{planned}learning rate")


def _write_title(figure: Figure, runs: Sequence[RunCurves], *, branches: bool) -> None:
    """Write the title at the upper left and the legend at the upper right."""
    title = f"Comparison of {len(runs)} runs" if len(runs) > 1 else runs[0].label
    y = panels.write_title(figure, title)
    handles = [
        Line2D([], [], color=INK, lw=LINE_WIDTH, label="mAP50-95"),
        Line2D([], [], color=_pale(INK), lw=LINE_WIDTH, label="mAP50"),
        Line2D([], [], color=INK, ls="", marker="*", ms=12, mec="white", label="best epoch"),
    ]
    if branches:
        shared = Line2D([], [], color=SHARED, lw=2 * LINE_WIDTH, label="shared by several runs")
        handles.append(shared)
    anchor = (1 - RIGHT / WIDTH, y)
    add_legend(figure, handles, "center right", anchor, columns=len(handles))


def _table_columns(runs: Sequence[RunCurves]) -> dict[str, list[str]]:
    """Return the columns of the table; seams are listed unless there are too many."""
    best = [best_epoch(run.table) for run in runs]
    seams = [
        ", ".join(f"{seam.epoch} {seam.mode}" for seam in run.seams)
        if len(run.seams) <= MAX_LISTED_SEAMS
        else str(len(run.seams))
        for run in runs
    ]
    return {
        "run": [run.label for run in runs],
        "mAP50-95": ["-" if row is None else f"{row[MAP50_95]:.4f}" for row in best],
        "mAP50": ["-" if row is None else f"{row[MAP50]:.4f}" for row in best],
        "best epoch": ["-" if row is None else f"{row['epoch']:.0f}" for row in best],
        "epochs": [str(len(run.table)) for run in runs],
        "seams": seams,
    }
