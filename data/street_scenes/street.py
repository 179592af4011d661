"""The street: its plan, its ground, the houses beside it, and the sky above it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from data.street_scenes.camera import Camera, Color, Surface, Weather, palette, tinted
from data.street_scenes.rng import Rng

DAY = Weather((256, 254, 246), (96, 152, 214), (206, 226, 238), 260.0, sunny=True)
EVENING = Weather((256, 216, 170), (96, 112, 166), (246, 198, 140), 220.0, sunny=True)
OVERCAST = Weather((216, 220, 226), (166, 174, 182), (208, 210, 212), 150.0)
FOG = Weather((222, 226, 228), (196, 202, 206), (203, 208, 211), 24.0)
DUSK = Weather((146, 128, 142), (52, 56, 102), (200, 124, 104), 200.0, dark=True)
NIGHT = Weather((114, 120, 146), (12, 16, 36), (38, 46, 76), 200.0, dark=True)
# The more frequent ones are repeated.
WEATHERS = (DAY, DAY, DAY, DAY, EVENING, EVENING, OVERCAST, OVERCAST, FOG, DUSK, NIGHT, NIGHT)

ASPHALTS = palette("626468 706e6c 54585e")
PAVEMENTS = palette("b0aaa0 a09e9c baac96")
GRASS, KERB, PAINT = palette("70924e cccac4 e8e8e2")
PLASTERS = palette("d6c6a8 be785c e2d6c4 a89e96 cca678 965c4e b6beba deba96 888e98 c4b0bc")
AWNINGS = palette("b2342e 286852 2e528c cea03c")
DOORS = palette("5c3c28 324a42 404054 782c28")
PANES = palette("546878 2e384a 2e384a")
LIT_PANE, SKYLINE = palette("fad07a 96989e")

NEAREST = 1.4  # metres; projects just below the lower edge of every image
FARTHEST = 220.0
SLICE = 1.3  # ratio of far to near distance of a slice of ground

STOREY, GROUND_FLOOR = 3.0, 3.4  # heights, metres
BAY = 2.4  # metres of wall to a window
FAR = 32.0  # metres; beyond this distance windows have no frames

PEDESTRIAN, CAR, SIGN = range(3)  # the classes of data/streets.yaml
# Minimum and maximum of the larger side of an item, px; None stands for furniture.
SIZES = {PEDESTRIAN: (36.0, 132.0), CAR: (26.0, 110.0), SIGN: (20.0, 72.0), None: (0.0, 400.0)}


@dataclass(frozen=True)
class Item:
    """A thing that stands in the street; all lengths in metres."""

    label: int | None  # class of an object to detect; None for furniture
    x: float
    z: float
    half: float  # half its width in the image
    top: float
    depth: float  # length of the ground along z that it occupies
    paint: Callable[[Surface, Rng], None]
    along: tuple[float, float] = (1.0, 0.0)  # direction of its surface
    bottom: float = 0.0  # if higher, it is fixed to a pole


@dataclass(frozen=True)
class Street:
    """A ground plan, in metres along the street and across it from the middle of the road."""

    receding: bool  # runs away from the camera instead of across the image
    middle: float  # distance to the middle of a road across the image; 0 if it is receding
    half: float  # half the width of the road
    facade: float  # distance from the middle of the road to the houses
    zebra: float  # where the crossing begins

    def at(self, along: float, across: float) -> tuple[float, float]:
        """Return x and z; the positive side is the right side or the far side."""
        return (across, along) if self.receding else (along, self.middle + across)

    def somewhere(self, rng: Rng, across: float) -> tuple[float, float]:
        """Return x and z of a random spot along the street, such that sizes are spread evenly.

        This would take a logarithm, but IEEE arithmetic rounds only roots alike on all machines.
        """
        if self.receding:
            root = rng.uniform(1 / math.sqrt(24.0), 1 / math.sqrt(4.4))
            return self.at(1 / (root * root), across)
        return self.at(rng.uniform(-0.58, 0.58) * (self.middle + across), across)

    def at_kerb(self, rng: Rng) -> tuple[float, float]:
        """Return x and z of a random spot beside the road."""
        return self.somewhere(rng, rng.choice((-1, 1)) * (self.half + 0.5))


def random_street(rng: Rng) -> Street:
    """Return a random street."""
    receding, half = rng.bernoulli(0.58), rng.uniform(3.4, 4.6)
    middle = 0.0 if receding else rng.uniform(10.5, 12.5)
    zebra = rng.uniform(6.5, 12.0) if receding else rng.uniform(-6.2, 3.8)
    return Street(receding, middle, half, half + rng.uniform(2.6, 4.0), zebra)


def paint_street(camera: Camera, street: Street, rng: Rng) -> None:
    """Paint everything before which the items stand."""
    _paint_sky(camera, rng)
    _paint_ground(camera, street, rng)
    _paint_houses(camera, street, rng)


def _paint_ground(camera: Camera, street: Street, rng: Rng) -> None:
    """Paint everything that lies flat: the road, the pavements and their markings."""

    def fill(start: float, end: float, left: float, right: float, color: Color) -> None:
        """Fill from start to end and from left to right, in slices of increasing haze."""
        (x0, z0), (x1, z1) = street.at(start, left), street.at(end, right)
        near = max(z0, NEAREST)
        while near < z1:
            far = min(near * SLICE, z1)
            camera.polygon([(x0, 0, near), (x1, 0, near), (x1, 0, far), (x0, 0, far)], color)
            near = far

    paving, asphalt, half = rng.choice(PAVEMENTS), rng.choice(ASPHALTS), street.half
    kerb, facade = half + 0.25, street.facade
    land = GRASS if rng.bernoulli(0.3) else tinted(paving, 0.92)
    fill(-FARTHEST, FARTHEST, -FARTHEST, FARTHEST, land)
    fill(-FARTHEST, FARTHEST, -facade, facade, paving)
    for joint in range(-10, 16, 2):  # between the slabs of the pavements
        fill(joint, joint + 0.05, -facade, facade, tinted(paving, 0.9))
    fill(-FARTHEST, FARTHEST, -kerb, kerb, KERB)
    fill(-FARTHEST, FARTHEST, -half, half, asphalt)
    for dash in range(-20, 60, 3):
        fill(dash, dash + 1.6, -0.08, 0.08, PAINT)
    for bar in range(int(2 * half - 0.8)):
        fill(street.zebra, street.zebra + 2.4, bar + 0.3 - half, bar + 0.8 - half, PAINT)


def _paint_sky(camera: Camera, rng: Rng) -> None:
    """Paint the sky, with clouds if it is sunny, and a skyline before it."""
    weather, sky = camera.weather, Surface(camera, 0.0, 1.0)  # so near that there is no haze
    for band in range(-2, 30):  # the lowest are below the horizon, because the ground ends there
        low, share = camera.height + band / 75, max(band, 0) / 30
        pairs = zip(weather.horizon, weather.zenith, strict=True)
        red, green, blue = (int(below + (above - below) * share) for below, above in pairs)
        sky.box(-1.0, low, 1.0, low + 1 / 75, (red, green, blue), glowing=True)
    for _ in range(rng.choice(range(4)) if weather.sunny else 0):
        x, up = rng.uniform(-0.6, 0.5), camera.height + rng.uniform(0.15, 0.32)
        for puff in range(5):
            centre = (x + 0.03 * puff, up + rng.uniform(-0.006, 0.006))
            sky.disc(centre, rng.uniform(0.014, 0.028), tinted(weather.horizon, 1.1), glowing=True)
    for x in range(-120, 120, 20):
        Surface(camera, x, 150.0).box(0, 0, rng.uniform(8, 26), rng.uniform(8, 26), SKYLINE)


def _paint_houses(camera: Camera, street: Street, rng: Rng) -> None:
    """Paint houses beside or behind the street, the farthest first."""
    start, end = (3.0, 70.0) if street.receding else (rng.uniform(-22.0, -16.0), 16.0)
    for side in (-1, 1) if street.receding else (1,):
        corners = [start]
        while corners[-1] < end:
            corners.append(corners[-1] + rng.uniform(6.0, 11.0))
        for corner, next_corner in reversed(list(pairwise(corners))):
            x, z = street.at(corner, side * street.facade)
            wall = Surface(camera, x, z, (0.0, 1.0) if street.receding else (1.0, 0.0))
            if rng.bernoulli(0.88):  # the others are gaps
                _paint_house(wall, next_corner - corner, rng)


def _paint_house(wall: Surface, length: float, rng: Rng) -> None:
    """Paint a house whose front is a wall."""
    plaster, storeys = rng.choice(PLASTERS), rng.choice(range(2, 6))
    height = GROUND_FLOOR + STOREY * (storeys - 1) + 0.5
    if wall.along[0] == 0.0:  # running away, so that a side wall faces the camera
        plaster = tinted(plaster, 0.86)
        side = 9.0 if wall.x > 0 else -9.0
        Surface(wall.camera, wall.x, wall.z).box(0.0, 0.0, side, height, tinted(plaster, 0.8))
    bays, shop, awning = int(length / BAY), rng.bernoulli(0.6), rng.choice(AWNINGS)
    step, door, dark = length / bays, rng.choice(range(bays)), wall.camera.weather.dark
    glass = LIT_PANE if dark else PANES[0]
    for bay in range(bays):
        left, middle, right = bay * step, (bay + 0.5) * step, (bay + 1) * step
        wall.box(left, 0.0, right, height, plaster)
        wall.box(left, height - 0.3, right, height, tinted(plaster, 1.14))
        for floor in range(storeys - 1):
            sill = GROUND_FLOOR + STOREY * floor + 0.9
            _paint_window(wall, middle, sill, plaster, rng)
        if bay == door:
            wall.box(middle - 0.45, 0.0, middle + 0.45, 2.2, rng.choice(DOORS))
        elif shop:
            wall.box(left + 0.2, 0.5, right - 0.2, 2.5, glass, glowing=dark)
            wall.box(left + 0.1, 2.4, right - 0.1, 3.0, awning)
        else:
            _paint_window(wall, middle, 1.0, plaster, rng)


def _paint_window(wall: Surface, middle: float, sill: float, plaster: Color, rng: Rng) -> None:
    """Paint a window, lit or dark at night; near ones have a frame."""
    left, right = middle - 0.55, middle + 0.55
    if wall.z < FAR:
        wall.box(left - 0.12, sill - 0.14, right + 0.12, sill + 1.62, tinted(plaster, 1.2))
    lit = wall.camera.weather.dark and rng.bernoulli(0.4)
    wall.box(left, sill, right, sill + 1.5, LIT_PANE if lit else rng.choice(PANES), glowing=lit)
