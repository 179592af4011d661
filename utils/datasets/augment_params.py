"""Random parameters of the augmentation, sampled before any pixels are processed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from utils.datasets.affine import Warp

MOSAIC_TILES = 4
MIXUP_BETA = 32.0
"""Both parameters of mixup's Beta distribution; its weights are 0.5 ± 0.06."""
MIN_SCALE = 0.05  # otherwise a hyp.scale of 1 or more could shrink an image to nothing


@dataclass(frozen=True)
class AugmentRanges:
    """Ranges and probabilities of the augmentation; the fields of a hyp file of the same names."""

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
    """One image or a mosaic of four, and the warp applied to it."""

    tiles: tuple[int, ...]
    """Data-set indices: one, or four in the order top left, top right, bottom left, bottom
    right."""
    centre: tuple[int, int]
    """(x, y) where the four images meet, px of a canvas of twice the output's side."""
    warp: Warp


@dataclass(frozen=True)
class AugmentParams:
    """All random parameters of one sample."""

    mosaics: tuple[MosaicSpec, ...]
    """One, or two for mixup."""
    blend: float
    """Mixup weight of the first of two mosaics."""
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
    """Sample the augmentation parameters of one image.

    Args:
        rng: random generator of this sample.
        ranges: ranges and probabilities of the augmentation.
        index: data-set index of the image.
        neighbours: data-set indices from which the other images of mosaics are sampled; must not
            be empty if `ranges.mosaic` is above 0.
        side: side of the output, px.
    """
    if rng.random() < ranges.mosaic:
        mosaics = [_sample_mosaic(rng, ranges, index=index, neighbours=neighbours, side=side)]
        if rng.random() < ranges.mixup:
            partner = rng.choice(neighbours)
            second = _sample_mosaic(rng, ranges, index=partner, neighbours=neighbours, side=side)
            mosaics.append(second)
    else:
        mosaics = [MosaicSpec((index,), (0, 0), _sample_warp(rng, ranges))]
    hue, saturation, value = 1 + rng.uniform(-1, 1, 3) * (ranges.hsv_h, ranges.hsv_s, ranges.hsv_v)
    return AugmentParams(
        mosaics=tuple(mosaics),
        blend=float(rng.beta(MIXUP_BETA, MIXUP_BETA)),
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
    # Uniform over the central half of a canvas of twice the side.
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
