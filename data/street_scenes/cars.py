"""Cars seen from the side, the front and behind."""

from dataclasses import dataclass

from data.street_scenes.canvas import Color, Pen, Point, tinted
from data.street_scenes.rng import Rng

PAINTS: tuple[Color, ...] = (
    (186, 36, 40),
    (36, 82, 160),
    (232, 232, 228),
    (44, 46, 52),
    (160, 166, 172),
    (30, 104, 78),
    (232, 184, 44),
    (206, 108, 44),
    (112, 160, 196),
    (120, 34, 60),
)
GLASS: Color = (66, 86, 100)
GLINT: Color = (132, 158, 172)
RUBBER: Color = (26, 26, 28)
RIM: Color = (168, 172, 178)
TRIM: Color = (44, 44, 48)
HEADLIGHT: Color = (255, 250, 214)
TAILLIGHT: Color = (214, 30, 34)
INDICATOR: Color = (240, 150, 40)
PLATE: Color = (238, 236, 220)


@dataclass(frozen=True)
class Profile:
    """A body seen from its right side, facing right; metres from the middle of the car."""

    length: float
    height: float
    outline: tuple[Point, ...]
    windows: tuple[tuple[Point, ...], ...]
    wheel: float
    """Radius of the wheels."""
    belt: float
    """Height of the line below the windows."""


HATCHBACK = Profile(
    length=3.9,
    height=1.5,
    outline=(
        (-1.93, 0.28), (-1.95, 0.78), (-1.84, 0.98), (-1.64, 1.40), (-1.35, 1.50), (0.22, 1.50),
        (0.52, 1.44), (1.05, 0.99), (1.72, 0.88), (1.92, 0.70), (1.95, 0.30),
    ),
    windows=(
        ((0.0, 0.99), (0.0, 1.40), (0.22, 1.40), (0.44, 1.35), (0.86, 0.99)),
        ((-0.09, 0.99), (-0.09, 1.40), (-1.25, 1.40), (-1.46, 1.32), (-1.60, 0.99)),
    ),
    wheel=0.31,
    belt=0.96,
)  # fmt: skip
SALOON = Profile(
    length=4.5,
    height=1.45,
    outline=(
        (-2.22, 0.30), (-2.25, 0.80), (-2.14, 0.96), (-1.62, 1.00), (-1.08, 1.40), (-0.82, 1.46),
        (0.24, 1.46), (0.50, 1.41), (1.10, 0.98), (2.00, 0.86), (2.22, 0.70), (2.25, 0.32),
    ),
    windows=(
        ((0.0, 0.98), (0.0, 1.37), (0.24, 1.37), (0.42, 1.33), (0.90, 0.98)),
        ((-0.09, 0.98), (-0.09, 1.37), (-0.80, 1.37), (-1.00, 1.31), (-1.40, 0.98)),
    ),
    wheel=0.32,
    belt=0.95,
)  # fmt: skip
OFFROADER = Profile(
    length=4.4,
    height=1.72,
    outline=(
        (-2.16, 0.38), (-2.20, 0.92), (-2.12, 1.14), (-1.98, 1.62), (-1.72, 1.72), (0.20, 1.72),
        (0.46, 1.66), (0.98, 1.15), (1.90, 1.06), (2.14, 0.88), (2.20, 0.40),
    ),
    windows=(
        ((0.0, 1.15), (0.0, 1.60), (0.20, 1.60), (0.38, 1.55), (0.78, 1.15)),
        ((-0.09, 1.15), (-0.09, 1.60), (-0.92, 1.60), (-0.92, 1.15)),
        ((-1.01, 1.15), (-1.01, 1.60), (-1.62, 1.60), (-1.82, 1.54), (-1.94, 1.15)),
    ),
    wheel=0.37,
    belt=1.11,
)  # fmt: skip
VAN = Profile(
    length=4.9,
    height=2.0,
    outline=(
        (-2.42, 0.34), (-2.45, 1.86), (-2.32, 2.00), (0.95, 2.00), (1.34, 1.88), (1.88, 1.16),
        (2.34, 1.02), (2.45, 0.78), (2.45, 0.36),
    ),
    windows=(((0.72, 1.16), (0.72, 1.78), (1.06, 1.78), (1.28, 1.68), (1.68, 1.16)),),
    wheel=0.34,
    belt=1.10,
)  # fmt: skip
PROFILES = (HATCHBACK, HATCHBACK, SALOON, SALOON, OFFROADER, VAN)
WIDTH = 1.80  # metres, of every car


