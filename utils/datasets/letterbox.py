"""Letterbox: resize images to fit a shape, keep the aspect ratio, pad; and map boxes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

PADDING_GREY = 114
"""Grey level of the padding; the published models were trained with it."""
HALF_PIXEL_TIE = 0.1
"""With an odd number of padding pixels, the larger half goes to the right and the bottom."""

Boxes = TypeVar("Boxes", np.ndarray, "Tensor")


class Letterboxed(NamedTuple):
    """A letterboxed image, with its scale factors and padding."""

    image: np.ndarray
    """[height, width, channels] of the requested shape."""
    ratio: tuple[float, float]
    """(vertical, horizontal) scale factors."""
    pad: tuple[float, float]
    """(left, top) padding, px: half of the total of both sides, so it may end in .5."""


def border_offset(pad: tuple[float, float]) -> tuple[int, int]:
    """Return the offset (left, top) of the image in whole pixels, for a `Letterboxed.pad`."""
    return round(pad[0] - HALF_PIXEL_TIE), round(pad[1] - HALF_PIXEL_TIE)


def scaled_size(size: tuple[int, int], ratio: float) -> tuple[int, int]:
    """Return (height, width) of an image of `size` resized by `ratio`, rounded, at least 1 px."""
    return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)


def resize_ratio(size: tuple[int, int], target: tuple[int, int], *, scale_up: bool) -> float:
    """Return the scale factor that fits an image into a target; both are (height, width), px.

    Images that are smaller than the target are enlarged only with `scale_up`.
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
    """Resize an image to fit `new_shape`, keep its aspect ratio, and pad the rest.

    Args:
        image: uint8 [height, width, channels].
        new_shape: (height, width), or the side of a square, px.
        auto: pad only to the next multiple of the stride, the minimum rectangle.
        scale_up: also enlarge images that are smaller than the shape.
        stride: stride of the network, px; for `auto`.
        color: grey level of the padding.
    """
    height, width = image.shape[:2]
    target = (new_shape, new_shape) if isinstance(new_shape, int) else new_shape
    ratio = resize_ratio((height, width), target, scale_up=scale_up)
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
    """Map boxes from a letterboxed image to the original image, and clip them to it.

    Args:
        boxes: [..., 4], corners x1, y1, x2, y2, px of the letterboxed image; torch or numpy.
        ratio: (vertical, horizontal) scale factors from the original to the letterboxed image.
        pad: (left, top) padding, px.
        original: (height, width) of the original image, px.

    Returns:
        [..., 4], corners x1, y1, x2, y2, px of the original image; a new floating-point array.
    """
    mapped = boxes * 1.0
    for first, (border, scale, limit) in enumerate(
        zip(pad, ratio[::-1], original[::-1], strict=True)
    ):
        axis = boxes[..., first::2]  # x1 and x2, then y1 and y2
        mapped[..., first::2] = ((axis - border) / scale).clip(0, limit)
    return mapped
