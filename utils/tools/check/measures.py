"""Statistics of a split: numbers, sizes, aspect ratios and positions of images and boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.anchors import is_learnable
from utils.autoanchor import box_sizes
from utils.datasets.index import Index

SMALL, LARGE = 32.0**2, 96.0**2
"""Area in the image file, px²: COCO's limits of small and large objects."""
QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}


@dataclass(frozen=True, eq=False)
class Measures:
    """Statistics of a split with `n` images and `m` boxes."""

    split: str
    image_sizes: np.ndarray
    """int [n, 2]: width and height of the images, px."""
    per_image: np.ndarray
    """int [n]: number of boxes per image."""
    per_class: np.ndarray
    """int [classes]: number of boxes per class."""
    file_sides: np.ndarray
    """float [m, 2]: width and height of the boxes in the image files, px."""
    sides: np.ndarray
    """float [m, 2]: width and height of the boxes at the training size, px."""
    centres: np.ndarray
    """float [m, 2]: x and y of the boxes' centres, normalised to the image."""
    ignored: int
    """Number of ignore regions of all images."""

    @property
    def aspects(self) -> np.ndarray:
        """Width over height of the boxes, float [m]."""
        ratios: np.ndarray = self.sides[:, 0] / self.sides[:, 1]
        return ratios

    @property
    def scales(self) -> np.ndarray:
        """Square roots of the boxes' areas at the training size, float [m], px."""
        roots: np.ndarray = np.sqrt(self.sides.prod(axis=1))
        return roots

    def below_min_side(self) -> np.ndarray:
        """Return which boxes have a side below `MIN_SIDE` at the training size, bool [m]."""
        return ~is_learnable(self.sides)

    def below_cell(self, cell: int) -> np.ndarray:
        """Return which boxes are narrower and lower than a cell of `cell` px, bool [m]."""
        return np.all(self.sides < cell, axis=1)


def measure(split: str, index: Index, classes: int, image_size: int) -> Measures:
    """Compute the statistics of a split.

    Args:
        split: name of the split.
        index: index of the split.
        classes: number of classes of the data set.
        image_size: longer side of an image in training, px.
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
    """Return extremes, mean and quantiles of one or more values, with 4 significant digits."""
    found = dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())), strict=True))
    return {
        name: float(f"{value:.4g}") for name, value in (found | {"mean": values.mean()}).items()
    }


def by_size(measures: Measures) -> dict[str, int]:
    """Return the number of small, medium and large boxes in COCO's terms, by area in the file."""
    areas = measures.file_sides.prod(axis=1)
    small, large = int((areas < SMALL).sum()), int((areas > LARGE).sum())
    return {"small": small, "medium": len(areas) - small - large, "large": large}


def frequent_sizes(measures: Measures, count: int) -> list[tuple[int, int, int]]:
    """Return the most frequent image sizes: width and height in px, and the number of images."""
    sizes, numbers = np.unique(measures.image_sizes, axis=0, return_counts=True)
    order = np.argsort(-numbers, kind="stable")[:count]
    return [(int(sizes[i, 0]), int(sizes[i, 1]), int(numbers[i])) for i in order]
