"""What stands beside the road: signs to detect; trees, lamps and the like to confuse a detector."""

from functools import partial
from typing import NamedTuple

from data.street_scenes.camera import CIRCLE, Color, Point, Surface, palette, tinted
from data.street_scenes.rng import Rng
from data.street_scenes.street import SIGN, Item, Street

RED, BLUE, WHITE, BLACK = palette("ce1c26 1854b0 f6f6f2 1a1a1c")
IRON, BARK, LAMPLIGHT, LAMPGLOW = palette("3a4044 5c4634 ffe2a0 ffba60")
LEAVES = palette("3e7834 58883a 30623e 8c8c34 b27030")
BINS = palette("3c5c42 464a50 be2824 e8b828 284e96")

Shape = tuple[Point, ...]  # relative to the middle of a sign, whose half-size is 1


def _bar(x0: float, y0: float, x1: float, y1: float) -> Shape:
    return (x0, y0), (x1, y0), (x1, y1), (x0, y1)


TRIANGLE: Shape = ((-1.05, -0.86), (1.05, -0.86), (0.0, 0.98))
UPSIDE_DOWN: Shape = ((-1.05, 0.86), (1.05, 0.86), (0.0, -0.98))
OCTAGON: Shape = (
    (-0.4, -1.0), (0.4, -1.0), (1.0, -0.4), (1.0, 0.4),
    (0.4, 1.0), (-0.4, 1.0), (-1.0, 0.4), (-1.0, -0.4),
)  # fmt: skip
BAR = (_bar(-0.64, -0.20, 0.64, 0.20),)
MARK = (_bar(-0.11, -0.22, 0.11, 0.32), _bar(-0.11, -0.46, 0.11, -0.30))
ARROW = (_bar(-0.14, -0.60, 0.14, 0.10), ((-0.42, 0.10), (0.42, 0.10), (0.0, 0.66)))


class Sign(NamedTuple):
    """A plate: its outline, the colours of its border and its field, and a symbol."""

    outline: Shape
    border: Color
    field: Color
    size: float  # of the field, relative to the plate
    symbol: tuple[Shape, ...] = ()
    ink: Color = WHITE


SIGNS = (
    Sign(OCTAGON, WHITE, RED, 0.90, BAR),  # stop
    Sign(CIRCLE, WHITE, RED, 0.92, BAR),  # no entry
    Sign(CIRCLE, RED, WHITE, 0.74),  # no vehicles
    Sign(CIRCLE, WHITE, BLUE, 0.94, ARROW),  # ahead only
    Sign(TRIANGLE, RED, WHITE, 0.66, MARK, BLACK),  # danger
    Sign(UPSIDE_DOWN, RED, WHITE, 0.62),  # give way
)


def place_sign(street: Street, rng: Rng) -> Item:
    """Return a sign at a kerb, slightly larger than life, to be visible in small images."""
    half, middle, (x, z) = rng.uniform(0.52, 0.70), rng.uniform(2.1, 2.6), street.at_kerb(rng)
    paint = partial(paint_sign, sign=rng.choice(SIGNS), middle=middle, half=half)
    return Item(SIGN, x, z, half, middle + half, 0.1, paint, bottom=middle - half)


def paint_sign(pen: Surface, _: Rng, *, sign: Sign, middle: float, half: float) -> None:
    """Paint the plate of a sign, which reflects more light than other things."""
    layers = [(sign.outline, 1.0, sign.border), (sign.outline, sign.size, sign.field)]
    for shape, size, color in [*layers, *((shape, 1.0, sign.ink) for shape in sign.symbol)]:
        points = [(x * size * half, middle + y * size * half) for x, y in shape]
        pen.polygon(points, color, glowing=True)


def _paint_tree(pen: Surface, rng: Rng) -> None:
    """Paint a trunk and a crown of overlapping balls, lit from the upper left."""
    crown, middle, leaves = rng.uniform(0.9, 1.5), rng.uniform(2.6, 3.6), rng.choice(LEAVES)
    pen.polygon([(-0.16, 0.0), (0.16, 0.0), (0.09, middle), (-0.09, middle)], BARK)
    across, up, sizes = (-0.55, 0.55), (-0.45, 0.5), (0.45, 0.65)  # relative to the crown
    balls = [(rng.uniform(*across), rng.uniform(*up), rng.uniform(*sizes)) for _ in range(6)]
    for tone, shift in ((0.72, -0.10), (1.0, 0.0), (1.2, 0.12)):
        for x, y, radius in balls:
            centre = ((x - shift) * crown, middle + (y + shift) * crown)
            pen.disc(centre, radius * crown * (1.25 - 0.3 * tone), tinted(leaves, tone))


def _paint_lamp(pen: Surface, _: Rng) -> None:
    pen.polygon([(-0.1, 0.0), (0.1, 0.0), (0.05, 4.6), (-0.05, 4.6)], IRON)
    pen.polygon([(-0.05, 4.5), (0.9, 4.7), (0.9, 4.78), (-0.05, 4.6)], IRON)
    pen.box(0.6, 4.6, 1.15, 4.8, tinted(IRON, 0.8))
    pen.box(0.66, 4.54, 1.09, 4.62, LAMPLIGHT, glowing=True)
    pen.camera.glow(pen.spot(0.9, 4.6), 1.6, LAMPGLOW)


def _paint_bin(pen: Surface, rng: Rng) -> None:
    """Paint a bin or a letter box: as red as a sign, as upright as a person."""
    color = rng.choice(BINS)
    pen.box(-0.22, 0.0, 0.22, 0.4, IRON)
    pen.box(-0.3, 0.3, 0.3, 1.2, color)
    pen.box(0.14, 0.3, 0.3, 1.2, tinted(color, 0.75))
    pen.box(-0.18, 0.95, 0.18, 1.03, BLACK)


# Each with half its width, its height, and the length of ground that it occupies, metres.
KINDS = ((_paint_tree, 1.2, 4.5, 2.4), (_paint_lamp, 0.1, 4.8, 0.4), (_paint_bin, 0.4, 1.2, 0.4))


def place_furniture(street: Street, rng: Rng) -> Item:
    """Return a tree, lamp or bin at a kerb, which faces the road."""
    (x, z), (paint, half, height, depth) = street.at_kerb(rng), rng.choice(KINDS)
    along = (-1.0, 0.0) if street.receding and x > 0 else (1.0, 0.0)
    return Item(None, x, z, half, height, depth, paint, along=along)
