"""Pedestrians: clothes, hair, and arms and legs that swing."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from data.street_scenes.camera import Color, Point, Surface, palette, tinted
from data.street_scenes.rng import Rng
from data.street_scenes.street import PEDESTRIAN, Item, Street

SKINS = palette("f6d6bb e8bea0 cd9670 966444 603e2c")
HAIRS = palette("1c1816 462e1e 7a5430 c4a05c 969696 963e20")
TOPS = palette("c43430 2a58a8 26805c e4b034 eeece4 343642 964c96 e8803c 68a8c8 80845c")
TROUSERS = palette("28345c 222228 605446 968a70 585c62 462c28")
SHOE: Color = (38, 32, 32)

# Measures of a person of this height, in metres; others are scaled.
HEIGHT, SHOULDERS, WAIST, HIPS, KNEES = 1.75, 1.46, 1.02, 0.90, 0.50
HEAD = 0.135  # radius; larger than life, to be visible at a distance
# Height of the hem, its width relative to that of the shoulders, and whether the legs are bare.
JACKET, COAT, DRESS = (0.84, 0.92, False), (0.50, 1.18, False), (0.52, 1.45, True)


def place_pedestrian(street: Street, rng: Rng) -> Item:
    """Return a pedestrian on a pavement or on the crossing."""
    if rng.bernoulli(0.25):
        along = street.zebra + rng.uniform(0.2, 2.2)
        x, z = street.at(along, rng.uniform(-0.9, 0.9) * street.half)
    else:
        side = rng.choice((-1, 1))
        x, z = street.somewhere(rng, side * rng.uniform(street.half + 0.5, street.facade - 0.4))
    height = rng.uniform(1.15, 1.40) if rng.bernoulli(0.12) else rng.uniform(1.60, 1.92)
    paint = partial(paint_pedestrian, height=height)
    return Item(PEDESTRIAN, x, z, 0.36, height, 0.5, paint, along=(rng.choice((-1.0, 1.0)), 0.0))


def paint_pedestrian(surface: Surface, rng: Rng, *, height: float) -> None:
    """Paint a random person from the side, the front or behind; from far parts to near ones."""
    pen, frontal = replace(surface, unit=height / HEIGHT), rng.bernoulli(0.4)
    top, skin, hair = rng.choice(TOPS), rng.choice(SKINS), rng.choice(HAIRS)
    hem, flare, bare_legs = rng.choice((JACKET, JACKET, JACKET, COAT, DRESS))
    cloth = skin if bare_legs else rng.choice(TROUSERS)
    swing = 0.02 if frontal else rng.choice((-1, 1)) * rng.uniform(0.05, 0.34)
    hip, shoulder, half = (0.10, 0.20, 0.23) if frontal else (0.0, 0.0, 0.17)

    _leg(pen, -hip, -swing, tinted(cloth, 0.78), toe=not frontal)
    _arm(pen, -shoulder, swing, tinted(top, 0.78), skin)
    _leg(pen, hip, swing, cloth, toe=not frontal)
    side = [(flare * half, hem), (0.8 * half, WAIST), (half, SHOULDERS - 0.1)]
    neck = [(0.62 * half, SHOULDERS), (-0.62 * half, SHOULDERS)]
    pen.polygon([*side, *neck, *((-x, y) for x, y in reversed(side))], top)
    pen.polygon([*side, (0.4 * half, SHOULDERS - 0.1), (0.4 * half, hem)], tinted(top, 0.85))
    pen.box(-0.05, SHOULDERS - 0.04, 0.05, HEIGHT - HEAD, tinted(skin, 0.85))
    face = skin if not frontal or rng.bernoulli(0.55) else hair  # hair, seen from behind
    _head(pen, 0.0 if frontal else 0.05, face, hair, long=rng.bernoulli(0.4))
    _arm(pen, shoulder, -swing, tinted(top, 0.9), skin)


def _leg(pen: Surface, hip: float, swing: float, cloth: Color, *, toe: bool) -> None:
    """Paint a leg whose foot is `swing` metres ahead of the hip, or behind and lifted."""
    x, y = hip + swing, 0.07 + max(-0.2 * swing, 0.0)
    knee = hip + 0.5 * swing + (0.06 if toe else 0.0)
    _limb(pen, [(hip, HIPS), (knee, KNEES), (x, y)], 0.15, cloth)
    tip = x + (0.20 if toe else 0.06)
    pen.polygon([(x - 0.06, y - 0.07), (tip, y - 0.07), (x, y + 0.06)], SHOE)


def _arm(pen: Surface, shoulder: float, swing: float, cloth: Color, skin: Color) -> None:
    elbow = (1.3 * shoulder + 0.5 * swing, 1.12)
    hand = (1.35 * shoulder + 0.9 * swing, 0.87 + 0.25 * max(swing, 0.0))
    _limb(pen, [(shoulder, SHOULDERS - 0.11), elbow, hand], 0.105, cloth)
    pen.disc(hand, 0.06, skin)


def _head(pen: Surface, ahead: float, face: Color, hair: Color, *, long: bool) -> None:
    """Paint a head whose face is `ahead` metres before the middle."""
    y = HEIGHT - HEAD
    if long:
        pen.box(-HEAD - 0.4 * ahead, y - 0.26, HEAD - ahead, y, hair)
    pen.disc((0.0, y), HEAD, hair)
    pen.disc((ahead, y - 0.03), 0.82 * HEAD, face)


def _limb(pen: Surface, joints: Sequence[Point], thickness: float, color: Color) -> None:
    """Draw a thick line through points, round at all but the first."""
    for (x0, y0), (x1, y1) in pairwise(joints):
        half = thickness / 2 / math.sqrt((x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0))
        dx, dy = (y0 - y1) * half, (x1 - x0) * half  # at right angles to the line
        corners = [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy)]
        pen.polygon([*corners, (x0 - dx, y0 - dy)], color)
        pen.disc((x1, y1), thickness / 2, color)
