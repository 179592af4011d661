"""Deterministic image operations of the augmentation, in place: mixup, HSV gains and flips."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

LEVELS = 256
HUES = 180  # OpenCV stores half of the hue's degrees, to fit it into a byte
ROUND_DOWN = 0.499
"""Subtracted before OpenCV rounds to the nearest integer, to round down instead. Slightly less than
0.5, so that products which are whole numbers stay unchanged."""
STRIP_PIXELS = 32_000
BOTH_AXES = -1  # flip code of cv2.flip
IGNORE_CLASS = -1
"""Class value that marks an ignore region, in which objects are not labelled.

As a row among the boxes, a region is transformed exactly like a box.
"""


class LabeledImage(NamedTuple):
    """An image with its boxes and ignore regions."""

    image: np.ndarray
    """uint8 [height, width, 3], RGB."""
    classes: np.ndarray
    """[k]: class of each box; IGNORE_CLASS for an ignore region."""
    boxes: np.ndarray
    """float64 [k, 4]: corners x1, y1, x2, y2, px."""


def apply_mixup(first: LabeledImage, second: LabeledImage, weight: float) -> LabeledImage:
    """Blend two images of one shape and concatenate their labels (mixup, Zhang 2018).

    The second has the weight 1 - `weight`. The pixels of the first are overwritten.
    """
    image = first.image
    cv2.addWeighted(image, weight, second.image, 1 - weight, 0, dst=image)
    return LabeledImage(
        image,
        np.concatenate([first.classes, second.classes]),
        np.concatenate([first.boxes, second.boxes]),
    )


def apply_hsv_gains(image: np.ndarray, gains: tuple[float, float, float]) -> None:
    """Multiply hue, saturation and value of an RGB image by `gains`, rounded down, in place.

    The image is processed in strips that fit into the processor's cache.
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
    """Return a function `f(hsv, dst=...)` that multiplies the channels of a uint8 HSV array."""
    # OpenCV accepts hues of 180 and more, provided they fit into a byte.
    if 0 <= gains[0] * HUES < LEVELS:
        matrix = np.diag((*gains, 0.0))[:3]  # [3, 4]: factors and an offset
        matrix[:, 3] = -ROUND_DOWN
        return partial(cv2.transform, m=matrix)
    table = np.arange(LEVELS)[:, None] * gains  # [256, 3]
    table[:, 0] %= HUES
    return partial(cv2.LUT, lut=table.clip(0, LEVELS - 1).astype(np.uint8)[None])


def apply_flips(labelled: LabeledImage, *, up_down: bool, left_right: bool) -> LabeledImage:
    """Flip an image and its boxes about either or both axes; the pixels are flipped in place."""
    if not (up_down or left_right):
        return labelled
    height, width = labelled.image.shape[:2]
    x1, y1, x2, y2 = labelled.boxes.T
    if left_right:
        x1, x2 = width - x2, width - x1
    if up_down:
        y1, y2 = height - y2, height - y1
    axis = BOTH_AXES if up_down and left_right else int(left_right)
    cv2.flip(labelled.image, axis, dst=labelled.image)
    return labelled._replace(boxes=np.stack([x1, y1, x2, y2], axis=1))
