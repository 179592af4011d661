"""Street furniture, which is not to be detected: trees, lamps, bins and similar items."""

from dataclasses import dataclass, field

from data.street_scenes.canvas import Color, Pen, tinted
from data.street_scenes.rng import Rng

LEAVES: tuple[Color, ...] = (
    (62, 120, 52),
    (88, 136, 58),
    (48, 98, 62),
    (140, 140, 52),
    (178, 112, 48),
)
BARK: Color = (92, 70, 52)
IRON: Color = (58, 64, 68)
LAMPLIGHT: Color = (255, 226, 160)
LAMPGLOW: Color = (255, 186, 96)
BINS: tuple[Color, ...] = ((60, 92, 66), (70, 74, 80), (120, 84, 40))
POST_BOXES: tuple[Color, ...] = ((190, 40, 36), (232, 184, 40), (40, 78, 150))
LAMP_HEIGHT = 4.6  # metres


@dataclass(frozen=True)
class Tree:
    """A trunk and a crown of overlapping balls."""

    height: float
    crown: float
    """Radius of the crown, metres."""
    leaves: Color
    balls: tuple[tuple[float, float, float], ...]
    """x, y and radius, in units of the crown's radius."""

    def paint(self, pen: Pen) -> None:
        """Paint the tree."""
        middle = self.height - self.crown
        pen.polygon([(-0.16, 0), (0.16, 0), (0.09, middle), (-0.09, middle)], BARK)
        pen.polygon([(0.02, 0), (0.16, 0), (0.09, middle), (0.02, middle)], tinted(BARK, 0.75))
        for tone, shift in ((0.72, (0.08, -0.12)), (1.0, (0.0, 0.0)), (1.2, (-0.10, 0.14))):
            for x, y, radius in self.balls:
                centre = ((x + shift[0]) * self.crown, middle + (y + shift[1]) * self.crown)
                pen.disc(
                    centre, radius * self.crown * (1.25 - 0.3 * tone), tinted(self.leaves, tone)
                )


@dataclass(frozen=True)
class Lamp:
    """A street lamp with an arm over the road."""

    def paint(self, pen: Pen) -> None:
        """Paint the lamp."""
        pen.polygon([(-0.09, 0), (0.09, 0), (0.05, LAMP_HEIGHT), (-0.05, LAMP_HEIGHT)], IRON)
        pen.box((-0.13, 0, 0.13, 0.5), IRON)
        arm = [(-0.05, -0.1), (0.9, 0.1), (0.9, 0.18), (-0.05, 0.0)]
        pen.polygon([(x, LAMP_HEIGHT + y) for x, y in arm], IRON)
        pen.box((0.6, LAMP_HEIGHT, 1.15, LAMP_HEIGHT + 0.2), tinted(IRON, 0.8))
        lit = pen.canvas.air.dark
        light = LAMPLIGHT if lit else (214, 218, 214)
        pen.box((0.66, LAMP_HEIGHT - 0.06, 1.09, LAMP_HEIGHT + 0.02), light, glowing=lit)


@dataclass(frozen=True)
class TrafficLight:
    """Three lights on a pole."""

    green: bool
    dark: Color = field(default=(40, 40, 40))

    def paint(self, pen: Pen) -> None:
        """Paint the traffic light."""
        pen.box((-0.06, 0, 0.06, 2.2), IRON)
        pen.box((-0.19, 2.1, 0.19, 3.1), (28, 30, 30))
        pen.disc(
            (0, 2.92), 0.12, self.dark if self.green else (255, 60, 50), glowing=not self.green
        )
        pen.disc((0, 2.60), 0.12, self.dark)
        pen.disc((0, 2.28), 0.12, (60, 230, 130) if self.green else self.dark, glowing=self.green)


@dataclass(frozen=True)
class Bin:
    """A litter bin."""

    color: Color

    def paint(self, pen: Pen) -> None:
        """Paint the bin."""
        pen.polygon([(-0.26, 0), (0.26, 0), (0.32, 0.85), (-0.32, 0.85)], self.color)
        pen.polygon([(0.06, 0), (0.26, 0), (0.32, 0.85), (0.06, 0.85)], tinted(self.color, 0.75))
        pen.box((-0.35, 0.85, 0.35, 0.98), tinted(self.color, 0.6))
        pen.box((-0.18, 0.62, 0.18, 0.74), (24, 24, 24))


@dataclass(frozen=True)
class Planter:
    """A box with a bush in it."""

    leaves: Color

    def paint(self, pen: Pen) -> None:
        """Paint the planter."""
        for x, radius in ((-0.38, 0.32), (0.38, 0.30), (0.0, 0.40)):
            pen.disc((x, 0.62), radius, tinted(self.leaves, 0.85 + x * 0.3))
        pen.box((-0.66, 0, 0.66, 0.5), (134, 118, 104))
        pen.box((-0.70, 0.44, 0.70, 0.54), (158, 142, 126))


@dataclass(frozen=True)
class Bollard:
    """A short post."""

    def paint(self, pen: Pen) -> None:
        """Paint the bollard."""
        pen.box((-0.08, 0, 0.08, 0.82), IRON)
        pen.disc((0, 0.85), 0.11, IRON)
        pen.box((-0.08, 0.6, 0.08, 0.7), (220, 220, 214))


@dataclass(frozen=True)
class PostBox:
    """A letter box on a foot; a distractor, red like a sign and upright like a person."""

    color: Color

    def paint(self, pen: Pen) -> None:
        """Paint the letter box."""
        pen.box((-0.08, 0, 0.08, 0.6), IRON)
        pen.box((-0.26, 0.55, 0.26, 1.35), self.color)
        pen.box((0.12, 0.55, 0.26, 1.35), tinted(self.color, 0.75))
        pen.box((-0.18, 1.14, 0.18, 1.20), (24, 24, 24))


def random_tree(rng: Rng) -> Tree:
    """Return a random tree."""
    crown = rng.uniform(0.9, 1.5)
    balls = tuple(
        (rng.uniform(-0.55, 0.55), rng.uniform(-0.45, 0.5), rng.uniform(0.45, 0.65))
        for _ in range(7)
    )
    return Tree(crown + rng.uniform(2.6, 3.6), crown, rng.choice(LEAVES), balls)


SmallThing = Bin | Planter | Bollard | PostBox


def random_small_thing(rng: Rng) -> SmallThing:
    """Return a random bin, planter, bollard or letter box."""
    choices: tuple[SmallThing, ...] = (
        Bin(rng.choice(BINS)),
        Planter(rng.choice(LEAVES)),
        Bollard(),
        PostBox(rng.choice(POST_BOXES)),
    )
    return rng.choice(choices)
