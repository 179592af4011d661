from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tests.utils.plots.test_images import UNUSUAL_NAMES
from utils.plots import label_statistics
from utils.plots.images import PALETTE
from utils.plots.label_statistics import save_labels_correlogram, save_labels_plot


@pytest.mark.parametrize(("boxes", "classes"), [(0, 3), (1, 1), (5000, 3), (50, 80)])
def test_labels_plot(boxes: int, classes: int, tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([boxes, classes])))
    labels = rng.random((boxes, 5))
    labels[:, 0] = rng.integers(classes, size=boxes)
    save_labels_plot(labels, [f"class {i}" for i in range(classes)], tmp_path / "labels.jpg")
    save_labels_correlogram(labels, tmp_path / "labels_correlogram.jpg")
    for name in ("labels.jpg", "labels_correlogram.jpg"):
        image = cv2.imread(str(tmp_path / name))
        assert image is not None
        assert image.shape == (1500, 1500, 3)


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_unusual_names(name: str, tmp_path: Path) -> None:
    save_labels_plot(np.array([[0, 0.5, 0.5, 0.2, 0.2]]), (name,), tmp_path / "labels.jpg")
    assert (tmp_path / "labels.jpg").stat().st_size > 1000


def drawn(monkeypatch: pytest.MonkeyPatch, plot: Callable[[], None]) -> list[Axes]:
    """Return the panels of a plot."""
    figures: list[Figure] = []
    monkeypatch.setattr(label_statistics, "save_figure", lambda figure, _: figures.append(figure))
    plot()
    return figures[0].axes


def test_every_class_has_a_bar_in_its_color(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = np.full((4, 5), 0.5)
    boxes[:, 0] = [0, 2, 2, 2]
    panels = drawn(monkeypatch, lambda: save_labels_plot(boxes, ("a", "b", "c"), Path()))
    bars = [bar for bar in panels[0].patches if isinstance(bar, Rectangle)]
    assert [bar.get_height() for bar in bars] == [1, 0, 3]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [*PALETTE[:3]]
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == pytest.approx([0, 1, 2])


def test_correlogram_has_a_panel_for_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    panels = drawn(monkeypatch, lambda: save_labels_correlogram(np.full((4, 5), 0.5), Path()))
    shown = [axes for axes in panels if axes.axison]
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in shown] == [
        ("center x", "boxes"),
        ("center x", "center y"),
        ("center y", "boxes"),
        *(("center x", "width"), ("center y", "width"), ("width", "boxes")),
        *(("center x", "height"), ("center y", "height"), ("width", "height")),
        ("height", "boxes"),
    ]
