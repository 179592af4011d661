"""Flags: labels above a panel, each at a vertical line (its pole), in rows without overlap."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from utils.plots.figure import DPI, INK, VERMILION, text_width

ROW_HEIGHT = 0.21  # inches
PAD = 0.06  # inches between a pole and its label
FONT_SIZE = 8.5  # points
LAST_PART = re.compile(r"[,;] [^,;]*$")
POLE_ZORDER = 3  # above the curves, below the flags of other seams


class Flag(NamedTuple):
    """A label and its position."""

    x: float
    """Position of the pole, as a fraction of the panel's width."""
    text: str
    row: int
    """Row of the label; 0 is the row next to the panel."""
    left_of_pole: bool
    """Whether the label ends at the pole, because there is no room to the right of it."""


def place_flags(marks: Sequence[tuple[float, str]], panel_width: float) -> list[Flag]:
    """Assign each label a row in which it overlaps no other label and no pole crosses it.

    From right to left, each label is placed above all labels and poles that it spans. Labels that
    end at their pole follow last, from left to right.

    Args:
        marks: Poles, as fractions of the panel's width in ascending order, and their labels.
        panel_width: In inches.
    """
    poles = [x * panel_width for x, _ in marks]
    texts = [
        _fitting(text, max(pole, panel_width - pole))
        for pole, (_, text) in zip(poles, marks, strict=True)
    ]
    widths = [text_width(text, FONT_SIZE) + 2 * PAD for text in texts]
    starts, left_of_pole = [], []
    for pole, width in zip(poles, widths, strict=True):
        left_of_pole.append(pole + width > panel_width)
        starts.append(pole - width if left_of_pole[-1] else pole)
    numbers = range(len(marks))
    order = [i for i in reversed(numbers) if not left_of_pole[i]]
    order += [i for i in numbers if left_of_pole[i]]
    rows: dict[int, int] = {}
    for i in order:
        below = [
            rows[j]
            for j in rows
            if starts[i] < starts[j] + widths[j] and starts[j] < starts[i] + widths[i]
        ]
        rows[i] = 1 + max(below, default=-1)
    return [Flag(x, texts[i], rows[i], left_of_pole[i]) for i, (x, _) in enumerate(marks)]


def _fitting(text: str, room: float) -> str:
    """Return a label without as many of its last parts as necessary to fit into `room`, inches."""
    while text_width(text, FONT_SIZE) + 2 * PAD > room and (end := re.search(LAST_PART, text)):
        text = text[: end.start()]
    return text


def rows_height(flags: Sequence[Flag]) -> float:
    """Return the height of the flags above the panel, in inches."""
    return ROW_HEIGHT * max((flag.row + 1 for flag in flags if flag.text), default=0)


def draw_flags(axes: Axes, flags: Sequence[Flag], pole_top: float | None = None) -> None:
    """Draw the poles through the whole panel, and the labels above it.

    The poles end at `pole_top`, in inches above the panel, or else each one at its own label.
    """
    width, height = axes.bbox.width / DPI, axes.bbox.height / DPI
    for flag in flags:
        end = ROW_HEIGHT * (flag.row + 1) if pole_top is None else pole_top
        axes.plot(
            [flag.x, flag.x],
            [0, 1 + end / height],
            transform=axes.transAxes,
            color=VERMILION,
            linewidth=1.1,
            clip_on=False,
            zorder=POLE_ZORDER,
        )
        axes.text(
            flag.x + (-PAD if flag.left_of_pole else PAD) / width,
            1 + ROW_HEIGHT * (flag.row + 0.5) / height,
            flag.text,
            transform=axes.transAxes,
            ha="right" if flag.left_of_pole else "left",
            va="center",
            fontsize=FONT_SIZE,
            color=INK,
            zorder=POLE_ZORDER + 1,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
