"""Streets, which run away from the camera or across the image, and their surroundings."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from data.street_scenes.buildings import Wall, random_house
from data.street_scenes.camera import Camera
from data.street_scenes.canvas import Canvas, Color, tinted
from data.street_scenes.furniture import LEAVES, random_tree
from data.street_scenes.rng import Rng

ASPHALTS: tuple[Color, ...] = ((98, 100, 104), (112, 110, 108), (84, 88, 94))
PAVEMENTS: tuple[Color, ...] = ((176, 170, 160), (160, 158, 156), (186, 172, 150))
GRASS: Color = (112, 146, 82)
PAINT: Color = (232, 232, 226)
KERB: Color = (204, 202, 196)
NEAREST = 1.4  # metres; projects just below the lower edge of every image
FARTHEST = 220.0
SLICE = 1.3  # ratio of far to near distance of a slice of ground


@dataclass(frozen=True)
class Street:
    """Ground plan of a scene, metres."""

    receding: bool
    """Whether it runs away from the camera instead of across the image."""
    half_width: float
    """Half the width of the road."""
    pavement: float
    """Width of the pavements."""
    middle: float
    """Distance to the middle of a road across the image."""
    zebra: float
    """Where the crossing is: its distance (receding) or its x (across)."""
    asphalt: Color
    paving: Color

    @property
    def facade(self) -> float:
        """Where the houses begin: their |x| (receding) or their distance (across)."""
        return self.middle + self.half_width + self.pavement


def random_street(rng: Rng) -> Street:
    """Return a random street."""
    receding = rng.bernoulli(0.58)
    half = rng.uniform(3.4, 4.6)
    return Street(
        receding=receding,
        half_width=half,
        pavement=rng.uniform(2.6, 4.0),
        middle=0.0 if receding else rng.uniform(10.5, 12.5),
        zebra=rng.uniform(6.5, 12.0) if receding else rng.uniform(-5.0, 5.0),
        asphalt=rng.choice(ASPHALTS),
        paving=rng.choice(PAVEMENTS),
    )


def random_camera(rng: Rng, street: Street, width: int) -> Camera:
    """Return a random camera that looks along or across the street."""
    if street.receding:
        return Camera(
            width * rng.uniform(0.36, 0.64), rng.uniform(86, 108), rng.uniform(2.0, 2.9), 285.0
        )
    return Camera(width / 2, rng.uniform(78, 98), rng.uniform(2.9, 3.9), rng.uniform(255, 310))


class Ground:
    """Paints the flat part of a scene: roads, pavements and their markings."""

    def __init__(self, canvas: Canvas, camera: Camera, street: Street) -> None:
        self._canvas, self._camera, self._street = canvas, camera, street

    def paint(self, rng: Rng, *, green: bool) -> None:
        """Paint everything that lies flat."""
        street = self._street
        wide = (-400.0, 400.0)
        self._strip(wide, (NEAREST, FARTHEST), GRASS if green else tinted(street.paving, 0.92))
        if street.receding:
            half, out = street.half_width, street.half_width + street.pavement
            self._strip((-out, out), (NEAREST, FARTHEST), street.paving)
            self._joints(out)
            self._strip((-half - 0.25, half + 0.25), (NEAREST, FARTHEST), KERB)
            self._strip((-half, half), (NEAREST, FARTHEST), street.asphalt)
            self._patches((-half, half), (2.5, 24.0), rng)
            self._dashes_away()
        else:
            near, far = street.middle - street.half_width, street.middle + street.half_width
            self._strip(wide, (NEAREST, near), street.paving)
            self._strip(wide, (far, street.facade), street.paving)
            self._strip(wide, (near - 0.25, far + 0.25), KERB)
            self._strip(wide, (near, far), street.asphalt)
            self._patches((-12.0, 12.0), (near, far), rng)
            for x in range(-20, 20, 3):
                self._patch((x, x + 1.6), (street.middle - 0.08, street.middle + 0.08), PAINT)
        self._zebra()

    def _strip(self, xs: tuple[float, float], zs: tuple[float, float], color: Color) -> None:
        """Fill a strip of ground in slices, so that haze increases with distance."""
        start = zs[0]
        while start < zs[1]:
            end = min(start * SLICE, zs[1])
            self._patch(xs, (start, end), color)
            start = end

    def _patch(self, xs: tuple[float, float], zs: tuple[float, float], color: Color) -> None:
        self._canvas.distance = (zs[0] + zs[1]) / 2
        at = self._camera.project
        corners = [(xs[0], zs[0]), (xs[1], zs[0]), (xs[1], zs[1]), (xs[0], zs[1])]
        self._canvas.polygon([at(x, 0.0, z) for x, z in corners], color)

    def _patches(self, xs: tuple[float, float], zs: tuple[float, float], rng: Rng) -> None:
        """Paint random repair patches on the asphalt."""
        for _ in range(rng.integer(2, 7)):
            x, z = rng.uniform(*xs), rng.uniform(*zs)
            width, depth = rng.uniform(0.4, 1.8), rng.uniform(0.3, 1.2)
            right, back = min(x + width, xs[1]), min(z + depth, zs[1])
            self._patch((x, right), (z, back), tinted(self._street.asphalt, rng.uniform(0.86, 1.1)))

    def _joints(self, out: float) -> None:
        """Draw the joints between the slabs of the pavements."""
        tone = tinted(self._street.paving, 0.9)
        for side in (-1, 1):
            for row in range(2, 16):
                self._patch(
                    (side * (self._street.half_width + 0.25), side * out), (row, row + 0.05), tone
                )

    def _dashes_away(self) -> None:
        for z in range(2, 60, 3):
            self._patch((-0.08, 0.08), (z, z + 1.6), PAINT)

    def _zebra(self) -> None:
        street = self._street
        if street.receding:
            bar = -street.half_width + 0.3
            while bar < street.half_width - 0.5:
                self._patch((bar, bar + 0.5), (street.zebra, street.zebra + 2.4), PAINT)
                bar += 1.0
            return
        bar = street.middle - street.half_width + 0.3
        while bar < street.middle + street.half_width - 0.5:
            self._patch((street.zebra - 1.3, street.zebra + 1.3), (bar, bar + 0.5), PAINT)
            bar += 1.0


def paint_surroundings(
    canvas: Canvas, camera: Camera, street: Street, rng: Rng, *, night: bool
) -> None:
    """Paint houses or a park beside or behind the street, the farthest first."""
    if not street.receding:
        _row_across(canvas, camera, street, rng, night=night)
        return
    _skyline(canvas, camera, rng)
    for side in (-1, 1):
        if rng.bernoulli(0.25):
            _park(canvas, camera, side * (street.facade + 1.0), rng)
            continue
        for z, length in reversed(list(_plots(rng, 3.0, 70.0))):
            house = random_house(rng)
            wall = Wall(canvas, camera, side * street.facade, z, receding=True)
            replace(house, length=length).paint(wall, rng, night=night)


def _row_across(canvas: Canvas, camera: Camera, street: Street, rng: Rng, *, night: bool) -> None:
    reach = camera.centre / camera.scale(street.facade) + 2.0
    for x, length in _plots(rng, -reach - rng.uniform(0, 6), reach):
        wall = Wall(canvas, camera, x, street.facade, receding=False)
        if rng.bernoulli(0.12):  # a gap with a tree
            pen = camera.pen(canvas, x + length / 2, street.facade)
            canvas.distance = street.facade
            random_tree(rng).paint(pen)
            continue
        replace(random_house(rng), length=length).paint(wall, rng, night=night)


def _plots(rng: Rng, start: float, end: float) -> Iterator[tuple[float, float]]:
    """Yield the start and length of each plot of land from start to end."""
    while start < end:
        length = rng.uniform(6.0, 11.0)
        yield start, length
        start += length


def _skyline(canvas: Canvas, camera: Camera, rng: Rng) -> None:
    x = -120.0
    while x < 120.0:  # noqa: PLR2004 - metres either side of the street's end
        width, height = rng.uniform(10, 26), rng.uniform(8, 26)
        Wall(canvas, camera, x, 150.0, receding=False).fill((0, 0, width, height), (150, 152, 160))
        x += width


def _park(canvas: Canvas, camera: Camera, x: float, rng: Rng) -> None:
    leaves = rng.choice(LEAVES)
    z = 48.0
    while z > 4.0:  # noqa: PLR2004 - metres: the nearest trees would fill the image
        canvas.distance = z
        pen = camera.pen(canvas, x + (1 if x > 0 else -1) * rng.uniform(0.0, 3.0), z)
        random_tree(rng).paint(pen)
        hedge = Wall(canvas, camera, x, z, receding=True)
        hedge.fill((-3.0, 0.0, 0.0, 1.0), tinted(leaves, 0.8))
        z -= 3.0
