import math

import cv2
import numpy as np
import pytest

from utils.datasets.warp import Warp, still_visible, warp_boxes, warp_image, warp_matrix


def test_the_defaults_change_nothing() -> None:
    assert np.array_equal(warp_matrix(Warp(), (40, 60), (40, 60)), np.eye(3))
    image = np.zeros((40, 60, 3), np.uint8)
    assert warp_image(image, np.eye(3), (40, 60)) is image


def test_the_defaults_take_the_middle_of_a_greater_canvas() -> None:
    matrix = warp_matrix(Warp(), (8, 12), (4, 6))
    assert matrix.tolist() == [[1, 0, -3], [0, 1, -2], [0, 0, 1]]
    canvas = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    assert np.array_equal(warp_image(canvas, matrix, (4, 6)), canvas[2:6, 3:9])


@pytest.mark.parametrize(
    ("warp", "point", "expected"),
    [
        # of a source 100 px high and 200 wide, whose centre is (100, 50)
        (Warp(scale=2), (110, 60), (120, 70)),
        (Warp(centre=(0.75, 0.5)), (100, 50), (150, 50)),
        (Warp(centre=(0.5, 0.25)), (100, 50), (100, 25)),
        (Warp(angle=90), (110, 50), (100, 40)),  # the right goes up
        (Warp(shear=(45, 0)), (100, 60), (110, 60)),
        (Warp(shear=(0, 45)), (110, 50), (110, 60)),
        # depth 1 + 0.01 * 10
        (Warp(perspective=(0.01, 0)), (110, 60), (100 + 10 / 1.1, 50 + 10 / 1.1)),
    ],
)
def test_where_points_go(
    warp: Warp, point: tuple[float, float], expected: tuple[float, float]
) -> None:
    x, y, depth = warp_matrix(warp, (100, 200), (100, 200)) @ [*point, 1]
    assert (x / depth, y / depth) == pytest.approx(expected)


def test_a_turned_box_is_the_box_around_its_corners() -> None:
    matrix = warp_matrix(Warp(angle=45), (100, 100), (100, 100))
    half_diagonal = 10 * math.sqrt(2)
    (box,) = warp_boxes(np.array([[40.0, 40.0, 60.0, 60.0]]), matrix, (100, 100))
    low, high = 50 - half_diagonal, 50 + half_diagonal
    assert box.tolist() == pytest.approx([low, low, high, high])


def test_boxes_are_clipped_to_the_picture() -> None:
    matrix = warp_matrix(Warp(scale=2), (100, 100), (100, 80))
    boxes = warp_boxes(np.array([[0.0, 40.0, 60.0, 99.0], [0.0, 0.0, 5.0, 5.0]]), matrix, (100, 80))
    assert boxes.tolist() == [[0, 30, 60, 100], [0, 0, 0, 0]]
    assert warp_boxes(np.empty((0, 4)), matrix, (100, 80)).shape == (0, 4)


@pytest.mark.parametrize(
    "warp",
    [
        Warp(scale=0.6, centre=(0.4, 0.55)),
        Warp(scale=1.7, centre=(0.45, 0.6)),
        Warp(angle=20, scale=0.9),
        Warp(shear=(12, -8)),
        Warp(perspective=(0.0008, -0.0005), angle=-10),
    ],
)
def test_a_drawn_rectangle_stays_in_its_box(warp: Warp) -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    image[45:80, 60:110] = 255
    matrix = warp_matrix(warp, (120, 160), (100, 100))
    picture = warp_image(image, matrix, (100, 100))
    (box,) = warp_boxes(np.array([[60.0, 45.0, 110.0, 80.0]]), matrix, (100, 100))
    left, top, width, height = cv2.boundingRect((picture[..., 0] > 127).astype(np.uint8))
    # half covered pixels at both ends, and the cut-off tips of turned corners
    assert box.tolist() == pytest.approx([left, top, left + width, top + height], abs=1.01)


def test_nothing_is_grey() -> None:
    picture = warp_image(
        np.zeros((10, 10, 3), np.uint8), warp_matrix(Warp(), (10, 10), (30, 30)), (30, 30)
    )
    assert picture[0, 0].tolist() == [114, 114, 114]
    assert picture[15, 15].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("before", "after", "scale", "visible"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1, True),
        ((0, 0, 10, 10), (0, 0, 2, 10), 1, False),  # not more than 2 px wide
        ((0, 0, 10, 10), (0, 0, 2.1, 10), 1, True),
        ((0, 0, 10, 10), (0, 0, 10, 2), 1, False),
        ((0, 0, 100, 100), (0, 0, 30, 33), 1, False),  # 9.9 % of the area left
        ((0, 0, 100, 100), (0, 0, 30, 34), 1, True),
        ((0, 0, 50, 50), (0, 0, 30, 33), 2, False),  # of the area after doubling the sides
        ((0, 0, 1000, 5), (0, 0, 300, 3), 1, False),  # aspect 100
        ((0, 0, 1000, 5), (0, 0, 299, 3), 1, True),
    ],
)
def test_what_counts_as_visible(
    before: tuple[float, ...], after: tuple[float, ...], scale: float, visible: bool
) -> None:
    boxes = np.array([before], float), np.array([after], float)
    assert still_visible(*boxes, scale).tolist() == [visible]
