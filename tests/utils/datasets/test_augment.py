import numpy as np
import pytest

from utils.datasets.augment import (
    STRIP_PIXELS,
    LabeledImage,
    apply_flips,
    apply_hsv_gains,
    apply_mixup,
)


def plain(height: int, width: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_mixup_blends_images_and_concatenates_labels() -> None:
    first = LabeledImage(plain(4, 4, 100), np.array([1]), np.array([[0.0, 0.0, 2.0, 2.0]]))
    second = LabeledImage(plain(4, 4, 200), np.array([5]), np.array([[1.0, 1.0, 3.0, 3.0]]))
    both = apply_mixup(first, second, 0.25)
    assert (both.image == 175).all()
    assert both.image is first.image  # no extra memory
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
        ((1.4, 1.0, 1.0), (200, 0, 100), (60, 200, 0)),  # hue 330° becomes 462°, that is 102°
    ],
)
def test_hsv_gains(
    gains: tuple[float, float, float], before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    image = np.full((2, 2, 3), before, np.uint8)
    apply_hsv_gains(image, gains)
    np.testing.assert_allclose(image[1, 1].astype(int), after, atol=1)


def test_gains_are_rounded_down() -> None:
    grey = (
        np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    )  # only the value channel
    equal = []
    for gain in np.linspace(0.61, 1.39, 40):
        image = grey.copy()
        apply_hsv_gains(image, (1.0, 1.0, float(gain)))
        expected = np.floor(np.arange(256) * gain).clip(0, 255)
        assert np.abs(image[0, :, 0] - expected).max() <= 1
        equal.append(np.mean(image[0, :, 0] == expected))
    assert np.mean(equal) > 0.98


def test_hsv_gains_do_not_depend_on_strips() -> None:
    width = 100
    rows = STRIP_PIXELS // width
    image = np.full((2 * rows + 3, width, 3), (200, 100, 50), np.uint8)
    apply_hsv_gains(image, (1.01, 0.5, 0.8))
    alone = np.full((1, width, 3), (200, 100, 50), np.uint8)
    apply_hsv_gains(alone, (1.01, 0.5, 0.8))
    assert (image == alone).all()
    assert alone[0, 0].tolist() != [200, 100, 50]


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
    image[2, 1] = 255  # the top left pixel of the box
    labelled = LabeledImage(image, np.array([3]), np.array([[1.0, 2.0, 5.0, 4.0]]))
    mirrored = apply_flips(labelled, up_down=up_down, left_right=left_right)
    assert mirrored.image is image
    assert mirrored.boxes.tolist() == [box]
    assert mirrored.image[corner].tolist() == [255, 255, 255]
    assert mirrored.image.sum() == 3 * 255
