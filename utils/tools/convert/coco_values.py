"""Values in the entries of COCO files, in the types that tools write: numbers, text, nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from utils.errors import UserError
from utils.tools.convert.annotated import MAX_PIXELS, Corners

BOX_COLUMNS = 4
FALSE = frozenset({"", "0", "0.0", "false", "none"})
Id = int | str
Entry = dict[str, object]
"""A JSON object that is not validated yet."""


def is_crowd(entry: Entry) -> bool:
    """Whether an annotation is marked as a crowd; the mark may be text."""
    return str(entry.get("iscrowd", 0)).strip().lower() not in FALSE


def read_box(entry: Entry, origin: str, notes: Counter[str]) -> Corners:
    """Return the box of an annotation, from its polygons or mask if it has none; count these.

    Raises:
        UserError: there is neither, or a number is invalid.
    """
    values = entry.get("bbox")
    if not values and entry.get("segmentation"):
        notes["boxes are missing; they are those of the polygons or masks"] += 1
        return _outline_box(entry["segmentation"], origin)
    numbers = _numbers(values)
    if len(numbers) != BOX_COLUMNS:
        raise UserError(
            f"{origin} has bbox {values!r:.80}; it must be four numbers of at most {MAX_PIXELS}."
        )
    left, top, width, height = numbers
    return Corners(left, top, left + width, top + height)


def _outline_box(outline: object, origin: str) -> Corners:
    """Return the box of polygons, lists of x1, y1, x2, y2 …, or of a run-length encoded mask."""
    if isinstance(outline, dict):
        return _mask_box(outline, origin)
    polygons = outline if isinstance(outline, list) else []
    polygons = polygons if polygons and isinstance(polygons[0], list) else [polygons]
    points = [_numbers(polygon) for polygon in polygons]
    x, y = ([v for polygon in points for v in polygon[axis::2]] for axis in (0, 1))
    if not x or any(not polygon or len(polygon) % 2 for polygon in points):
        raise UserError(f"{origin} has neither a bbox nor polygons of numbers; add a bbox.")
    return Corners(min(x), min(y), max(x), max(y))


def _mask_box(mask: Mapping[str, object], origin: str) -> Corners:
    try:
        from faster_coco_eval.core.mask import frPyObjects, toBbox
    except ImportError as error:
        raise UserError(
            f"{origin} has a mask and no bbox; to read it: pip install faster-coco-eval"
        ) from error
    try:
        size: Any = mask["size"]
        if isinstance(mask["counts"], list):
            mask = frPyObjects(mask, *size)
        left, top, width, height = map(float, toBbox(mask))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{origin} has a damaged mask and no bbox; add a bbox.") from error
    return Corners(left, top, left + width, top + height)


def _numbers(values: object) -> list[float]:
    """Return a list of numbers, which may be written as text; empty if one of them is invalid."""
    numbers = [_number(value) for value in values] if isinstance(values, list) else []
    return [number for number in numbers if number is not None] if None not in numbers else []


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) <= MAX_PIXELS else None  # None for NaN


def read_side(value: object) -> int:
    """Return a side of an image, px; 0 if it is missing or invalid."""
    return max(int(_number(value) or 0), 0)


def read_id(entry: Entry, key: str, origin: str, notes: Counter[str] | None = None) -> Id:
    """Return an id: 7, 7.0 and "7" are the same."""
    value = entry.get(key)
    if notes is not None and not isinstance(value, int):
        notes["ids of images or categories are not integers"] += 1
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value:
        return int(value) if value.isdecimal() and str(int(value)) == value else value
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{origin} has {key} {value!r:.80}; it must be a number or text.")
    return value
