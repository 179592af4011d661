"""Houses along a street: walls with windows, shops and roofs, straight on or in perspective."""

from dataclasses import dataclass

from data.street_scenes.camera import Camera
from data.street_scenes.canvas import Canvas, Color, tinted
from data.street_scenes.rng import Rng

PLASTER: tuple[Color, ...] = (
    (214, 198, 168), (190, 120, 92), (226, 214, 196), (168, 158, 150), (204, 166, 120),
    (150, 92, 78), (182, 190, 186), (222, 186, 150), (136, 142, 152), (196, 176, 188),
)  # fmt: skip
ROOFS: tuple[Color, ...] = ((132, 66, 52), (84, 78, 80), (110, 84, 66))
AWNINGS: tuple[Color, ...] = ((178, 52, 46), (40, 104, 82), (46, 82, 140), (206, 160, 60))
PANE: Color = (84, 104, 120)
DARK_PANE: Color = (46, 56, 74)
LIT_PANE: Color = (250, 208, 122)
CURTAIN: Color = (196, 196, 188)
DOORS: tuple[Color, ...] = ((92, 60, 40), (50, 74, 66), (64, 64, 84), (120, 44, 40))
STOREY = 3.0  # metres
GROUND_FLOOR = 3.4
BAY = 2.4  # metres of wall to a window
FAR = 32.0  # metres; beyond this distance windows have no frames
STRIPES = 5  # of an awning, per bay


@dataclass(frozen=True)
class Wall:
    """Maps a wall to the image; its coordinates are metres along the wall and above the ground."""

    canvas: Canvas
    camera: Camera
    x: float
    z: float
    receding: bool
    """Whether it runs away from the camera (along z) instead of across the image (along x)."""

    def fill(
        self, corners: tuple[float, float, float, float], color: Color, *, glowing: bool = False
    ) -> None:
        """Fill the rectangle along0, up0, along1, up1."""
        a0, u0, a1, u1 = corners
        self.canvas.distance = self.z + ((a0 + a1) / 2 if self.receding else 0.0)
        points = [self._at(a, u) for a, u in ((a0, u0), (a1, u0), (a1, u1), (a0, u1))]
        self.canvas.polygon(points, color, glowing=glowing)

    def _at(self, along: float, up: float) -> tuple[float, float]:
        if self.receding:
            return self.camera.project(self.x, up, self.z + along)
        return self.camera.project(self.x + along, up, self.z)


