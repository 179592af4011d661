"""Plot of the learning rate of possible extensions: lr_plan.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.plots.figure import INK, QUIET, save_figure
from utils.plots.flags import draw_flags, place_flags, rows_height
from utils.plots.panels import (
    GAP,
    HEADROOM,
    LEFT,
    LOG_MARGIN,
    PANEL_WIDTH,
    WIDTH,
    Panel,
    marker_size,
    stack_panels,
    tint_segments,
    write_title,
)
from utils.solver.modes import BASE_MODE, get_mode
from utils.solver.preview import SMALL_FACTOR, PlanPreview
from utils.solver.schedule import Plan

PAST = BASE_MODE.color
# Heights in inches, from top to bottom, without the flags of the seams above the panels.
LINEAR, LOGARITHMIC, AXIS = 2.9, 2.9, 0.75
LEGEND_ROW, BOTTOM_MARGIN = 0.24, 0.2
MAX_LOG_RANGE = 1e5  # ratio of the axis; more decades would compress the relevant ones
MAX_EPOCHS_WITH_MARKERS = 100  # with more epochs, markers would overlap
LINE, REQUESTED_LINE = 1.8, 3.2  # points
# Columns of the legend below the panels: right edge in inches from the panels' left edge, heading.
SAMPLE = 0.45  # length of the line sample
NAME = 0.6  # left edge of the labels
COLUMNS = ((8.3, "after the seam"), (9.3, "final rate"), (10.6, "sum, % of past"))


def save_lr_plan(plan: Plan, completed: int, previews: Sequence[PlanPreview], path: Path) -> None:
    """Plot the run so far in grey and its possible extensions in color, linear and logarithmic.

    Args:
        plan: The run's plan so far.
        completed: Epochs trained, where the extensions start.
        previews: Possible extensions, all by the same number of epochs.
        path: Output file.
    """
    planned = max(preview.plan.total_epochs for preview in previews)
    earlier = [segment for segment in plan.seams if segment.start < completed]
    seams = [segment.start for segment in earlier]
    names = [f"epoch {s.start}: {s.mode}" for s in earlier] + [f"epoch {completed}: new extension"]
    before = plan.lr0 * plan.factor(completed - 1)
    steps = [_step_text(plan, seam) for seam in seams] + [f"{before:.3g} before the seam"]
    upper, lower = (
        place_flags(
            [(e / planned, t) for e, t in zip([*seams, completed], texts, strict=True)], PANEL_WIDTH
        )
        for texts in (names, steps)
    )
    between = rows_height(lower) + GAP
    figure, (linear, logarithmic) = stack_panels(
        [
            Panel("learning rate", LINEAR, rows_height(upper)),
            Panel("learning rate (log scale)", LOGARITHMIC, between),
        ],
        planned,
        BOTTOM_MARGIN + LEGEND_ROW * (len(previews) + 1) + AXIS,
    )
    subtitle = f"{completed} epochs trained, {planned} planned with the extension"
    write_title(figure, "Learning-rate plan", subtitle)
    tint_segments([linear, logarithmic], [0, completed, planned])
    past = [plan.lr0 * plan.factor(epoch) for epoch in range(completed)]
    for axes in (linear, logarithmic):
        axes.plot(past, color=PAST, linewidth=LINE, **_markers(planned))
        for preview in previews:
            _draw(axes, preview, completed)
    _scale(linear, logarithmic, previews)
    draw_flags(linear, upper)
    draw_flags(logarithmic, lower, pole_top=between)
    _write_legend(figure, previews)
    save_figure(figure, path)


def _step_text(plan: Plan, seam: int) -> str:
    """Return the rates before and after an earlier seam."""
    return f"{plan.lr0 * plan.factor(seam - 1):.3g} → {plan.lr0 * plan.factor(seam):.3g}"


def _markers(planned: int) -> dict[str, Any]:  # keyword arguments of matplotlib
    """Return the marker style; no markers if there are too many epochs."""
    if planned > MAX_EPOCHS_WITH_MARKERS:
        return {}
    return {"marker": "o", "markersize": marker_size(planned), "markeredgewidth": 0}


def _style(preview: PlanPreview) -> dict[str, Any]:  # keyword arguments of matplotlib
    """Return the line style: color by mode, dashed with modifiers, thick if requested."""
    return {
        "color": get_mode(preview.mode).color,
        "linestyle": "-" if preview.label == preview.mode else "--",
        "linewidth": REQUESTED_LINE if preview.requested else LINE,
    }


def _draw(axes: Axes, preview: PlanPreview, completed: int) -> None:
    """Draw an extension from the last epoch before the seam on, so that a jump is visible."""
    plan = preview.plan
    epochs = range(completed - 1, plan.total_epochs)
    rates = [plan.lr0 * plan.factor(epoch) for epoch in epochs]
    axes.plot(epochs, rates, **_style(preview), **_markers(plan.total_epochs))


def _scale(linear: Axes, logarithmic: Axes, previews: Sequence[PlanPreview]) -> None:
    """Scale both panels to all rates; a rate of 0 is clipped at the bottom of the log scale."""
    rates = np.array([o.plan.lr0 * np.array(o.plan.factors()) for o in previews])
    top, lowest = rates.max(), rates[rates > 0].min()
    linear.set_ylim(0, HEADROOM * top)
    linear.ticklabel_format(axis="y", style="plain")
    logarithmic.tick_params(which="minor", colors=INK, labelsize=9, length=2)
    logarithmic.set_yscale("log", nonpositive="clip")
    logarithmic.set_ylim(max(lowest, top / MAX_LOG_RANGE) / LOG_MARGIN, top * LOG_MARGIN)
    small = SMALL_FACTOR * previews[0].plan.lr0
    if logarithmic.get_ylim()[0] < small:
        logarithmic.axhline(small, color=QUIET, linewidth=1, linestyle=":")
        logarithmic.annotate(
            "1 % of lr0",
            (0, small),
            xycoords=("axes fraction", "data"),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=8.5,
            color=QUIET,
        )


def _write_legend(figure: Figure, previews: Sequence[PlanPreview]) -> None:
    """Write the legend below the panels, as a table."""
    lines = [("mode (thick line: requested)", *(heading for _, heading in COLUMNS))]
    lines += [
        (
            preview.label,
            f"{preview.rate_after:.3g}  (×{preview.ratio:.3g})",
            f"{preview.final_rate:.3g}",
            f"{preview.lr_sum_percent:.2f} %",
        )
        for preview in previews
    ]
    for number, (preview, line) in enumerate(zip([None, *previews], lines, strict=True)):
        y = (BOTTOM_MARGIN + LEGEND_ROW * (len(previews) - number + 0.5)) / figure.get_figheight()
        color = INK if preview else QUIET
        label = figure.text((LEFT + NAME) / WIDTH, y, line[0], fontsize=9, va="center", color=color)
        for (inches, _), cell in zip(COLUMNS, line[1:], strict=True):
            x = (LEFT + inches) / WIDTH
            figure.text(x, y, cell, fontsize=9, va="center", ha="right", color=color)
        if preview:
            label.set_fontweight("bold" if preview.requested else "normal")
            ends = [LEFT / WIDTH, (LEFT + SAMPLE) / WIDTH]
            figure.add_artist(Line2D(ends, [y, y], **_style(preview)))
