"""How well anchors fit the boxes of a data set, and anchors that fit better. Imports no torch.

Everything is computed in logarithms of sides, where a ratio of sides is a plain distance.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError

Floats = NDArray[np.floating]

MIN_SIDE = 2.0
"""Pixels at the training size; fitting leaves out a box with a smaller side."""
EMPTY_SIDE = 1e-6
"""Pixels; stands for the side of a box without area, which no anchor fits."""
MAX_SAMPLE = 20_000
"""Boxes that fitting looks at, drawn at random: thousands for each of about ten anchors."""
KMEANS_ROUNDS = 30
MUTATION_PROBABILITY = 0.5
MUTATION_SPREAD = 0.1
"""Standard deviation of a mutated side's logarithm: about ten percent."""


class AnchorFit(NamedTuple):
    """How well anchors fit."""

    recall: float
    """Share of boxes that at least one anchor fits: the best recall training could reach."""
    anchors_per_target: float
    """Mean number of anchors that fit a box."""


def is_learnable(sizes: Floats) -> NDArray[np.bool_]:
    """Which boxes ``[n]``, of width and height ``[n, 2]`` in pixels, anchors are fitted to."""
    return np.asarray((sizes >= MIN_SIDE).all(1))


def best_possible_recall(sizes: Floats, anchors: Floats, ratio_limit: float) -> AnchorFit:
    """Judge anchors by the rule the assigner uses.

    Args:
        sizes: width and height of the boxes ``[n, 2]``, pixels, n at least 1.
        anchors: width and height of all levels' anchors ``[k, 2]``, pixels.
        ratio_limit: a side may differ from the anchor's by less than this factor.
    """
    points = np.log(np.maximum(sizes, EMPTY_SIDE))
    fits = _distances(points, np.log(anchors)) < math.log(ratio_limit)  # [n, k]
    return AnchorFit(float(fits.any(1).mean()), float(fits.sum(1).mean()))


def fit_anchors(
    sizes: Floats, count: int, ratio_limit: float, seed: int, generations: int = 1000
) -> Floats:
    """Anchors for a data set: k-means of the sizes, refined by accepted random mutations.

    The same arguments give the same anchors.

    Args:
        sizes: width and height of the boxes ``[n, 2]`` at the training image size, pixels.
        count: number of anchors, all levels together.
        ratio_limit: as for `best_possible_recall`.
        seed: of the sample, of the start of k-means and of the mutations.
        generations: mutations tried.

    Returns:
        Width and height ``[count, 2]``, pixels, by ascending area.

    Raises:
        UserError: fewer boxes than anchors.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    usable = sizes[is_learnable(sizes)].astype(np.float64)
    if len(usable) < count:
        raise UserError(
            f"{count} anchors cannot be fitted to {len(usable)} boxes of {MIN_SIDE:g} pixels "
            "or more; keep the model's anchors with --noautoanchor."
        )
    if len(usable) > MAX_SAMPLE:
        usable = usable[rng.choice(len(usable), MAX_SAMPLE, replace=False)]
    points = np.log(usable)
    centres = _kmeans(points, count, rng)
    centres = _refine(centres, points, math.log(ratio_limit), rng, generations)
    anchors: Floats = np.exp(centres[np.argsort(centres.sum(1), kind="stable")])
    return anchors


def _distances(points: Floats, centres: Floats) -> Floats:
    """``[n, 2]`` and ``[k, 2]`` to ``[n, k]``: the logarithm of the worse side's ratio."""
    width = np.abs(points[:, None, 0] - centres[:, 0])
    height = np.abs(points[:, None, 1] - centres[:, 1])
    worse: Floats = np.maximum(width, height)
    return worse


def _kmeans(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Lloyd's algorithm ``[n, 2]`` to ``[count, 2]``; a centre that nothing is near stays put.

    Not `cv2.kmeans`, whose random start is drawn from a generator shared by the whole process.
    """
    centres = _spread_start(points, count, rng)
    for _ in range(KMEANS_ROUNDS):
        nearest = np.square(points[:, None] - centres).sum(2).argmin(1)  # [n]
        for centre in np.unique(nearest):
            centres[centre] = points[nearest == centre].mean(0)
    return centres


def _spread_start(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """k-means++ (Arthur and Vassilvitskii, 2007): far points are likelier to become centres."""
    centres = points[rng.choice(len(points), 1)]
    while len(centres) < count:
        squared = np.square(points[:, None] - centres).sum(2).min(1)  # [n]
        weights = squared / squared.sum() if squared.any() else None
        centres = np.concatenate((centres, points[rng.choice(len(points), 1, p=weights)]))
    return centres


def _refine(
    centres: Floats, points: Floats, limit: float, rng: np.random.Generator, generations: int
) -> Floats:
    """Keep every mutation that raises the fitness."""
    best = _fitness(centres, points, limit)
    for _ in range(generations):
        chosen = rng.random(centres.shape) < MUTATION_PROBABILITY
        mutant = centres + chosen * rng.normal(0, MUTATION_SPREAD, centres.shape)
        fitness = _fitness(mutant, points, limit)
        if fitness > best:
            centres, best = mutant, fitness
    return centres


def _fitness(centres: Floats, points: Floats, limit: float) -> float:
    """Mean ratio, at most 1, of each box to its best anchor; 0 for a box that no anchor fits."""
    closest = _distances(points, centres).min(1)
    return float(np.where(closest < limit, np.exp(-closest), 0).mean())
