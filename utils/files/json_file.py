"""Read the JSON files of benchmark data sets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.files.regular_file import open_regular_file

JsonObject = dict[str, Any]
"""A JSON object of unknown content; readers check the keys they use."""

MAX_INTEGER = 2.0**53
"""float64 represents every integer below this one; image ids are integers."""


def read_json(path: Path) -> Any:  # noqa: ANN401 -- a file can contain anything
    """Read a JSON file.

    Raises:
        UserError: the file cannot be read or is not JSON.
    """
    try:
        with open_regular_file(path) as stream:
            return json.loads(stream.read())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a JSON file.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); give a JSON file.") from error


def number_column(rows: Sequence[JsonObject], key: str, origin: str, width: int = 0) -> np.ndarray:
    """Return one field of all rows as an array.

    Args:
        rows: objects of a JSON file.
        key: name of the field, which each row must have.
        origin: the file and the list, for messages.
        width: length of the field if it is a list of numbers; 0 for a single number.

    Returns:
        float64 [rows], or [rows, width].

    Raises:
        UserError: a row has no such field, or it is not finite numbers; names the first such row.
    """
    values = _finite_numbers(rows, key, width)
    if values is not None:
        return values
    bad = next(i for i, row in enumerate(rows) if _finite_numbers([row], key, width) is None)
    if not isinstance(rows[bad], dict) or key not in rows[bad]:
        raise UserError(f"{origin}[{bad}] has no {key!r}; every entry must have it.")
    kind = f"a list of {width} finite numbers" if width else "a finite number"
    found = shortened(rows[bad][key])
    raise UserError(f"{origin}[{bad}] has {key!r} {found}; it must be {kind}.")


def _finite_numbers(rows: Sequence[JsonObject], key: str, width: int) -> np.ndarray | None:
    """Return one field of all rows; None if a row does not have it as finite numbers."""
    shape = (len(rows), width) if width else (len(rows),)
    if not rows:
        return np.empty(shape)
    try:
        values = np.array([row[key] for row in rows])
    except (KeyError, TypeError, ValueError):
        return None
    if values.shape != shape or values.dtype.kind not in "iufb":
        return None
    values = values.astype(np.float64)
    return values if (np.abs(values) < MAX_INTEGER).all() else None
