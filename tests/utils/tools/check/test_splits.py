from pathlib import Path

import numpy as np
import pytest

from models.anchors import MIN_SIDE, is_learnable
from tests.utils.datasets.drawn import draw
from utils.datasets.index import Index, build_index
from utils.tools.check.splits import Split, spread


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """200x100 px with boxes of 100x40 and 4x2; 200x100 px without boxes; 50x50 px with one box."""
    draw(tmp_path, "a", (100, 200), [(0, 0, 100, 40), (10, 60, 14, 62)])
    draw(tmp_path, "b", (100, 200), [])
    draw(tmp_path, "c", (50, 50), [(20, 20, 30, 30)], label=2)
    return build_index([tmp_path / "images"], ["a", "b", "c"])


def test_statistics_in_the_file_and_at_the_training_size(index: Index) -> None:
    found = Split("train", index, 3, image_size=100)
    np.testing.assert_array_equal(found.image_sizes, [[200, 100], [200, 100], [50, 50]])
    np.testing.assert_array_equal(found.per_image, [2, 0, 1])
    np.testing.assert_array_equal(found.per_class, [2, 0, 1])
    np.testing.assert_allclose(found.file_sides, [[100, 40], [4, 2], [10, 10]], rtol=1e-5)
    np.testing.assert_allclose(found.sides, [[50, 20], [2, 1], [20, 20]], rtol=1e-5)
    np.testing.assert_allclose(found.centres, [[0.25, 0.2], [0.06, 0.61], [0.5, 0.5]], rtol=1e-5)
    np.testing.assert_allclose(found.aspects, [2.5, 2, 1], rtol=1e-5)
    np.testing.assert_allclose(found.scales, [1000**0.5, 2**0.5, 20], rtol=1e-5)


def test_boxes_too_small_for_the_grid(index: Index) -> None:
    found = Split("train", index, 3, image_size=100)
    assert found.below_min_side.tolist() == [False, True, False]
    assert found.below_cell(8).tolist() == [False, True, False]
    assert found.below_cell(21).tolist() == [False, True, True]  # the first is wider: 50 px


def test_below_min_side_matches_the_boxes_that_anchors_ignore(index: Index) -> None:
    found = Split("train", index, 3, image_size=100)
    assert MIN_SIDE == 2
    assert (~found.below_min_side).tolist() == is_learnable(found.sides).tolist()


def test_classes_out_of_range_are_not_counted(index: Index) -> None:
    assert Split("train", index, 2, image_size=100).per_class.tolist() == [2, 0]


def test_coco_size_classes(tmp_path: Path) -> None:
    small, medium, large = (0, 0, 31, 33), (0, 0, 32, 32), (0, 0, 97, 96)
    draw(tmp_path, "a", (128, 128), [small, medium, large, (0, 0, 96, 96)])
    found = Split("train", build_index([tmp_path / "images"], ["a"]), 1, image_size=640)
    assert found.by_size() == {"small": 1, "medium": 2, "large": 1}


def test_spread() -> None:
    assert spread(np.arange(101)) == {
        "min": 0,
        "5%": 5,
        "median": 50,
        "95%": 95,
        "max": 100,
        "mean": 50,
    }
    assert spread(np.array([1 / 3]))["median"] == 0.3333


def test_most_frequent_sizes_first(index: Index) -> None:
    found = Split("train", index, 3, image_size=100)
    assert found.frequent_sizes(5) == [(200, 100, 2), (50, 50, 1)]
    assert found.frequent_sizes(1) == [(200, 100, 2)]
