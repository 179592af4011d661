"""Figures of a split: how many, how large, of which shape, and where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.anchors import is_learnable
from utils.autoanchor import box_sizes
from utils.datasets.index import Index

SMALL, LARGE = 32.0**2, 96.0**2
"""Pixels of area, in the image file: the limits of COCO's small and large objects."""
QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}


@dataclass(frozen=True, eq=False)
class Measures:
    """Of a split with `n` images and `m` boxes."""

    split: str
    image_sizes: np.ndarray
    """int [n, 2]: width and height of the images, px."""
    per_image: np.ndarray
    """int [n]: boxes of each image."""
    per_class: np.ndarray
    """int [classes]: boxes of each class that the data set has."""
    file_sides: np.ndarray
    """float [m, 2]: width and height of the boxes in the image files, px."""
    sides: np.ndarray
    """float [m, 2]: width and height of the boxes at the training size, px."""
    centres: np.ndarray
    """float [m, 2]: x and y of the boxes' centres, as fractions of the image."""
    ignored: int
    """Ignore regions, all images together."""

    @property
    def aspects(self) -> np.ndarray:
        """Width over height of the boxes, float [m]."""
        ratios: np.ndarray = self.sides[:, 0] / self.sides[:, 1]
        return ratios

    @property
    def scales(self) -> np.ndarray:
        """Sides of squares of the boxes' areas at the training size, float [m], px."""
        roots: np.ndarray = np.sqrt(self.sides.prod(axis=1))
        return roots

    def below_min_side(self) -> np.ndarray:
        """Which boxes have a side of less than `MIN_SIDE` at the training size, bool [m]."""
        return ~is_learnable(self.sides)

    def below_cell(self, cell: int) -> np.ndarray:
        """Which boxes are smaller, in both directions, than a cell of `cell` px, bool [m]."""
        return np.all(self.sides < cell, axis=1)


def measure(split: str, index: Index, classes: int, image_size: int) -> Measures:
    """Measure a split.

    Args:
        split: its name.
        index: of its images.
        classes: how many the data set has.
        image_size: px of the longer side of an image in training.
    """
    per_image = np.diff(index.offsets)
    image_sizes = index.sizes[:, ::-1]
    file_sides = index.boxes[:, 3:5] * np.repeat(image_sizes, per_image, axis=0)
    labels = index.boxes[:, 0].astype(np.int64)
    return Measures(
        split=split,
        image_sizes=image_sizes,
        per_image=per_image,
        per_class=np.bincount(labels[labels < classes], minlength=classes),
        file_sides=file_sides,
        sides=box_sizes(index, image_size),
        centres=index.boxes[:, 1:3],
        ignored=0 if index.ignored is None else len(index.ignored.boxes),
    )


def spread(values: np.ndarray) -> dict[str, float]:
    """Extremes, mean and quantiles of at least one value, rounded to 4 significant digits."""
    found = dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())), strict=True))
    return {
        name: float(f"{value:.4g}") for name, value in (found | {"mean": values.mean()}).items()
    }


def by_size(measures: Measures) -> dict[str, int]:
    """Boxes that COCO would call small, medium and large, by their area in the image file."""
    areas = measures.file_sides.prod(axis=1)
    small, large = int((areas < SMALL).sum()), int((areas > LARGE).sum())
    return {"small": small, "medium": len(areas) - small - large, "large": large}


def frequent_sizes(measures: Measures, count: int) -> list[tuple[int, int, int]]:
    """The most frequent image sizes: width and height in px, and how many images have them."""
    sizes, numbers = np.unique(measures.image_sizes, axis=0, return_counts=True)
    order = np.argsort(-numbers, kind="stable")[:count]
    return [(int(sizes[i, 0]), int(sizes[i, 1]), int(numbers[i])) for i in order]
