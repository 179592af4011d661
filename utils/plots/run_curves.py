"""Plots of a whole run from its history: results.png and lr_map.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from utils.history import LOSS_NAMES, METRIC_COLUMNS, RAW_MAP_COLUMN
from utils.plots import panels
from utils.plots.figure import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    VERMILION,
    Style,
    add_legend,
    new_figure,
    save_figure,
    style_axes,
)
from utils.plots.flags import POLE_ZORDER
from utils.plots.panels import HEADROOM, LEFT, WIDTH, Panel
from utils.plots.series import MAP50, MAP50_95, Row, best_epoch, history_table, smoothed

RESULT_COLUMNS = (
    *(f"train/{loss}" for loss in LOSS_NAMES),
    *METRIC_COLUMNS[:2],
    *(f"val/{loss}" for loss in LOSS_NAMES),
    *METRIC_COLUMNS[2:],
)
PANELS_PER_ROW = 5


def save_results_plot(rows: Sequence[Row], path: Path) -> None:
    """Plot losses and metrics of a history over the epochs, in a grid of ten panels."""
    figure = new_figure(15.0, 6.4)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 0.93), wspace=0.04, hspace=0.04)
    grid = figure.subplots(len(RESULT_COLUMNS) // PANELS_PER_ROW, PANELS_PER_ROW)
    table = history_table(rows)
    for axes, name in zip(grid.flat, RESULT_COLUMNS, strict=True):
        epochs, values = table[["epoch", name]].dropna().to_numpy().T
        style_axes(axes)
        axes.set_title(name, fontsize=10, color=INK)
        axes.plot(epochs, values, ".", color=BLUE, alpha=0.45, markersize=5, label="per epoch")
        curve = smoothed(epochs, values)
        axes.plot(epochs, curve, color=VERMILION, linewidth=1.6, label="smoothed")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        if len({*epochs}) == 1:
            axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    for axes in grid[-1]:
        axes.set_xlabel("epoch", fontsize=9, color=INK)
    add_legend(figure, grid[0, 0].lines, "upper right", (0.99, 0.98), columns=2)
    title: Style = {"ha": "left", "fontsize": 13, "weight": "bold", "color": INK}
    figure.suptitle("Training results", x=0.04, y=0.98, **title)
    save_figure(figure, path)


class SeamMark(NamedTuple):
    """A seam, where a run was extended."""

    epoch: int
    """Epochs completed at the seam: the first epoch of the new segment."""
    mode: str
    """The continuation mode of the new segment."""
    note: str = ""
    """Short text on the effect of the seam."""
    changed: bool = False
    """Whether mAP before and after cannot be compared, so that the curves are not joined."""


BOTTOM_MARGIN = 1.2  # inches below the panels
LEGEND_TOP, LEGEND_STEP = 0.45, 0.25
# The scale is logarithmic if the rates of a segment stay below this fraction of the highest rate.
LOG_SCALE_BELOW = 0.05
MIN_NON_EMA_MARKER_SIZE = 3.5  # points: these few epochs must be visible in a long run


def save_lr_map(
    rows: Sequence[Row],
    plan_rates: Sequence[float],
    seams: Sequence[SeamMark],
    path: Path,
    *,
    best: int | None = None,
    without_mosaic: Sequence[int] = (),
    averaged: Sequence[int] = (),
) -> None:
    """Plot mAP (above) and learning rate (below) over one epoch axis, with all seams.

    Args:
        rows: History in the column names of results.csv; NaN or a missing value is not plotted.
        plan_rates: Planned rate ``lr0 * f(e)`` of the weights for every epoch ``e`` of the run.
        seams: Seams of the run; empty if it was never extended.
        path: Output file.
        best: Epoch of the best weights; by default that of the highest fitness.
        without_mosaic: Epochs in which mosaic and mixup are off.
        averaged: Epochs whose weights are averaged in average.pt.
    """
    seams, planned, table = sorted(seams), len(plan_rates), history_table(rows)
    modes = [(seam.epoch, _mode_text(seam)) for seam in seams]
    steps = [(seam.epoch, _step_text(plan_rates, seam.epoch)) for seam in seams]
    stack = [Panel("validation mAP", panels.METRICS, modes), Panel("", panels.RATES, steps)]
    figure, (metrics, rates) = panels.stack_panels(stack, planned, BOTTOM_MARGIN)
    count = f"{len(seams)} seam{'s' if len(seams) > 1 else ''}" if seams else "no seams"
    subtitle = f"{len(rows)} of {planned} epochs trained, {count}"
    panels.write_title(figure, "Learning-rate map", subtitle)
    panels.tint_segments([metrics, rates], [0, *(seam.epoch for seam in seams), planned])
    gaps = [seam.epoch for seam in seams if seam.changed]
    curves = (
        _draw_metrics(metrics, table, planned, best, gaps),
        _draw_rates(rates, table, plan_rates),
    )
    _scale_rate_axis(rates, table, plan_rates, [seam.epoch for seam in seams])
    _mark_epochs(metrics, without_mosaic, "no mosaic", 0.01)
    _mark_epochs(metrics, averaged, "averaged", 0.955)  # above the curves
    for number, handles in enumerate(curves):  # a line of the legend for each panel
        y = (LEGEND_TOP - number * LEGEND_STEP) / figure.get_figheight()
        columns = len(handles)
        legend = add_legend(figure, handles, "center left", (LEFT / WIDTH, y), columns=columns)
        for handle in legend.legend_handles:
            if isinstance(handle, Line2D):
                handle.set_markersize(max(handle.get_markersize(), panels.MARKER_SIZE_LIMITS[1]))
    save_figure(figure, path)


def _mode_text(seam: SeamMark) -> str:
    return f"epoch {seam.epoch}: {seam.mode}" + (f", {seam.note}" if seam.note else "")


def _step_text(plan_rates: Sequence[float], epoch: int) -> str:
    """Return the planned rates before and after a seam, and their ratio."""
    if not 0 < epoch < len(plan_rates):
        return "no epochs after it"
    before, after = plan_rates[epoch - 1], plan_rates[epoch]
    ratio = f"  (×{after / before:#.3g})" if before else ""
    return f"{before:.3g} → {after:.3g}{ratio}"


def _draw_metrics(
    axes: Axes, table: pd.DataFrame, planned: int, epoch: int | None, gaps: Sequence[int]
) -> list[Line2D]:
    """Draw mAP50, mAP50-95 and the best epoch; return the legend entries."""
    validated = table.dropna(subset=[MAP50, MAP50_95])
    between = pd.DataFrame({"epoch": [gap - 0.5 for gap in gaps]})  # NaN interrupts a line
    validated = pd.concat([validated, between]).sort_values("epoch") if gaps else validated
    size = panels.marker_size(planned)
    epochs, map50, map50_95 = validated["epoch"], validated[MAP50], validated[MAP50_95]
    handles = [
        *axes.plot(epochs, map50, "o-", color=ORANGE, lw=1.4, ms=size, mew=0, label="mAP50"),
        *axes.plot(epochs, map50_95, "o-", color=BLUE, lw=1.4, ms=size, mew=0, label="mAP50-95"),
    ]
    non_ema = table.dropna(subset=RAW_MAP_COLUMN)
    if len(non_ema):
        look: Style = {"ms": max(size, MIN_NON_EMA_MARKER_SIZE), "zorder": POLE_ZORDER + 1}
        look |= {"color": PURPLE, "mew": 0, "label": "mAP50-95, non-EMA weights"}
        handles += axes.plot(non_ema["epoch"], non_ema[RAW_MAP_COLUMN], "D", **look)
    axes.set_ylim(0, HEADROOM * max([0, *map50]) or 1)
    best = best_epoch(table if epoch is None else table[table["epoch"] == epoch])
    if best is not None:
        look = {"color": VERMILION, "ms": 15, "mec": "white", "zorder": POLE_ZORDER + 1}
        label = f"best epoch {best['epoch']:.0f}: {best[MAP50]:.3f} and {best[MAP50_95]:.3f}"
        handles += axes.plot(best["epoch"], best[MAP50_95], "*", label=label, **look)
    return handles


def _draw_rates(axes: Axes, table: pd.DataFrame, plan_rates: Sequence[float]) -> list[Line2D]:
    """Draw planned and applied rates; return the legend entries."""
    epochs, bias, size = table["epoch"], table["x/lr0"], panels.marker_size(len(plan_rates))
    start = f", from {bias.max():.2g} in warm-up" if bias.max() > max(plan_rates) else ""
    biases = axes.plot(epochs, bias, "--", color=PURPLE, lw=1.2, label=f"biases (x/lr0{start})")
    weights, norms = table["x/lr1"], table["x/lr2"]
    return [
        *axes.plot(plan_rates, color=GREEN, alpha=0.3, lw=6, label="planned"),
        *axes.plot(epochs, weights, "o", color=GREEN, ms=size, mew=0, label="weights (x/lr1)"),
        *axes.plot(epochs, norms, color=INK, lw=0.8, label="norm weights (x/lr2)"),
        *biases,
    ]


def _mark_epochs(axes: Axes, epochs: Sequence[int], label: str, y: float) -> None:
    """Draw a bar at the height `y` of a panel, from 0 to 1, below the epochs, with one label."""
    place = axes.get_xaxis_transform()  # y as a fraction of the panel
    for epoch in epochs:
        look: Style = {"color": INK, "lw": 4, "solid_capstyle": "butt", "zorder": POLE_ZORDER}
        axes.plot([epoch - 0.5, epoch + 0.5], [y, y], transform=place, **look)
    if epochs:
        look = {"fontsize": 8.5, "color": INK, "ha": "right", "va": "bottom"}
        axes.text(epochs[-1] + 0.5, y + 0.02, f"{label} ", transform=place, **look)


def _scale_rate_axis(
    axes: Axes, table: pd.DataFrame, plan_rates: Sequence[float], seams: Sequence[int]
) -> None:
    """Scale the panel to the rates of the weights.

    The rate of the biases starts ten times higher in the warm-up. It is cut off at the top of the
    panel, so that the other rates remain readable; the legend shows its first value.
    """
    applied = table[["x/lr1", "x/lr2"]].to_numpy().ravel()
    shown = np.concatenate([plan_rates, applied[np.isfinite(applied)]])
    peaks = [max(part) for part in np.split(np.array(plan_rates), seams) if len(part)]
    panels.scale_rate_axis(axes, shown, peaks, LOG_SCALE_BELOW, "learning rate")
