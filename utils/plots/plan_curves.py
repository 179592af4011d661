"""Picture of what an extension would do to the learning rate: lr_plan.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.plots.figure import INK, QUIET, save_figure
from utils.plots.flags import hoist, place_flags, rows_height
from utils.plots.panels import (
    GAP,
    HEADROOM,
    LEFT,
    LOG_MARGIN,
    PANEL_WIDTH,
    WIDTH,
    Panel,
    dot_size,
    shade,
    stack_panels,
    write_title,
)
from utils.solver.modes import RUN, mode_named
from utils.solver.preview import SMALL, PlanPreview
from utils.solver.schedule import Plan

PAST = RUN.color
# The figure from top to bottom, in inches; the flags of the seams come on top of the panels.
LINEAR, LOGARITHMIC, AXIS = 2.9, 2.9, 0.75
KEY_ROW, FOOT = 0.24, 0.2
LOG_RANGE = 1e5  # decades below this would squash those that matter
DOTS_UP_TO = 100  # epochs; beyond, markers would only thicken the lines
LINE, REQUESTED_LINE = 1.8, 3.2  # points
# Columns of the key below the panels: inches from their left edge, and what to write.
SAMPLE = 0.45
NAME = 0.6
COLUMNS = ((8.3, "after the seam"), (9.3, "final rate"), (10.6, "sum, % of past"))


def save_lr_plan(plan: Plan, completed: int, previews: Sequence[PlanPreview], path: Path) -> None:
    """Draw the run so far in grey and every way to extend it in colour, linear and logarithmic.

    Args:
        plan: The run's plan so far.
        completed: Epochs trained: where the extensions begin.
        previews: Ways to extend the run, all by the same number of epochs.
        path: The picture to write.
    """
    planned = max(preview.plan.total_epochs for preview in previews)
    earlier = [segment for segment in plan.seams if segment.start < completed]
    seams = [segment.start for segment in earlier]
    names = [f"epoch {s.start}: {s.mode}" for s in earlier] + [f"epoch {completed}: to be extended"]
    before = plan.lr0 * plan.factor(completed - 1)
    steps = [_step_text(plan, seam) for seam in seams] + [f"{before:.3g} up to here"]
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
        FOOT + KEY_ROW * (len(previews) + 1) + AXIS,
    )
    story = f"{completed} epochs trained, {planned} planned with the extension"
    write_title(figure, "Learning-rate plan", story)
    shade([linear, logarithmic], [0, completed, planned])
    past = [plan.lr0 * plan.factor(epoch) for epoch in range(completed)]
    for axes in (linear, logarithmic):
        axes.plot(past, color=PAST, linewidth=LINE, **_dots(planned))
        for preview in previews:
            _draw(axes, preview, completed)
    _scale(linear, logarithmic, previews)
    hoist(linear, upper)
    hoist(logarithmic, lower, pole_top=between)
    _write_key(figure, previews)
    save_figure(figure, path)


def _step_text(plan: Plan, seam: int) -> str:
    """The rate on both sides of a seam that is already behind."""
    return f"{plan.lr0 * plan.factor(seam - 1):.3g} → {plan.lr0 * plan.factor(seam):.3g}"


def _dots(planned: int) -> dict[str, Any]:
    """Markers, where epochs are few enough to be told apart."""
    if planned > DOTS_UP_TO:
        return {}
    return {"marker": "o", "markersize": dot_size(planned), "markeredgewidth": 0}


def _style(preview: PlanPreview) -> dict[str, Any]:
    """A colour for each mode, dashes for modifiers, and a broad line for what is asked for."""
    return {
        "color": mode_named(preview.mode).color,
        "linestyle": "-" if preview.label == preview.mode else "--",
        "linewidth": REQUESTED_LINE if preview.requested else LINE,
    }


def _draw(axes: Axes, preview: PlanPreview, completed: int) -> None:
    """One extension, joined to the last epoch before it, so that a jump is seen as one."""
    plan = preview.plan
    epochs = range(completed - 1, plan.total_epochs)
    rates = [plan.lr0 * plan.factor(epoch) for epoch in epochs]
    axes.plot(epochs, rates, **_style(preview), **_dots(plan.total_epochs))


def _scale(linear: Axes, logarithmic: Axes, previews: Sequence[PlanPreview]) -> None:
    """Scale both panels to all rates; a rate of 0 leaves the logarithmic one at its bottom."""
    rates = np.array([o.plan.lr0 * np.array(o.plan.factors()) for o in previews])
    top, lowest = rates.max(), rates[rates > 0].min()
    linear.set_ylim(0, HEADROOM * top)
    linear.ticklabel_format(axis="y", style="plain")
    logarithmic.tick_params(which="minor", colors=INK, labelsize=9, length=2)
    logarithmic.set_yscale("log", nonpositive="clip")
    logarithmic.set_ylim(max(lowest, top / LOG_RANGE) / LOG_MARGIN, top * LOG_MARGIN)
    small = SMALL * previews[0].plan.lr0
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


def _write_key(figure: Figure, previews: Sequence[PlanPreview]) -> None:
    """Explain the curves below the panels, as a table."""
    lines = [("mode (broad line: asked for)", *(heading for _, heading in COLUMNS))]
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
        y = (FOOT + KEY_ROW * (len(previews) - number + 0.5)) / figure.get_figheight()
        color = INK if preview else QUIET
        label = figure.text((LEFT + NAME) / WIDTH, y, line[0], fontsize=9, va="center", color=color)
        for (inches, _), cell in zip(COLUMNS, line[1:], strict=True):
            x = (LEFT + inches) / WIDTH
            figure.text(x, y, cell, fontsize=9, va="center", ha="right", color=color)
        if preview:
            label.set_fontweight("bold" if preview.requested else "normal")
            ends = [LEFT / WIDTH, (LEFT + SAMPLE) / WIDTH]
            figure.add_artist(Line2D(ends, [y, y], **_style(preview)))
