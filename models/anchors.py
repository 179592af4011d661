"""Measures how well anchors fit the boxes of a data set, and fits new anchors. Imports no torch.

All computations use logarithms of the sides, where the ratio of two sides is a distance.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError

Floats = NDArray[np.floating]

MIN_SIDE = 2.0
"""Pixels at the training image size; boxes with a smaller side are not used for fitting."""
EMPTY_SIDE = 1e-6
"""Pixels; replaces a side of zero, so that its logarithm is finite. No anchor fits such a box."""
MAX_SAMPLE = 20_000
"""Maximum number of randomly sampled boxes for fitting: thousands for each of about ten anchors."""
KMEANS_ITERATIONS = 30
MUTATION_PROBABILITY = 0.5
MUTATION_STD = 0.1
"""Standard deviation of a mutation in the logarithm of a side: about ten percent."""


class AnchorFit(NamedTuple):
    """How well anchors fit the boxes."""

    recall: float
    """Fraction of boxes that at least one anchor fits: an upper bound of the recall."""
    anchors_per_target: float
    """Mean number of fitting anchors per box."""


def is_learnable(sizes: Floats) -> NDArray[np.bool_]:
    """Return which boxes are used for fitting, ``[n]``, from their sizes ``[n, 2]`` in pixels."""
    return np.asarray((sizes >= MIN_SIDE).all(1))


def best_possible_recall(sizes: Floats, anchors: Floats, ratio_limit: float) -> AnchorFit:
    """Evaluate anchors by the rule of the assigner.

    Args:
        sizes: width and height of the boxes ``[n, 2]``, pixels; n is at least 1.
        anchors: width and height of the anchors of all levels ``[k, 2]``, pixels.
        ratio_limit: an anchor fits if both sides differ from the box's by less than this factor.
    """
    points = np.log(np.maximum(sizes, EMPTY_SIDE))
    fits = _distances(points, np.log(anchors)) < math.log(ratio_limit)  # [n, k]
    return AnchorFit(float(fits.any(1).mean()), float(fits.sum(1).mean()))


def fit_anchors(
    sizes: Floats, count: int, ratio_limit: float, seed: int, generations: int = 1000
) -> Floats:
    """Fit anchors to a data set by k-means, then refine them by random mutations.

    The result is deterministic for the same arguments.

    Args:
        sizes: width and height of the boxes ``[n, 2]`` at the training image size, pixels.
        count: number of anchors over all levels.
        ratio_limit: see `best_possible_recall`.
        seed: random seed of the sample, the k-means initialisation and the mutations.
        generations: number of mutations tried.

    Returns:
        Width and height ``[count, 2]``, pixels, by ascending area.

    Raises:
        UserError: there are fewer usable boxes than anchors.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    usable = sizes[is_learnable(sizes)].astype(np.float64)
    if len(usable) < count:
        raise UserError(
            f"cannot fit {count} anchors to {len(usable)} boxes with sides of at least "
            f"{MIN_SIDE:g} pixels; keep the model's anchors with --noautoanchor."
        )
    if len(usable) > MAX_SAMPLE:
        usable = usable[rng.choice(len(usable), MAX_SAMPLE, replace=False)]
    points = np.log(usable)
    centres = _kmeans(points, count, rng)
    centres = _refine(centres, points, math.log(ratio_limit), rng, generations)
    anchors: Floats = np.exp(centres[np.argsort(centres.sum(1), kind="stable")])
    return anchors


def _distances(points: Floats, centres: Floats) -> Floats:
    """Return distances ``[n, k]`` of points ``[n, 2]`` to centres ``[k, 2]``.

    The distance is the logarithm of the larger of the two side ratios.
    """
    width = np.abs(points[:, None, 0] - centres[:, 0])
    height = np.abs(points[:, None, 1] - centres[:, 1])
    worse: Floats = np.maximum(width, height)
    return worse


def _kmeans(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return ``[count, 2]`` centres of points ``[n, 2]`` by Lloyd's algorithm.

    A centre without points does not move. `cv2.kmeans` is not used, because its initialisation uses
    a random generator that is shared by the whole process.
    """
    centres = _kmeans_plus_plus(points, count, rng)
    for _ in range(KMEANS_ITERATIONS):
        nearest = np.square(points[:, None] - centres).sum(2).argmin(1)  # [n]
        for centre in np.unique(nearest):
            centres[centre] = points[nearest == centre].mean(0)
    return centres


def _kmeans_plus_plus(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Sample centres by k-means++ (Arthur and Vassilvitskii, 2007); prefers distant points."""
    centres = points[rng.choice(len(points), 1)]
    while len(centres) < count:
        squared = np.square(points[:, None] - centres).sum(2).min(1)  # [n]
        weights = squared / squared.sum() if squared.any() else None
        centres = np.concatenate((centres, points[rng.choice(len(points), 1, p=weights)]))
    return centres


def _refine(
    centres: Floats, points: Floats, limit: float, rng: np.random.Generator, generations: int
) -> Floats:
    """Mutate the centres randomly; keep every mutation that increases the fitness."""
    best = _fitness(centres, points, limit)
    for _ in range(generations):
        chosen = rng.random(centres.shape) < MUTATION_PROBABILITY
        mutant = centres + chosen * rng.normal(0, MUTATION_STD, centres.shape)
        fitness = _fitness(mutant, points, limit)
        if fitness > best:
            centres, best = mutant, fitness
    return centres


def _fitness(centres: Floats, points: Floats, limit: float) -> float:
    """Return the mean side ratio (at most 1) of boxes to their best anchor; 0 if none fits."""
    closest = _distances(points, centres).min(1)
    return float(np.where(closest < limit, np.exp(-closest), 0).mean())
