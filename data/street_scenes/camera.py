"""The pinhole camera that gives the street scenes their perspective."""

from dataclasses import dataclass

from data.street_scenes.canvas import Canvas, Pen, Point


@dataclass(frozen=True)
class Camera:
    """Maps metres to pixels; x is to the right, y up from the ground, z away from the camera."""

    centre: float
    """Column of the vanishing point, pixels."""
    horizon: float
    """Row of the horizon, pixels."""
    height: float
    """Height above the ground, metres."""
    focal: float
    """Focal length, pixels."""

    def scale(self, z: float) -> float:
        """Return the pixels per metre at distance z."""
        return self.focal / z

    def project(self, x: float, y: float, z: float) -> Point:
        """Return the pixel of a point in space."""
        scale = self.scale(z)
        return self.centre + x * scale, self.horizon + (self.height - y) * scale

    def pen(self, canvas: Canvas, x: float, z: float, *, mirrored: bool = False) -> Pen:
        """Return a pen for an object that stands at (x, 0, z)."""
        return Pen(canvas, self.project(x, 0.0, z), self.scale(z), mirrored)
