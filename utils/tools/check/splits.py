"""The splits of a data set: their indices, label files and statistics, and errors as findings."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from models.anchors import best_possible_recall, is_learnable
from utils.autoanchor import box_sizes
from utils.datasets.description import DatasetDescription, ensure_available
from utils.datasets.image_files import list_images, suffix_of
from utils.datasets.index import Index, build_index
from utils.datasets.labels import LABEL_FOLDER, MAX_CLASS, find_labels
from utils.errors import UserError
from utils.hyp import Hyp
from utils.tools.check.findings import STOP, WARNING, Finding

log = logging.getLogger("yolo")

TRAIN = "train"
NEEDED = (TRAIN, "val")
# The index uses only the number of the names; with these it accepts classes that are out of range.
EVERY_CLASS = cast("Sequence[str]", range(MAX_CLASS))
SMALL, LARGE = 32.0**2, 96.0**2
"""Area in the image file, px²: COCO's limits of small and large objects."""
QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}


@dataclass(frozen=True, eq=False)
class Split:
    """A split that could be indexed, with `n` images and `m` boxes, and its statistics."""

    name: str
    """`train`, `val` or `test`."""
    index: Index
    """The index; it may contain classes that are out of range."""
    classes: int
    """Number of classes of the data set."""
    image_size: int
    """Longer side of an image in training, px."""
    sources: tuple[Path, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    """Label file by image, for all images of the sources, including those that the index skips. The
    label file may not exist."""

    @property
    def image_sizes(self) -> np.ndarray:
        """Width and height of the images, int [n, 2], px."""
        return self.index.sizes[:, ::-1]

    @property
    def per_image(self) -> np.ndarray:
        """Number of boxes per image, int [n]."""
        return np.diff(self.index.offsets)

    @cached_property
    def per_class(self) -> np.ndarray:
        """Number of boxes per class, int [classes]; classes out of range are not counted."""
        labels = self.index.boxes[:, 0].astype(np.int64)
        return np.bincount(labels[labels < self.classes], minlength=self.classes)

    @property
    def centres(self) -> np.ndarray:
        """X and y of the boxes' centres, normalised to the image, float [m, 2]."""
        return self.index.boxes[:, 1:3]

    @cached_property
    def file_sides(self) -> np.ndarray:
        """Width and height of the boxes in the image files, float [m, 2], px."""
        return self.index.boxes[:, 3:5] * np.repeat(self.image_sizes, self.per_image, axis=0)

    @cached_property
    def sides(self) -> np.ndarray:
        """Width and height of the boxes at the training size, float [m, 2], px."""
        return box_sizes(self.index, self.image_size)

    @property
    def aspects(self) -> np.ndarray:
        """Width over height of the boxes, float [m]."""
        return np.divide(self.sides[:, 0], self.sides[:, 1])

    @property
    def scales(self) -> np.ndarray:
        """Square roots of the boxes' areas at the training size, float [m], px."""
        return np.sqrt(self.sides.prod(axis=1))

    @property
    def below_min_side(self) -> np.ndarray:
        """Which boxes have a side below `MIN_SIDE` at the training size, bool [m]."""
        return ~is_learnable(self.sides)

    def below_cell(self, cell: int) -> np.ndarray:
        """Return which boxes are narrower and lower than a cell of `cell` px, bool [m]."""
        return np.all(self.sides < cell, axis=1)

    def by_size(self) -> dict[str, int]:
        """Return the number of small, medium and large boxes in COCO's terms, by area in file."""
        areas = self.file_sides.prod(axis=1)
        small, large = int((areas < SMALL).sum()), int((areas > LARGE).sum())
        return {"small": small, "medium": len(areas) - small - large, "large": large}

    def frequent_sizes(self, count: int) -> list[tuple[int, int, int]]:
        """Return the most frequent image sizes: width and height in px, and number of images."""
        sizes, numbers = np.unique(self.image_sizes, axis=0, return_counts=True)
        order = np.argsort(-numbers, kind="stable")[:count]
        return [(int(sizes[i, 0]), int(sizes[i, 1]), int(numbers[i])) for i in order]

    def best_recall(self, anchors: np.ndarray) -> float | None:
        """Return the best possible recall, computed as in AutoAnchor; None without boxes.

        Args:
            anchors: width and height of the anchors, [k, 2], px.
        """
        if not len(self.sides):
            return None
        return best_possible_recall(self.sides, anchors, Hyp().anchor_t).recall


def spread(values: np.ndarray) -> dict[str, float]:
    """Return extremes, mean and quantiles of one or more values, with 4 significant digits."""
    quantiles = np.quantile(values, list(QUANTILES.values()))
    found = dict(zip(QUANTILES, quantiles, strict=True)) | {"mean": values.mean()}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


class ReadSplits(NamedTuple):
    """The readable splits of a data set, and findings about the others."""

    splits: tuple[Split, ...]
    findings: list[Finding]


def read_splits(description: DatasetDescription, image_size: int, threads: int) -> ReadSplits:
    """Get the data set as training does, and index every split that exists.

    The `test:` split is optional, because training does not use it.

    Args:
        description: the data set.
        image_size: longer side of an image in training, px.
        threads: number of threads that read files.
    """
    given = {"train": description.train, "val": description.val, "test": description.test}
    findings = [
        Finding(STOP, name, f"the data-set file has no `{name}:` line")
        for name in NEEDED
        if not given[name]
    ]
    try:
        ensure_available(description, [name for name in NEEDED if given[name]])
    except UserError as error:
        findings.append(Finding(STOP, "", str(error)))
    splits = []
    for name, sources in given.items():
        if not sources or not all(source.exists() for source in sources):
            continue
        logged: list[str] = []

        def keep(record: logging.LogRecord, logged: list[str] = logged) -> bool:
            logged.append(record.getMessage())
            return False  # not printed: messages are part of the report

        log.addFilter(keep)
        try:
            images = list_images(sources)
            findings += [Finding(WARNING, name, message.rstrip(".")) for message in logged]
            index = build_index(sources, EVERY_CLASS, workers=threads, needs_boxes=name == TRAIN)
            if not len(index.boxes):
                findings.append(Finding(WARNING, name, logged[-1].rstrip(".")))
        except UserError as error:
            findings.append(Finding(STOP, name, str(error)))
            continue
        finally:
            log.removeFilter(keep)
        labels = dict(zip(images, find_labels(images), strict=True))
        splits.append(Split(name, index, len(description.names), image_size, sources, labels))
    return ReadSplits(tuple(splits), findings)


def stray_labels(splits: Sequence[Split]) -> list[str]:
    """Return label files that belong to no image of any split.

    Only folders `labels` are searched. Splits that are list files are skipped, because a list may
    omit images on purpose.
    """
    claimed = {label for split in splits for label in split.labels.values()}
    folders = {
        label.rpartition(os.sep)[0]
        for split in splits
        if all(source.is_dir() for source in split.sources)
        for label in split.labels.values()
    }
    present = (
        f"{folder}{os.sep}{name}"
        for folder in sorted(folders)
        if LABEL_FOLDER in map(str.casefold, Path(folder).parts) and Path(folder).is_dir()
        for name in sorted(os.listdir(folder))  # noqa: PTH208 -- names are all that is needed
    )
    return [
        path
        for path in present
        if suffix_of(Path(path).name) == ".txt" and Path(path).name != "classes.txt"
        if path not in claimed
    ]
