"""Times of day and kinds of weather: light, haze, sky, shadows, and the glow of lamps at night."""

from dataclasses import dataclass

import numpy as np

from data.street_scenes.canvas import Air, Canvas, Color, Point
from data.street_scenes.rng import Rng

FULL = 256  # denominator of fractions in 256ths
WHITE = 255
SKY_BANDS = 32  # between the top of the image and the horizon
BELOW_HORIZON = 8  # rows of sky below the horizon, because the ground ends a little below it


@dataclass(frozen=True)
class Weather:
    """Light, haze, sky and shadows of a scene."""

    name: str
    air: Air
    sky: tuple[Color, Color]
    """Colours at the top of the image and at the horizon."""
    shadow: int
    """Light in a shadow, in 256ths."""
    sunny: bool = False
    """Whether shadows fall to one side."""

    @property
    def night(self) -> bool:
        """Whether lamps are lit."""
        return self.air.dark


WEATHERS = (
    Weather(
        name="day",
        air=Air((256, 254, 246), haze=(200, 218, 234), visibility=260.0),
        sky=((96, 152, 214), (206, 226, 238)),
        shadow=150,
        sunny=True,
    ),
    Weather(
        name="evening sun",
        air=Air((256, 216, 170), haze=(236, 196, 152), visibility=220.0),
        sky=((96, 112, 166), (250, 196, 130)),
        shadow=140,
        sunny=True,
    ),
    Weather(
        name="overcast",
        air=Air((216, 220, 226), haze=(198, 202, 206), visibility=150.0),
        sky=((166, 174, 182), (212, 214, 216)),
        shadow=176,
    ),
    Weather(
        name="dusk",
        air=Air((146, 128, 142), haze=(150, 112, 122), visibility=200.0),
        sky=((52, 56, 102), (206, 126, 100)),
        shadow=184,
    ),
    Weather(
        name="night",
        air=Air((114, 120, 146), haze=(34, 40, 66), visibility=200.0),
        sky=((12, 16, 36), (40, 48, 80)),
        shadow=180,
    ),
    Weather(
        name="fog",
        air=Air((222, 226, 228), haze=(202, 207, 210), visibility=24.0),
        sky=((196, 202, 206), (204, 209, 212)),
        shadow=206,
    ),
)
FREQUENCY = (0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 5)  # indices into WEATHERS to choose from


@dataclass(frozen=True)
class Glow:
    """An elliptic patch of light on the finished image; lengths in px."""

    centre: Point
    radius: float
    color: Color
    strength: int
    """Strength at the centre, in 256ths."""
    flatness: int = 1
    """Width over height; a lamp lights a wide patch of ground."""


def random_weather(rng: Rng) -> Weather:
    """Return a random weather."""
    return WEATHERS[rng.choice(FREQUENCY)]


def paint_sky(canvas: Canvas, weather: Weather, horizon: float, rng: Rng) -> None:
    """Paint the sky down to the horizon, with clouds by day and a moon by night."""
    canvas.distance = 0.0
    top, low = weather.sky
    band = (horizon + BELOW_HORIZON) / SKY_BANDS
    for i in range(SKY_BANDS):
        share = i / (SKY_BANDS - 1)
        red, green, blue = (int(a + (b - a) * share) for a, b in zip(top, low, strict=True))
        stripe = [
            (0, i * band),
            (canvas.width, i * band),
            (canvas.width, (i + 1) * band),
            (0, (i + 1) * band),
        ]
        canvas.polygon(stripe, (red, green, blue), glowing=True)
    if weather.night:
        x, y = rng.uniform(20, canvas.width - 20), rng.uniform(8, horizon * 0.4)
        canvas.ellipse((x, y), (6, 6), (232, 230, 210), glowing=True)
    elif weather.sunny:
        _clouds(canvas, low, horizon, rng)


def _clouds(canvas: Canvas, color: Color, horizon: float, rng: Rng) -> None:
    red, green, blue = (min(255, c + 18) for c in color)
    for _ in range(rng.integer(0, 3)):
        x, y = rng.uniform(0, canvas.width), rng.uniform(4, horizon * 0.6)
        size = rng.uniform(8, 20)
        for _ in range(5):
            at = (x + rng.uniform(-1.5, 1.5) * size, y + rng.uniform(-0.2, 0.2) * size)
            canvas.ellipse(
                at, (size * rng.uniform(0.7, 1.3), size * 0.32), (red, green, blue), glowing=True
            )


def add_glow(image: np.ndarray, glow: Glow) -> None:
    """Add light around a point of an image, uint8 [height, width, 3], RGB, in place."""
    height, width = image.shape[:2]
    x, y, radius = round(glow.centre[0]), round(glow.centre[1]), round(glow.radius)
    left, right = max(x - radius, 0), min(x + radius + 1, width)
    top, bottom = max(y - radius, 0), min(y + radius + 1, height)
    if left >= right or top >= bottom or radius < 1:
        return
    rows = np.arange(top, bottom, dtype=np.int64)[:, None] - y
    rows *= glow.flatness
    columns = np.arange(left, right, dtype=np.int64)[None, :] - x
    falloff = np.maximum(FULL - FULL * (rows**2 + columns**2) // radius**2, 0)  # 1 - (r/R)^2
    share = falloff * falloff // FULL * glow.strength // FULL
    part = image[top:bottom, left:right]
    # Light brightens the colours of the surface and adds some of its own colour.
    lit = part * (FULL + share[..., None]) // FULL
    veil = (WHITE - np.minimum(lit, WHITE)) * share[..., None] // FULL
    lit += veil * np.array(glow.color) // (2 * FULL)
    part[:] = np.minimum(lit, WHITE).astype(np.uint8)
