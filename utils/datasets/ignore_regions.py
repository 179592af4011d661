"""Ignore regions: parts of images in which objects are not labelled.

The folder `ignore` is beside `labels` and has the same structure. A file has one row `x y w h`
(centre format, fractions of the image) per region. Images without regions need no file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.datasets.labels import LABEL_FOLDER, ROUNDING, label_path, rename_last_folder
from utils.datasets.matching import find_files
from utils.errors import UserError
from utils.files.regular_file import open_regular_file

IGNORE_FOLDER = "ignore"
COLUMNS = 4
NO_REGIONS = np.empty((0, COLUMNS), np.float32)


@dataclass(frozen=True, eq=False)
class IgnoreRegions:
    """The regions of `n` images, packed into two arrays that loader workers can share."""

    boxes: np.ndarray
    """float32 [m, 4]: cx, cy, w, h, normalised; in the order of the images."""
    offsets: np.ndarray
    """int64 [n + 1]: the regions of image i are `boxes[offsets[i]:offsets[i + 1]]`."""

    def of(self, i: int) -> np.ndarray:
        """Return a view of the regions of image `i`: float32 [k, 4], cx, cy, w, h, normalised."""
        return self.boxes[self.offsets[i] : self.offsets[i + 1]]


def ignore_path(image: str) -> str | None:
    """Return the regions file of an image; None if its labels are not below a folder `labels`."""
    return rename_last_folder(label_path(image), LABEL_FOLDER, IGNORE_FOLDER)


def list_ignore_files(images: Iterable[str]) -> list[str]:
    """List all regions files in the folders that can hold those of these images, sorted."""
    folders = {image.rpartition(os.sep)[0] for image in images}
    paths = {ignore_path(f"{folder}{os.sep}any") for folder in folders} - {None}
    return sorted(str(file) for path in paths for file in Path(str(path)).parent.glob("*.txt"))


def load_ignore_regions(images: Sequence[str]) -> IgnoreRegions | None:
    """Read the regions of images, in the same order; None if no image has a regions file.

    Args:
        images: normalised paths, as in an `Index`.

    Raises:
        UserError: a file cannot be read or contains something other than regions.
    """
    present = set(list_ignore_files(images))
    wanted = [ignore_path(image) or "" for image in images] if present else []  # usually none
    paths = find_files(wanted)
    parts = {i: _read(Path(path)) for i, path in enumerate(paths) if path in present}
    if not parts:
        return None
    counts = [len(parts.get(i, ())) for i in range(len(images))]
    return IgnoreRegions(
        boxes=np.concatenate(list(parts.values())),
        offsets=np.cumsum([0, *counts], dtype=np.int64),
    )


def _read(path: Path) -> np.ndarray:
    """Read the regions of a file, clipped to the image, without empty ones: float32 [k, 4]."""
    remedy = "write rows `x y w h` of numbers from 0 to 1, or remove the file."
    try:
        with open_regular_file(path) as stream:
            text = stream.read().decode("utf-8-sig")
        rows = [[float(field) for field in line.split()] for line in text.splitlines()]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {remedy}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error
    rows = [row for row in rows if row]
    least, most = -ROUNDING, 1 + ROUNDING
    if any(len(row) != COLUMNS or not all(least <= v <= most for v in row) for row in rows):
        raise UserError(f"{path} is damaged (a row is not four numbers from 0 to 1); {remedy}")
    regions = np.array(rows, np.float32).reshape(-1, COLUMNS)
    # Clip to the image: otherwise regions would extend into the neighbours in a mosaic.
    corners = np.stack([regions[:, :2] - regions[:, 2:] / 2, regions[:, :2] + regions[:, 2:] / 2])
    first, last = inside = corners.clip(0, 1)
    cut = (inside != corners).any((0, 2))
    regions[cut] = np.concatenate([(first + last) / 2, last - first], axis=1)[cut]
    return regions[(regions[:, 2:] > 0).all(1)]