@dataclass(frozen=True)
class House:
    """Appearance of one house."""

    length: float
    storeys: int
    plaster: Color
    roof: Color
    shop: bool
    awning: Color
    door: Color
    pitched: bool

    @property
    def height(self) -> float:
        """Height of the wall, metres."""
        return GROUND_FLOOR + STOREY * (self.storeys - 1) + 0.5

    def paint(self, wall: Wall, rng: Rng, *, night: bool) -> None:
        """Paint the house on a wall that starts where the house does."""
        plaster = tinted(self.plaster, 0.86) if wall.receding else self.plaster
        if not wall.receding:
            self._roof(wall)
        # In pieces, so that haze increases along a wall that runs away from the camera.
        pieces = max(1, int(self.length / BAY)) if wall.receding else 1
        for i in range(pieces):
            step = self.length / pieces
            wall.fill((i * step, 0, (i + 1) * step, self.height), plaster)
            wall.fill((i * step, 0, (i + 1) * step, 0.5), tinted(plaster, 0.72))
            wall.fill(
                (i * step, self.height - 0.3, (i + 1) * step, self.height), tinted(plaster, 1.14)
            )
        for i in range(1, self.storeys):
            floor = GROUND_FLOOR + STOREY * (i - 1)
            wall.fill((0, floor, self.length, floor + 0.15), tinted(plaster, 0.88))
        self._windows(wall, rng, night)
        self._street_level(wall, rng, night)

    def _roof(self, wall: Wall) -> None:
        if not self.pitched:
            wall.fill(
                (-0.1, self.height, self.length + 0.1, self.height + 0.3), tinted(self.roof, 0.8)
            )
            return
        chimney = self.length * 0.7
        wall.fill(
            (chimney, self.height, chimney + 0.7, self.height + 2.6), tinted(self.plaster, 0.7)
        )
        courses = 6
        for i in range(courses):  # a slope seen from below, each course a little shorter
            inset = self.length * 0.06 * i
            up = self.height + 0.35 * i
            tone = tinted(self.roof, 1.0 - 0.04 * (i % 2))
            wall.fill((inset - 0.2, up, self.length - inset + 0.2, up + 0.36), tone)

    def _windows(self, wall: Wall, rng: Rng, night: bool) -> None:
        bays = max(1, int(self.length / BAY))
        step = self.length / bays
        detailed = wall.z < FAR
        for floor in range(1, self.storeys):
            sill = GROUND_FLOOR + STOREY * (floor - 1) + 0.9
            for bay in range(bays):
                left = bay * step + step / 2 - 0.55
                if detailed:
                    wall.fill(
                        (left - 0.12, sill - 0.14, left + 1.22, sill + 1.62),
                        tinted(self.plaster, 1.2),
                    )
                self._pane(wall, (left, sill, left + 1.1, sill + 1.5), rng, night)
                if detailed:
                    wall.fill(
                        (left + 0.51, sill, left + 0.59, sill + 1.5), tinted(self.plaster, 1.15)
                    )

    def _pane(
        self, wall: Wall, corners: tuple[float, float, float, float], rng: Rng, night: bool
    ) -> None:
        if night and rng.bernoulli(0.4):
            wall.fill(corners, LIT_PANE, glowing=True)
            return
        wall.fill(corners, rng.choice((PANE, DARK_PANE, DARK_PANE)))
        if rng.bernoulli(0.3):
            a0, u0, a1, u1 = corners
            wall.fill((a0, u0 + (u1 - u0) * rng.uniform(0.3, 0.7), a1, u1), CURTAIN)

    def _street_level(self, wall: Wall, rng: Rng, night: bool) -> None:
        bays = max(1, int(self.length / BAY))
        step = self.length / bays
        door_bay = rng.integer(0, bays - 1)
        for bay in range(bays):
            left = bay * step + 0.3
            right = left + step - 0.6
            if bay == door_bay:
                wall.fill((left + 0.2, 0, right - 0.2, 2.4), tinted(self.plaster, 1.15))
                wall.fill((left + 0.35, 0, right - 0.35, 2.2), self.door)
            elif self.shop:
                wall.fill((left, 0.5, right, 2.5), LIT_PANE if night else PANE, glowing=night)
                wall.fill((left, 0.5, right, 0.9), tinted(self.awning, 0.6))
                self._awning(wall, left - 0.15, right + 0.15)
            else:
                self._pane(wall, (left + 0.3, 1.0, right - 0.3, 2.5), rng, night)

    def _awning(self, wall: Wall, left: float, right: float) -> None:
        stripe = (right - left) / STRIPES
        for i in range(STRIPES):
            color = self.awning if i % 2 == 0 else (236, 230, 216)
            wall.fill((left + i * stripe, 2.4, left + (i + 1) * stripe, 3.0), color)


def random_house(rng: Rng) -> House:
    """Return a random house."""
    storeys = rng.integer(2, 5)
    return House(
        length=rng.uniform(6.0, 11.0),
        storeys=storeys,
        plaster=rng.choice(PLASTER),
        roof=rng.choice(ROOFS),
        shop=rng.bernoulli(0.6),
        awning=rng.choice(AWNINGS),
        door=rng.choice(DOORS),
        pitched=storeys <= 3 and rng.bernoulli(0.6),  # noqa: PLR2004 - taller houses have flat roofs
    )
