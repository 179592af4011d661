"""Miss rate over false positives per image, both logarithmic: one line for each subset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from utils.plots.figure import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    QUIET,
    VERMILION,
    new_figure,
    save_figure,
    style_axes,
)

if TYPE_CHECKING:
    from utils.evaluation.miss_rate import MissRate

COLOURS = (BLUE, ORANGE, VERMILION, GREEN)
LEFT, RIGHT = 1e-3, 10.0  # false positives per image
AVERAGED = (0.01, 1.0)
LEAST_SHOWN = 0.05
WIDE_AS_A_DIGIT = "\N{FIGURE SPACE}"
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.64, 0.8, 1.0)


def save_miss_rate_curves(rates: Sequence[MissRate], path: Path) -> None:
    """Draw the curves of subsets that have pedestrians.

    Args:
        rates: with the corners of the curves.
        path: the picture to write.
    """
    figure = new_figure(8.0, 6.0)
    axes = figure.add_axes((0.1, 0.11, 0.85, 0.8))
    style_axes(axes)
    axes.axvspan(*AVERAGED, color=QUIET, alpha=0.1, linewidth=0)
    lowest = 1.0
    for number, rate in enumerate(rates):
        if not rate.pedestrians:
            continue  # and its colour stays its own, so that pictures can be compared
        # Prolonged to the right edge: more detections would only add false positives.
        fppi = np.append(rate.fppi, max(RIGHT, rate.fppi[-1])).clip(min=LEFT)
        missed = np.append(rate.missed, rate.missed[-1])
        lowest = min(lowest, float(missed[fppi <= RIGHT].min()))
        axes.plot(
            fppi,
            missed.clip(min=SHARES[0]),
            drawstyle="steps-post",
            color=COLOURS[number % len(COLOURS)],
            linewidth=1.8,
            label=f"{rate.log_average:7.2%}  {rate.subset}".replace(" ", WIDE_AS_A_DIGIT),
        )
    _scale(axes, lowest)
    axes.set_xlabel("false positives per image", fontsize=10.5, color=INK)
    axes.set_ylabel("miss rate", fontsize=10.5, color=INK)
    title = "Miss rate, and its log-average over the grey range"
    axes.set_title(title, loc="left", fontsize=13, weight="bold", color=INK, pad=12)
    if any(rate.pedestrians for rate in rates):
        axes.legend(loc="lower left", frameon=False, fontsize=9.5, labelcolor=INK)
    save_figure(figure, path)


def _scale(axes: Axes, lowest: float) -> None:
    """Logarithmic axes; the lower end is the number below the curves, 0.05 at most."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(LEFT, RIGHT)
    bottom = max(
        [share for share in SHARES if share <= min(lowest, LEAST_SHOWN)], default=SHARES[0]
    )
    axes.set_ylim(bottom, 1.03)
    axes.yaxis.set_major_locator(FixedLocator([share for share in SHARES if share >= bottom]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda fppi, _: f"{fppi:g}"))
