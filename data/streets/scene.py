"""One street scene: figures find a place, are painted, the farthest first, and are boxed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.streets.camera import Camera
from data.streets.canvas import Canvas, ring
from data.streets.cast import (
    CAR,
    PEDESTRIAN,
    SIGN,
    Casting,
    Item,
    cast_car,
    cast_lamp,
    cast_pedestrian,
    cast_sign,
    cast_small_thing,
    cast_traffic_light,
    cast_tree,
)
from data.streets.ground import (
    Ground,
    Street,
    paint_surroundings,
    random_camera,
    random_street,
)
from data.streets.rng import Rng
from data.streets.weather import (
    Glow,
    Weather,
    add_glow,
    paint_sky,
    random_weather,
)

WIDTH, HEIGHT = 320, 256  # pixels of a picture: multiples of every stride up to 64
TRIES = 12  # places that are looked at for each member of the cast
VISIBLE_SHARE = 0.25  # of a figure's pixels that must remain for it to be labelled
MIN_SIDE = 4.0  # pixels of a labelled box; below, nothing can be made out
# Least and greatest height, of cars width, in pixels that a figure may have to be let in.
SIZES = {PEDESTRIAN: (30.0, 132.0), CAR: (26.0, 150.0), SIGN: (20.0, 72.0), None: (0.0, 400.0)}
IN_FRAME = 0.6  # share of a figure's box that lies in the picture
COVERED = 0.35  # share of a thing's box that a nearer one may cover
CROWDED = 0.60  # the same, now and then
CROWDING = 0.15  # how often


class Label(NamedTuple):
    """Visible extent of a figure: pixel corners."""

    label: int
    left: float
    top: float
    right: float
    bottom: float


class Painting(NamedTuple):
    """A finished scene: RGB uint8 [HEIGHT, WIDTH, 3] and the boxes of its figures."""

    picture: np.ndarray
    labels: tuple[Label, ...]


def paint_scene(*key: int) -> Painting:
    """Paint the scene that belongs to a key: a pure function of it."""
    rng = Rng(*key)
    street, weather = random_street(rng), random_weather(rng)
    camera = random_camera(rng, street, WIDTH)
    stage = Stage(camera, street)
    for casting, count in _playbill(rng):
        for _ in range(count):
            stage.cast(casting, rng)
    canvas = Canvas(WIDTH, HEIGHT, weather.air)
    paint_sky(canvas, weather, camera.horizon, rng)
    Ground(canvas, camera, street).paint(rng, green=rng.chance(0.3))
    paint_surroundings(canvas, camera, street, rng, night=weather.night)
    items = sorted(stage.items, key=lambda item: -item.z)
    _paint_shadows(canvas, camera, items, weather, lean=rng.real(-1.0, 1.0))
    labels = paint_items(canvas, camera, items)
    picture = canvas.picture()
    if weather.night:
        _light_up(picture, camera, items)
    return Painting(picture, labels)


def _playbill(rng: Rng) -> list[tuple[Casting, int]]:
    """Return how many of each may come on; those who find no place stay away."""
    return [
        (cast_car, rng.whole(1, 3)),
        (cast_sign, rng.whole(2, 3)),
        (cast_pedestrian, rng.whole(2, 5)),
        (cast_lamp, rng.whole(0, 3)),
        (cast_tree, rng.whole(0, 3)),
        (cast_traffic_light, rng.whole(0, 1)),
        (cast_small_thing, rng.whole(0, 4)),
    ]


class Frame(NamedTuple):
    """Corners of an item's box on the picture, pixels, not clipped."""

    left: float
    top: float
    right: float
    bottom: float

    def area(self) -> float:
        """Return the area, 0 for a box turned inside out."""
        return max(self.right - self.left, 0.0) * max(self.bottom - self.top, 0.0)

    def common(self, other: "Frame") -> "Frame":
        """Return the box that both share."""
        return Frame(
            max(self.left, other.left), max(self.top, other.top),
            min(self.right, other.right), min(self.bottom, other.bottom),
        )  # fmt: skip


PICTURE = Frame(0.0, 0.0, float(WIDTH), float(HEIGHT))


