"""Cars: solid bodies, seen from any side."""

from functools import partial

from data.street_scenes.camera import CIRCLE, Color, Spot, Surface, palette, tinted
from data.street_scenes.rng import Rng
from data.street_scenes.street import CAR, Item, Street

PAINTS = palette("ba2428 2452a0 e8e8e4 2c2e34 a0a6ac 1e684e e8b82c ce6c2c 70a0c4 78223c")
GLASS, RUBBER, RIM = palette("42566a 1a1a1c a8acb2")
HEADLIGHT, TAILLIGHT, PLATE = palette("fffad6 d61e22 eeecdc")

# Corners of a car from the nose over the roof to the tail: metres forward of its middle, and up.
Profile = tuple[tuple[float, float], ...]
HATCHBACK: Profile = (
    (1.92, 0.26), (1.95, 0.72), (1.05, 0.97), (0.40, 1.48),
    (-1.40, 1.50), (-1.80, 0.97), (-1.93, 0.85), (-1.95, 0.26),
)  # fmt: skip
SALOON: Profile = (
    (2.22, 0.26), (2.25, 0.70), (1.10, 0.96), (0.40, 1.44),
    (-0.85, 1.46), (-1.55, 0.98), (-2.22, 0.92), (-2.25, 0.26),
)  # fmt: skip
VAN: Profile = (
    (2.42, 0.30), (2.45, 0.90), (1.90, 1.10), (1.30, 1.96),
    (-2.32, 2.00), (-2.43, 1.10), (-2.45, 0.95), (-2.45, 0.30),
)  # fmt: skip
HALVES = (0.9, 0.9, 0.9, 0.7, 0.7, 0.9, 0.9, 0.9)  # half the width at these corners, metres
TONES = (0.88, 1.12, 1.0, 1.2, 1.0, 1.12, 0.88)  # of nose, hood, windscreen, roof, ..., tail
WINDOWS = (2, 4)  # indices of the windscreen and the rear window
CAR_WIDTH = 1.8


def place_car(street: Street, rng: Rng) -> Item:
    """Return a car in a lane or parked at the kerb. Traffic keeps to the right."""
    profile, side = rng.choice((HATCHBACK, HATCHBACK, SALOON, SALOON, VAN)), rng.choice((-1, 1))
    lane = street.half - 1.0 if rng.bernoulli(0.35) else street.half / 2
    x, z = street.somewhere(rng, side * (lane + rng.uniform(-0.15, 0.15)))
    length, height, paint = 2 * profile[1][0], profile[4][1], partial(paint_car, profile=profile)
    if street.receding:
        return Item(CAR, x, z, CAR_WIDTH / 2, height, length, paint, along=(0.0, side))
    return Item(CAR, x, z, length / 2, height, CAR_WIDTH, paint, along=(-side, 0.0))


def paint_car(pen: Surface, rng: Rng, *, profile: Profile) -> None:
    """Paint a car of a random colour around a spot; it heads along the surface."""
    color = rng.choice(PAINTS)
    front, back, hood = profile[1][0] + 0.01, profile[7][0] - 0.01, profile[1][1]
    for left, right, low in ((-0.84, -0.6, 0.0), (0.6, 0.84, 0.0), (-0.84, 0.84, 0.14)):
        _face(pen, _panel(0.86 * front, left, low, right, 0.45), RUBBER)
        _face(pen, _panel(0.86 * back, left, low, right, 0.45)[::-1], RUBBER)
    left_side, right_side = (
        [(forward, up, sign * half) for (forward, up), half in zip(profile, HALVES, strict=True)]
        for sign in (-1, 1)
    )
    for i, tone in enumerate(TONES):
        part = [right_side[i], left_side[i], left_side[i + 1], right_side[i + 1]]
        _face(pen, part, tinted(color, tone))
        if i in WINDOWS:
            _face(pen, _inset(part), GLASS)
    _paint_side(pen, right_side, 1, color)
    _paint_side(pen, left_side, -1, color)
    _face(pen, _panel(front, -0.26, 0.30, 0.26, 0.40), PLATE)
    _face(pen, _panel(back, -0.26, 0.50, 0.26, 0.62)[::-1], PLATE)
    for left, right in ((-0.84, -0.50), (0.50, 0.84)):
        _face(pen, _panel(front, left, hood - 0.26, right, hood - 0.06), HEADLIGHT, glow=0.75)
        _face(pen, _panel(back, left, 0.66, right, 0.82)[::-1], TAILLIGHT, glow=0.4)


def _paint_side(pen: Surface, corners: list[Spot], order: int, color: Color) -> None:
    """Paint the side with these corners; order is 1 for the right side, -1 for the left one."""
    front, roof_front, roof_back, back = cabin = corners[2:6]
    middle = (roof_front[0] + roof_back[0]) / 2
    post = [(middle, *roof_front[1:]), (middle, *front[1:])]
    shapes = [([*corners[:3], *corners[5:]], color), (cabin, color)]
    shapes.append((_inset([front, roof_front, *post]), GLASS))
    shapes.append((_inset([*post[::-1], roof_back, back]), GLASS))
    for axle in (0.63 * corners[0][0], 0.62 * corners[7][0]):
        for radius, tone in ((0.39, tinted(color, 0.35)), (0.32, RUBBER), (0.19, RIM)):
            wheel = [(axle + radius * a, 0.32 + radius * b, front[2]) for a, b in CIRCLE]
            shapes.append((wheel, tone))
    for shape, tone in shapes:
        _face(pen, shape[::order], tone)


def _panel(forward: float, left: float, low: float, right: float, high: float) -> list[Spot]:
    """Return the corners of an upright rectangle that faces forward."""
    return [
        (forward, low, right), (forward, low, left), (forward, high, left), (forward, high, right)
    ]  # fmt: skip


def _inset(corners: list[Spot]) -> list[Spot]:
    """Return four corners moved towards the opposite ones: the glass within a frame."""
    return [
        (0.9 * x + 0.1 * far_x, 0.9 * y + 0.1 * far_y, 0.9 * z + 0.1 * far_z)
        for (x, y, z), (far_x, far_y, far_z) in zip(corners, corners[2:] + corners[:2], strict=True)
    ]


def _face(pen: Surface, corners: list[Spot], color: Color, *, glow: float = 0.0) -> None:
    """Paint a face of a car if its outside, where the corners are counterclockwise, can be seen.

    The corners are metres forward, up, and to the right. `glow` is the radius of a light.
    """
    (dx, dz), camera = pen.along, pen.camera
    spots = [
        (pen.x + dx * forward + dz * right, up, pen.z + dz * forward - dx * right)
        for forward, up, right in corners
    ]
    (x0, y0), (x1, y1), (x2, y2) = (camera.pixel(*spot) for spot in spots[:3])
    if (x1 - x0) * (y2 - y0) < (x2 - x0) * (y1 - y0):
        camera.polygon(spots, color, glowing=glow > 0)
        if glow:
            camera.glow(spots[0], glow, color)
