"""Label files: one row `class x y w h` (centre format, fractions of the image) per object.

Rows of 7 or more columns are polygons, `class x1 y1 x2 y2 …`, and stand for their bounding box.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.files.regular_file import open_regular

BOX_COLUMNS = 5
MIN_POLYGON_COLUMNS = 7  # class and three points
IMAGE_FOLDER = "images"
LABEL_FOLDER = "labels"
MAX_BYTES = 8 << 20
"""Of a label file: 80 for each of the most rows, of which a box takes 40 or fewer."""
MAX_ROWS = 100_000
"""Many times what can be seen in an image; a longer file is a mistake that would take minutes."""
MAX_CLASS = 1 << 24
"""Up to here float32, in which rows are kept, holds every whole number."""


class LabelError(ValueError):
    """Why a label file cannot be used."""


class ParsedLabels(NamedTuple):
    """The rows of a label file, and what was repaired in reading them."""

    rows: np.ndarray
    """float32 [k, 5]: class, cx, cy, w, h, normalised."""
    notes: tuple[str, ...]


class _Box(NamedTuple):
    """One row, in the order of the columns."""

    label: float
    centre_x: float
    centre_y: float
    width: float
    height: float


def label_path(image: str | Path) -> Path:
    """The label file of an image: the last folder `images` becomes `labels`, the suffix `.txt`."""
    image = Path(image)
    return Path(_label_folder(str(image.parent)), f"{image.stem}.txt")


def find_labels(images: Sequence[str]) -> list[str]:
    """The label file of each image; it need not exist.

    Where none has the very name that `label_path` tells, but one does apart from upper and lower
    case, and no other image has a claim on it, that one is taken: so it is on the file systems that
    do not distinguish case, and a data set is to give the same training on all of them.
    """
    wanted = [_label_file(image) for image in images]
    folders = {path.rpartition(os.sep)[0] for path in wanted}
    present = {f"{folder}{os.sep}{name}" for folder in folders for name in _names_in(folder)}
    unclaimed = sorted(present.difference(wanted), reverse=True)  # the first stays of several
    by_any_case = {_any_case(path): path for path in unclaimed}
    return [p if p in present else by_any_case.get(_any_case(p), p) for p in wanted]


@lru_cache(maxsize=1024)
def _label_folder(folder: str) -> str:
    folders = list(Path(folder).parts)
    if IMAGE_FOLDER in folders:
        last = len(folders) - 1 - folders[::-1].index(IMAGE_FOLDER)
        folders[last] = LABEL_FOLDER
    return str(Path(*folders))


def _label_file(image: str) -> str:
    """`label_path` of a normalised path, without taking a whole data set's paths into parts."""
    folder, _, name = image.rpartition(os.sep)
    stem = name.rpartition(".")[0] or name
    return f"{_label_folder(folder)}{os.sep}{stem}.txt"


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 -- Path would make an object of each name
    except OSError:  # no such folder, or none that may be read: no labels
        return []


def _any_case(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition(os.sep)
    return folder, name.casefold()


def read_labels(path: str | Path) -> ParsedLabels:
    """Read a label file; see `parse_labels`.

    Raises:
        OSError: it is not there or cannot be read.
        LabelError: it is too large, is not UTF-8, or has a row that is refused.
    """
    with open_regular(path) as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise LabelError(f"it has more than {MAX_BYTES >> 20} MiB, too much for one image")
    try:
        return parse_labels(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise LabelError(f"it is not UTF-8 text ({error.reason} at byte {error.start})") from error


def parse_labels(text: str) -> ParsedLabels:
    """Read the rows of a label file; duplicates and boxes without area are taken out.

    Raises:
        LabelError: too many rows, a row that is neither a box nor a polygon, a value that is no
            number, a class that is no index, or a coordinate outside 0 … 1.
    """
    lines = text.splitlines()
    if len(lines) > MAX_ROWS:
        raise LabelError(f"it has {len(lines)} rows; {MAX_ROWS} are the most for one image")
    rows = ((number, line.split()) for number, line in enumerate(lines, 1))
    boxes = [_parse_row(fields, number) for number, fields in rows if fields]
    with_area = [box for box in boxes if box.width > 0 and box.height > 0]
    distinct = list(dict.fromkeys(with_area))
    notes = []
    if len(with_area) < len(boxes):
        notes.append(f"{len(boxes) - len(with_area)} box(es) without area removed")
    if len(distinct) < len(with_area):
        notes.append(f"{len(with_area) - len(distinct)} duplicate row(s) removed")
    return ParsedLabels(np.array(distinct, np.float32).reshape(-1, BOX_COLUMNS), tuple(notes))


def _parse_row(fields: list[str], number: int) -> _Box:
    """One row; `number` counts from 1 and is for the message."""
    is_polygon = len(fields) >= MIN_POLYGON_COLUMNS and len(fields) % 2 == 1
    if len(fields) != BOX_COLUMNS and not is_polygon:
        raise LabelError(
            f"row {number} has {len(fields)} columns; a box has 5, a polygon an odd number from 7"
        )
    try:
        values = [float(field) for field in fields]
    except ValueError as error:
        raise LabelError(f"row {number} is not made of numbers") from error
    if not all(map(math.isfinite, values)):
        raise LabelError(f"row {number} holds a value that is not finite")
    label, *coordinates = values
    if not 0 <= label < MAX_CLASS or label != int(label):
        raise LabelError(f"row {number} has class {fields[0]}; classes are 0, 1, 2 …")
    if min(coordinates) < 0 or max(coordinates) > 1:
        raise LabelError(f"row {number} has a coordinate outside 0 … 1")
    return _Box(label, *(_bounding_box(coordinates) if is_polygon else coordinates))


def _bounding_box(points: list[float]) -> list[float]:
    """The box cx, cy, w, h around a polygon given as x1, y1, x2, y2 and so on."""
    left, right = min(points[0::2]), max(points[0::2])
    top, bottom = min(points[1::2]), max(points[1::2])
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def to_pixels(
    labels: np.ndarray, size: tuple[float, float], offset: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Place normalised boxes on a canvas.

    Args:
        labels: [k, 5], class and cx, cy, w, h as fractions of the image.
        size: (height, width) of the image on the canvas, px.
        offset: (left, top) of the image on the canvas, px.

    Returns:
        float64 [k, 4], corners x1, y1, x2, y2 in px of the canvas.
    """
    scale = np.array([size[1], size[0]])
    centres = labels[:, 1:3] * scale + offset  # [k, 2]
    half = labels[:, 3:5] * (scale / 2)  # [k, 2]
    return np.concatenate([centres - half, centres + half], axis=1)


def from_pixels(classes: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The reverse of `to_pixels` on a whole canvas of `size` (height, width).

    Args:
        classes: [k].
        boxes: [k, 4], corners in px.
        size: (height, width) of the canvas.

    Returns:
        float32 [k, 5], class, cx, cy, w, h, normalised.
    """
    scale = np.array([size[1], size[0]])
    labels = np.empty((len(boxes), BOX_COLUMNS), np.float32)
    labels[:, 0] = classes
    labels[:, 1:3] = (boxes[:, :2] + boxes[:, 2:]) / (2 * scale)
    labels[:, 3:5] = (boxes[:, 2:] - boxes[:, :2]) / scale
    return labels
