"""Rectangular batches: images of similar proportions together, in the least shape that fits all."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


def whole_strides(side: int, stride: int) -> int:
    """A side rounded up to a multiple of the stride, which the network needs; px."""
    return math.ceil(side / stride) * stride


class BatchPlan(NamedTuple):
    """Which images form a batch and the shape that each is letterboxed to; `n` images."""

    batches: tuple[np.ndarray, ...]
    """int64, the data-set indices of each batch."""
    shapes: np.ndarray
    """int64 [n, 2]: height and width by data-set index."""


def square_batches(count: int, batch_size: int, side: int) -> BatchPlan:
    """Images in the data set's order, all in squares of `side` px."""
    return BatchPlan(
        _split(np.arange(count), batch_size), np.full((count, 2), side, dtype=np.int64)
    )


def rectangular_batches(
    sizes: np.ndarray, batch_size: int, side: int, *, stride: int, pad: float
) -> BatchPlan:
    """Images sorted by height over width, each batch in a shape that holds its extremes.

    Args:
        sizes: [n, 2], height and width of the images.
        batch_size: images in a batch.
        side: px of the longer side.
        stride: of the network; sides are rounded up to multiples of it.
        pad: strides to add before rounding.
    """
    aspects = sizes[:, 0] / sizes[:, 1]
    # Many images have the very same proportions, and which of them comes into a batch of wider ones
    # decides its shape; the published results were measured with the order of numpy's default sort.
    batches = _split(np.argsort(aspects), batch_size)
    shapes = np.empty((len(sizes), 2), np.int64)
    for batch in batches:
        shape = _shape_for(aspects[batch].min(), aspects[batch].max())
        shapes[batch] = [math.ceil(length * side / stride + pad) * stride for length in shape]
    return BatchPlan(batches, shapes)


def _shape_for(least: float, greatest: float) -> tuple[float, float]:
    """(height, width), the longer one 1, that holds aspects (h / w) from `least` to `greatest`."""
    if greatest < 1:  # all are wide
        return greatest, 1.0
    if least > 1:  # all are high
        return 1.0, 1 / least
    return 1.0, 1.0


def _split(order: np.ndarray, batch_size: int) -> tuple[np.ndarray, ...]:
    return tuple(order[start : start + batch_size] for start in range(0, len(order), batch_size))
