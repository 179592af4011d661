"""Reading the JSON files of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files.regular_file import open_regular

JsonObject = dict[str, Any]
"""Whatever a file holds; its readers check what they use."""

LIMIT = 2.0**53
"""Up to here float64 holds every whole number, image ids among them."""


def read_json(path: Path) -> Any:  # noqa: ANN401 -- whatever is in the file
    """The content of a JSON file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open_regular(path) as stream:
            return json.loads(stream.read())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give a JSON file.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); make it anew.") from error


def number_column(rows: Sequence[JsonObject], key: str, origin: str, width: int = 0) -> np.ndarray:
    """One field of every row, as numbers.

    Args:
        rows: from a JSON file.
        key: the field's name; each row must have it.
        origin: the file and list, for messages.
        width: numbers in each field; 0 for a plain number.

    Returns:
        float64 [rows], or [rows, width].

    Raises:
        UserError: a row lacks the field, or it is something else; the first such row is named.
    """
    shape = (len(rows), width) if width else (len(rows),)
    if not rows:
        return np.empty(shape)
    try:
        values = np.array([row[key] for row in rows])
        numeric = values.shape == shape and values.dtype.kind in "iufb"
        if numeric and (np.abs(values.astype(np.float64)) < LIMIT).all():
            return values.astype(np.float64)
    except (KeyError, TypeError, ValueError):
        pass  # which row it was is found below
    bad = next(i for i, row in enumerate(rows) if not _fits(row, key, width))
    if not isinstance(rows[bad], dict) or key not in rows[bad]:
        raise UserError(f"{origin}[{bad}] has no {key!r}; every entry must have it.")
    kind = f"a list of {width} finite numbers" if width else "a finite number"
    found = shortened(rows[bad][key])
    raise UserError(f"{origin}[{bad}] has {key!r} {found}; it must be {kind}.")


def _fits(row: object, key: str, width: int) -> bool:
    value = row.get(key) if isinstance(row, dict) else None
    if not width:
        return _is_number(value)
    return isinstance(value, list) and len(value) == width and all(map(_is_number, value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < LIMIT
