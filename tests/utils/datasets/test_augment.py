import numpy as np
import pytest

from utils.datasets.augment import (
    IGNORED,
    Picture,
    blended,
    fit,
    flipped,
    mosaic,
    shift_colours,
    warped,
)
from utils.datasets.warp import Warp


def plain(height: int, width: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_fit_places_the_boxes_on_the_image() -> None:
    image = plain(20, 40, 9)
    image[5:15, 10:30] = 255
    picture = fit(image, np.array([[7, 0.5, 0.5, 0.5, 0.5]]), (41, 40), scale_up=True)
    assert picture.image.shape == (41, 40, 3)
    assert picture.classes.tolist() == [7]
    assert picture.boxes.tolist() == [[10, 15, 30, 25]]
    assert (picture.image[15:25, 10:30] == 255).all()
    assert (picture.image == 255).all(axis=2).sum() == 200


def test_a_mosaic_joins_the_inner_corners_at_its_centre() -> None:
    #        0   4   6   12   16
    #      0 +---------------+
    #      2 |   +---+----+  |     1: 8 x 4 high, only 6 rows of it on the canvas
    #        | 0 | 0 | 1  |        the canvas is 16 x 16, the centre (6, 6)
    #      6 +---+---+----+--+
    #        | 2     |  3
    images = [plain(4, 2, 10), plain(8, 6, 20), plain(8, 8, 30), plain(2, 8, 40)]
    whole = np.array([[0, 0.5, 0.5, 1, 1]], np.float32)
    labels = [whole + np.array([i, 0, 0, 0, 0]) for i in range(4)]
    picture = mosaic(images, labels, (6, 6), 8)
    expected = np.full((16, 16), 114)
    expected[2:6, 4:6] = 10
    expected[0:6, 6:12] = 20  # 2 rows are cut off at the top
    expected[6:14, 0:6] = 30  # 2 columns on the left
    expected[6:8, 6:14] = 40
    assert np.array_equal(picture.image[..., 0], expected)
    assert picture.classes.tolist() == [0, 1, 2, 3]
    assert picture.boxes.tolist() == [[4, 2, 6, 6], [6, 0, 12, 6], [0, 6, 6, 14], [6, 6, 14, 8]]


def test_a_mosaic_shows_the_part_next_to_the_centre() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1).repeat(3, axis=2)
    none = np.empty((0, 5))
    canvas = mosaic([image] * 4, [none] * 4, (4, 12), 8).image[..., 0]
    assert np.array_equal(canvas[4:12, 0:4], image[:, 4:, 0])  # the right half of the upper left
    assert np.array_equal(canvas[12:16, 4:12], image[:4, :, 0])  # the top of the lower right


def test_objects_lost_in_a_warp_lose_their_labels() -> None:
    picture = Picture(
        plain(40, 40, 0),
        np.array([1, 2, 3]),
        np.array([[16.0, 16.0, 24.0, 24.0], [0.0, 0.0, 9.0, 9.0], [5.0, 18.0, 15.0, 22.0]]),
    )
    middle = warped(picture, Warp(), (20, 20))  # 10 … 30 of both axes
    assert middle.image.shape == (20, 20, 3)
    assert middle.classes.tolist() == [1, 3]
    assert middle.boxes.tolist() == [[6, 6, 14, 14], [0, 8, 5, 12]]


def test_of_an_ignore_region_all_that_is_visible_stays() -> None:
    boxes = np.array(
        [
            [0.0, 0.0, 11.0, 40.0],  # 1 px of it is in the picture, of 11
            [0.0, 0.0, 10.0, 40.0],  # none
            [0.0, 29.75, 40.0, 40.0],  # a sliver
            [16.0, 16.0, 24.0, 24.0],  # all
        ]
    )
    picture = Picture(plain(40, 40, 0), np.full(4, IGNORED), boxes)
    middle = warped(picture, Warp(), (20, 20))  # 10 … 30 of both axes
    assert middle.boxes.tolist() == [[0, 0, 1, 20], [0, 19.75, 20, 20], [6, 6, 14, 14]]
    assert middle.classes.tolist() == [IGNORED] * 3


def test_a_blend_has_the_objects_of_both() -> None:
    first = Picture(plain(4, 4, 100), np.array([1]), np.array([[0.0, 0.0, 2.0, 2.0]]))
    second = Picture(plain(4, 4, 200), np.array([5]), np.array([[1.0, 1.0, 3.0, 3.0]]))
    both = blended(first, second, 0.25)
    assert (both.image == 175).all()
    assert both.classes.tolist() == [1, 5]
    assert both.boxes.tolist() == [[0, 0, 2, 2], [1, 1, 3, 3]]


@pytest.mark.parametrize(
    ("gains", "before", "after"),
    [
        ((1.0, 1.0, 1.0), (200, 100, 50), (200, 100, 50)),
        ((1.0, 1.0, 0.5), (200, 100, 50), (100, 50, 25)),
        ((1.0, 1.0, 2.0), (200, 200, 200), (255, 255, 255)),
        ((1.0, 0.0, 1.0), (200, 100, 50), (200, 200, 200)),
        ((2.0, 1.0, 1.0), (0, 200, 0), (0, 0, 200)),  # hue 120° becomes 240°
        ((1.5, 1.0, 1.0), (0, 0, 200), (200, 0, 0)),  # hue 240° becomes 360°, red
    ],
)
def test_colours(
    gains: tuple[float, float, float], before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    image = np.full((2, 2, 3), before, np.uint8)
    shifted = shift_colours(image, gains)
    assert shifted.shape == image.shape
    np.testing.assert_allclose(shifted[1, 1].astype(int), after, atol=1)
    assert (image == before).all()


@pytest.mark.parametrize(
    ("up_down", "left_right", "box", "corner"),
    [
        (False, False, [1, 2, 5, 4], (2, 1)),
        (False, True, [5, 2, 9, 4], (2, 8)),
        (True, False, [1, 4, 5, 6], (5, 1)),
        (True, True, [5, 4, 9, 6], (5, 8)),
    ],
)
def test_flips(up_down: bool, left_right: bool, box: list[int], corner: tuple[int, int]) -> None:
    image = plain(8, 10, 0)
    image[2, 1] = 255  # the upper left pixel of the box
    picture = Picture(image, np.array([3]), np.array([[1.0, 2.0, 5.0, 4.0]]))
    mirrored = flipped(picture, up_down=up_down, left_right=left_right)
    assert mirrored.boxes.tolist() == [box]
    assert mirrored.image[corner].tolist() == [255, 255, 255]
    assert mirrored.image.sum() == 3 * 255
