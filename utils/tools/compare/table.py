"""Table below the plot: legend and best values of the runs; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

from utils.plots.figure import INK, QUIET
from utils.plots.flags import POINTS_PER_INCH
from utils.tools.compare.branches import RunCurves, best_epoch

LINE = 0.26  # line height of the table, inches
EXTRA_LINES = 1.5  # the header, and the margin below
SAMPLE, NAME = 0.4, 0.55  # inches: length of the line sample, and left edge of the run's name
NUMBER = 0.95  # width of a column of numbers, inches
GUTTER = 0.35  # inches between the last column of numbers and the text
FONT_SIZE = 9.0  # points
HEADER = ("run", "mAP50-95", "mAP50", "best epoch", "epochs", "seams")
MAX_LISTED_SEAMS = 4  # if there are more, only their number is written


def write_table(axes: Axes, runs: Sequence[RunCurves], styles: Sequence[tuple[str, str]]) -> None:
    """Write a header and one line per run.

    Args:
        axes: Empty axes of `LINE` × (runs + `EXTRA_LINES`) inches.
        runs: Runs in the order of the lines.
        styles: Color and marker of each run.
    """
    axes.set_axis_off()
    axes.set_xlim(0, axes.get_position().width * _figure_width(axes))  # inches
    axes.set_ylim(len(runs) + EXTRA_LINES - 0.5, -0.5)  # lines; line 0 is the header
    names = [HEADER[0], *(run.label for run in runs)]
    widths = [TextPath((0, 0), name, size=FONT_SIZE).get_extents().width for name in names]
    first = NAME + max(widths) / POINTS_PER_INCH + NUMBER
    numbers = [first + NUMBER * number for number in range(len(HEADER) - 2)]
    places = [(NAME, "left"), *((x, "right") for x in numbers), (numbers[-1] + GUTTER, "left")]
    for line, cells in enumerate([HEADER, *map(_cells, runs)]):
        for (x, side), cell in zip(places, cells, strict=True):
            axes.text(
                x,
                line,
                cell,
                ha=side,
                va="center",
                fontsize=FONT_SIZE,
                color=INK if line else QUIET,
            )
    for line, (color, marker) in enumerate(styles, start=1):
        axes.plot([0, SAMPLE], [line, line], color=color, lw=1.5)
        axes.plot(SAMPLE / 2, line, marker, color=color, ms=6, mew=0)


def _figure_width(axes: Axes) -> float:
    figure = axes.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    return figure.get_figwidth()


def _cells(run: RunCurves) -> tuple[str, ...]:
    """Return the cells of a run; seams are listed unless there are too many."""
    best = best_epoch(run.rows)
    values = ("-", "-", "-")
    if best is not None:
        values = (f"{best.map50_95:.4f}", f"{best.map50:.4f}", str(best.epoch))
    seams = ", ".join(f"{seam.epoch} {seam.mode}" for seam in run.seams)
    if len(run.seams) > MAX_LISTED_SEAMS:
        seams = str(len(run.seams))
    return (run.label, *values, str(len(run.rows)), seams)
