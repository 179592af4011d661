"""Read CityPersons' MATLAB files with SciPy, in a separate process.

SciPy trusts the sizes in a file, so a damaged file can crash the process that reads it. A crash is
reported like any other damage.
"""

from __future__ import annotations

import multiprocessing
import zlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.errors import UserError

COLUMNS = 10
FIELDS = {"cityname", "im_name", "bbs"}
MAX_PIXELS = 1_000_000
"""Larger than any valid coordinate."""


class MatImage(NamedTuple):
    """An image's entry in the annotations."""

    city: str
    name: str
    rows: list[list[int]]
    """Ten integers per row: class, box, instance and visible box."""


def read_mat(file: Path, split: str) -> list[MatImage]:
    """Read the cell array anno_SPLIT_aligned of a file.

    Raises:
        UserError: the file cannot be read or is damaged, or SciPy is not installed.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(read_mat_here, file, split).result()
    except BrokenProcessPool as error:
        raise UserError(f"{file} is damaged (it crashed the reader); get it again.") from error


def read_mat_here(file: Path, split: str) -> list[MatImage]:
    """Do the work of `read_mat` in this process."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise UserError(
            f"{file} needs SciPy, which is not installed; install it with: pip install scipy"
        ) from error

    variable = f"anno_{split}_aligned"
    # Exceptions that scipy.io raises for damaged files.
    careless = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
    faults = (MatReadError, EOFError, MemoryError, NotImplementedError, OSError, zlib.error)
    try:
        content = loadmat(file, variable_names=[variable], simplify_cells=True)
    except (*faults, *careless) as error:
        raise UserError(f"{file} is damaged ({error}); get it again.") from error
    entries = content.get(variable)
    if isinstance(entries, dict):  # a cell array of one image
        entries = [entries]
    if not isinstance(entries, list | np.ndarray) or not len(entries):
        raise UserError(f"{file} has no cell array {variable}; give CityPersons' own file.")
    return [_image(entry, f"{file}: image {i}") for i, entry in enumerate(entries, 1)]


def _image(entry: Any, origin: str) -> MatImage:  # noqa: ANN401 -- a file can contain anything
    """Validate and convert an entry of the cell array."""
    if not isinstance(entry, dict) or not set(entry) >= FIELDS:
        raise UserError(f"{origin} has no cityname, im_name or bbs; give CityPersons' own file.")
    boxes = entry["bbs"]
    numeric = isinstance(boxes, np.ndarray) and boxes.dtype.kind in "iuf"
    if not numeric or boxes.size % COLUMNS:
        raise UserError(f"{origin}: bbs does not have rows of {COLUMNS} numbers; correct it.")
    if not (np.abs(boxes.astype(np.float64)) <= MAX_PIXELS).all():  # False for NaN
        raise UserError(
            f"{origin}: bbs has a number that is not a coordinate (maximum {MAX_PIXELS}); "
            "correct it."
        )
    # SciPy returns a single row without its first dimension, and no rows as an empty array.
    rows = boxes.reshape(-1, COLUMNS).astype(np.int64)
    return MatImage(str(entry["cityname"]), str(entry["im_name"]), rows.tolist())
