"""The items of a scene, objects to detect and furniture, each with a random position."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from data.street_scenes.canvas import Color, Pen
from data.street_scenes.cars import HEADLIGHT, TAILLIGHT, random_car
from data.street_scenes.furniture import (
    LAMP_HEIGHT,
    LAMPGLOW,
    Lamp,
    TrafficLight,
    random_small_thing,
    random_tree,
)
from data.street_scenes.ground import Street
from data.street_scenes.pedestrians import random_pedestrian
from data.street_scenes.rng import Rng
from data.street_scenes.signs import random_sign

CLASSES = ("pedestrian", "car", "sign")
PEDESTRIAN, CAR, SIGN = range(len(CLASSES))


class Light(NamedTuple):
    """A glow around a point of an item, in metres from its foot point."""

    x: float
    y: float
    radius: float
    color: Color
    strength: int
    """In 256ths."""
    flatness: int = 1


@dataclass(frozen=True)
class Item:
    """An item at a position in the street."""

    label: int | None
    """Class of an object to detect; None for furniture."""
    x: float
    z: float
    span: tuple[float, float, float, float]
    """Left, bottom, right, top as seen from the camera, metres from the foot point."""
    depth: float
    """Metres along z that it occupies."""
    paint: Callable[[Pen], None]
    mirrored: bool = False
    support: Callable[[Pen], None] | None = None
    """Paints the support of an object, such as a pole, which is not part of the object."""
    lights: tuple[Light, ...] = ()
    """Lights that are visible at night only."""


Placer = Callable[[Street, Rng], Item]  # returns a random item at a random position


def place_pedestrian(street: Street, rng: Rng) -> Item:
    """Return a pedestrian on a pavement or on the crossing."""
    person = random_pedestrian(rng)
    x, z = _on_zebra(street, rng) if rng.bernoulli(0.25) else _on_pavement(street, rng)
    half = 0.34 if person.frontal else 0.38
    span = (-half, 0.0, half, person.height)
    return Item(PEDESTRIAN, x, z, span, 0.5, person.paint, mirrored=rng.bernoulli(0.5))


def place_car(street: Street, rng: Rng) -> Item:
    """Return a car in a lane or parked at the kerb. Traffic keeps to the right."""
    if street.receding:
        leaving, parked = rng.bernoulli(0.5), rng.bernoulli(0.35)
        lane = street.half_width - 1.0 if parked else street.half_width * 0.5
        x, z = (lane if leaving else -lane) + rng.uniform(-0.15, 0.15), _far(rng, 6.2, 24.0)
        car = random_car(rng, "rear" if leaving else "front")
        depth = car.profile.length
    else:
        near = rng.bernoulli(0.5)
        z = street.middle + street.half_width * (-0.5 if near else 0.5) + rng.uniform(-0.2, 0.2)
        x = rng.uniform(-0.62, 0.62) * z
        car, leaving, depth = random_car(rng, "side"), near, 1.8
    half = car.width / 2
    top = car.height + (0.16 if car.taxi else 0.0)
    return Item(
        CAR, x, z, (-half, 0.0, half, top), depth, car.paint,
        mirrored=not street.receding and not leaving, lights=_car_lights(car.view, half),
    )  # fmt: skip


def place_sign(street: Street, rng: Rng) -> Item:
    """Return a sign at a kerb."""
    sign = random_sign(rng)
    x, z = _at_kerb(street, rng, 0.4, (5.0, 9.5))
    reach = sign.half * 1.05
    span = (-reach, sign.middle - reach, reach, sign.middle + reach)
    return Item(SIGN, x, z, span, 0.1, sign.paint, support=sign.paint_pole)


def place_tree(street: Street, rng: Rng) -> Item:
    """Return a tree at a kerb."""
    tree = random_tree(rng)
    x, z = _at_kerb(street, rng, 0.9, (8.0, 32.0))
    span = (-tree.crown, 0.0, tree.crown, tree.height)
    return Item(None, x, z, span, 4.0, tree.paint)


def place_lamp(street: Street, rng: Rng) -> Item:
    """Return a street lamp at a kerb, its arm over the road."""
    x, z = _at_kerb(street, rng, 0.35, (6.0, 28.0))
    lights = (
        Light(0.9, LAMP_HEIGHT, 1.3, LAMPGLOW, 220),
        Light(0.9, 0.0, 5.5, LAMPGLOW, 140, 3),
    )
    return Item(
        None, x, z, (-0.1, 0.0, 0.1, LAMP_HEIGHT), 8.0, Lamp().paint,
        mirrored=street.receding and x > 0, lights=lights,
    )  # fmt: skip


def place_traffic_light(street: Street, rng: Rng) -> Item:
    """Return a traffic light at a kerb."""
    x, z = _at_kerb(street, rng, 0.35, (6.0, 14.0))
    return Item(
        None, x, z, (-0.2, 0.0, 0.2, 3.1), 0.2, TrafficLight(green=rng.bernoulli(0.5)).paint
    )


def place_small_thing(street: Street, rng: Rng) -> Item:
    """Return a bin, a planter, a bollard or a letter box on a pavement."""
    x, z = _on_pavement(street, rng)
    return Item(None, x, z, (-0.4, 0.0, 0.4, 1.0), 0.4, random_small_thing(rng).paint)


def _far(rng: Rng, nearest: float, farthest: float) -> float:
    """Return a random distance such that sizes in the image are spread evenly.

    This would take a logarithm. A square root is used instead, because IEEE arithmetic rounds it
    identically on all machines.
    """
    low, high = 1 / math.sqrt(nearest), 1 / math.sqrt(farthest)
    return 1 / rng.uniform(high, low) ** 2


def _on_pavement(street: Street, rng: Rng) -> tuple[float, float]:
    if street.receding:
        side = -1 if rng.bernoulli(0.5) else 1
        x = rng.uniform(street.half_width + 0.5, street.half_width + street.pavement - 0.4)
        return side * x, _far(rng, 4.4, 13.0)
    if rng.bernoulli(0.45):
        z = rng.uniform(street.middle + street.half_width + 0.5, street.facade - 0.4)
    else:
        z = _far(rng, 5.6, street.middle - street.half_width - 0.4)
    return rng.uniform(-0.58, 0.58) * z, z


def _on_zebra(street: Street, rng: Rng) -> tuple[float, float]:
    across, along = rng.uniform(-0.9, 0.9) * street.half_width, rng.uniform(0.2, 2.2)
    if street.receding:
        return across, street.zebra + along
    return street.zebra + along - 1.2, street.middle + across


def _at_kerb(
    street: Street, rng: Rng, inset: float, distances: tuple[float, float]
) -> tuple[float, float]:
    if street.receding:
        side = -1 if rng.bernoulli(0.5) else 1
        return side * (street.half_width + inset), _far(rng, *distances)
    side = -1 if rng.bernoulli(0.4) else 1
    z = street.middle + side * (street.half_width + inset)
    return rng.uniform(-0.58, 0.58) * z, z


def _car_lights(view: str, half: float) -> tuple[Light, ...]:
    if view == "side":
        return (
            Light(half + 0.5, 0.62, 1.2, HEADLIGHT, 110),
            Light(-half, 0.78, 0.5, TAILLIGHT, 130),
        )
    color, radius, strength = (HEADLIGHT, 0.75, 210) if view == "front" else (TAILLIGHT, 0.4, 150)
    return tuple(Light(side * 0.68, 0.7, radius, color, strength) for side in (-1, 1))
