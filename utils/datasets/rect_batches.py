"""Rectangular batches: images of similar aspect ratios, in the smallest shape that fits them."""

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


def square_batches(count: int, batch_size: int, side: int) -> BatchPlan:
    """Batch images in the order of the data set, all with squares of `side` px."""
    return BatchPlan(
        _split(np.arange(count), batch_size), np.full((count, 2), side, dtype=np.int64)
    )


def rectangular_batches(
    sizes: np.ndarray, batch_size: int, side: int, *, stride: int, pad: float
) -> BatchPlan:
    """Batch images sorted by height over width; each batch has the shape that fits its extremes.

    Args:
        sizes: [n, 2], height and width of the images.
        batch_size: images per batch.
        side: longer side of the shapes, px.
        stride: stride of the network, px; sides are rounded up to multiples of it.
        pad: number of strides to add before rounding up.
    """
    aspects = sizes[:, 0] / sizes[:, 1]
    # Many images have exactly the same aspect ratio, and their order decides the shapes of the
    # batches. The published results were measured with the order of numpy's default sort.
    batches = _split(np.argsort(aspects), batch_size)
    shapes = np.empty((len(sizes), 2), np.int64)
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


def _split(order: np.ndarray, batch_size: int) -> tuple[np.ndarray, ...]:
    return tuple(order[start : start + batch_size] for start in range(0, len(order), batch_size))
