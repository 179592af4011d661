from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.evaluation.miss_rate import MissRate
from utils.plots import miss_rate_curves
from utils.plots.figure import save_figure
from utils.plots.miss_rate_curves import COLOURS, save_miss_rate_curves

CURVE = MissRate("A", 3, 0.5, np.array([0.0, 0.0, 0.25, 0.5]), np.array([1.0, 0.7, 0.3, 0.3]))
PERFECT = MissRate("B", 1, 0.0, np.array([0.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0]))
NOBODY = MissRate("C", 0, float("nan"), np.array([0.0, 20.0]), np.array([1.0, 1.0]))


@pytest.fixture
def axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Axes:
    """What is drawn of three subsets, one of them without pedestrians."""
    drawn: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        drawn.append(figure)
        save_figure(figure, path)

    monkeypatch.setattr(miss_rate_curves, "save_figure", keep)
    save_miss_rate_curves([CURVE, NOBODY, PERFECT], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    return drawn[0].axes[0]


def test_a_line_for_each_subset_with_pedestrians(axes: Axes) -> None:
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text().split() for text in legend.get_texts()] == [
        ["50.00%", "A"],
        ["0.00%", "B"],
    ]
    assert [line.get_color() for line in axes.get_lines()] == [COLOURS[0], COLOURS[2]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_lines_stay_inside_the_picture_and_reach_its_right_edge(axes: Axes) -> None:
    line = axes.get_lines()[0].get_xydata()
    assert np.asarray(line).tolist() == [[1e-3, 1], [1e-3, 0.7], [0.25, 0.3], [0.5, 0.3], [10, 0.3]]
    assert axes.get_lines()[1].get_ydata()[-1] == axes.get_ylim()[0] == 0.01  # type: ignore[index]


def test_nothing_to_draw(tmp_path: Path) -> None:
    save_miss_rate_curves([NOBODY], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()
