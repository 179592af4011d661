import math

import cv2
import numpy as np
import pytest

from utils.datasets.affine import (
    AxisResize,
    Warp,
    resize_along_axis,
    resize_into,
    still_visible,
    visible_window,
    warp_boxes,
    warp_image,
    warp_matrix,
)


def warped(image: np.ndarray, matrix: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    output = np.zeros((*target, 3), np.uint8)
    warp_image(image, matrix, output)
    return output


def test_default_warp_is_the_identity() -> None:
    assert np.array_equal(warp_matrix(Warp(), (40, 60), (40, 60)), np.eye(3))
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(warped(image, np.eye(3), (4, 6)), image)


def test_default_warp_crops_the_centre_of_a_larger_canvas() -> None:
    matrix = warp_matrix(Warp(), (8, 12), (4, 6))
    assert matrix.tolist() == [[1, 0, -3], [0, 1, -2], [0, 0, 1]]
    canvas = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    assert np.array_equal(warped(canvas, matrix, (4, 6)), canvas[2:6, 3:9])


@pytest.mark.parametrize(
    ("warp", "point", "expected"),
    [
        # source: 100 px high, 200 px wide, centre at (100, 50)
        (Warp(scale=2), (110, 60), (120, 70)),
        (Warp(centre=(0.75, 0.5)), (100, 50), (150, 50)),
        (Warp(centre=(0.5, 0.25)), (100, 50), (100, 25)),
        (Warp(angle=90), (110, 50), (100, 40)),  # a point on the right moves up
        (Warp(shear=(45, 0)), (100, 60), (110, 60)),
        (Warp(shear=(0, 45)), (110, 50), (110, 60)),
        # depth 1 + 0.01 * 10
        (Warp(perspective=(0.01, 0)), (110, 60), (100 + 10 / 1.1, 50 + 10 / 1.1)),
    ],
)
def test_warp_matrix_maps_points(
    warp: Warp, point: tuple[float, float], expected: tuple[float, float]
) -> None:
    x, y, depth = warp_matrix(warp, (100, 200), (100, 200)) @ [*point, 1]
    assert (x / depth, y / depth) == pytest.approx(expected)


def test_rotated_box_is_the_bounding_box_of_its_corners() -> None:
    matrix = warp_matrix(Warp(angle=45), (100, 100), (100, 100))
    half_diagonal = 10 * math.sqrt(2)
    (box,) = warp_boxes(np.array([[40.0, 40.0, 60.0, 60.0]]), matrix, (100, 100))
    low, high = 50 - half_diagonal, 50 + half_diagonal
    assert box.tolist() == pytest.approx([low, low, high, high])


def test_warped_boxes_are_not_clipped() -> None:
    matrix = warp_matrix(Warp(scale=2), (100, 100), (100, 80))
    boxes = warp_boxes(
        np.array([[0.0, 40.0, 60.0, 99.0], [0.0, 0.0, 5.0, 5.0]]), matrix, (200, 200)
    )
    assert boxes.tolist() == [[-60, 30, 60, 148], [-60, -50, -50, -40]]
    assert warp_boxes(np.empty((0, 4)), matrix, (200, 200)).shape == (0, 4)


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
def test_warped_boxes_match_warped_pixels(warp: Warp) -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    image[45:80, 60:110] = 255
    matrix = warp_matrix(warp, (120, 160), (100, 100))
    output = warped(image, matrix, (100, 100))
    (box,) = warp_boxes(np.array([[60.0, 45.0, 110.0, 80.0]]), matrix, (100, 200))
    left, top, width, height = cv2.boundingRect((output[..., 0] > 127).astype(np.uint8))
    # tolerance for half covered pixels at both ends and for rotated corners
    assert box.tolist() == pytest.approx([left, top, left + width, top + height], abs=1.01)


def test_empty_areas_have_the_padding_grey() -> None:
    black = np.zeros((10, 10, 3), np.uint8)
    output = warped(black, warp_matrix(Warp(), (10, 10), (30, 30)), (30, 30))
    assert output[0, 0].tolist() == [114, 114, 114]
    assert output[15, 15].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("before", "after", "scale", "visible"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1, True),
        ((0, 0, 10, 10), (0, 0, 2, 10), 1, False),  # not more than 2 px wide
        ((0, 0, 10, 10), (0, 0, 2.1, 10), 1, True),
        ((0, 0, 10, 10), (0, 0, 10, 2), 1, False),
        ((0, 0, 100, 100), (0, 0, 30, 33), 1, False),  # 9.9 % of the area left
        ((0, 0, 100, 100), (0, 0, 30, 34), 1, True),
        ((0, 0, 50, 50), (0, 0, 30, 33), 2, False),  # relative to the area after doubling the sides
        ((0, 0, 1000, 5), (0, 0, 300, 3), 1, False),  # aspect 100
        ((0, 0, 1000, 5), (0, 0, 299, 3), 1, True),
    ],
)
def test_still_visible(
    before: tuple[float, ...], after: tuple[float, ...], scale: float, visible: bool
) -> None:
    boxes = np.array([before], float), np.array([after], float)
    assert still_visible(*boxes, scale).tolist() == [visible]