@dataclass(frozen=True)
class Car:
    """Appearance of one car."""

    profile: Profile
    view: str
    """'side', 'front' or 'rear'."""
    color: Color
    taxi: bool

    @property
    def width(self) -> float:
        """Metres across the image."""
        return self.profile.length if self.view == "side" else WIDTH

    @property
    def height(self) -> float:
        """Metres."""
        return self.profile.height

    def paint(self, pen: Pen) -> None:
        """Paint the car standing on the ground."""
        lit = pen.canvas.air.dark
        if self.view == "side":
            self._side(pen, lit)
        else:
            self._end(pen, lit)

    def _side(self, pen: Pen, lit: bool) -> None:
        body, half = self.profile, self.profile.length / 2
        pen.box((-half + 0.3, 0.16, half - 0.3, 0.5), RUBBER)  # the shade below the floor
        if self.taxi:
            pen.box(
                (-0.25, body.height - 0.02, 0.25, body.height + 0.16), (250, 220, 90), glowing=lit
            )
        pen.polygon(body.outline, self.color)
        low = [(-half, 0.30), (half, 0.32), (half - 0.02, 0.52), (-half + 0.01, 0.50)]
        pen.polygon(low, tinted(self.color, 0.72))
        pen.box(
            (-half + 0.1, body.belt - 0.09, half - 0.25, body.belt - 0.06), tinted(self.color, 1.25)
        )
        for window in body.windows:
            pen.polygon(window, GLASS)
            x0, top = window[0][0], window[1][1]
            x1 = (x0 + window[-1][0]) / 2
            pen.polygon(
                [(x0, top), ((x0 + x1) / 2, top), (x1, window[0][1]), (x0, window[0][1])], GLINT
            )
        for x in (-0.06, body.windows[0][-1][0] + 0.06):  # the edges of the door
            pen.box((x - 0.015, 0.40, x + 0.015, body.belt), tinted(self.color, 0.6))
        pen.box((0.06, body.belt - 0.22, 0.24, body.belt - 0.17), tinted(self.color, 0.5))
        nose = [(half - 0.28, 0.66), (half - 0.03, 0.60), (half - 0.05, 0.76), (half - 0.3, 0.84)]
        pen.polygon(nose, HEADLIGHT, glowing=lit)
        pen.box((-half, 0.68, -half + 0.14, 0.88), TAILLIGHT, glowing=lit)
        for x in (-half * 0.62, half * 0.63):
            self._wheel(pen, x)

    def _wheel(self, pen: Pen, x: float) -> None:
        radius = self.profile.wheel
        pen.disc((x, radius + 0.03), radius + 0.07, tinted(self.color, 0.35))
        pen.disc((x, radius), radius, RUBBER)
        pen.disc((x, radius), radius * 0.62, RIM)
        pen.disc((x, radius), radius * 0.25, TRIM)

    def _end(self, pen: Pen, lit: bool) -> None:
        half, top, belt = WIDTH / 2, self.profile.height, self.profile.belt
        pen.box((-half + 0.1, 0.14, half - 0.1, 0.5), RUBBER)  # the shade below the floor
        for side in (-1, 1):
            pen.box((side * (half - 0.28), 0.0, side * (half - 0.04), 0.5), RUBBER)
            pen.box((side * (half - 0.14), belt + 0.02, side * (half + 0.10), belt + 0.15), TRIM)
        if self.taxi:
            pen.box((-0.25, top - 0.02, 0.25, top + 0.15), (250, 220, 90), glowing=lit)
        roof = half * (0.92 if self.profile is VAN else 0.72)
        cabin = [
            (-half + 0.04, belt - 0.05), (-roof - 0.04, top - 0.10), (-roof + 0.08, top),
            (roof - 0.08, top), (roof + 0.04, top - 0.10), (half - 0.04, belt - 0.05),
        ]  # fmt: skip
        pen.polygon(cabin, self.color)
        pane = [(-half + 0.2, belt + 0.03), (-roof + 0.06, top - 0.12), (roof - 0.06, top - 0.12)]
        pen.polygon([*pane, (half - 0.2, belt + 0.03)], GLASS)
        pen.polygon(
            [pane[0], pane[1], (-roof * 0.1, top - 0.12), (-roof * 0.45, belt + 0.03)], GLINT
        )
        body = [
            (-half + 0.05, 0.24), (-half, 0.45), (-half, belt - 0.16), (-half + 0.08, belt),
            (half - 0.08, belt), (half, belt - 0.16), (half, 0.45), (half - 0.05, 0.24),
        ]  # fmt: skip
        pen.polygon(body, self.color)
        pen.polygon([body[0], body[1], body[-2], body[-1]], tinted(self.color, 0.72))
        self._face(pen, lit) if self.view == "front" else self._back(pen, lit)

    def _face(self, pen: Pen, lit: bool) -> None:
        belt = self.profile.belt
        pen.box((-0.42, belt - 0.44, 0.42, belt - 0.22), TRIM)
        pen.box((-0.42, belt - 0.34, 0.42, belt - 0.31), RIM)
        for side in (-1, 1):
            pen.disc((side * 0.66, belt - 0.30), 0.155, HEADLIGHT, glowing=lit)
            pen.disc((side * 0.66, belt - 0.30), 0.08, (255, 255, 255), glowing=lit)
            pen.box((side * 0.74, 0.36, side * 0.58, 0.42), INDICATOR)
        pen.box((-0.26, 0.34, 0.26, 0.46), PLATE)

    def _back(self, pen: Pen, lit: bool) -> None:
        belt = self.profile.belt
        pen.box((-0.8, belt - 0.16, 0.8, belt - 0.13), tinted(self.color, 0.6))
        for side in (-1, 1):
            pen.box((side * 0.86, belt - 0.42, side * 0.60, belt - 0.18), TAILLIGHT, glowing=lit)
            pen.box((side * 0.84, belt - 0.28, side * 0.64, belt - 0.24), INDICATOR, glowing=lit)
        pen.box((-0.27, belt - 0.42, 0.27, belt - 0.28), PLATE)
        pen.box((-0.85, 0.28, 0.85, 0.40), tinted(self.color, 0.45))


def random_car(rng: Rng, view: str) -> Car:
    """Return a random car seen from the 'side', 'front' or 'rear'."""
    profile, color = rng.choice(PROFILES), rng.choice(PAINTS)
    return Car(profile, view, color, taxi=profile is SALOON and rng.bernoulli(0.25))
