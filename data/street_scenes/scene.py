"""Generate one street scene: place items, paint them from far to near, and compute the boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.street_scenes.camera import CIRCLE, FOCAL, WIDTH, Camera, Surface, palette
from data.street_scenes.cars import place_car
from data.street_scenes.pedestrians import place_pedestrian
from data.street_scenes.rng import Rng
from data.street_scenes.roadside import place_furniture, place_sign
from data.street_scenes.street import SIZES, WEATHERS, Item, Street, paint_street, random_street

# Minimum and maximum number of items of each kind, in the order in which they are placed.
COUNTS = ((place_car, 1, 3), (place_sign, 2, 3), (place_pedestrian, 2, 5), (place_furniture, 2, 7))
TRIES = 12  # positions that are tried for each item
EDGE = 16  # px at the left and the right in which no item has its middle
VISIBLE_SHARE = 0.25  # minimum visible fraction of a labelled object's pixels
MIN_SIDE = 4.0  # minimum side of a labelled box, px; smaller ones show nothing recognizable
SHADE, SUN_SHADE = 72, 108  # darkness of a shadow, in 256ths
BLACK, STEEL = palette("000000 84888e")


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
    street, weather = random_street(rng), rng.choice(WEATHERS)
    centre = WIDTH * rng.uniform(0.4, 0.6)
    camera = Camera(weather, centre, rng.uniform(84, 106), rng.uniform(2.2, 3.2))
    paint_street(camera, street, rng)
    items = place_items(camera, street, rng)
    lean = rng.uniform(-0.5, 0.5)
    for item in items:
        _paint_shadow(camera, item, lean)
    labels = paint_items(camera, items, rng)
    return Painting(camera.image(), labels)


def place_items(camera: Camera, street: Street, rng: Rng) -> list[Item]:
    """Return random items, the farthest first; one that fits at no tried position is left out."""
    items: list[Item] = []
    for place, fewest, most in COUNTS:
        for _ in range(rng.choice(range(fewest, most + 1))):
            for item in (place(street, rng) for _ in range(TRIES)):
                if _fits(camera, item, items):
                    items.append(item)
                    break
    return sorted(items, key=lambda item: -item.z)


def _fits(camera: Camera, item: Item, others: Sequence[Item]) -> bool:
    """Whether an item is in sight, touches no other one, and hides no other one's middle."""
    smallest, largest = SIZES[item.label]
    size = max(2 * item.half, item.top - item.bottom) * FOCAL / item.z
    column, _ = camera.pixel(item.x, 0.0, item.z)
    if not (smallest <= size <= largest and EDGE < column < WIDTH - EDGE):
        return False
    for other in others:
        apart = abs(item.x - other.x) > (item.half + other.half) * 0.9
        if not apart and abs(item.z - other.z) < (item.depth + other.depth) / 2:
            return False
        near, far = sorted((item, other), key=lambda one: one.z)
        ray = far.x * near.z / far.z  # where the line of sight to the far one passes the near one
        if far.label is not None and abs(near.x - ray) < near.half:
            return False
    return True


def _paint_shadow(camera: Camera, item: Item, lean: float) -> None:
    """Darken the ground below an item and, if it is sunny, beside it."""
    sunny = camera.weather.sunny
    reach = lean * item.top / 2 if sunny else 0.0
    x, half = item.x + reach, item.half + abs(reach)
    ring = [camera.pixel(x + half * a, 0.0, item.z + item.depth / 2 * b) for a, b in CIRCLE]
    camera.blend(ring, BLACK, SUN_SHADE if sunny else SHADE)


def paint_items(camera: Camera, items: Sequence[Item], rng: Rng) -> tuple[Label, ...]:
    """Paint the items in the given order and return the boxes of the visible objects."""
    whole = []  # areas before they were covered
    for owner, item in enumerate(items, start=1):
        pen = Surface(camera, item.x, item.z, item.along)
        camera.owner = 0
        if item.bottom > 0:  # a pole is not part of the object
            pen.box(-0.05, 0.0, 0.05, item.top - 0.1, STEEL)
        camera.owner = owner if item.label is not None else 0
        item.paint(pen, rng)
        whole.append(camera.area(owner))
    labels = []
    for owner, (item, area) in enumerate(zip(items, whole, strict=True), start=1):
        if item.label is None or camera.area(owner) < max(VISIBLE_SHARE * area, 1):
            continue
        left, top, right, bottom = camera.box(owner)
        if min(right - left, bottom - top) >= MIN_SIDE:
            labels.append(Label(item.label, left, top, right, bottom))
    return tuple(labels)
