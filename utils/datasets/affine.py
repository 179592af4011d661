"""Affine and perspective transforms of images and their boxes, by one 3x3 matrix.

A transform that only scales and translates needs no matrix: it resizes along each axis.
Coordinates are those of boxes: the left edge of the first pixel is at 0, its centre at 0.5. Sizes
are (height, width), px, and boxes [k, 4] are corners x1, y1, x2, y2, px. Images are uint8
[height, width, 3].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from utils.datasets.letterbox import PADDING_GREY

MIN_SIDE = 2.0  # px; thinner boxes show nothing recognisable
MIN_AREA_RATIO = 0.1
"""Minimum fraction of an object's area that must remain in the output image."""
MAX_ASPECT_RATIO = 100.0
PIXEL_CENTRE = 0.5
CORNERS = [[0, 1], [2, 1], [2, 3], [0, 3]]  # column indices into x1, y1, x2, y2


class Warp(NamedTuple):
    """Transform from the source to the output; the defaults centre the source in the output."""

    angle: float = 0.0
    """Rotation in degrees, counter-clockwise in the displayed image."""
    scale: float = 1.0
    shear: tuple[float, float] = (0.0, 0.0)
    """Degrees, along x and along y."""
    perspective: tuple[float, float] = (0.0, 0.0)
    """Perspective coefficients: change of depth per pixel, along x and along y."""
    centre: tuple[float, float] = (0.5, 0.5)
    """Where the centre of the source goes: x and y as fractions of the output."""

    @property
    def is_axis_aligned(self) -> bool:
        """Whether the transform only scales and translates."""
        return not (self.angle or any(self.shear) or any(self.perspective))


class AxisResize(NamedTuple):
    """How a range of image pixels is resized to a range of output pixels, along one axis."""

    first: int
    """First pixel of the image."""
    last: int
    """One past the last pixel of the image."""
    start: int
    """First pixel of the output."""
    stop: int
    """One past the last pixel of the output."""
    scale: float
    shift: float
    """Canvas coordinate `c` maps to the output coordinate `c * scale + shift`."""


def resize_along_axis(
    place: tuple[int, int], pixels: int, canvas: int, *, scale: float, shift: float, output: int
) -> AxisResize | None:
    """Map an image on a canvas to the output image, along one axis.

    The edges of the image on the canvas are rounded to whole output pixels, so images that touch on
    the canvas also touch in the output. Where the output clips the image, the image is clipped at
    its nearest whole pixel. This shifts content by at most one pixel. The returned scale and shift
    include the rounding, so boxes mapped with them fit the resized image exactly.

    Args:
        place: first pixel and one past the last pixel of the image on the canvas; both may be
            outside the canvas.
        pixels: size of the image, px; may differ from its size on the canvas.
        canvas: size of the canvas, px; the image is clipped to it.
        scale: requested output px per canvas px.
        shift: requested output coordinate of the canvas origin, px.
        output: size of the output, px.

    Returns:
        The mapping, or None if no part of the image is visible.
    """
    begin, end = max(place[0], 0), min(place[1], canvas)
    low, high = round(begin * scale + shift), round(end * scale + shift)
    start, stop = max(low, 0), min(high, output)
    if end <= begin or stop <= start:
        return None
    ratio = pixels / (place[1] - place[0])  # image px per canvas px
    left, right = (begin - place[0]) * ratio, (end - place[0]) * ratio
    per_pixel = (right - left) / (high - low)
    first = min(round(left + (start - low) * per_pixel), math.ceil(right) - 1)
    last = max(round(right - (high - stop) * per_pixel), first + 1)
    got = (stop - start) / (last - first)  # output px per image px
    return AxisResize(
        first, last, start, stop, got * ratio, start - first * got - place[0] * got * ratio
    )


def resize_into(
    image: np.ndarray, across: AxisResize, down: AxisResize, output: np.ndarray
) -> None:
    """Resize the visible part of `image` into `output`."""
    part = image[down.first : down.last, across.first : across.last]
    target = output[down.start : down.stop, across.start : across.stop]
    size = target.shape[1], target.shape[0]
    cv2.resize(part, size, dst=target, interpolation=cv2.INTER_LINEAR)


