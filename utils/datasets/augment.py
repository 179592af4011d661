"""The pixel work of the augmentation: mosaic, warp, blend, colours, flips. Nothing random here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from utils.datasets.labels import to_pixels
from utils.datasets.letterbox import PADDING_GREY, border_offset, letterbox, scaled_size
from utils.datasets.warp import Warp, still_visible, warp_boxes, warp_image, warp_matrix

LEVELS = 256
HUES = 180  # OpenCV halves the degrees of the hue to fit them into a byte
BOTH_AXES = -1  # of cv2.flip
IGNORED = -1
"""Stands where objects have their class: a region in which nothing is known of objects.

So it goes with the pixels exactly as the box of an object there would.
"""


class Picture(NamedTuple):
    """An image with the objects and the ignore regions in it."""

    image: np.ndarray
    """uint8 [height, width, 3], RGB; never written to, it may be shared with a cache."""
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


def mosaic(
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    centre: tuple[int, int],
    side: int,
) -> Picture:
    """Put four images around `centre` on a canvas of twice `side`, cut off at its edges.

    Args:
        images: top left, top right, bottom left, bottom right.
        labels: of the same, each [k, 5], class or IGNORED, cx, cy, w, h, normalised.
        centre: (x, y) at which their inner corners meet, px.
        side: of the picture to be made from the canvas.
    """
    canvas = np.full((2 * side, 2 * side, 3), PADDING_GREY, np.uint8)
    boxes = []
    for position, (image, rows) in enumerate(zip(images, labels, strict=True)):
        height, width = image.shape[:2]
        below, beside = divmod(position, 2)
        left = centre[0] if beside else centre[0] - width
        top = centre[1] if below else centre[1] - height
        region = canvas[max(top, 0) : top + height, max(left, 0) : left + width]
        shown_y, shown_x = max(-top, 0), max(-left, 0)
        region[:] = image[shown_y : shown_y + region.shape[0], shown_x : shown_x + region.shape[1]]
        boxes.append(to_pixels(rows, (height, width), (left, top)))
    classes = np.concatenate([rows[:, 0] for rows in labels])
    return Picture(canvas, classes, np.concatenate(boxes).clip(0, 2 * side))


def warped(picture: Picture, warp: Warp, shape: tuple[int, int]) -> Picture:
    """Warp into a picture of `shape` (height, width), without the objects that are lost in it.

    Of an ignore region all that is visible stays: the least part of it may show half an object.
    """
    matrix = warp_matrix(warp, picture.image.shape[:2], shape)
    image = warp_image(picture.image, matrix, shape)
    boxes = warp_boxes(picture.boxes, matrix, shape)
    keep = np.where(
        picture.classes == IGNORED,
        (boxes[:, 2:] > boxes[:, :2]).all(axis=1),
        still_visible(picture.boxes, boxes, warp.scale),
    )
    return Picture(image, picture.classes[keep], boxes[keep])


def blended(first: Picture, second: Picture, weight: float) -> Picture:
    """Both pictures on top of each other, the first with `weight` (mixup, Zhang 2018)."""
    return Picture(
        cv2.addWeighted(first.image, weight, second.image, 1 - weight, 0),
        np.concatenate([first.classes, second.classes]),
        np.concatenate([first.boxes, second.boxes]),
    )


def shift_colours(image: np.ndarray, gains: tuple[float, float, float]) -> np.ndarray:
    """Multiply hue, saturation and value by `gains`, through a table of all levels."""
    if gains == (1.0, 1.0, 1.0):
        return image
    table = np.arange(LEVELS)[:, None] * gains  # [256, 3]
    table[:, 0] %= HUES
    table = table.clip(0, LEVELS - 1).astype(np.uint8)
    colours = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None])
    return cv2.cvtColor(colours, cv2.COLOR_HSV2RGB)


def flipped(picture: Picture, *, up_down: bool, left_right: bool) -> Picture:
    """Mirror the picture about either axis, or both."""
    if not (up_down or left_right):
        return picture
    height, width = picture.image.shape[:2]
    x1, y1, x2, y2 = picture.boxes.T
    if left_right:
        x1, x2 = width - x2, width - x1
    if up_down:
        y1, y2 = height - y2, height - y1
    axis = BOTH_AXES if up_down and left_right else int(left_right)
    boxes = np.stack([x1, y1, x2, y2], axis=1)
    return Picture(cv2.flip(picture.image, axis), picture.classes, boxes)
