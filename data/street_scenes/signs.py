"""Traffic signs: round, triangular, octagonal and rectangular, on poles."""

from collections.abc import Callable
from dataclasses import dataclass

from data.street_scenes.canvas import Color, Pen, Point, ring, tinted
from data.street_scenes.rng import Rng

RED: Color = (206, 28, 38)
WHITE: Color = (246, 246, 242)
BLUE: Color = (24, 84, 176)
BLACK: Color = (26, 26, 28)
STEEL: Color = (132, 138, 142)
REFLECTED = 0.75  # fraction of daylight

Shape = tuple[Point, ...]  # relative to the middle of the plate, whose half-size is 1
ROUND: Shape = tuple(ring((0.0, 0.0), (1.0, 1.0)))
TRIANGLE: Shape = ((-1.05, -0.86), (1.05, -0.86), (0.0, 0.98))
OCTAGON: Shape = (
    (-0.414, -1.0), (0.414, -1.0), (1.0, -0.414), (1.0, 0.414),
    (0.414, 1.0), (-0.414, 1.0), (-1.0, 0.414), (-1.0, -0.414),
)  # fmt: skip
SQUARE: Shape = ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9))
TALL: Shape = ((-0.72, -1.05), (0.72, -1.05), (0.72, 1.05), (-0.72, 1.05))
ARROW: Shape = (
    (-0.14, -0.6), (0.14, -0.6), (0.14, 0.1), (0.42, 0.1), (0.0, 0.66), (-0.42, 0.1), (-0.14, 0.1),
)  # fmt: skip


class Plate:
    """Paints shapes around the middle of a sign's plate."""

    def __init__(self, pen: Pen, middle: float, half: float) -> None:
        self._pen, self._middle, self._half = pen, middle, half

    def shape(self, shape: Shape, color: Color, size: float = 1.0, drop: float = 0.0) -> None:
        """Fill a shape, scaled about the middle and moved down by `drop` half-sizes."""
        scale = self._half * size
        down = self._middle - drop * self._half
        points = [(x * scale, down + y * scale) for x, y in shape]
        if self._pen.canvas.air.dark:  # signs reflect headlights
            self._pen.polygon(points, tinted(color, REFLECTED), glowing=True)
        else:
            self._pen.polygon(points, color)

    def bar(self, corners: tuple[float, float, float, float], color: Color) -> None:
        """Fill an upright rectangle: x0, y0, x1, y1 in half-sizes."""
        x0, y0, x1, y1 = corners
        self.shape(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), color)


def _stop(plate: Plate) -> None:
    plate.shape(OCTAGON, WHITE)
    plate.shape(OCTAGON, RED, 0.90)
    plate.bar((-0.62, -0.20, 0.62, 0.20), WHITE)


def _no_entry(plate: Plate) -> None:
    plate.shape(ROUND, WHITE)
    plate.shape(ROUND, RED, 0.92)
    plate.bar((-0.66, -0.20, 0.66, 0.20), WHITE)


def _speed_limit(plate: Plate) -> None:
    plate.shape(ROUND, RED)
    plate.shape(ROUND, WHITE, 0.70)
    for left in (-0.46, 0.06):  # two digits, not readable at a distance
        plate.bar((left, -0.34, left + 0.40, 0.34), BLACK)
        plate.bar((left + 0.13, -0.20, left + 0.27, 0.20), WHITE)


def _ahead_only(plate: Plate) -> None:
    plate.shape(ROUND, WHITE)
    plate.shape(ROUND, BLUE, 0.94)
    plate.shape(ARROW, WHITE)


def _warning(plate: Plate) -> None:
    plate.shape(TRIANGLE, RED)
    plate.shape(TRIANGLE, WHITE, 0.66, drop=0.05)
    plate.bar((-0.11, -0.22, 0.11, 0.32), BLACK)
    plate.bar((-0.11, -0.46, 0.11, -0.30), BLACK)


def _give_way(plate: Plate) -> None:
    upside_down = tuple((x, -y) for x, y in TRIANGLE)
    plate.shape(upside_down, RED)
    plate.shape(upside_down, WHITE, 0.62, drop=-0.05)


def _parking(plate: Plate) -> None:
    plate.shape(SQUARE, WHITE)
    plate.shape(SQUARE, BLUE, 0.92)
    plate.bar((-0.36, -0.58, -0.10, 0.58), WHITE)
    plate.bar((-0.36, -0.05, 0.40, 0.58), WHITE)
    plate.bar((-0.10, 0.13, 0.18, 0.38), BLUE)


def _crossing(plate: Plate) -> None:
    plate.shape(TALL, WHITE)
    plate.shape(TALL, BLUE, 0.92)
    plate.shape(((-0.5, -0.55), (0.5, -0.55), (0.0, 0.5)), WHITE)
    plate.bar((-0.07, -0.45, 0.07, 0.2), BLACK)


KINDS: tuple[Callable[[Plate], None], ...] = (
    _stop,
    _no_entry,
    _speed_limit,
    _ahead_only,
    _warning,
    _give_way,
    _parking,
    _crossing,
)


@dataclass(frozen=True)
class Sign:
    """Appearance of one sign. The box is that of the plate; the pole is scenery."""

    kind: Callable[[Plate], None]
    half: float
    """Half the size of the plate, metres."""
    middle: float
    """Height of the plate's middle above the ground, metres."""

    def paint_pole(self, pen: Pen) -> None:
        """Paint the pole."""
        pen.box((-0.05, 0.0, 0.05, self.middle + self.half * 0.8), STEEL)
        pen.box((0.01, 0.0, 0.05, self.middle + self.half * 0.8), (96, 100, 104))

    def paint(self, pen: Pen) -> None:
        """Paint the plate."""
        self.kind(Plate(pen, self.middle, self.half))


def random_sign(rng: Rng) -> Sign:
    """Return a random sign, slightly larger than life, to be visible in small images."""
    return Sign(rng.choice(KINDS), rng.uniform(0.52, 0.70), rng.uniform(2.1, 2.6))
