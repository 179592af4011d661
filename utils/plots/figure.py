"""Matplotlib figures without pyplot, which has global state and may need a display."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.textpath import TextPath

from utils.plots.fonts import dejavu, font_for

DPI = 150
POINTS_PER_INCH = 72
CROP_MARGIN = 0.2  # inches
INK = "#333333"
QUIET = "#8a8a8a"
GRID = "#e4e4e4"
# Okabe and Ito's palette (2008), which is safe for color-blind readers.
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"

Style = dict[str, Any]
"""Keyword arguments of matplotlib for a line or a text."""
Corner = Literal["upper left", "upper right", "center left", "center right"]


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height in inches."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def save_figure(figure: Figure, path: Path, *, crop: bool = False) -> None:
    """Save a figure; characters that no font has become boxes, without a warning.

    If `crop` is true, the picture has the size of what is drawn, also outside the figure.
    """
    for text in figure.findobj(Text):
        families = _families(text.get_text())
        if families:
            text.set_fontfamily(families)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(path, bbox_inches="tight" if crop else None, pad_inches=CROP_MARGIN)


def _families(text: str) -> list[str]:
    """Return matplotlib's name of a system font for a text, after its own; empty if not needed."""
    file = font_for(text)
    if file is None or file == dejavu():
        return []
    fontManager.addfont(file.path)
    return [FontProperties().get_name(), get_font(file.path).family_name]


def text_width(text: str, size: float) -> float:
    """Return the width of a text of this font size (points), in inches."""
    if not text:
        return 0.0
    font = FontProperties(family=_families(text) or None)
    width = TextPath((0, 0), text, size=size, prop=font).get_extents().width
    return float(width) / POINTS_PER_INCH


def style_axes(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Label the axes, set a light grid and small tick labels, and remove two spines."""
    label_axes(axes, x=x, y=y, title=title)
    axes.grid(visible=True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)


def label_axes(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Write the labels of both axes, and the title at the upper left."""
    axes.set_xlabel(x, fontsize=10.5, color=INK)
    axes.set_ylabel(y, fontsize=10.5, color=INK)
    axes.set_title(title, loc="left", fontsize=13, weight="bold", color=INK, pad=12)


def add_legend(
    figure: Figure,
    lines: Sequence[Line2D],
    corner: Corner,
    anchor: tuple[float, float],
    *,
    columns: int = 1,
) -> Legend:
    """Add a legend without a frame; its corner is at the anchor, fractions of the figure."""
    return figure.legend(
        handles=lines,
        loc=corner,
        bbox_to_anchor=anchor,
        ncols=columns,
        borderaxespad=0,
        borderpad=0,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