class Stage:
    """Lets items in while they can be seen, stand clear of each other and hide little."""

    def __init__(self, camera: Camera, street: Street) -> None:
        self._camera, self._street = camera, street
        self.items: list[Item] = []

    def cast(self, casting: Casting, rng: Rng) -> None:
        """Bring on one item, if one of the first few places tried is good."""
        limit = CROWDED if rng.chance(CROWDING) else COVERED
        for _ in range(TRIES):
            item = casting(self._street, rng)
            if self._in_sight(item) and all(
                self._agree(item, other, limit) for other in self.items
            ):
                self.items.append(item)
                return

    def _in_sight(self, item: Item) -> bool:
        frame = self._frame(item)
        smallest, largest = SIZES[item.label]
        side = frame.right - frame.left if item.label == CAR else frame.bottom - frame.top
        visible = frame.common(PICTURE).area()
        share = IN_FRAME if item.label is not None else 0.0
        return smallest <= side <= largest and visible > share * frame.area()

    def _agree(self, one: Item, other: Item, limit: float) -> bool:
        apart = abs(one.x - other.x) > (one.span[2] + other.span[2]) * 0.9
        if not apart and abs(one.z - other.z) < (one.depth + other.depth) / 2:
            return False
        near, far = (one, other) if one.z < other.z else (other, one)
        if far.label is None:
            return True
        hidden = self._frame(near).common(self._frame(far)).area()
        return hidden <= limit * self._frame(far).area()

    def _frame(self, item: Item) -> Frame:
        scale = self._camera.scale(item.z)
        x, y = self._camera.project(item.x, 0.0, item.z)
        left, bottom, right, top = item.span
        return Frame(x + left * scale, y - top * scale, x + right * scale, y - bottom * scale)


def _paint_shadows(
    canvas: Canvas, camera: Camera, items: Sequence[Item], weather: Weather, *, lean: float
) -> None:
    """Darken the ground below everything, and beside it when the sun shines."""
    for item in items:
        half = (item.span[2] - item.span[0]) / 2
        if item.label == CAR:
            depth = item.depth
        else:
            half = min(half, 0.4)
            depth = half
        reach = lean * item.span[3] * 0.5 if weather.sunny else 0.0
        x0, x1 = item.x - half + min(reach, 0.0), item.x + half + max(reach, 0.0)
        if item.label == CAR:
            z0, z1 = item.z, item.z + depth
            on_ground = [
                (x0, z0 + 0.3),
                (x0 + 0.3, z0 - 0.15),
                (x1 - 0.3, z0 - 0.15),
                (x1, z0 + 0.3),
                (x1, z1),
                (x0, z1),
            ]
        else:
            on_ground = ring(((x0 + x1) / 2, item.z), ((x1 - x0) / 2, depth / 2))
        canvas.darken([camera.project(x, 0.0, z) for x, z in on_ground], weather.shadow)


def paint_items(canvas: Canvas, camera: Camera, items: Sequence[Item]) -> tuple[Label, ...]:
    """Paint the items in the order given and return the boxes of the figures that can be seen."""
    whole: dict[int, tuple[int, int]] = {}  # owner -> class and pixels when nothing was in front
    for owner, item in enumerate(items, start=1):
        pen = camera.pen(canvas, item.x, item.z, mirrored=item.mirrored)
        canvas.distance, canvas.owner = item.z, 0
        if item.support is not None:
            item.support(pen)
        canvas.owner = owner if item.label is not None else 0
        item.paint(pen)
        extent = canvas.extent(owner)
        if item.label is not None and extent is not None:
            whole[owner] = (item.label, extent.area)
    labels = []
    for owner, (label, area) in whole.items():
        extent = canvas.extent(owner)
        if extent is None or extent.area < VISIBLE_SHARE * area:
            continue
        if min(extent.right - extent.left, extent.bottom - extent.top) >= MIN_SIDE:
            labels.append(Label(label, extent.left, extent.top, extent.right, extent.bottom))
    return tuple(labels)


def _light_up(picture: np.ndarray, camera: Camera, items: Sequence[Item]) -> None:
    for item in items:
        x, y = camera.project(item.x, 0.0, item.z)
        scale = camera.scale(item.z)
        for light in item.lights:
            side = -light.x if item.mirrored else light.x
            centre = (x + side * scale, y - light.y * scale)
            glow = Glow(centre, light.radius * scale, light.color, light.strength, light.flatness)
            add_glow(picture, glow)
