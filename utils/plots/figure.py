"""Matplotlib figures without pyplot, which has global state and may need a display."""

from __future__ import annotations

import warnings
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 150
INK = "#333333"
QUIET = "#8a8a8a"
GRID = "#e4e4e4"
# Okabe and Ito's palette (2008), which is safe for color-blind readers.
BLUE, ORANGE, GREEN, VERMILION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height in inches."""
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure; characters that the font lacks become boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(path)


def style_axes(axes: Axes) -> None:
    """Set a light grid and small tick labels, and remove the upper and right spines."""
    axes.grid(visible=True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
