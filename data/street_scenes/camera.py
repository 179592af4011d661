"""To draw a scene: its weather, the camera with its picture, and surfaces in true perspective.

The result is bit-identical on all machines: coordinates are computed in IEEE arithmetic and
rounded, OpenCV only fills simple polygons with integer corners, and the rest is done with integers.
OpenCV's thick lines, ellipses, blurs and resizing are not used, because their floating-point steps
may differ between processors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Color = tuple[int, int, int]  # red, green, blue
Point = tuple[float, float]  # pixels, x to the right and y down, or metres on a surface
Spot = tuple[float, float, float]  # metres: x to the right, y up, z away from the camera

WIDTH, HEIGHT = 320, 256  # size of an image, px: multiples of every stride up to 64
FOCAL = 285.0  # focal length of the camera, pixels
OVERSAMPLING = 3  # fine pixels per image pixel in each direction, for antialiasing
FULL = 256  # shares of light are counted in 256ths
# A circle as a polygon. Rounded, because the last digit of sines can differ between machines.
CIRCLE: tuple[Point, ...] = tuple(
    (round(math.cos(math.pi * i / 12), 6), round(math.sin(math.pi * i / 12), 6)) for i in range(24)
)


def palette(codes: str) -> tuple[Color, ...]:
    """Return the colours of hexadecimal codes, RRGGBB, separated by blanks."""
    return tuple((code[0], code[1], code[2]) for code in map(bytes.fromhex, codes.split()))


def tinted(color: Color, share: float) -> Color:
    """Return a darker (share < 1) or lighter (share > 1) tone of a colour."""
    red, green, blue = (min(255, int(c * share)) for c in color)
    return red, green, blue


@dataclass(frozen=True)
class Weather:
    """Light, sky and haze of a scene."""

    ambient: Color  # light that surfaces reflect, per channel, in 256ths
    zenith: Color
    horizon: Color  # the sky at the horizon, and the haze
    visibility: float  # distance in metres at which haze and surface have equal weights
    sunny: bool = False  # shadows fall to one side
    dark: bool = False  # lamps are lit

    def seen(self, color: Color, distance: float, *, glowing: bool) -> Color:
        """Return the colour of a surface `distance` metres away; glowing ones ignore the light."""
        weight = distance / (distance + self.visibility)
        light = (FULL, FULL, FULL) if glowing else self.ambient
        red, green, blue = (
            min(255, int(c * share / FULL * (1 - weight) + haze * weight))
            for c, share, haze in zip(color, light, self.horizon, strict=True)
        )
        return red, green, blue


class Camera:
    """A pinhole camera above (0, 0, 0) and its picture: fine pixels (RGB) and their owners.

    Owner 0 is the scenery; objects count from 1.
    """

    def __init__(self, weather: Weather, centre: float, horizon: float, height: float) -> None:
        """Set the column and the row of the vanishing point, and the height above the ground."""
        self.weather, self.height, self._centre, self._horizon = weather, height, centre, horizon
        shape = (HEIGHT * OVERSAMPLING, WIDTH * OVERSAMPLING)
        self._pixels = np.zeros((*shape, 3), np.uint8)
        self._owners = np.zeros(shape, np.uint8)
        self.owner: int | None = None  # of the next polygons; None while there are no objects

    def pixel(self, x: float, y: float, z: float) -> Point:
        """Return the pixel of a spot."""
        scale = FOCAL / z
        return self._centre + x * scale, self._horizon + (self.height - y) * scale

    def polygon(self, spots: Sequence[Spot], color: Color, *, glowing: bool = False) -> None:
        """Fill a polygon.

        It does not have to be convex, but its outline must not cross any row of pixels more than
        twice, as `cv2.fillConvexPoly` requires. `cv2.fillPoly` accepts any outline, but fills the
        pixels along slanted edges differently in OpenCV 4 and 5.
        """
        depths = [z for _, _, z in spots]
        distance = (min(depths) + max(depths)) / 2
        corners = _fine([self.pixel(x, y, z) for x, y, z in spots])
        seen = self.weather.seen(color, distance, glowing=glowing)
        cv2.fillConvexPoly(self._pixels, corners, seen)
        if self.owner is not None:
            cv2.fillConvexPoly(self._owners, corners, self.owner)

    def blend(self, points: Sequence[Point], color: Color, share: int) -> None:
        """Mix share/256 of a colour into the pixels inside a polygon in the image."""
        corners = _fine(points)
        left, top = np.maximum(corners.min(axis=0), 0)
        right, bottom = np.maximum(corners.max(axis=0) + 1, 0)
        part = self._pixels[top:bottom, left:right]
        if part.size:
            mask = np.zeros(part.shape[:2], np.uint8)
            cv2.fillConvexPoly(mask, corners - (left, top), share)
            weight = mask[..., None].astype(np.uint16)
            part[:] = (part * (FULL - weight) + np.array(color, np.uint16) * weight) // FULL

    def glow(self, spot: Spot, radius: float, color: Color) -> None:
        """Let a light shine around a spot, if it is dark; the radius is in metres."""
        (x, y), reach = self.pixel(*spot), radius * FOCAL / spot[2]
        for ring in (1.0, 0.85, 0.7, 0.55, 0.4, 0.25) if self.weather.dark else ():
            points = [(x + ring * reach * a, y + ring * reach * b) for a, b in CIRCLE]
            self.blend(points, color, 20)

    def area(self, owner: int) -> int:
        """Return the number of visible fine pixels of an owner."""
        return int(np.count_nonzero(self._owners == owner))

    def box(self, owner: int) -> tuple[float, ...]:
        """Return left, top, right and bottom of the visible pixels of an owner, which has some."""
        mine = self._owners == owner
        rows, columns = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
        corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        return tuple(int(corner) / OVERSAMPLING for corner in corners)

    def image(self) -> np.ndarray:
        """Return the image, uint8 [HEIGHT, WIDTH, 3] RGB: means of the fine pixels, rounded."""
        total = np.full((HEIGHT, WIDTH, 3), OVERSAMPLING**2 // 2, np.uint16)
        for row in range(OVERSAMPLING):
            for column in range(OVERSAMPLING):
                total += self._pixels[row::OVERSAMPLING, column::OVERSAMPLING]
        return (total // OVERSAMPLING**2).astype(np.uint8)


def _fine(points: Sequence[Point]) -> np.ndarray:
    """Return the fine pixels of points in the image, int32 [n, 2], halves rounded up."""
    return np.floor(np.array(points) * OVERSAMPLING + 0.5).astype(np.int32)


@dataclass(frozen=True)
class Surface:
    """An upright surface to paint on; its coordinates are along it and up, from the ground."""

    camera: Camera
    x: float
    z: float
    along: tuple[float, float] = (1.0, 0.0)  # x and z of a step of a metre along it
    unit: float = 1.0  # metres in a unit of its coordinates

    def spot(self, along: float, up: float) -> Spot:
        """Return the spot in space of a point of the surface."""
        (dx, dz), step = self.along, along * self.unit
        return self.x + dx * step, up * self.unit, self.z + dz * step

    def polygon(self, points: Sequence[Point], color: Color, *, glowing: bool = False) -> None:
        """Fill a polygon."""
        self.camera.polygon([self.spot(x, y) for x, y in points], color, glowing=glowing)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, color: Color, *, glowing: bool = False
    ) -> None:
        """Fill a rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color, glowing=glowing)

    def disc(self, centre: Point, radius: float, color: Color, *, glowing: bool = False) -> None:
        """Fill a circle."""
        x, y = centre
        self.polygon([(x + radius * a, y + radius * b) for a, b in CIRCLE], color, glowing=glowing)
