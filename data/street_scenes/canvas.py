"""The canvas of the street scenes: an oversampled pixel grid with an owner for each pixel.

The result is bit-identical on all machines: coordinates are computed with Python's IEEE arithmetic
and rounded, OpenCV only fills simple polygons with integer corners, and the grid is averaged with
integers. OpenCV's thick lines, ellipses, blurs and resizing are not used, because their
floating-point steps may differ between processors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

Color = tuple[int, int, int]  # red, green, blue
Point = tuple[float, float]  # x to the right, y down (pixels) or up (metres); see each function

OVERSAMPLING = 3  # fine pixels per image pixel in each direction, for antialiasing
LAMPS_ON = 150  # ambient light, in 256ths, below which lamps are lit
CORNERS = 24  # corners of the polygon that approximates an ellipse
# Rounded, because the last digit of sine and cosine can differ between machines.
CIRCLE: tuple[Point, ...] = tuple(
    (
        round(math.cos(2 * math.pi * i / CORNERS), 6),
        round(math.sin(2 * math.pi * i / CORNERS), 6),
    )
    for i in range(CORNERS)
)


@dataclass(frozen=True)
class Air:
    """Light and haze of a scene; converts the colour of a surface to its colour at a distance."""

    ambient: Color = (256, 256, 256)
    """Light that surfaces reflect, per channel, in 256ths."""
    haze: Color = (200, 210, 220)
    """Colour of the haze."""
    visibility: float = 400.0
    """Distance in metres at which haze and surface have equal weights."""

    @property
    def dark(self) -> bool:
        """Whether it is dark enough for lamps and headlights."""
        return max(self.ambient) < LAMPS_ON

    def seen(self, color: Color, distance: float, glowing: bool = False) -> Color:  # noqa: FBT002 - two kinds of paint
        """Return the colour of a surface `distance` metres away; glowing ones ignore the light."""
        weight = distance / (distance + self.visibility)
        lit = (
            color
            if glowing
            else tuple(c * a / 256 for c, a in zip(color, self.ambient, strict=True))
        )
        red, green, blue = (
            min(255, int(c * (1 - weight) + h * weight))
            for c, h in zip(lit, self.haze, strict=True)
        )
        return red, green, blue


class Extent(NamedTuple):
    """The visible part of one owner: corners in image pixels and its area in fine pixels."""

    left: float
    top: float
    right: float
    bottom: float
    area: int


class Canvas:
    """Fine pixels (RGB) and their owners; owner 0 is the scenery, objects count from 1."""

    def __init__(self, width: int, height: int, air: Air) -> None:
        self.width, self.height, self.air = width, height, air
        shape = (height * OVERSAMPLING, width * OVERSAMPLING)
        self._pixels = np.zeros((*shape, 3), np.uint8)
        self._owners = np.zeros(shape, np.uint8)
        self._has_objects = False
        self.owner = 0
        self.distance = 0.0  # metres, for the next polygons

    def polygon(self, points: Sequence[Point], color: Color, *, glowing: bool = False) -> None:
        """Fill a polygon; points in image pixels, y down.

        The polygon does not have to be convex, but its outline must not cross any row more than
        twice, as `cv2.fillConvexPoly` requires. `cv2.fillPoly` accepts any outline, but fills the
        pixels along slanted edges differently in OpenCV 4 and 5.
        """
        corners = np.array([(_fine(x), _fine(y)) for x, y in points], np.int32)
        cv2.fillConvexPoly(self._pixels, corners, self.air.seen(color, self.distance, glowing))
        self._claim(corners)

    def ellipse(
        self, centre: Point, radii: tuple[float, float], color: Color, *, glowing: bool = False
    ) -> None:
        """Fill an upright ellipse; image pixels."""
        self.polygon(ring(centre, radii), color, glowing=glowing)

    def darken(self, points: Sequence[Point], share: int) -> None:
        """Multiply the pixels inside a polygon by share/256; owners do not change."""
        corners = np.array([(_fine(x), _fine(y)) for x, y in points], np.int32)
        left, top = np.maximum(corners.min(axis=0), 0)
        right, bottom = corners.max(axis=0) + 1
        part = self._pixels[top : max(bottom, 0), left : max(right, 0)]
        if part.size == 0:
            return
        mask = np.zeros(part.shape[:2], np.uint8)
        cv2.fillConvexPoly(mask, corners - (left, top), 1)
        inside = mask.astype(bool)
        part[inside] = (part[inside].astype(np.uint16) * share // 256).astype(np.uint8)

    def extent(self, owner: int) -> Extent | None:
        """Return the extent of the visible pixels of an owner, or None if there are none."""
        mine = self._owners == owner
        rows, columns = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
        if rows.size == 0:
            return None
        return Extent(
            int(columns[0]) / OVERSAMPLING,
            int(rows[0]) / OVERSAMPLING,
            (int(columns[-1]) + 1) / OVERSAMPLING,
            (int(rows[-1]) + 1) / OVERSAMPLING,
            int(np.count_nonzero(mine)),
        )

    def image(self) -> np.ndarray:
        """Return the image, uint8 [height, width, 3] RGB: means of the fine pixels, rounded."""
        total = np.full((self.height, self.width, 3), OVERSAMPLING**2 // 2, np.uint16)
        for row in range(OVERSAMPLING):
            for column in range(OVERSAMPLING):
                total += self._pixels[row::OVERSAMPLING, column::OVERSAMPLING]
        return (total // OVERSAMPLING**2).astype(np.uint8)

    def _claim(self, corners: np.ndarray) -> None:
        if self.owner or self._has_objects:  # before the first object, all pixels are scenery
            cv2.fillConvexPoly(self._owners, corners, self.owner)
            self._has_objects = True


@dataclass(frozen=True)
class Pen:
    """Paints an object in metres: x to the right of its foot point, y up from the ground."""

    canvas: Canvas
    foot: Point  # image pixels
    scale: float  # image pixels per metre
    mirrored: bool = False  # faces left instead of right

    def at(self, point: Point) -> Point:
        """Return the image pixel of a point in metres."""
        x = -point[0] if self.mirrored else point[0]
        return self.foot[0] + x * self.scale, self.foot[1] - point[1] * self.scale

    def polygon(self, points: Sequence[Point], color: Color, *, glowing: bool = False) -> None:
        """Fill a polygon given in metres."""
        self.canvas.polygon([self.at(point) for point in points], color, glowing=glowing)

    def box(self, corners: Sequence[float], color: Color, *, glowing: bool = False) -> None:
        """Fill an upright rectangle: x0, y0, x1, y1 in metres."""
        x0, y0, x1, y1 = corners
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, glowing=glowing)

    def disc(self, centre: Point, radius: float, color: Color, *, glowing: bool = False) -> None:
        """Fill a disc given in metres."""
        self.polygon(ring(centre, (radius, radius)), color, glowing=glowing)

    def limb(self, joints: Sequence[Point], thickness: float, color: Color) -> None:
        """Draw a line of the given thickness through two or more points, with round joints."""
        for start, end in pairwise(joints):
            along = (end[0] - start[0], end[1] - start[1])
            length = math.sqrt(along[0] ** 2 + along[1] ** 2) or 1.0
            side = (-along[1] / length * thickness / 2, along[0] / length * thickness / 2)
            corners = [
                (start[0] + side[0], start[1] + side[1]),
                (end[0] + side[0], end[1] + side[1]),
                (end[0] - side[0], end[1] - side[1]),
                (start[0] - side[0], start[1] - side[1]),
            ]
            self.polygon(corners, color)
            self.disc(end, thickness / 2, color)


def ring(centre: Point, radii: tuple[float, float]) -> list[Point]:
    """Return the corners of a polygon that approximates an ellipse."""
    return [(centre[0] + radii[0] * x, centre[1] + radii[1] * y) for x, y in CIRCLE]


def tinted(color: Color, share: float) -> Color:
    """Return a darker (share < 1) or lighter (share > 1) tone of a colour."""
    red, green, blue = (min(255, int(c * share)) for c in color)
    return red, green, blue


def _fine(coordinate: float) -> int:
    """Return the fine pixel of an image coordinate, halves rounded up."""
    return math.floor(coordinate * OVERSAMPLING + 0.5)
