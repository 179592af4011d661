from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.evaluation import curves as miss_rate_curves
from utils.evaluation.curves import (
    COLOURS,
    save_confusion_matrix,
    save_metric_curves,
    save_miss_rate_curves,
)
from utils.evaluation.metrics import MetricCurves, ap_per_class
from utils.evaluation.miss_rate import MissRate
from utils.plots.figure import save_figure

FILES = ["F1_curve.png", "PR_curve.png", "P_curve.png", "R_curve.png"]
SPECIAL_NAMES = ("Fahrrad", "人\nperson", "$cost$ & $", "_hidden", "x" * 60, "a%\\_é")


def read(path: Path) -> np.ndarray:
    """Return the pixels of an image, BGR."""
    image = cv2.imread(str(path))
    assert image is not None
    return image


def curves(classes: int, names: tuple[str, ...]) -> MetricCurves:
    """Return curves for ten labels per class, half of which are detected."""
    labels = np.repeat(np.arange(classes), 10)
    tp = np.repeat((np.arange(len(labels)) % 2 == 0)[:, None], 10, 1)
    return ap_per_class(tp, np.linspace(1, 0, len(labels)), labels, labels, names).curves


@pytest.mark.parametrize("classes", [0, 1, 20, 21])
def test_four_plots_are_written(tmp_path: Path, classes: int) -> None:
    save_metric_curves(curves(classes, tuple(map(str, range(classes)))), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert all((read(path) < 250).any() for path in tmp_path.iterdir())


def test_special_characters_in_class_names(tmp_path: Path) -> None:
    save_metric_curves(curves(len(SPECIAL_NAMES), SPECIAL_NAMES), tmp_path)
    save_confusion_matrix(np.eye(7, dtype=int), SPECIAL_NAMES, tmp_path / "confusion_matrix.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == [*FILES, "confusion_matrix.png"]


def test_legend_lists_up_to_twenty_classes(tmp_path: Path) -> None:
    def legend_fill(classes: int) -> float:
        folder = tmp_path / str(classes)
        folder.mkdir()
        names = tuple(f"class number {n}" for n in range(classes))
        save_metric_curves(curves(classes, names), folder)
        image = read(folder / "R_curve.png")
        return float((image[:, round(image.shape[1] * 0.71) :] < 250).any(2).mean())

    assert legend_fill(20) > 3 * legend_fill(21)


@pytest.mark.parametrize("classes", [1, 31, 101])
def test_confusion_matrix_of_any_size(tmp_path: Path, classes: int) -> None:
    path = tmp_path / "confusion_matrix.png"
    save_confusion_matrix(np.eye(classes + 1, dtype=int), tuple(map(str, range(classes))), path)
    blue, _, red = read(path).astype(int).transpose(2, 0, 1)
    assert (blue - red > 60).any()  # the dark blue diagonal


def test_empty_confusion_matrix_is_plotted(tmp_path: Path) -> None:
    save_confusion_matrix(np.zeros((3, 3), int), ("a", "b"), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").is_file()


CURVE = MissRate("A", 3, 0.5, np.array([0.0, 0.0, 0.25, 0.5]), np.array([1.0, 0.7, 0.3, 0.3]))
PERFECT = MissRate("B", 1, 0.0, np.array([0.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0]))
NOBODY = MissRate("C", 0, float("nan"), np.array([0.0, 20.0]), np.array([1.0, 1.0]))


@pytest.fixture
def axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Axes:
    """Axes of the plot of three subsets, one of them without pedestrians."""
    figures: list[Figure] = []

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save_figure(figure, path)

    monkeypatch.setattr(miss_rate_curves, "save_figure", keep)
    save_miss_rate_curves([CURVE, NOBODY, PERFECT], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    return figures[0].axes[0]


def test_each_subset_with_pedestrians_has_a_curve(axes: Axes) -> None:
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text().split() for text in legend.get_texts()] == [
        ["50.00%", "A"],
        ["0.00%", "B"],
    ]
    assert [line.get_color() for line in axes.get_lines()] == [COLOURS[0], COLOURS[2]]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_curves_stay_inside_the_axes_and_reach_the_right_edge(axes: Axes) -> None:
    line = axes.get_lines()[0].get_xydata()
    assert np.asarray(line).tolist() == [[1e-3, 1], [1e-3, 0.7], [0.25, 0.3], [0.5, 0.3], [10, 0.3]]
    assert axes.get_lines()[1].get_ydata()[-1] == axes.get_ylim()[0] == 0.01  # type: ignore[index]


def test_no_curves_to_plot(tmp_path: Path) -> None:
    save_miss_rate_curves([NOBODY], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()