def test_is_axis_aligned() -> None:
    assert Warp(scale=0.5, centre=(0.2, 0.9)).is_axis_aligned
    for warp in (Warp(angle=1), Warp(shear=(0, 1)), Warp(perspective=(1e-4, 0))):
        assert not warp.is_axis_aligned


@pytest.mark.parametrize(
    ("place", "pixels", "scale", "shift", "expected"),
    [
        # On a canvas of 20 px, in an output of 10: image px, output px, scale and shift of boxes.
        ((4, 12), 8, 1.0, 0.0, (0, 6, 4, 10, 1.0, 0.0)),  # clipped at the right
        ((4, 12), 8, 1.0, -6.0, (2, 8, 0, 6, 1.0, -6.0)),  # clipped at the left
        ((4, 12), 8, 0.5, 0.0, (0, 8, 2, 6, 0.5, 0.0)),
        ((4, 12), 16, 0.5, 0.0, (0, 16, 2, 6, 0.5, 0.0)),  # two image px per canvas px
        ((-3, 5), 8, 1.0, 0.0, (3, 8, 0, 5, 1.0, 0.0)),  # clipped by the canvas
        ((16, 24), 8, 1.0, -12.0, (0, 4, 4, 8, 1.0, -12.0)),
        ((3, 7), 4, 1.3, 0.0, (0, 4, 4, 9, 1.25, 0.25)),  # 3.9 … 9.1 become 4 … 9
        ((3, 7), 4, 1.0, -3.4, (0, 4, 0, 4, 1.0, -3.0)),
        ((0, 20), 20, 2.0, -15.0, (8, 12, 0, 10, 2.5, -20.0)),  # 7.5 … 12.5 become 8 … 12
        ((0, 4), 4, 8.0, -29.0, (3, 4, 0, 3, 3.0, -9.0)),  # at least one image px
        ((0, 8), 8, 1.0, 10.0, None),  # beyond the output
        ((0, 8), 8, 1.0, -8.0, None),  # before the output
        ((0, 8), 8, 0.05, 0.0, None),  # less than half a px
        ((20, 28), 8, 1.0, -15.0, None),  # beyond the canvas
        ((-8, 0), 8, 1.0, 5.0, None),
    ],
)
def test_resize_along_axis(
    place: tuple[int, int],
    pixels: int,
    scale: float,
    shift: float,
    expected: tuple[float, ...] | None,
) -> None:
    found = resize_along_axis(place, pixels, 20, scale=scale, shift=shift, output=10)
    assert found == (None if expected is None else pytest.approx(expected))


