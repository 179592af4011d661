"""Pedestrians: heads, clothes, bags, and legs in walking poses."""

from dataclasses import dataclass

from data.street_scenes.canvas import Color, Pen, Point, tinted
from data.street_scenes.rng import Rng

SKINS: tuple[Color, ...] = (
    (246, 214, 187),
    (232, 190, 160),
    (205, 150, 112),
    (150, 100, 68),
    (96, 62, 44),
)
HAIRS: tuple[Color, ...] = (
    (28, 24, 22),
    (70, 46, 30),
    (122, 84, 48),
    (196, 160, 92),
    (150, 150, 150),
    (150, 62, 32),
)
TOPS: tuple[Color, ...] = (
    (196, 52, 48),
    (42, 88, 168),
    (38, 128, 92),
    (228, 176, 52),
    (238, 236, 228),
    (52, 54, 66),
    (150, 76, 150),
    (232, 128, 60),
    (104, 168, 200),
    (128, 132, 92),
)
TROUSERS: tuple[Color, ...] = (
    (40, 52, 92),
    (34, 34, 40),
    (96, 84, 70),
    (150, 138, 112),
    (88, 92, 98),
    (70, 44, 40),
)
BAGS: tuple[Color, ...] = ((120, 70, 34), (30, 30, 34), (170, 40, 60), (214, 190, 140))
SHOE: Color = (38, 32, 32)

ADULT = 1.75  # metres; height of the person that the joints below describe
HEAD = 0.135  # radius in metres; larger than life, to be visible at a distance

Leg = tuple[Point, Point]  # knee and ankle, metres from the foot point; the hip is at HIP
HIP: Point = (0.0, 0.90)
SHOULDER: Point = (0.0, 1.38)


@dataclass(frozen=True)
class Pose:
    """Positions of the joints, the far side first; seen from the right, walking to the right."""

    legs: tuple[Leg, Leg]
    hands: tuple[Leg, Leg]
    """Elbow and hand of the far and the near arm."""


STRIDE = Pose(
    legs=(((-0.10, 0.50), (-0.36, 0.12)), ((0.17, 0.51), (0.32, 0.07))),
    hands=(((0.14, 1.12), (0.30, 0.96)), ((-0.16, 1.12), (-0.24, 0.86))),
)
COUNTERSTRIDE = Pose(
    legs=(((0.15, 0.51), (0.27, 0.07)), ((-0.08, 0.50), (-0.30, 0.10))),
    hands=(((-0.14, 1.12), (-0.20, 0.86)), ((0.15, 1.12), (0.32, 0.98))),
)
PASSING = Pose(
    legs=(((0.15, 0.53), (-0.10, 0.24)), ((0.03, 0.49), (0.0, 0.07))),
    hands=(((-0.05, 1.10), (0.02, 0.86)), ((0.04, 1.10), (0.10, 0.86))),
)
STEP = Pose(
    legs=(((-0.04, 0.49), (-0.18, 0.08)), ((0.10, 0.50), (0.17, 0.07))),
    hands=(((0.08, 1.10), (0.16, 0.88)), ((-0.08, 1.10), (-0.10, 0.85))),
)
STANDING = Pose(  # seen from the front or behind
    legs=(((-0.10, 0.49), (-0.11, 0.07)), ((0.10, 0.49), (0.11, 0.07))),
    hands=(((-0.27, 1.12), (-0.28, 0.87)), ((0.27, 1.12), (0.28, 0.87))),
)
APPROACHING = Pose(  # seen from the front, one foot lifted behind
    legs=(((-0.09, 0.50), (-0.08, 0.18)), ((0.10, 0.49), (0.10, 0.07))),
    hands=(((-0.26, 1.12), (-0.20, 0.92)), ((0.26, 1.12), (0.30, 0.88))),
)
SIDE_POSES = (STRIDE, COUNTERSTRIDE, PASSING, STEP)
FRONT_POSES = (STANDING, APPROACHING)


