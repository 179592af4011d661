"""Batches of a data set: square, or rectangles for images of similar aspect ratios."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


def round_up_to_stride(side: int, stride: int) -> int:
    """Round a side up to a multiple of the network's stride, px."""
    return math.ceil(side / stride) * stride


class BatchPlan(NamedTuple):
    """The images of each batch, and the shape that each of the `n` images is letterboxed to."""

    batches: tuple[np.ndarray, ...]
    """int64: the data-set indices of each batch."""
    shapes: np.ndarray
    """int64 [n, 2]: height and width by data-set index, px."""


def plan_batches(
    sizes: np.ndarray, batch_size: int, side: int, *, rect: bool, stride: int = 32, pad: float = 0.0
) -> BatchPlan:
    """Divide the images into batches, and choose the shape of each batch.

    Args:
        sizes: [n, 2], height and width of the images.
        batch_size: images per batch.
        side: longer side of the shapes, px.
        rect: sort the images by height over width, and give each batch the shape that fits its
            extremes; otherwise keep the order of the data set, with squares.
        stride: stride of the network, px; sides of rectangles are rounded up to multiples of it.
        pad: number of strides to add to rectangles before rounding up.
    """
    aspects = sizes[:, 0] / sizes[:, 1]
    # Many images have exactly the same aspect ratio, and their order decides the shapes of the
    # batches. The published results were measured with the order of numpy's default sort.
    order = np.argsort(aspects) if rect else np.arange(len(sizes))
    batches = tuple(order[start : start + batch_size] for start in range(0, len(sizes), batch_size))
    shapes = np.full((len(sizes), 2), side, np.int64)
    if rect:
        for batch in batches:
            shape = _shape_for(aspects[batch].min(), aspects[batch].max())
            shapes[batch] = [math.ceil(length * side / stride + pad) * stride for length in shape]
    return BatchPlan(batches, shapes)


def _shape_for(least: float, greatest: float) -> tuple[float, float]:
    """Return (height, width), the longer one 1, that fits aspects (h / w) `least` to `greatest`."""
    if greatest < 1:  # all are wide
        return greatest, 1.0
    if least > 1:  # all are high
        return 1.0, 1 / least
    return 1.0, 1.0
