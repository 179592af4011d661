"""Matplotlib figures without pyplot, which has global state and may need a display."""

from __future__ import annotations

import warnings
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 150
CROP_MARGIN = 0.2  # inches
INK = "#333333"
QUIET = "#8a8a8a"
GRID = "#e4e4e4"
# Okabe and Ito's palette (2008), which is safe for color-blind readers.
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height in inches."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def save_figure(figure: Figure, path: Path, *, crop: bool = False) -> None:
    """Save a figure; characters that the font lacks become boxes, without a warning.

    Args:
        figure: The figure.
        path: Output file.
        crop: Whether to resize the picture to what is drawn, also outside the figure.
    """
    box = {"bbox_inches": "tight", "pad_inches": CROP_MARGIN} if crop else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(path, **box)


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
