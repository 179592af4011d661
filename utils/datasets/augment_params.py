"""The dice of the augmentation: all that is random of a sample, drawn before pixels are touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from utils.datasets.affine import Warp

MOSAIC_TILES = 4
MIXUP_SHAPE = 32.0
"""Both parameters of the Beta distribution of mixup: its weights are 0.5 ± 0.06, nearly halves."""
MIN_SCALE = 0.05  # a hyp.scale of 1 or more would otherwise shrink an image to nothing


@dataclass(frozen=True)
class AugmentRanges:
    """How far the augmentation may go: fields of a hyp file, under the same names."""

    degrees: float = 0.0
    translate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0
    hsv_h: float = 0.0
    hsv_s: float = 0.0
    hsv_v: float = 0.0
    flipud: float = 0.0
    fliplr: float = 0.0
    mosaic: float = 0.0
    mixup: float = 0.0


class MosaicSpec(NamedTuple):
    """A picture to compose: one image, or four around a centre; and how it is warped."""

    tiles: tuple[int, ...]
    """Data-set indices: 1, or 4 from top left to bottom right, row by row."""
    centre: tuple[int, int]
    """(x, y) where the four meet, px of a canvas of twice the picture's side."""
    warp: Warp


@dataclass(frozen=True)
class AugmentParams:
    """All that was drawn for one sample."""

    scenes: tuple[MosaicSpec, ...]
    """One, or two to be blended."""
    blend: float
    """Weight of the first of two scenes."""
    colour_gains: tuple[float, float, float]
    """Factors for hue, saturation and value."""
    flip_up_down: bool
    flip_left_right: bool


def sample_augment_params(
    rng: np.random.Generator,
    ranges: AugmentRanges,
    *,
    index: int,
    neighbours: np.ndarray,
    side: int,
) -> AugmentParams:
    """Draw what happens to an image.

    Args:
        rng: of this sample.
        ranges: how far the augmentation may go.
        index: of the image in the data set.
        neighbours: data-set indices, among which the other images of mosaics are drawn; there
            must be some if there are mosaics.
        side: of the picture, px.
    """
    if rng.random() < ranges.mosaic:
        scenes = [_sample_mosaic(rng, ranges, index=index, neighbours=neighbours, side=side)]
        if rng.random() < ranges.mixup:
            partner = rng.choice(neighbours)
            second = _sample_mosaic(rng, ranges, index=partner, neighbours=neighbours, side=side)
            scenes.append(second)
    else:
        scenes = [MosaicSpec((index,), (0, 0), _sample_warp(rng, ranges))]
    hue, saturation, value = 1 + rng.uniform(-1, 1, 3) * (ranges.hsv_h, ranges.hsv_s, ranges.hsv_v)
    return AugmentParams(
        scenes=tuple(scenes),
        blend=float(rng.beta(MIXUP_SHAPE, MIXUP_SHAPE)),
        colour_gains=(float(hue), float(saturation), float(value)),
        flip_up_down=bool(rng.random() < ranges.flipud),
        flip_left_right=bool(rng.random() < ranges.fliplr),
    )


def _sample_mosaic(
    rng: np.random.Generator,
    ranges: AugmentRanges,
    *,
    index: int,
    neighbours: np.ndarray,
    side: int,
) -> MosaicSpec:
    others = neighbours[rng.integers(len(neighbours), size=MOSAIC_TILES - 1)]
    tiles = rng.permutation([index, *others])
    # Uniform in the middle half of a canvas of twice the side.
    x, y = rng.integers(side // 2, side + side // 2, size=2, endpoint=True)
    return MosaicSpec(tuple(map(int, tiles)), (int(x), int(y)), _sample_warp(rng, ranges))


def _sample_warp(rng: np.random.Generator, ranges: AugmentRanges) -> Warp:
    units = rng.uniform(-1, 1, size=8)
    return Warp(
        angle=float(units[0] * ranges.degrees),
        scale=max(float(1 + units[1] * ranges.scale), MIN_SCALE),
        shear=(float(units[2] * ranges.shear), float(units[3] * ranges.shear)),
        perspective=(
            float(units[4] * ranges.perspective),
            float(units[5] * ranges.perspective),
        ),
        centre=(
            float(0.5 + units[6] * ranges.translate),
            float(0.5 + units[7] * ranges.translate),
        ),
    )
