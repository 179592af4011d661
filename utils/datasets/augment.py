"""The pixel work of the augmentation: blend, colours, flips, in place. Nothing random here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from utils.datasets.labels import to_pixels
from utils.datasets.letterbox import border_offset, letterbox, scaled_size

LEVELS = 256
HUES = 180  # OpenCV halves the degrees of the hue to fit them into a byte
ROUND_DOWN = 0.499
"""To be taken off before OpenCV rounds to the nearest level; a little less than a half, or whole
products would be rounded down too."""
STRIP_PIXELS = 32_000
BOTH_AXES = -1  # of cv2.flip
IGNORED = -1
"""Stands where objects have their class: a region in which nothing is known of objects.

So it goes with the pixels exactly as the box of an object there would.
"""


class Picture(NamedTuple):
    """An image with the objects and the ignore regions in it."""

    image: np.ndarray
    """uint8 [height, width, 3], RGB."""
    classes: np.ndarray
    """[k]; IGNORED for a region."""
    boxes: np.ndarray
    """float64 [k, 4]: corners x1, y1, x2, y2, px."""


def fit(
    image: np.ndarray, labels: np.ndarray, shape: tuple[int, int], *, scale_up: bool
) -> Picture:
    """Letterbox an image and its normalised labels [k, 5] into `shape` (height, width).

    The labels hold class or IGNORED, cx, cy, w, h.
    """
    boxed = letterbox(image, shape, scale_up=scale_up)
    inner = scaled_size(image.shape[:2], boxed.ratio[0])
    boxes = to_pixels(labels, inner, border_offset(boxed.pad))
    return Picture(boxed.image, labels[:, 0], boxes)


def blended(first: Picture, second: Picture, weight: float) -> Picture:
    """Both pictures on top of each other, the first with `weight` (mixup, Zhang 2018).

    The image of the first becomes that of both.
    """
    image = first.image
    cv2.addWeighted(image, weight, second.image, 1 - weight, 0, dst=image)
    return Picture(
        image,
        np.concatenate([first.classes, second.classes]),
        np.concatenate([first.boxes, second.boxes]),
    )


def shift_colours(image: np.ndarray, gains: tuple[float, float, float]) -> None:
    """Multiply hue, saturation and value by `gains`, rounded down, in place.

    It goes strip by strip, each small enough to stay in the processor's cache.

    Args:
        image: uint8 [height, width, 3], RGB, written to.
        gains: factors of hue, saturation and value.
    """
    if gains == (1.0, 1.0, 1.0):
        return
    multiply = _multiplication(gains)
    height, width = image.shape[:2]
    rows = max(STRIP_PIXELS // width, 1)
    colours = np.empty((rows, width, 3), np.uint8)
    for top in range(0, height, rows):
        strip = image[top : top + rows]
        hsv = cv2.cvtColor(strip, cv2.COLOR_RGB2HSV, dst=colours[: len(strip)])
        multiply(hsv, dst=hsv)
        cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=strip)


def _multiplication(gains: tuple[float, float, float]) -> Callable[..., np.ndarray]:
    """What multiplies the channels of uint8 HSV: a function of an array that takes a `dst`."""
    # Hues of 180 and more are understood, if they fit into a byte.
    if 0 <= gains[0] * HUES < LEVELS:
        matrix = np.diag((*gains, 0.0))[:3]  # [3, 4], a factor and what is added
        matrix[:, 3] = -ROUND_DOWN
        return partial(cv2.transform, m=matrix)
    table = np.arange(LEVELS)[:, None] * gains  # [256, 3]
    table[:, 0] %= HUES
    return partial(cv2.LUT, lut=table.clip(0, LEVELS - 1).astype(np.uint8)[None])


def flipped(picture: Picture, *, up_down: bool, left_right: bool) -> Picture:
    """The picture mirrored about either axis, or both, its image in place."""
    if not (up_down or left_right):
        return picture
    height, width = picture.image.shape[:2]
    x1, y1, x2, y2 = picture.boxes.T
    if left_right:
        x1, x2 = width - x2, width - x1
    if up_down:
        y1, y2 = height - y2, height - y1
    axis = BOTH_AXES if up_down and left_right else int(left_right)
    cv2.flip(picture.image, axis, dst=picture.image)
    return picture._replace(boxes=np.stack([x1, y1, x2, y2], axis=1))
