"""Generate one street scene: place items, paint them from far to near, and compute the boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.street_scenes.camera import Camera
from data.street_scenes.canvas import Canvas, ring
from data.street_scenes.ground import (
    Ground,
    Street,
    paint_surroundings,
    random_camera,
    random_street,
)
from data.street_scenes.items import (
    CAR,
    PEDESTRIAN,
    SIGN,
    Item,
    Placer,
    place_car,
    place_lamp,
    place_pedestrian,
    place_sign,
    place_small_thing,
    place_traffic_light,
    place_tree,
)
from data.street_scenes.rng import Rng
from data.street_scenes.weather import (
    Glow,
    Weather,
    add_glow,
    paint_sky,
    random_weather,
)

WIDTH, HEIGHT = 320, 256  # size of an image, px: multiples of every stride up to 64
TRIES = 12  # positions that are tried for each item
VISIBLE_SHARE = 0.25  # minimum visible fraction of a labelled object's pixels
MIN_SIDE = 4.0  # minimum side of a labelled box, px; smaller ones show nothing recognizable
# Minimum and maximum height, of cars width, of an item in px.
SIZES = {PEDESTRIAN: (30.0, 132.0), CAR: (26.0, 150.0), SIGN: (20.0, 72.0), None: (0.0, 400.0)}
IN_FRAME = 0.6  # minimum fraction of an object's box inside the image
COVERED = 0.35  # maximum fraction of an object's box that a nearer item may cover
CROWDED = 0.60  # the same for some items
CROWDING = 0.15  # probability of the higher limit


class Label(NamedTuple):
    """Class and visible box of an object, corners in px."""

    label: int
    left: float
    top: float
    right: float
    bottom: float


class Painting(NamedTuple):
    """A finished scene: RGB uint8 [HEIGHT, WIDTH, 3] and the boxes of its objects."""

    image: np.ndarray
    labels: tuple[Label, ...]


def paint_scene(*key: int) -> Painting:
    """Paint the scene of a key; the result depends only on the key."""
    rng = Rng(*key)
    street, weather = random_street(rng), random_weather(rng)
    camera = random_camera(rng, street, WIDTH)
    layout = SceneLayout(camera, street)
    for placer, count in _sample_counts(rng):
        for _ in range(count):
            layout.add(placer, rng)
    canvas = Canvas(WIDTH, HEIGHT, weather.air)
    paint_sky(canvas, weather, camera.horizon, rng)
    Ground(canvas, camera, street).paint(rng, green=rng.bernoulli(0.3))
    paint_surroundings(canvas, camera, street, rng, night=weather.night)
    items = sorted(layout.items, key=lambda item: -item.z)
    _paint_shadows(canvas, camera, items, weather, lean=rng.uniform(-1.0, 1.0))
    labels = paint_items(canvas, camera, items)
    image = canvas.image()
    if weather.night:
        _light_up(image, camera, items)
    return Painting(image, labels)


def _sample_counts(rng: Rng) -> list[tuple[Placer, int]]:
    """Return the placers and the maximum number of items of each kind."""
    return [
        (place_car, rng.integer(1, 3)),
        (place_sign, rng.integer(2, 3)),
        (place_pedestrian, rng.integer(2, 5)),
        (place_lamp, rng.integer(0, 3)),
        (place_tree, rng.integer(0, 3)),
        (place_traffic_light, rng.integer(0, 1)),
        (place_small_thing, rng.integer(0, 4)),
    ]


class Frame(NamedTuple):
    """Box of an item in the image: corners, px, not clipped."""

    left: float
    top: float
    right: float
    bottom: float

    def area(self) -> float:
        """Return the area; 0 for an empty box."""
        return max(self.right - self.left, 0.0) * max(self.bottom - self.top, 0.0)

    def common(self, other: "Frame") -> "Frame":
        """Return the intersection of two boxes; its area is 0 if they do not overlap."""
        return Frame(
            max(self.left, other.left), max(self.top, other.top),
            min(self.right, other.right), min(self.bottom, other.bottom),
        )  # fmt: skip


IMAGE = Frame(0.0, 0.0, float(WIDTH), float(HEIGHT))


class SceneLayout:
    """The items of a scene: visible, not touching each other, and covering little of each other."""

    def __init__(self, camera: Camera, street: Street) -> None:
        self._camera, self._street = camera, street
        self.items: list[Item] = []

    def add(self, placer: Placer, rng: Rng) -> None:
        """Add one item, if one of the first few random positions is valid."""
        limit = CROWDED if rng.bernoulli(CROWDING) else COVERED
        for _ in range(TRIES):
            item = placer(self._street, rng)
            if self._in_sight(item) and all(
                self._agree(item, other, limit) for other in self.items
            ):
                self.items.append(item)
                return

    def _in_sight(self, item: Item) -> bool:
        frame = self._frame(item)
        smallest, largest = SIZES[item.label]
        side = frame.right - frame.left if item.label == CAR else frame.bottom - frame.top
        visible = frame.common(IMAGE).area()
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
    """Darken the ground below every item and, if it is sunny, beside it."""
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
    """Paint the items in the given order and return the boxes of the visible objects."""
    whole: dict[int, tuple[int, int]] = {}  # owner -> class, and pixels before it was covered
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


def _light_up(image: np.ndarray, camera: Camera, items: Sequence[Item]) -> None:
    for item in items:
        x, y = camera.project(item.x, 0.0, item.z)
        scale = camera.scale(item.z)
        for light in item.lights:
            side = -light.x if item.mirrored else light.x
            centre = (x + side * scale, y - light.y * scale)
            glow = Glow(centre, light.radius * scale, light.color, light.strength, light.flatness)
            add_glow(image, glow)