def warp_matrix(warp: Warp, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """Return the homogeneous matrix, float64 [3, 3], from source to target coordinates."""
    angle = math.radians(warp.angle)
    cosine, sine = warp.scale * math.cos(angle), warp.scale * math.sin(angle)
    shear_x, shear_y = (math.tan(math.radians(degrees)) for degrees in warp.shear)

    center = np.array([[1, 0, -source[1] / 2], [0, 1, -source[0] / 2], [0, 0, 1]])
    perspective = np.array([[1, 0, 0], [0, 1, 0], [*warp.perspective, 1]])
    rotation = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    shear = np.array([[1, shear_x, 0], [shear_y, 1, 0], [0, 0, 1]])
    translation = np.array(
        [[1, 0, warp.centre[0] * target[1]], [0, 1, warp.centre[1] * target[0]], [0, 0, 1]]
    )
    return translation @ shear @ rotation @ perspective @ center


def visible_window(
    matrix: np.ndarray, source: tuple[int, int], target: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the corners x1, y1, x2, y2 of the part of the source that is visible in the target.

    It includes a margin of one pixel for the interpolation, and is clipped to the source. If
    nothing is visible, x2 <= x1 or y2 <= y1.
    """
    corners = np.array([[0, 0, 1], [target[1], 0, 1], [*target[::-1], 1], [0, target[0], 1]])
    points = corners @ np.linalg.inv(matrix).T  # [4, 3]
    if points[:, 2].min() <= 0:  # the target reaches beyond the horizon
        return 0, 0, source[1], source[0]
    points = points[:, :2] / points[:, 2:]
    low = np.floor(points.min(axis=0) - 1).clip(0, source[::-1])
    high = np.ceil(points.max(axis=0) + 1).clip(0, source[::-1])
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def warp_image(image: np.ndarray, matrix: np.ndarray, output: np.ndarray) -> None:
    """Warp an image by `matrix` into `output`; fill the rest with the padding grey."""
    # In OpenCV, integer coordinates are pixel centres.
    to_edges = np.array([[1, 0, PIXEL_CENTRE], [0, 1, PIXEL_CENTRE], [0, 0, 1]])
    from_edges = np.array([[1, 0, -PIXEL_CENTRE], [0, 1, -PIXEL_CENTRE], [0, 0, 1]])
    inverse = np.linalg.inv(matrix)
    matrix = from_edges @ matrix @ to_edges
    size, grey = (output.shape[1], output.shape[0]), (PADDING_GREY,) * 3
    if np.array_equal(matrix[2], [0, 0, 1]):
        cv2.warpAffine(image, matrix[:2], size, dst=output, borderValue=grey)
    else:
        cv2.warpPerspective(image, matrix, size, dst=output, borderValue=grey)
        # OpenCV draws what is behind the camera beyond the horizon, mirrored.
        columns, rows = (np.arange(side) + PIXEL_CENTRE for side in size)
        depths = inverse[2, 0] * columns + inverse[2, 1] * rows[:, None] + inverse[2, 2]
        output[depths <= 0] = PADDING_GREY


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Return the axis-aligned bounding boxes of the warped boxes, float64.

    They are not clipped to the target, unless the matrix has a perspective. Then they are those of
    the visible parts; parts behind the camera are not visible. Without any, the box is empty.
    """
    points = np.ones((len(boxes), len(CORNERS), 3))
    points[..., :2] = boxes[:, CORNERS]
    points = points @ matrix.T  # [k, 4, 3]
    depths = points[..., 2:]
    flat = points[..., :2] / np.where(depths > 0, depths, np.nan)
    found = np.concatenate([flat.min(axis=1), flat.max(axis=1)], axis=1)
    if not np.array_equal(matrix[2], [0, 0, 1]):
        inside = (found[:, :2] >= 0).all(axis=1) & (found[:, 2:] <= target[::-1]).all(axis=1)
        for i in np.flatnonzero(~inside):
            found[i] = _visible_bounds(points[i], target)
    return found


def _visible_bounds(polygon: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Return the bounding box, x1, y1, x2, y2, of the visible part of a polygon; zeros if none.

    Clips the homogeneous points [n, 3] by the five limits of the view (Sutherland and Hodgman,
    1974).
    """
    height, width = target
    limits = [(0, 0, 1), (1, 0, 0), (-1, 0, width), (0, 1, 0), (0, -1, height)]
    for limit in np.array(limits, dtype=np.float64):
        distances = polygon @ limit
        kept = []
        for i, distance in enumerate(distances):
            before = distances[i - 1]
            if (distance > 0) != (before > 0):
                share = before / (before - distance)
                kept.append(polygon[i - 1] + share * (polygon[i] - polygon[i - 1]))
            if distance > 0:
                kept.append(polygon[i])
        if not kept:
            return np.zeros(4)
        polygon = np.array(kept)
    points = polygon[:, :2] / np.maximum(polygon[:, 2:], np.finfo(np.float64).tiny)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def still_visible(before: np.ndarray, after: np.ndarray, scale: float) -> np.ndarray:
    """Return which boxes remain usable as labels after a warp by `scale` and clipping, bool [k].

    They are more than 2 px wide and high, have more than a tenth of their area left, and an aspect
    ratio below 100.
    """
    width, height = (after[:, 2:] - after[:, :2]).T
    full_area = (before[:, 2:] - before[:, :2]).prod(axis=1) * scale**2
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    return (
        (shorter > MIN_SIDE)
        & (width * height > MIN_AREA_RATIO * full_area)
        & (longer < MAX_ASPECT_RATIO * shorter)
    )
