"""Plots of one validation: PR, F1, P and R curves, confusion matrix, miss-rate curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from utils.errors import UserError
from utils.evaluation.metrics import Floats, MetricCurves, smooth
from utils.evaluation.miss_rate import MissRate
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

MAX_NAMED_CLASSES = 20
"""Above this number of classes, curves are thin, grey and without a legend entry."""
MAX_NUMBERED_CLASSES = 30
"""Above this number of classes, the cells of the confusion matrix have no numbers."""
MAX_LABELLED_CLASSES = 100
"""Above this number of classes, the confusion matrix has no class names."""
MIN_WRITTEN_FRACTION = 0.005
"""Smaller fractions would be rounded to 0.00; their cells stay empty."""
DARK_CELL = 0.5
"""Cells with at least this fraction have white numbers."""
MAX_NAME_LENGTH = 24
# The confusion matrix, in inches.
CELL, MATRIX_LIMITS = 0.42, (4.5, 12.0)
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_BOTTOM, MARGIN_TOP = 2.2, 1.0, 2.1, 0.6
SIZE_TIMES_CLASSES, FONT_LIMITS = 600.0, (5.5, 8.5)  # points
COLOURS = (BLUE, ORANGE, VERMILION, GREEN)
MIN_FPPI, MAX_FPPI = 1e-3, 10.0  # x axis, false positives per image
AVERAGED_FPPI = (0.01, 1.0)
MAX_BOTTOM = 0.05  # the y axis starts at this miss rate or below
FIGURE_SPACE = "\N{FIGURE SPACE}"
MISS_RATE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.64, 0.8, 1.0)


class _CurvePlot(NamedTuple):
    """Content of one plot of metric curves."""

    file: str
    title: str
    axis_names: tuple[str, str]
    values: Floats
    """One curve for each class, [c, 1000]."""


def save_metric_curves(curves: MetricCurves, folder: Path) -> None:
    """Write PR_curve.png, F1_curve.png, P_curve.png and R_curve.png into a folder."""
    map50 = float(curves.ap50.mean()) if len(curves.ap50) else 0.0
    classes = [f"{_shorten(n)} {ap:.3f}" for n, ap in zip(curves.names, curves.ap50, strict=True)]
    axes_names = ("recall", "precision")
    plot = _CurvePlot("PR_curve.png", "Precision over recall", axes_names, curves.envelope)
    _save_curves(plot, curves.confidence, classes, f"all classes {map50:.3f} mAP50", folder)
    names = [_shorten(name) for name in curves.names]
    for letter, name, values in (
        ("F1", "F1", curves.f1),
        ("P", "precision", curves.precision),
        ("R", "recall", curves.recall),
    ):
        title = f"{name[0].upper()}{name[1:]} over confidence"
        plot = _CurvePlot(f"{letter}_curve.png", title, ("confidence", name), values)
        _save_curves(plot, curves.confidence, names, _mean_label(plot, curves), folder)


def _mean_label(plot: _CurvePlot, curves: MetricCurves) -> str:
    """Return the legend entry of the mean: maximum of the smoothed mean, and its confidence."""
    if not len(plot.values):
        return "all classes"
    mean = smooth(plot.values.mean(0))
    return f"all classes {mean.max():.2f} at {curves.confidence[mean.argmax()]:.3f}, smoothed"


def _shorten(name: str) -> str:
    """Return a class name on one line, with at most `MAX_NAME_LENGTH` characters."""
    name = " ".join(name.split())
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def _save_curves(
    plot: _CurvePlot, axis: Floats, names: Sequence[str], mean_name: str, folder: Path
) -> None:
    """Plot the curve of every class and their mean over an axis [1000]."""
    figure = new_figure(9.5, 6.0)
    axes = figure.add_axes((0.075, 0.095, 0.62, 0.81))
    style_axes(axes)
    named = len(names) <= MAX_NAMED_CLASSES
    palette = colormaps["tab20"]
    handles: list[Line2D] = []
    for number, values in enumerate(plot.values):
        color, width = (palette(number), 1.3) if named else ("#b8c4cc", 0.7)
        handles += axes.plot(axis, values, color=color, linewidth=width)
    if not named:
        handles, names = handles[:1], [f"each of {len(names)} classes"]
    mean = plot.values.mean(0) if len(plot.values) else np.zeros_like(axis)
    handles += axes.plot(axis, mean, color=INK, linewidth=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(plot.axis_names[0], fontsize=10.5, color=INK)
    axes.set_ylabel(plot.axis_names[1], fontsize=10.5, color=INK)
    axes.set_title(plot.title, loc="left", fontsize=13, weight="bold", color=INK, pad=12)
    # Matplotlib omits labels that begin with an underscore, so the names are set afterwards.
    legend = figure.legend(
        handles=handles,
        labels=[str(number) for number in range(len(handles))],
        loc="upper left",
        bbox_to_anchor=(0.705, 0.92),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    for text, name in zip(legend.get_texts(), [*names, mean_name], strict=True):
        text.set_parse_math(False)
        text.set_text(name)
    save_figure(figure, folder / plot.file)


def save_confusion_matrix(matrix: NDArray[np.integer], names: Sequence[str], path: Path) -> None:
    """Plot a confusion matrix, each column as fractions of the true class.

    Args:
        matrix: Counts of (predicted, true), [c + 1, c + 1]; background is the last.
        names: The ``c`` class names.
        path: image file to write.
    """
    fractions = matrix / np.maximum(matrix.sum(0, keepdims=True), 1)
    side = float(np.clip(CELL * len(matrix), *MATRIX_LIMITS))
    width, height = MARGIN_LEFT + side + MARGIN_RIGHT, MARGIN_BOTTOM + side + MARGIN_TOP
    figure = new_figure(width, height)
    left, bottom = MARGIN_LEFT / width, MARGIN_BOTTOM / height
    axes = figure.add_axes((left, bottom, side / width, side / height))
    shown = np.where(fractions > 0, fractions, np.nan)
    image = axes.imshow(shown, cmap=colormaps["Blues"], vmin=0, vmax=1)
    axes.tick_params(colors=INK, length=0)
    for spine in axes.spines.values():
        spine.set_color(QUIET)
    _label_cells(axes, fractions, [*(_shorten(name) for name in names), "background"])
    axes.set_xlabel("true class", fontsize=10.5, color=INK)
    axes.set_ylabel("predicted class", fontsize=10.5, color=INK)
    title = "Confusion matrix, fractions of each true class"
    axes.set_title(title, loc="left", fontsize=13, weight="bold", color=INK, pad=12)
    scale = figure.add_axes(
        ((MARGIN_LEFT + side + 0.2) / width, bottom, 0.2 / width, side / height)
    )
    bar = figure.colorbar(image, cax=scale)
    bar.outline.set_visible(False)
    scale.tick_params(colors=INK, labelsize=9)
    save_figure(figure, path)


def _label_cells(axes: Axes, fractions: Floats, names: Sequence[str]) -> None:
    """Write names on the axes and numbers in the cells, if there is room for them."""
    count = len(names)
    if count > MAX_LABELLED_CLASSES:
        axes.set_xticks([])
        axes.set_yticks([])
        return
    size = float(np.clip(SIZE_TIMES_CLASSES / count, *FONT_LIMITS))
    axes.set_xticks(range(count), names, rotation=90, fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_parse_math(False)
    if count > MAX_NUMBERED_CLASSES:
        return
    for row, column in zip(*np.nonzero(fractions >= MIN_WRITTEN_FRACTION), strict=True):
        number = f"{fractions[row, column]:.2f}"
        color = "white" if fractions[row, column] >= DARK_CELL else INK
        axes.text(column, row, number, ha="center", va="center", color=color, fontsize=size)


def save_miss_rate_curves(rates: Sequence[MissRate], path: Path) -> None:
    """Plot the miss-rate curves of all subsets that have pedestrians.

    Args:
        rates: miss rates with their curves.
        path: image file to write.

    Raises:
        UserError: the file cannot be written.
    """
    figure = new_figure(8.0, 6.0)
    axes = figure.add_axes((0.1, 0.11, 0.85, 0.8))
    style_axes(axes)
    axes.axvspan(*AVERAGED_FPPI, color=QUIET, alpha=0.1, linewidth=0)
    lowest = 1.0
    for number, rate in enumerate(rates):
        if not rate.pedestrians:
            continue  # its colour stays reserved, so that plots can be compared
        # Extended to the right edge: more detections would only add false positives.
        fppi = np.append(rate.fppi, max(MAX_FPPI, rate.fppi[-1])).clip(min=MIN_FPPI)
        missed = np.append(rate.missed, rate.missed[-1])
        lowest = min(lowest, float(missed[fppi <= MAX_FPPI].min()))
        axes.plot(
            fppi,
            missed.clip(min=MISS_RATE_TICKS[0]),
            drawstyle="steps-post",
            color=COLOURS[number % len(COLOURS)],
            linewidth=1.8,
            label=f"{rate.log_average:7.2%}  {rate.subset}".replace(" ", FIGURE_SPACE),
        )
    _scale(axes, lowest)
    axes.set_xlabel("false positives per image", fontsize=10.5, color=INK)
    axes.set_ylabel("miss rate", fontsize=10.5, color=INK)
    title = "Miss rate, and its log-average over the grey range"
    axes.set_title(title, loc="left", fontsize=13, weight="bold", color=INK, pad=12)
    if any(rate.pedestrians for rate in rates):
        axes.legend(loc="lower left", frameon=False, fontsize=9.5, labelcolor=INK)
    try:
        save_figure(figure, path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot write {path}: {error}; give a .png file in an existing folder."
        ) from error


def _scale(axes: Axes, lowest: float) -> None:
    """Set logarithmic axes; y starts at the tick below the curves, at most `MAX_BOTTOM`."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(MIN_FPPI, MAX_FPPI)
    bottom = max(
        [tick for tick in MISS_RATE_TICKS if tick <= min(lowest, MAX_BOTTOM)],
        default=MISS_RATE_TICKS[0],
    )
    axes.set_ylim(bottom, 1.03)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in MISS_RATE_TICKS if tick >= bottom]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda missed, _: f"{missed:g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda fppi, _: f"{fppi:g}"))
