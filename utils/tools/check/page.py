"""A page about a data set: statistics, findings, and plots of its boxes and images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.plots.figure import GREEN, INK, ORANGE, QUIET, VERMILION, new_figure, save_figure
from utils.tools.check.findings import NOTE, STOP, WARNING
from utils.tools.check.panels import (
    SPLIT_COLOURS,
    draw_aspects,
    draw_boxes_per_image,
    draw_centres,
    draw_classes,
    draw_image_sizes,
    draw_scales,
    draw_sides,
)
from utils.tools.check.report import table_rows

if TYPE_CHECKING:
    from utils.tools.check.report import DatasetReport

WIDTH, HEIGHT = 14.0, 14.6  # inches, like all lengths here
LEFT, RIGHT = 0.7, 13.7
TITLE = 14.2  # distance from the bottom, like the positions below
TABLE_TOP, TABLE_HEIGHT = 13.35, 3.4
CLASSES_BOTTOM, CLASSES_HEIGHT = 7.65, 1.85
PANEL_BOTTOMS, PANEL_HEIGHT = (4.05, 0.65), 2.5
PANEL_GAP = 0.75
TABLE_WIDTH = 6.4
TITLES_WIDTH = 2.5  # width of the table's first column
FINDINGS_GAP = 0.5
LINE = 0.225  # distance between lines of text
FINDINGS_SHOWN = 15  # lines
CHARACTERS = 76  # per line of a finding
LEVEL_SHARE = 0.13  # fraction of a line's width for the level
TWO = 2  # splits; with more, cells have a smaller font
TEXT_SIZES = {False: 9.5, True: 7.5}
LEVEL_COLOURS = {STOP: VERMILION, WARNING: ORANGE, NOTE: QUIET}


def save_dataset_page(report: DatasetReport, path: Path) -> None:
    """Save the page of a data set with at least one readable split.

    Args:
        report: the checked data set.
        path: the image file to write.
    """
    figure = new_figure(WIDTH, HEIGHT)
    _write_title(figure, report)
    bottom = TABLE_TOP - TABLE_HEIGHT
    _write_table(_place(figure, LEFT, bottom, TABLE_WIDTH, TABLE_HEIGHT), table_rows(report))
    start = LEFT + TABLE_WIDTH + FINDINGS_GAP
    _write_findings(_place(figure, start, bottom, RIGHT - start, TABLE_HEIGHT), report)
    classes = _place(figure, LEFT, CLASSES_BOTTOM, RIGHT - LEFT, CLASSES_HEIGHT)
    draw_classes(classes, report.measures, report.names)
    upper, lower = (_panels(figure, bottom) for bottom in PANEL_BOTTOMS)
    draw_sides(upper[0], report)
    draw_scales(upper[1], report)
    draw_aspects(upper[2], report.measures)
    draw_boxes_per_image(lower[0], report.measures)
    draw_image_sizes(lower[1], report.measures)
    draw_centres(lower[2], report.measures[0])
    save_figure(figure, path)


def _place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches."""
    return figure.add_axes((left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT))


def _panels(figure: Figure, bottom: float) -> list[Axes]:
    """Add a row of three axes."""
    width = (RIGHT - LEFT - 2 * PANEL_GAP) / 3
    starts = [LEFT + column * (width + PANEL_GAP) for column in range(3)]
    return [_place(figure, start, bottom, width, PANEL_HEIGHT) for start in starts]


def _write_title(figure: Figure, report: DatasetReport) -> None:
    x, y = LEFT / WIDTH, TITLE / HEIGHT
    title = f"{report.root.name} at {report.image_size} px"
    figure.text(x, y, title, fontsize=17, weight="bold", color=INK, va="center")
    colour = GREEN if report.can_start else VERMILION
    y = (TITLE - 1.6 * LINE) / HEIGHT
    figure.text(x, y, report.verdict, fontsize=11, weight="bold", color=colour, va="center")
    place = str(report.root)
    figure.text(RIGHT / WIDTH, y, place, fontsize=9, color=QUIET, va="center", ha="right")


def _write_table(axes: Axes, rows: Sequence[Sequence[str]]) -> None:
    """Write the table: one line per row, one column per split with a header in its colour."""
    _make_lines(axes, TABLE_WIDTH)
    step = (TABLE_WIDTH - TITLES_WIDTH) / (len(rows[0]) - 1)
    for number, (title, *cells) in enumerate(rows):
        axes.text(0, number, title, fontsize=9.5, color=INK, va="center")
        for column, cell in enumerate(cells, start=1):
            axes.text(
                TITLES_WIDTH + column * step,
                number,
                cell,
                fontsize=TEXT_SIZES[len(cells) > TWO],
                color=SPLIT_COLOURS[rows[0][column]] if number == 0 else INK,
                weight="bold" if number == 0 else "normal",
                ha="right",
                va="center",
            )


def _write_findings(axes: Axes, report: DatasetReport) -> None:
    """Write the findings, most severe first; the files are listed in the JSON file."""
    _make_lines(axes, 1.0)
    lines = [
        (finding.level if first else "", line)
        for finding in report.findings
        for first, line in _wrapped(finding.sentence)
    ]
    if len(lines) > FINDINGS_SHOWN:
        lines = [*lines[: FINDINGS_SHOWN - 1], ("", "… and more in the JSON file")]
    for number, (level, line) in enumerate(lines or [("", "No findings.")]):
        colour = LEVEL_COLOURS.get(level, INK)
        axes.text(0, number, level, fontsize=9.5, weight="bold", color=colour, va="center")
        axes.text(LEVEL_SHARE, number, line, fontsize=9.5, color=INK, va="center")


def _wrapped(text: str) -> list[tuple[bool, str]]:
    """Wrap a text; return whether each line is the first, and the line."""
    return [(number == 0, line) for number, line in enumerate(textwrap.wrap(text, CHARACTERS))]


def _make_lines(axes: Axes, width: float) -> None:
    """Hide the axes and set y to line numbers from the top."""
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(TABLE_HEIGHT / LINE - 0.5, -0.5)
