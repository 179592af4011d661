"""Plot of the learning rate of possible extensions: lr_plan.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from utils.plots import panels
from utils.plots.figure import INK, QUIET, Style, save_figure
from utils.plots.panels import Panel
from utils.solver.modes import BASE_MODE, get_mode
from utils.solver.preview import SMALL_FACTOR, PlanPreview
from utils.solver.schedule import FINISH, Plan

PAST = BASE_MODE.color
PANEL_HEIGHT = 2.9  # inches
MAX_LOG_RANGE = 1e5  # ratio of the axis; more decades would compress the relevant ones
MAX_EPOCHS_WITH_MARKERS = 100  # with more epochs, markers would overlap
LINE, REQUESTED_LINE = 1.8, 3.2  # points


def save_lr_plan(
    plan: Plan, completed: int, previews: Sequence[PlanPreview], path: Path, note: str = ""
) -> None:
    """Plot the run so far in grey and its possible extensions in color, linear and logarithmic.

    Args:
        plan: The run's plan so far.
        completed: Epochs trained, where the extensions start.
        previews: Possible extensions; one is requested.
        path: Output file.
        note: Text after the label of the new seam.
    """
    planned = max(preview.plan.total_epochs for preview in previews)
    requested = [number for number, preview in enumerate(previews) if preview.requested]
    total, mode = previews[requested[0]].plan.total_epochs, previews[requested[0]].mode
    past = _rates(plan)[:completed]
    seams = [segment for segment in plan.seams if segment.start < completed]
    names = [(seam.start, f"epoch {seam.start}: {seam.mode}") for seam in seams]
    start = mode if mode == FINISH else "new extension"
    names.append((completed, f"epoch {completed}: {start}{note}"))
    steps = [(s.start, f"{past[s.start - 1]:.3g} → {past[s.start]:.3g}") for s in seams]
    steps.append((completed, f"{past[-1]:.3g} before the seam"))
    figure, (linear, logarithmic) = panels.stack_panels(
        [
            Panel("learning rate", PANEL_HEIGHT, names),
            Panel("learning rate (log scale)", PANEL_HEIGHT, steps),
        ],
        planned,
        panels.AXIS_MARGIN + panels.table_height(len(previews)),
    )
    subtitle = f"{completed} epochs trained, {total} planned with the {start.split()[-1]}"
    panels.write_title(figure, "Learning-rate plan", subtitle)
    panels.tint_segments([linear, logarithmic], [0, completed, planned])
    markers = _markers(planned)
    for axes in (linear, logarithmic):
        axes.plot(past, color=PAST, linewidth=LINE, **markers)
        for preview in previews:  # from the last epoch before the seam, so that a jump is visible
            epochs = range(completed - 1, preview.plan.total_epochs)
            axes.plot(epochs, _rates(preview.plan)[completed - 1 :], **_style(preview), **markers)
    _scale(linear, logarithmic, previews)
    columns = {
        "mode (thick line: requested)": [preview.label for preview in previews],
        "after the seam": [f"{p.rate_after:.3g}  (×{p.ratio:.3g})" for p in previews],
        "final rate": [f"{p.final_rate:.3g}" for p in previews],
        "sum, % of past": [f"{p.lr_sum_percent:.2f} %" for p in previews],
    }
    samples, text = [_style(preview) for preview in previews], [*columns][:1]
    panels.write_table(figure, columns, samples, left_aligned=text, bold=requested)
    save_figure(figure, path)


def _rates(plan: Plan) -> NDArray[np.float64]:
    """Return the planned rate of every epoch, [epochs]."""
    return plan.lr0 * np.array(plan.factors())


def _markers(planned: int) -> Style:
    """Return the marker style; no markers if there are too many epochs."""
    if planned > MAX_EPOCHS_WITH_MARKERS:
        return {}
    return {"marker": "o", "markersize": panels.marker_size(planned), "markeredgewidth": 0}


def _style(preview: PlanPreview) -> Style:
    """Return the line style: color by mode, dashed with modifiers, thick if requested."""
    return {
        "color": get_mode(preview.mode).color,
        "linestyle": "-" if preview.label == preview.mode else "--",
        "linewidth": REQUESTED_LINE if preview.requested else LINE,
    }


def _scale(linear: Axes, logarithmic: Axes, previews: Sequence[PlanPreview]) -> None:
    """Scale both panels to all rates; a rate of 0 is clipped at the bottom of the log scale."""
    rates = np.concatenate([_rates(preview.plan) for preview in previews])
    top, lowest = rates.max(), rates[rates > 0].min()
    linear.set_ylim(0, panels.HEADROOM * top)
    linear.ticklabel_format(axis="y", style="plain")
    logarithmic.tick_params(which="minor", colors=INK, labelsize=9, length=2)
    logarithmic.set_yscale("log", nonpositive="clip")
    bottom = max(lowest, top / MAX_LOG_RANGE)
    logarithmic.set_ylim(bottom / panels.LOG_MARGIN, top * panels.LOG_MARGIN)
    small = SMALL_FACTOR * previews[0].plan.lr0
    if logarithmic.get_ylim()[0] < small:
        logarithmic.axhline(small, color=QUIET, linewidth=1, linestyle=":")
        look: Style = {"fontsize": 8.5, "color": QUIET, "va": "bottom"}
        place = logarithmic.get_yaxis_transform()  # x as a fraction of the panel
        logarithmic.text(0.007, small, "1 % of lr0", transform=place, **look)