def test_resize_into() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    output = np.zeros((5, 8, 3), np.uint8)
    resize_into(image, AxisResize(2, 5, 1, 7, 2, -3), AxisResize(1, 3, 3, 5, 1, 2), output)
    expected = np.zeros((5, 8), int)
    # Red is 18 * row + 3 * column; the samples are a quarter of a pixel off the centres.
    expected[3, 1:7] = [24, 25, 26, 28, 29, 30]
    expected[4, 1:7] = expected[3, 1:7] + 18
    np.testing.assert_allclose(output[..., 0].astype(int), expected, atol=0.5)
    assert not output[:3].any()


def test_visible_window_has_a_margin_of_one_pixel() -> None:
    source, target = (100, 200), (20, 40)

    def window(warp: Warp) -> tuple[int, int, int, int]:
        return visible_window(warp_matrix(warp, source, target), source, target)

    assert window(Warp()) == (79, 39, 121, 61)
    assert window(Warp(scale=0.5)) == (59, 29, 141, 71)
    assert window(Warp(angle=90)) == (89, 29, 111, 71)
    assert window(Warp(scale=0.1)) == (0, 0, 200, 100)
    left, _, right, _ = window(Warp(centre=(9.5, 0.5)))  # far to the right
    assert right <= left
    assert window(Warp(perspective=(0.1, 0))) == (0, 0, 200, 100)  # the horizon is visible


def drawn_bounds(image: np.ndarray) -> list[int]:
    """The bounding box of the white pixels, or [] without any."""
    rows, columns = np.nonzero(image[..., 0] > 200)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else []


@pytest.mark.parametrize("strength", [0.001, 0.004, 0.01])
def test_boxes_of_a_perspective_bound_what_is_drawn_of_them(strength: float) -> None:
    """Corners are 400 px from the centre: from 0.00125 on, they may be behind the camera."""
    rng = np.random.default_rng(0)
    behind, ious = 0, []
    for _ in range(60):
        x, y = rng.integers(0, 700, 2)
        box = np.array([[x, y, *rng.integers((x + 20, y + 20), 800)]], dtype=np.float64)
        warp = Warp(
            angle=rng.uniform(-45, 45),
            scale=rng.uniform(0.5, 1.5),
            perspective=(rng.uniform(-strength, strength), rng.uniform(-strength, strength)),
        )
        matrix = warp_matrix(warp, (800, 800), (400, 400))
        depths = np.array([[x, y, 1] for x in box[0, ::2] for y in box[0, 1::2]]) @ matrix[2]
        behind += depths.min() <= 0
        canvas = np.zeros((800, 800, 3), np.uint8)
        x1, y1, x2, y2 = box[0].astype(int)
        canvas[y1:y2, x1:x2] = 255
        output = np.zeros((400, 400, 3), np.uint8)
        warp_image(canvas, matrix, output)
        (found,) = warp_boxes(box, matrix, (400, 400)).clip(0, 400)
        drawn = drawn_bounds(output)
        if (found[2:] - found[:2]).min() < 8:
            continue  # where the canvas is compressed, OpenCV samples only some of its pixels
        common = np.minimum(found[2:], drawn[2:]) - np.maximum(found[:2], drawn[:2])
        areas = [np.prod(np.subtract(b[2:], b[:2])) for b in (found, drawn)]
        ious.append(common.prod() / (sum(areas) - common.prod()))
    assert len(ious) > 20
    assert min(ious) > 0.7
    assert (behind > 0) == (strength > 0.00125)


def test_nothing_is_drawn_beyond_the_horizon() -> None:
    matrix = warp_matrix(Warp(perspective=(0.02, 0)), (400, 400), (400, 400))
    output = np.zeros((400, 400, 3), np.uint8)
    warp_image(np.full((400, 400, 3), 255, np.uint8), matrix, output)
    # The canvas column 200 + u goes to 200 + u / (1 + 0.02 u): the right edge to 240, the horizon
    # is at 250, and the left edge, which is behind the camera, would go to 267.
    assert (output[200, 200:239] == 255).all()
    assert (output[200, 241:] == 114).all()
