"""Plots of one validation: PR, F1, P and R curves, confusion matrix, miss-rate curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
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
    add_legend,
    label_axes,
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
MAX_NAME_LENGTH = 24
CELL, MATRIX_LIMITS, SCALE_WIDTH = 0.42, (4.5, 12.0), 0.2  # of the confusion matrix, inches
SIZE_TIMES_CLASSES, FONT_LIMITS = 600.0, (5.5, 8.5)  # points
COLOURS = (BLUE, ORANGE, VERMILION, GREEN)
MIN_FPPI, MAX_FPPI = 1e-3, 10.0  # x axis, false positives per image
AVERAGED_FPPI = (0.01, 1.0)
MAX_BOTTOM = 0.05  # of the y axis
MISS_RATE_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.64, 0.8, 1.0)


def save_metric_curves(curves: MetricCurves, folder: Path) -> None:
    """Write PR_curve.png, F1_curve.png, P_curve.png and R_curve.png into a folder."""
    names = [_shorten(name) for name in curves.names]
    labels = [f"{name} {ap:.3f}" for name, ap in zip(names, curves.ap50, strict=True)]
    map50 = float(curves.ap50.mean()) if len(curves.ap50) else 0.0
    labels.append(f"all classes {map50:.3f} mAP50")
    axis = curves.confidence
    _save_curves(folder / "PR_curve.png", ("recall", "precision"), axis, curves.envelope, labels)
    for letter, name, values in (
        ("F1", "F1", curves.f1),
        ("P", "precision", curves.precision),
        ("R", "recall", curves.recall),
    ):
        file, labels = folder / f"{letter}_curve.png", [*names, _mean_label(axis, values)]
        _save_curves(file, ("confidence", name), axis, values, labels)


def _mean_label(confidence: Floats, values: Floats) -> str:
    """Return the legend entry of the mean: maximum of the smoothed mean, and its confidence."""
    if not len(values):
        return "all classes"
    mean = smooth(values.mean(0))
    return f"all classes {mean.max():.2f} at {confidence[mean.argmax()]:.3f}, smoothed"


def _shorten(name: str) -> str:
    """Return a class name on one line, with at most `MAX_NAME_LENGTH` characters."""
    name = " ".join(name.split())
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def _save_curves(
    path: Path, axis_names: tuple[str, str], axis: Floats, values: Floats, labels: Sequence[str]
) -> None:
    """Plot the curve of each class [c, 1000] and their mean, which has the last label."""
    figure = new_figure(9.5, 6.0)
    axes = figure.add_axes((0.075, 0.095, 0.62, 0.81))
    x, y = axis_names
    style_axes(axes, x=x, y=y, title=f"{y[0].upper()}{y[1:]} over {x}")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    if len(values) <= MAX_NAMED_CLASSES:
        axes.set_prop_cycle(color=colormaps["tab20"](range(MAX_NAMED_CLASSES)))
        handles = axes.plot(axis, values.T, linewidth=1.3)
    else:
        handles = axes.plot(axis, values.T, color="#b8c4cc", linewidth=0.7)[:1]
        labels = [f"each of {len(values)} classes", labels[-1]]
    mean = values.mean(0) if len(values) else np.zeros_like(axis)
    handles += axes.plot(axis, mean, color=INK, linewidth=3)
    for handle in handles:  # matplotlib omits names that begin with an underscore
        handle.set_label("the name follows")
    legend = add_legend(figure, handles, "upper left", (0.715, 0.905))
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)
        text.set_text(label)
    save_figure(figure, path)


def save_confusion_matrix(matrix: NDArray[np.integer], names: Sequence[str], path: Path) -> None:
    """Plot a confusion matrix, each column as fractions of the true class.

    Args:
        matrix: Counts of (predicted, true), [c + 1, c + 1]; background is the last.
        names: The ``c`` class names.
        path: Image file to write.
    """
    import seaborn as sns

    fractions = matrix / np.maximum(matrix.sum(0, keepdims=True), 1)
    count = len(matrix)
    side = float(np.clip(CELL * count, *MATRIX_LIMITS))
    figure = new_figure(side, side)
    axes = figure.add_axes((0, 0, 1, 1))
    size = float(np.clip(SIZE_TIMES_CLASSES / count, *FONT_LIMITS))
    numbers = np.where(fractions < MIN_WRITTEN_FRACTION, "", np.char.mod("%.2f", fractions))
    sns.heatmap(
        fractions,
        vmin=0,
        vmax=1,
        cmap="Blues",
        mask=fractions == 0,
        annot=numbers if count <= MAX_NUMBERED_CLASSES else False,
        fmt="",
        annot_kws={"fontsize": size},
        xticklabels=False,
        yticklabels=False,
        ax=axes,
        cbar_ax=figure.add_axes((1 + SCALE_WIDTH / side, 0, SCALE_WIDTH / side, 1)),
    )
    axes.spines[:].set(visible=True, color=QUIET)
    if count <= MAX_LABELLED_CLASSES:  # not by seaborn, which reads names as formulas
        ticks, labels = np.arange(count) + 0.5, [*map(_shorten, names), "background"]
        axes.set_xticks(ticks, labels, rotation=90, parse_math=False)
        axes.set_yticks(ticks, labels, parse_math=False)
    axes.tick_params(colors=INK, length=0, labelsize=size)
    figure.axes[1].tick_params(colors=INK, labelsize=9)
    title = "Confusion matrix, fractions of each true class"
    label_axes(axes, x="true class", y="predicted class", title=title)
    save_figure(figure, path, crop=True)


def save_miss_rate_curves(rates: Sequence[MissRate], path: Path) -> None:
    """Plot the miss-rate curves of all subsets that have pedestrians.

    Raises:
        UserError: the file cannot be written.
    """
    figure = new_figure(8.0, 6.0)
    axes = figure.add_axes((0.1, 0.11, 0.85, 0.8))
    title = "Miss rate, and its log-average over the grey range"
    style_axes(axes, x="false positives per image", y="miss rate", title=title)
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
            label=f"{rate.log_average:7.2%}  {rate.subset}".replace(" ", "\N{FIGURE SPACE}"),
        )
    lowest = np.clip(lowest, MISS_RATE_TICKS[0], MAX_BOTTOM)
    bottom = max(tick for tick in MISS_RATE_TICKS if tick <= lowest)
    axes.set(xscale="log", yscale="log", xlim=(MIN_FPPI, MAX_FPPI), ylim=(bottom, 1.03))
    axes.set_yticks([tick for tick in MISS_RATE_TICKS if tick >= bottom])
    axes.set_yticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    if any(rate.pedestrians for rate in rates):
        axes.legend(loc="lower left", frameon=False, fontsize=9.5, labelcolor=INK)
    try:
        save_figure(figure, path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot write {path}: {error}; give a .png file in an existing folder."
        ) from error
