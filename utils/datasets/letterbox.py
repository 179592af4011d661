"""Fitting an image into a rectangle without changing its proportions, and boxes back again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

PADDING_GREY = 114
"""Grey level of the border, that of the published models' training."""
HALF_PIXEL_TIE = 0.1
"""Of an odd number of border pixels the greater half goes to the right and the bottom."""

Boxes = TypeVar("Boxes", np.ndarray, "Tensor")


class Letterboxed(NamedTuple):
    """An image with a border, and where it came to lie."""

    image: np.ndarray
    """[height, width, channels] of the wanted shape."""
    ratio: tuple[float, float]
    """(vertical, horizontal) size now over size before."""
    pad: tuple[float, float]
    """(left, top) border, px: half of both sides' sum, so it may end in .5."""


def border_offset(pad: tuple[float, float]) -> tuple[int, int]:
    """The whole pixels (left, top) at which an image lies that has this half border."""
    return round(pad[0] - HALF_PIXEL_TIE), round(pad[1] - HALF_PIXEL_TIE)


def scaled_size(size: tuple[int, int], ratio: float) -> tuple[int, int]:
    """(height, width) in whole pixels of an image resized by `ratio`."""
    return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)


def fitting_ratio(size: tuple[int, int], target: tuple[int, int], *, scale_up: bool) -> float:
    """By which an image of `size` is resized to fit `target`, both (height, width), px.

    Args:
        size: of the image.
        target: what it must not exceed.
        scale_up: also enlarge images that are smaller than the target.
    """
    ratio = min(target[0] / size[0], target[1] / size[1])
    return ratio if scale_up else min(ratio, 1.0)


def letterbox(
    image: np.ndarray,
    new_shape: int | tuple[int, int],
    *,
    auto: bool = False,
    scale_up: bool = True,
    stride: int = 32,
    color: int = PADDING_GREY,
) -> Letterboxed:
    """Resize to fit `new_shape`, keeping proportions, and fill up with a border.

    Args:
        image: [height, width, channels], uint8.
        new_shape: (height, width) or the side of a square, px.
        auto: only fill up to the next multiple of the stride, the smallest rectangle that will do.
        scale_up: also enlarge images that are smaller than the shape.
        stride: of the network, px; for `auto`.
        color: grey level of the border.
    """
    height, width = image.shape[:2]
    target = (new_shape, new_shape) if isinstance(new_shape, int) else new_shape
    ratio = fitting_ratio((height, width), target, scale_up=scale_up)
    inner = scaled_size((height, width), ratio)
    spare_y, spare_x = target[0] - inner[0], target[1] - inner[1]
    if auto:
        spare_y, spare_x = spare_y % stride, spare_x % stride
    if inner != (height, width):
        image = cv2.resize(image, inner[::-1], interpolation=cv2.INTER_LINEAR)

    pad = spare_x / 2, spare_y / 2
    left, top = border_offset(pad)
    if spare_x or spare_y:
        image = cv2.copyMakeBorder(
            image,
            *(top, spare_y - top, left, spare_x - left),
            borderType=cv2.BORDER_CONSTANT,
            value=(color,) * 3,
        )
    return Letterboxed(image, (ratio, ratio), pad)


def boxes_to_original(
    boxes: Boxes,
    *,
    ratio: tuple[float, float],
    pad: tuple[float, float],
    original: tuple[int, int],
) -> Boxes:
    """Map boxes from a letterboxed image to the image before, and clip them to it.

    Args:
        boxes: [..., 4], corners x1, y1, x2, y2, px of the letterboxed image; torch or numpy.
        ratio: (vertical, horizontal) size in the letterboxed image over size in the original.
        pad: (left, top) border, px.
        original: (height, width) of the image before, px.

    Returns:
        [..., 4], corners, px of the image before; a new array of floating type.
    """
    mapped = boxes * 1.0
    for first, (border, scale, limit) in enumerate(
        zip(pad, ratio[::-1], original[::-1], strict=True)
    ):
        axis = boxes[..., first::2]  # x1 and x2, then y1 and y2
        mapped[..., first::2] = ((axis - border) / scale).clip(0, limit)
    return mapped
