"""Find duplicate images, within a split or across two splits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from utils.tools.check.duplicates import equal_files
from utils.tools.check.findings import WARNING, Finding, count
from utils.tools.check.splits import Split


class _Image(NamedTuple):
    """An image: its split, and its number in the split's index."""

    split: Split
    number: int

    @property
    def path(self) -> str:
        return self.split.index.paths[self.number]

    @property
    def rows(self) -> np.ndarray:
        """The labels of the image, sorted."""
        return np.array(sorted(self.split.index.labels(self.number).tolist()))


def find_duplicate_images(splits: Sequence[Split], threads: int) -> list[Finding]:
    """Return findings about image files of equal content.

    Args:
        splits: the splits, in the order train, val, test; missing ones are skipped.
        threads: number of threads that read files.
    """
    images = [_Image(split, i) for split in splits for i in range(len(split.index))]
    paths = [path for split in splits for path in split.index.paths]
    groups = [[images[i] for i in group] for group in equal_files(paths, threads)]
    found = [_inside(split, groups) for split in splits]
    found += [_between(first, second, groups) for first, second in combinations(splits, 2)]
    return [finding for finding in found if finding is not None]


def _inside(split: Split, groups: Sequence[Sequence[_Image]]) -> Finding | None:
    parts = [[image for image in group if image.split is split] for group in groups]
    repeated = [part for part in parts if len(part) > 1]
    if not repeated:
        return None
    copies = sum(len(part) - 1 for part in repeated)
    text = f"{count(copies, 'duplicate image')}"
    return Finding(WARNING, split.name, text, tuple(map(_case, repeated)))


def _between(first: Split, second: Split, groups: Sequence[Sequence[_Image]]) -> Finding | None:
    chosen = [[image for image in group if image.split in (first, second)] for group in groups]
    shared = [part for part in chosen if len({image.split.name for image in part}) > 1]
    copies = sum(image.split is second for part in shared for image in part)
    if not shared:
        return None
    where = f"{first.name}, {second.name}"
    if copies == len(second.index):
        text = (
            f"all {count(copies, 'image')} of {second.name} are also in {first.name}: "
            "metrics on them say nothing about new images"
        )
    else:
        text = f"{count(copies, 'image')} of {second.name} also in {first.name}"
    same = first.sources == second.sources
    return Finding(WARNING, where, text, () if same else tuple(map(_case, shared)))


def _case(images: Sequence[_Image]) -> str:
    named = " = ".join(image.path for image in images)
    first, *others = (image.rows for image in images)
    return (
        named
        if all(map(np.array_equal, others, [first] * len(others)))
        else (f"{named}, but their labels differ")
    )
