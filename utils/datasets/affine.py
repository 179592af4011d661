"""Turning, scaling, shearing and tilting an image together with its boxes, by one 3x3 matrix.

A warp that does nothing but scale and move needs none: it stretches whole pixels along each axis.
Coordinates are those of boxes: the left edge of the first pixel is 0, its centre 0.5.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from utils.datasets.letterbox import PADDING_GREY

MIN_SIDE = 2.0  # px: thinner remains are not recognisable as anything
MIN_AREA_LEFT = 0.1
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

    @property
    def is_straight(self) -> bool:
        """Whether it only scales and moves."""
        return not (self.angle or any(self.shear) or any(self.perspective))


class Stretch(NamedTuple):
    """Whole pixels of an image, and those of a picture that they fill, along one axis."""

    first: int
    last: int
    """The first pixel of the image beyond."""
    start: int
    stop: int
    """The first pixel of the picture beyond."""
    scale: float
    shift: float
    """What is at `c` on the canvas comes to `c * scale + shift` in the picture."""


def stretch(
    place: tuple[int, int], pixels: int, canvas: int, *, scale: float, shift: float, picture: int
) -> Stretch | None:
    """How an image that lies on a canvas is seen in a picture of it, along one axis.

    The edges of what is on the canvas go to the nearest whole pixels of the picture, so images
    that touch each other there do so in the picture. Where the picture cuts the image off, it does
    so at the image's nearest whole pixel. That moves things by a pixel at most, and as what is
    between is stretched evenly, boxes that go the same way fit it exactly.

    Args:
        place: of the image on the canvas, first px and the first beyond; they may be outside.
        pixels: of the image, as many as `place` or not.
        canvas: px, at which the image is cut off.
        scale: wanted px of the picture for one of the canvas.
        shift: wanted place of the canvas' beginning in the picture, px.
        picture: px.

    Returns:
        What is stretched onto what, or None if nothing of it is to be seen.
    """
    begin, end = max(place[0], 0), min(place[1], canvas)
    low, high = round(begin * scale + shift), round(end * scale + shift)
    start, stop = max(low, 0), min(high, picture)
    if end <= begin or stop <= start:
        return None
    ratio = pixels / (place[1] - place[0])  # px of the image for one of the canvas
    left, right = (begin - place[0]) * ratio, (end - place[0]) * ratio
    per_pixel = (right - left) / (high - low)
    first = min(round(left + (start - low) * per_pixel), math.ceil(right) - 1)
    last = max(round(right - (high - stop) * per_pixel), first + 1)
    got = (stop - start) / (last - first)  # px of the picture for one of the image
    return Stretch(
        first, last, start, stop, got * ratio, start - first * got - place[0] * got * ratio
    )


def stretch_image(image: np.ndarray, across: Stretch, down: Stretch, picture: np.ndarray) -> None:
    """Draw the seen part of an image into a picture, both [height, width, 3], uint8."""
    part = image[down.first : down.last, across.first : across.last]
    target = picture[down.start : down.stop, across.start : across.stop]
    size = target.shape[1], target.shape[0]
    cv2.resize(part, size, dst=target, interpolation=cv2.INTER_LINEAR)


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


def seen_window(
    matrix: np.ndarray, source: tuple[int, int], target: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The part of the source that `matrix` shows, with a pixel around it to interpolate with.

    Args:
        matrix: of `warp_matrix`.
        source: (height, width), px.
        target: of the picture, the same.

    Returns:
        Corners x1, y1, x2, y2, px of the source, within it; x2 <= x1 or y2 <= y1 if it shows none.
    """
    corners = np.array([[0, 0, 1], [target[1], 0, 1], [*target[::-1], 1], [0, target[0], 1]])
    points = corners @ np.linalg.inv(matrix).T  # [4, 3]
    if points[:, 2].min() <= 0:  # the picture reaches beyond the horizon
        return 0, 0, source[1], source[0]
    points = points[:, :2] / points[:, 2:]
    low = np.floor(points.min(axis=0) - 1).clip(0, source[::-1])
    high = np.ceil(points.max(axis=0) + 1).clip(0, source[::-1])
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def warp_image(image: np.ndarray, matrix: np.ndarray, picture: np.ndarray) -> None:
    """Fill a picture with what `matrix` makes of an image, and with grey where nothing is.

    Args:
        image: uint8 [height, width, 3].
        matrix: [3, 3], from the image's coordinates to the picture's.
        picture: uint8 [height, width, 3], written to.
    """
    # OpenCV counts from pixel centres.
    to_edges = np.array([[1, 0, PIXEL_CENTRE], [0, 1, PIXEL_CENTRE], [0, 0, 1]])
    from_edges = np.array([[1, 0, -PIXEL_CENTRE], [0, 1, -PIXEL_CENTRE], [0, 0, 1]])
    matrix = from_edges @ matrix @ to_edges
    size, grey = (picture.shape[1], picture.shape[0]), (PADDING_GREY,) * 3
    if np.array_equal(matrix[2], [0, 0, 1]):
        cv2.warpAffine(image, matrix[:2], size, dst=picture, borderValue=grey)
    else:
        cv2.warpPerspective(image, matrix, size, dst=picture, borderValue=grey)


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The boxes around the warped boxes.

    Args:
        boxes: [k, 4], corners x1, y1, x2, y2, px of the source.
        matrix: of `warp_matrix`.

    Returns:
        float64 [k, 4], corners, px of the picture; they may be outside.
    """
    points = np.ones((len(boxes), len(CORNERS), 3))
    points[..., :2] = boxes[:, CORNERS]
    points = points @ matrix.T  # [k, 4, 3]
    points = points[..., :2] / points[..., 2:]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


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
        (shorter > MIN_SIDE)
        & (width * height > MIN_AREA_LEFT * full_area)
        & (longer < GREATEST_ASPECT * shorter)
    )
