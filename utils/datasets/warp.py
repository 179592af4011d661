"""Turning, scaling, shearing and tilting an image together with its boxes, by one 3x3 matrix.

Coordinates are those of boxes: the left edge of the first pixel is 0, its centre 0.5.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from utils.datasets.letterbox import PADDING_GREY

LEAST_SIDE = 2.0  # px: thinner remains are not recognisable as anything
LEAST_AREA_LEFT = 0.1
"""Share of its area by which an object must still be in the picture to count."""
GREATEST_ASPECT = 100.0
PIXEL_CENTRE = 0.5
CORNERS = [[0, 1], [2, 1], [2, 3], [0, 3]]  # columns of x1, y1, x2, y2


class Warp(NamedTuple):
    """How the source comes into the picture; the defaults put its centre in the middle."""

    angle: float = 0.0
    """Degrees, counter-clockwise as seen."""
    scale: float = 1.0
    shear: tuple[float, float] = (0.0, 0.0)
    """Degrees, along x and along y."""
    perspective: tuple[float, float] = (0.0, 0.0)
    """Change of depth per pixel, along x and along y."""
    centre: tuple[float, float] = (0.5, 0.5)
    """Where the centre of the source goes: x and y as fractions of the picture."""


def warp_matrix(warp: Warp, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """The homogeneous matrix [3, 3] from source to target coordinates, both (height, width)."""
    turn = math.radians(warp.angle)
    cosine, sine = warp.scale * math.cos(turn), warp.scale * math.sin(turn)
    shear_x, shear_y = (math.tan(math.radians(angle)) for angle in warp.shear)

    centring = np.array([[1, 0, -source[1] / 2], [0, 1, -source[0] / 2], [0, 0, 1]])
    tilting = np.array([[1, 0, 0], [0, 1, 0], [*warp.perspective, 1]])
    turning = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    shearing = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    placing = np.array(
        [[1, 0, warp.centre[0] * target[1]], [0, 1, warp.centre[1] * target[0]], [0, 0, 1]]
    )
    return placing @ shearing @ turning @ tilting @ centring


def warp_image(image: np.ndarray, matrix: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """The picture of shape `target` (height, width) that `matrix` makes, grey where nothing is."""
    if image.shape[:2] == target and np.array_equal(matrix, np.eye(3)):
        return image
    # OpenCV counts from pixel centres.
    to_edges = np.array([[1, 0, PIXEL_CENTRE], [0, 1, PIXEL_CENTRE], [0, 0, 1]])
    from_edges = np.array([[1, 0, -PIXEL_CENTRE], [0, 1, -PIXEL_CENTRE], [0, 0, 1]])
    matrix = from_edges @ matrix @ to_edges
    size, grey = target[::-1], (PADDING_GREY,) * 3
    if np.array_equal(matrix[2], [0, 0, 1]):
        return cv2.warpAffine(image, matrix[:2], size, borderValue=grey)
    return cv2.warpPerspective(image, matrix, size, borderValue=grey)


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """The boxes around the warped boxes, clipped to the picture.

    Args:
        boxes: [k, 4], corners x1, y1, x2, y2, px of the source.
        matrix: of `warp_matrix`.
        target: (height, width) of the picture.

    Returns:
        float64 [k, 4], corners, px of the picture.
    """
    points = np.ones((len(boxes), len(CORNERS), 3))
    points[..., :2] = boxes[:, CORNERS]
    points = points @ matrix.T  # [k, 4, 3]
    points = points[..., :2] / points[..., 2:]
    limits = np.array([target[1], target[0]])
    low, high = points.min(axis=1), points.max(axis=1)  # [k, 2]
    return np.concatenate([low.clip(0, limits), high.clip(0, limits)], axis=1)


def still_visible(before: np.ndarray, after: np.ndarray, scale: float) -> np.ndarray:
    """Which objects are worth learning from after a warp.

    Args:
        before: [k, 4], corners before the warp.
        after: [k, 4], corners of the same boxes after it, clipped.
        scale: by which the warp enlarges.

    Returns:
        bool [k]: more than 2 px wide and high, more than a tenth of the area left, no sliver.
    """
    width, height = (after[:, 2:] - after[:, :2]).T
    full_area = (before[:, 2:] - before[:, :2]).prod(axis=1) * scale**2
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    return (
        (shorter > LEAST_SIDE)
        & (width * height > LEAST_AREA_LEFT * full_area)
        & (longer < GREATEST_ASPECT * shorter)
    )
