"""Label files: one row `class x y w h` (centre format, fractions of the image) per object.

Rows with 7 or more columns are polygons, `class x1 y1 x2 y2 …`, and are read as their bounding box.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.datasets.matching import find_files
from utils.files.regular_file import open_regular_file

log = logging.getLogger("yolo")

BOX_COLUMNS = 5
MIN_POLYGON_COLUMNS = 7  # class and three points
IMAGE_FOLDER = "images"
LABEL_FOLDER = "labels"
MAX_BYTES = 8 << 20
"""Maximum size of a label file: 80 bytes for each of `MAX_ROWS` rows; a box needs 40 or fewer."""
MAX_ROWS = 100_000
"""Far more objects than an image can show; a longer file is a mistake and would take minutes."""
ROUNDING = 1e-5
"""By so much a value of a box may be outside 0 to 1; tools write five or more digits."""
POLYGON_TOLERANCE = 0.1
"""Likewise for the bounding box of a polygon: an outline may leave the image, and is cut off."""
PIXELS = 2
"""A coordinate above this is a pixel, not a fraction of the image with an error."""
MAX_CLASS = 1 << 24
"""Rows are stored as float32, which represents every integer up to this one."""


class LabelError(ValueError):
    """A label file is unusable; the message is the reason."""


class ParsedLabels(NamedTuple):
    """The rows of a label file, and notes about repairs."""

    rows: np.ndarray
    """float32 [k, 5]: class, cx, cy, w, h, normalised."""
    notes: tuple[str, ...]


class _Box(NamedTuple):
    """One row; the fields are in the order of the columns."""

    label: float
    centre_x: float
    centre_y: float
    width: float
    height: float


def label_path(image: str) -> str:
    """Return an image's label file: the last folder `images` becomes `labels`, the suffix .txt.

    Args:
        image: an absolute path. It is handled as text, because a `Path` per file costs seconds.
    """
    renamed = rename_last_folder(image, IMAGE_FOLDER, LABEL_FOLDER) or image
    folder, _, name = renamed.rpartition(os.sep)
    return f"{folder}{os.sep}{name.rpartition('.')[0] or name}.txt"


def rename_last_folder(file: str, old: str, new: str) -> str | None:
    """Return an absolute path with its last folder `old` renamed; None if it has no such folder."""
    before, found, after = file.rpartition(f"{os.sep}{old}{os.sep}")
    return f"{before}{os.sep}{new}{os.sep}{after}" if found else None


def find_labels(images: Sequence[str]) -> list[str]:
    """Return the label file of each image; it may not exist.

    If the file named by `label_path` does not exist, one of an equal name is used (see `matching`),
    unless it belongs to another image. For a folder like `Images`, that may be in `Labels`.
    """
    folders = {image.rpartition(os.sep)[0] for image in images}
    beside = [folder for folder in folders if _label_folder(folder) == folder]
    renamed = ((folder, _labels_like(folder)) for folder in sorted(beside))
    others = [(folder, other) for folder, other in renamed if other is not None]
    return find_files([label_path(image) for image in images], others)


def _label_folder(folder: str) -> str:
    return label_path(f"{folder}{os.sep}any").rpartition(os.sep)[0]


def _labels_like(folder: str) -> str | None:
    """Return a folder with its last part like `images` renamed to `labels`, in any case."""
    parts = Path(folder).parts
    at = [i for i, part in enumerate(parts) if part.casefold() == IMAGE_FOLDER]
    return str(Path(*parts[: at[-1]], LABEL_FOLDER, *parts[at[-1] + 1 :])) if at else None


def log_shared_labels(images: Sequence[str], labels: Sequence[str]) -> None:
    """Log how many label files are used by several images, such as a.jpg and a.png."""
    if len(set(labels)) == len(set(images)):
        return
    users: dict[str, set[str]] = {}
    for image, label in zip(images, labels, strict=True):
        users.setdefault(label, set()).add(image)
    shared = [label for label, found in users.items() if len(found) > 1 and Path(label).is_file()]
    if shared:
        names = ", ".join(sorted(Path(image).name for image in users[shared[0]]))
        log.warning(
            "Label files that are used by several images: %d, for example %s for %s; rename or "
            "remove images.",
            *(len(shared), shared[0], names),
        )


def read_labels(path: str) -> ParsedLabels:
    """Read a label file; see `parse_labels`. Without a file, of a background image, no rows.

    Raises:
        LabelError: the file cannot be read, is too large, is not UTF-8, or has an invalid row.
    """
    try:
        with open_regular_file(path) as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        if Path(path).is_symlink():
            raise LabelError("it is a link to a file that does not exist") from error
        return parse_labels("")
    except OSError as error:
        raise LabelError(f"it cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise LabelError(f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        return parse_labels(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise LabelError(f"it is not UTF-8 text ({error.reason} at byte {error.start})") from error


def parse_labels(text: str) -> ParsedLabels:
    """Parse the rows of a label file; remove duplicate rows and boxes without area.

    Coordinates are limited to 0 to 1: of a box those that differ by rounding, of a polygon all.

    Raises:
        LabelError: there are too many rows, a row is neither a box nor a polygon, a value is not a
            number, a class is not an index, or a box has a value outside 0 to 1.
    """
    lines = text.splitlines()
    if len(lines) > MAX_ROWS:
        raise LabelError(f"it has {len(lines)} lines; the maximum is {MAX_ROWS}")
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
    """Parse one row; `number` is its line number, from 1, for messages."""
    is_polygon = len(fields) >= MIN_POLYGON_COLUMNS and len(fields) % 2 == 1
    if len(fields) != BOX_COLUMNS and not is_polygon:
        raise LabelError(
            f"line {number} has {len(fields)} columns; a box has 5, a polygon an odd number from 7"
            + _columns_remedy(fields)
        )
    values = [_number(field, number) for field in fields]
    if not all(map(math.isfinite, values)):
        raise LabelError(f"line {number} has a value that is not finite")
    label, *coordinates = values
    if not 0 <= label < MAX_CLASS or label != int(label):
        raise LabelError(f"line {number} has class {fields[0]}; classes are 0, 1, 2 …")
    box = _bounding_box(coordinates) if is_polygon else coordinates
    tolerance = POLYGON_TOLERANCE if is_polygon else ROUNDING
    if min(box) < -tolerance or max(box) > 1 + tolerance:
        raise LabelError(f"line {number} has a coordinate outside 0 to 1{_remedy(box)}")
    if is_polygon:
        return _Box(label, *_bounding_box(_limited(coordinates)))
    return _Box(label, *_limited(coordinates))


def _number(field: str, number: int) -> float:
    try:
        return float(field)
    except ValueError as error:
        remedy = (
            "write decimal points"
            if "," in field
            else "write the class as its index in the list of names, 0, 1, 2 …, and the box in "
            "fractions of the image"
        )
        message = f"line {number} has a value that is not a number, {field!r:.40}; {remedy}"
        raise LabelError(message) from error


def _columns_remedy(fields: list[str]) -> str:
    if len(fields) == BOX_COLUMNS + 1:
        return "; if the last one is a confidence, as --save-conf writes, remove it"
    return "; separate the columns by spaces" if len(fields) == 1 else ""


def _remedy(box: list[float]) -> str:
    """Return what to do about a coordinate outside 0 to 1."""
    if max(box) <= PIXELS:
        return "; correct it"
    return (
        " and looks like pixels; divide x and width by the width of the image, y and height by its "
        "height"
    )


def _limited(values: list[float]) -> list[float]:
    return [min(max(value, 0.0), 1.0) for value in values]


def _bounding_box(points: list[float]) -> list[float]:
    """Return the bounding box cx, cy, w, h of a polygon (x1, y1, x2, y2, …)."""
    left, right = min(points[0::2]), max(points[0::2])
    top, bottom = min(points[1::2]), max(points[1::2])
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def to_pixels(
    labels: np.ndarray, size: tuple[float, float], offset: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Convert labels to boxes on a canvas: float64 [k, 4], corners x1, y1, x2, y2, px.

    Args:
        labels: [k, 5], class and cx, cy, w, h, normalised to the image.
        size: (height, width) of the image on the canvas, px.
        offset: (left, top) of the image on the canvas, px.
    """
    scale = np.array([size[1], size[0]])
    centres = labels[:, 1:3] * scale + offset  # [k, 2]
    half = labels[:, 3:5] * (scale / 2)  # [k, 2]
    return np.concatenate([centres - half, centres + half], axis=1)


def from_pixels(classes: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Convert boxes to labels, the inverse of `to_pixels`.

    Args:
        classes: [k].
        boxes: [k, 4], corners x1, y1, x2, y2, px.
        size: (height, width) of the canvas, px.

    Returns:
        float32 [k, 5], class, cx, cy, w, h, normalised to the canvas.
    """
    scale = np.array([size[1], size[0]])
    labels = np.empty((len(boxes), BOX_COLUMNS), np.float32)
    labels[:, 0] = classes
    labels[:, 1:3] = (boxes[:, :2] + boxes[:, 2:]) / (2 * scale)
    labels[:, 3:5] = (boxes[:, 2:] - boxes[:, :2]) / scale
    return labels