@dataclass(frozen=True)
class Pedestrian:
    """Appearance of one person."""

    height: float
    """Metres."""
    pose: Pose
    frontal: bool
    faces_us: bool
    garment: str
    """'jacket', 'coat' or 'dress'."""
    top: Color
    trousers: Color
    skin: Color
    hair: Color
    long_hair: bool
    hat: Color | None
    bag: str
    """'none', 'backpack', 'handbag' or 'shopping'."""
    bag_color: Color

    def paint(self, pen: Pen) -> None:
        """Paint the person from the far side to the near one."""
        unit = Pen(pen.canvas, pen.foot, pen.scale * self.height / ADULT, pen.mirrored)
        far_leg, near_leg = self.pose.legs
        far_arm, near_arm = self.pose.hands
        self._leg(unit, far_leg, 0.78)
        self._arm(unit, far_arm, 0.78)
        if self.bag == "backpack" and not (self.frontal and self.faces_us):
            self._backpack(unit)
        self._leg(unit, near_leg, 1.0)
        self._body(unit)
        self._head(unit)
        self._arm(unit, near_arm, 0.9)
        self._carried(unit, near_arm[1])

    def _leg(self, pen: Pen, leg: Leg, light: float) -> None:
        knee, ankle = leg
        side = 0.09 if self.frontal else 0.0
        hip = (side if knee[0] > 0 else -side, HIP[1])
        bare = self.garment == "dress"
        cloth = tinted(self.skin if bare else self.trousers, light)
        pen.limb([hip, knee, ankle], 0.12 if bare else 0.15, cloth)
        toe = 0.0 if self.frontal else 0.15
        heel = (ankle[0] - 0.05, ankle[1] - 0.07)
        pen.polygon(
            [
                heel,
                (ankle[0] + 0.05 + toe, ankle[1] - 0.07),
                (ankle[0] + 0.04 + toe * 0.8, ankle[1] - 0.01),
                (ankle[0] + 0.05, ankle[1] + 0.05),
                (ankle[0] - 0.06, ankle[1] + 0.05),
            ],
            tinted(SHOE, light),
        )

    def _arm(self, pen: Pen, arm: Leg, light: float) -> None:
        elbow, hand = arm
        side = 0.20 if self.frontal else 0.0
        shoulder = (side if elbow[0] > 0 else -side, SHOULDER[1] - 0.03)
        pen.limb([shoulder, elbow, hand], 0.105, tinted(self.top, light))
        pen.disc(hand, 0.06, tinted(self.skin, light))

    def _body(self, pen: Pen) -> None:
        half = 0.23 if self.frontal else 0.17
        top = SHOULDER[1] + 0.08
        hem, flare = {"jacket": (0.84, 0.92), "coat": (0.50, 1.18), "dress": (0.52, 1.45)}[
            self.garment
        ]
        waist = (HIP[1] + 0.12, 0.80)
        outline = [
            (-half * 0.62, top),
            (half * 0.62, top),
            (half, top - 0.10),
            (half * waist[1], waist[0]),
            (half * flare, hem),
            (-half * flare, hem),
            (-half * waist[1], waist[0]),
            (-half, top - 0.10),
        ]
        pen.polygon(outline, self.top)
        shaded = [(-half, top - 0.10), (-half * 0.45, top - 0.05), (-half * 0.4, hem)]
        pen.polygon(
            [*shaded, (-half * flare, hem), (-half * waist[1], waist[0])], tinted(self.top, 0.84)
        )
        if self.garment == "coat":
            pen.box((-half, 0.98, half, 1.03), tinted(self.top, 0.6))
        if self.frontal and self.faces_us and self.garment == "jacket":
            pen.polygon([(-0.06, top), (0.06, top), (0.0, top - 0.2)], (236, 232, 224))

    def _head(self, pen: Pen) -> None:
        ahead = 0.0 if self.frontal else 0.03
        pen.box((ahead - 0.05, SHOULDER[1] + 0.04, ahead + 0.05, 1.55), tinted(self.skin, 0.85))
        centre = (ahead, 1.75 - HEAD - 0.015)
        behind = 0.0 if self.frontal else -0.04
        if self.long_hair:
            pen.polygon(
                [
                    (centre[0] + behind - HEAD, centre[1]),
                    (centre[0] + behind + HEAD * 0.9, centre[1]),
                    (centre[0] + behind + HEAD * 0.8, centre[1] - 0.26),
                    (centre[0] + behind - HEAD, centre[1] - 0.28),
                ],
                self.hair,
            )
        pen.disc((centre[0] + behind * 0.5, centre[1] + 0.015), HEAD, self.hair)
        if not self.frontal:
            pen.disc((centre[0] + 0.035, centre[1] - 0.025), HEAD * 0.80, self.skin)
        elif self.faces_us:
            pen.disc((centre[0], centre[1] - 0.025), HEAD * 0.84, self.skin)
        if self.hat is not None:
            self._hat(pen, centre, self.hat)

    def _hat(self, pen: Pen, centre: Point, color: Color) -> None:
        x, y = centre
        brim = 0.10 if not self.frontal else 0.0
        pen.polygon(
            [
                (x - HEAD - 0.01, y + 0.03),
                (x + HEAD + brim, y + 0.03),
                (x + HEAD + 0.01, y + 0.07),
                (x + HEAD * 0.7, y + HEAD + 0.02),
                (x - HEAD * 0.7, y + HEAD + 0.02),
            ],
            color,
        )

    def _backpack(self, pen: Pen) -> None:
        left, right = (-0.18, 0.18) if self.frontal else (-0.36, -0.10)
        pen.polygon(
            [(left, 0.95), (right, 0.95), (right, 1.40), (left + 0.06, 1.42), (left, 1.32)],
            self.bag_color,
        )

    def _carried(self, pen: Pen, hand: Point) -> None:
        x, y = hand
        if self.bag == "handbag":
            pen.limb(
                [(x - 0.07, y - 0.16), (x, y), (x + 0.07, y - 0.16)],
                0.025,
                tinted(self.bag_color, 0.7),
            )
            pen.box((x - 0.14, y - 0.36, x + 0.14, y - 0.14), self.bag_color)
        elif self.bag == "shopping":
            pen.polygon(
                [
                    (x - 0.11, y - 0.42),
                    (x + 0.11, y - 0.42),
                    (x + 0.14, y - 0.06),
                    (x - 0.14, y - 0.06),
                ],
                tinted(self.bag_color, 1.3),
            )
            pen.box((x - 0.05, y - 0.30, x + 0.05, y - 0.20), (244, 240, 230))
        elif self.bag == "backpack" and self.frontal and not self.faces_us:
            self._backpack(pen)


def random_pedestrian(rng: Rng) -> Pedestrian:
    """Return a random pedestrian."""
    child, frontal = rng.bernoulli(0.12), rng.bernoulli(0.4)
    return Pedestrian(
        height=rng.uniform(1.15, 1.40) if child else rng.uniform(1.60, 1.92),
        pose=rng.choice(FRONT_POSES if frontal else SIDE_POSES),
        frontal=frontal,
        faces_us=rng.bernoulli(0.55),
        garment=rng.choice(("jacket", "jacket", "jacket", "coat", "dress")),
        top=rng.choice(TOPS),
        trousers=rng.choice(TROUSERS),
        skin=rng.choice(SKINS),
        hair=rng.choice(HAIRS),
        long_hair=rng.bernoulli(0.4),
        hat=rng.choice(TOPS) if rng.bernoulli(0.2) else None,
        bag=rng.choice(("none", "none", "none", "backpack", "handbag", "shopping")),
        bag_color=rng.choice(BAGS),
    )
