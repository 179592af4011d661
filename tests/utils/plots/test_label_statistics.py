from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.utils.plots.test_images import UNUSUAL_NAMES
from utils.plots.label_statistics import save_labels_plot


@pytest.mark.parametrize(("boxes", "classes"), [(0, 3), (1, 1), (5000, 3), (50, 80)])
def test_labels_plot(boxes: int, classes: int, tmp_path: Path) -> None:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([boxes, classes])))
    labels = rng.random((boxes, 5))
    labels[:, 0] = rng.integers(classes, size=boxes)
    path = tmp_path / "labels.jpg"
    save_labels_plot(labels, [f"class {i}" for i in range(classes)], path)
    image = cv2.imread(str(path))
    assert image is not None
    assert image.shape == (1500, 1500, 3)


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_unusual_names(name: str, tmp_path: Path) -> None:
    save_labels_plot(np.array([[0, 0.5, 0.5, 0.2, 0.2]]), (name,), tmp_path / "labels.jpg")
    assert (tmp_path / "labels.jpg").stat().st_size > 1000
