"""Random parameters of the augmentation, sampled before any pixels are processed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from utils.datasets.affine import Warp
from utils.hyp import Hyp

MOSAIC_TILES = 4
MIXUP_BETA = 32.0
"""Both parameters of mixup's Beta distribution; its weights are 0.5 ± 0.06."""
MIN_SCALE = 0.05  # otherwise a hyp.scale of 1 or more could shrink an image to nothing


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
    hyp: Hyp,
    *,
    index: int,
    neighbours: np.ndarray,
    side: int,
) -> AugmentParams:
    """Sample the augmentation parameters of one image.

    Args:
        rng: random generator of this sample.
        hyp: hyper-parameters with the ranges and probabilities of the augmentation.
        index: data-set index of the image.
        neighbours: data-set indices from which the other images of mosaics are sampled; must not
            be empty if `hyp.mosaic` is above 0.
        side: side of the output, px.
    """
    if rng.random() < hyp.mosaic:
        mosaics = [_sample_mosaic(rng, hyp, index, neighbours, side)]
        if rng.random() < hyp.mixup:
            mosaics.append(_sample_mosaic(rng, hyp, rng.choice(neighbours), neighbours, side))
    else:
        mosaics = [MosaicSpec((index,), (0, 0), _sample_warp(rng, hyp))]
    hue, saturation, value = 1 + rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    return AugmentParams(
        mosaics=tuple(mosaics),
        blend=float(rng.beta(MIXUP_BETA, MIXUP_BETA)),
        colour_gains=(float(hue), float(saturation), float(value)),
        flip_up_down=bool(rng.random() < hyp.flipud),
        flip_left_right=bool(rng.random() < hyp.fliplr),
    )


def _sample_mosaic(
    rng: np.random.Generator, hyp: Hyp, index: int, neighbours: np.ndarray, side: int
) -> MosaicSpec:
    others = neighbours[rng.integers(len(neighbours), size=MOSAIC_TILES - 1)]
    tiles = rng.permutation([index, *others])
    # Uniform over the central half of a canvas of twice the side.
    x, y = rng.integers(side // 2, side + side // 2, size=2, endpoint=True)
    return MosaicSpec(tuple(map(int, tiles)), (int(x), int(y)), _sample_warp(rng, hyp))


def _sample_warp(rng: np.random.Generator, hyp: Hyp) -> Warp:
    units = rng.uniform(-1, 1, size=8).tolist()
    return Warp(
        angle=units[0] * hyp.degrees,
        scale=max(1 + units[1] * hyp.scale, MIN_SCALE),
        shear=(units[2] * hyp.shear, units[3] * hyp.shear),
        perspective=(units[4] * hyp.perspective, units[5] * hyp.perspective),
        centre=(0.5 + units[6] * hyp.translate, 0.5 + units[7] * hyp.translate),
    )
