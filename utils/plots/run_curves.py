"""Plots of a whole run from its history: results.png and lr_map.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from utils.history import RAW_MAP_COLUMN, fitness
from utils.plots.figure import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    VERMILION,
    new_figure,
    save_figure,
    style_axes,
)
from utils.plots.flags import POLE_ZORDER, draw_flags, place_flags, rows_height
from utils.plots.panels import (
    GAP,
    HEADROOM,
    LEFT,
    MARKER_SIZE_LIMITS,
    METRICS,
    PANEL_WIDTH,
    RATES,
    WIDTH,
    Panel,
    marker_size,
    scale_rate_axis,
    stack_panels,
    tint_segments,
    write_title,
)
from utils.plots.series import Row, column, smoothed

RESULT_COLUMNS = (
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
)
PANELS_PER_ROW = 5


def save_results_plot(rows: Sequence[Row], path: Path) -> None:
    """Plot losses and metrics over the epochs in a grid of ten panels.

    Args:
        rows: History in the column names of results.csv; NaN or a missing value is not plotted.
        path: Output file.
    """
    figure = new_figure(15.0, 6.4)
    grid = figure.subplots(len(RESULT_COLUMNS) // PANELS_PER_ROW, PANELS_PER_ROW)
    epochs = column(rows, "epoch")
    for axes, name in zip(grid.flat, RESULT_COLUMNS, strict=True):
        values = column(rows, name)
        known = np.isfinite(values)
        style_axes(axes)
        axes.set_title(name, fontsize=10, color=INK)
        axes.plot(epochs[known], values[known], ".", color=BLUE, alpha=0.45, markersize=5)
        axes.plot(
            epochs[known], smoothed(epochs[known], values[known]), color=VERMILION, linewidth=1.6
        )
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    for axes in grid[-1]:
        axes.set_xlabel("epoch", fontsize=9, color=INK)
    figure.legend(
        handles=grid[0, 0].lines,
        labels=["per epoch", "smoothed"],
        loc="upper right",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle("Training results", x=0.04, ha="left", fontsize=13, weight="bold", color=INK)
    figure.subplots_adjust(left=0.04, right=0.99, top=0.87, bottom=0.08, wspace=0.26, hspace=0.3)
    save_figure(figure, path)


class SeamMark(NamedTuple):
    """A seam, where a run was extended."""

    epoch: int
    """Epochs completed at the seam: the first epoch of the new segment."""
    mode: str
    """The continuation mode of the new segment."""
    note: str = ""
    """Short text on the effect of the seam."""


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
) -> None:
    """Plot mAP (above) and learning rate (below) over one epoch axis, with all seams.

    Args:
        rows: History in the column names of results.csv; NaN or a missing value is not plotted.
        plan_rates: Planned rate ``lr0 * f(e)`` of the weights for every epoch ``e`` of the run.
        seams: Seams of the run; empty if it was never extended.
        path: Output file.
    """
    seams, planned = sorted(seams), len(plan_rates)
    modes, steps = (
        place_flags([(seam.epoch / planned, text(seam)) for seam in seams], PANEL_WIDTH)
        for text in (
            lambda seam: (
                f"epoch {seam.epoch}: {seam.mode}" + (f", {seam.note}" if seam.note else "")
            ),
            lambda seam: _step_text(plan_rates, seam.epoch),
        )
    )
    between = rows_height(steps) + GAP
    stack = [Panel("validation mAP", METRICS, rows_height(modes)), Panel("", RATES, between)]
    figure, (metrics, rates) = stack_panels(stack, planned, BOTTOM_MARGIN)
    write_title(figure, "Learning-rate map", _subtitle(len(rows), planned, len(seams)))
    tint_segments([metrics, rates], [0, *(seam.epoch for seam in seams), planned])
    curves = (_draw_metrics(metrics, rows, planned), _draw_rates(rates, rows, plan_rates))
    _scale_rate_axis(rates, rows, plan_rates, [seam.epoch for seam in seams])
    draw_flags(metrics, modes)
    draw_flags(rates, steps, pole_top=between)
    _write_legends(figure, curves)
    save_figure(figure, path)


def _subtitle(trained: int, planned: int, seams: int) -> str:
    """Return trained and planned epochs, and the number of seams."""
    seam_text = f"{seams} seam{'s' if seams > 1 else ''}" if seams else "no seams"
    return f"{trained} of {planned} epochs trained, {seam_text}"


def _step_text(plan_rates: Sequence[float], epoch: int) -> str:
    """Return the planned rates before and after a seam, and their ratio."""
    if not 0 < epoch < len(plan_rates):
        return "no epochs after it"
    before, after = plan_rates[epoch - 1], plan_rates[epoch]
    ratio = f"  (×{after / before:#.3g})" if before else ""
    return f"{before:.3g} → {after:.3g}{ratio}"


def _write_legends(figure: Figure, curves: Sequence[Sequence[Line2D]]) -> None:
    """Write the legends below the panels, one line for each panel."""
    height = figure.get_figheight()
    for number, handles in enumerate(curves):
        legend = figure.legend(
            handles=handles,
            loc="center left",
            bbox_to_anchor=(LEFT / WIDTH, (LEGEND_TOP - number * LEGEND_STEP) / height),
            ncols=len(handles),
            borderaxespad=0,
            borderpad=0,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
        )
        for handle in legend.legend_handles:
            if isinstance(handle, Line2D):
                handle.set_markersize(max(handle.get_markersize(), MARKER_SIZE_LIMITS[1]))


def _draw_metrics(axes: Axes, rows: Sequence[Row], planned: int) -> list[Line2D]:
    """Draw mAP50, mAP50-95 and the best epoch; return the legend entries."""
    epochs = column(rows, "epoch")
    map50, map50_95 = column(rows, "metrics/mAP_0.5"), column(rows, "metrics/mAP_0.5:0.95")
    known = np.isfinite(map50) & np.isfinite(map50_95)
    epochs, map50, map50_95 = epochs[known], map50[known], map50_95[known]
    size = marker_size(planned)
    handles = [
        *axes.plot(epochs, map50, "o-", color=ORANGE, lw=1.4, ms=size, mew=0, label="mAP50"),
        *axes.plot(epochs, map50_95, "o-", color=BLUE, lw=1.4, ms=size, mew=0, label="mAP50-95"),
    ]
    non_ema = column(rows, RAW_MAP_COLUMN)
    if np.isfinite(non_ema).any():
        label = "mAP50-95, non-EMA weights"
        handles += axes.plot(
            column(rows, "epoch"),
            non_ema,
            "D",
            color=PURPLE,
            ms=max(size, MIN_NON_EMA_MARKER_SIZE),
            mew=0,
            label=label,
        )
        handles[-1].set_zorder(POLE_ZORDER + 1)
    axes.set_ylim(0, HEADROOM * map50.max(initial=0) or 1)
    if len(epochs):
        best = max(range(len(epochs)), key=lambda i: fitness(float(map50[i]), float(map50_95[i])))
        found = f"best epoch {epochs[best]:.0f}: {map50[best]:.3f} and {map50_95[best]:.3f}"
        point = (epochs[best], map50_95[best])
        handles += axes.plot(*point, "*", ms=15, color=VERMILION, mec="white", label=found)
        handles[-1].set_zorder(POLE_ZORDER + 1)
    return handles


def _draw_rates(axes: Axes, rows: Sequence[Row], plan_rates: Sequence[float]) -> list[Line2D]:
    """Draw planned and applied rates; return the legend entries."""
    epochs = column(rows, "epoch")
    bias, weights, norms = (column(rows, name) for name in ("x/lr0", "x/lr1", "x/lr2"))
    size = marker_size(len(plan_rates))
    peak = bias[np.isfinite(bias)].max(initial=0)
    start = f", from {peak:.2g} in warm-up" if peak > max(plan_rates) else ""
    biases = axes.plot(epochs, bias, "--", color=PURPLE, lw=1.2, label=f"biases (x/lr0{start})")
    return [
        *axes.plot(plan_rates, color=GREEN, alpha=0.3, lw=6, label="planned"),
        *axes.plot(epochs, weights, "o", color=GREEN, ms=size, mew=0, label="weights (x/lr1)"),
        *axes.plot(epochs, norms, color=INK, lw=0.8, label="norm weights (x/lr2)"),
        *biases,
    ]


def _scale_rate_axis(
    axes: Axes, rows: Sequence[Row], plan_rates: Sequence[float], seams: Sequence[int]
) -> None:
    """Scale the panel to the rates of the weights.

    The rate of the biases starts ten times higher in the warm-up. It is cut off at the top of the
    panel, so that the other rates remain readable; the legend shows its first value.
    """
    applied = np.concatenate([column(rows, "x/lr1"), column(rows, "x/lr2")])
    shown = np.concatenate([plan_rates, applied[np.isfinite(applied)]])
    peaks = [max(part) for part in np.split(np.array(plan_rates), seams) if len(part)]
    scale_rate_axis(axes, shown, peaks, LOG_SCALE_BELOW, "learning rate")
