"""Reading CityPersons' MATLAB files with SciPy, in a process of its own.

SciPy's reader trusts the sizes that are written in a file: a damaged one can end the process that
reads it, which is then told like any other fault.
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
"""Beyond any coordinate."""


class MatImage(NamedTuple):
    """An image's entry in the annotations."""

    city: str
    name: str
    rows: list[list[int]]
    """Ten whole numbers each: class, box, instance and visible box."""


def read_mat(file: Path, split: str) -> list[MatImage]:
    """Read the cell array anno_SPLIT_aligned.

    Raises:
        UserError: the file cannot be read or holds something else, or SciPy is missing.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(read_mat_here, file, split).result()
    except BrokenProcessPool as error:
        raise UserError(f"{file} is damaged: reading it ended the reader; get it anew.") from error


def read_mat_here(file: Path, split: str) -> list[MatImage]:
    """`read_mat` in this process."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise UserError(
            f"reading {file.name} needs SciPy, which is not installed: pip install scipy"
        ) from error

    variable = f"anno_{split}_aligned"
    # What scipy.io is known to raise on damaged files.
    careless = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
    faults = (MatReadError, EOFError, MemoryError, NotImplementedError, OSError, zlib.error)
    try:
        content = loadmat(file, variable_names=[variable], simplify_cells=True)
    except (*faults, *careless) as error:
        raise UserError(f"{file} is not a readable .mat file ({error}); get it anew.") from error
    entries = content.get(variable)
    if isinstance(entries, dict):  # a cell array of one image
        entries = [entries]
    if not isinstance(entries, list | np.ndarray) or not len(entries):
        raise UserError(f"{file} has no cell array {variable}; give CityPersons' own file.")
    return [_image(entry, f"{file}: image {i}") for i, entry in enumerate(entries, 1)]


def _image(entry: Any, origin: str) -> MatImage:  # noqa: ANN401 -- whatever is in the file
    """An entry of the cell array, checked."""
    if not isinstance(entry, dict) or not set(entry) >= FIELDS:
        raise UserError(f"{origin} lacks cityname, im_name or bbs; give CityPersons' own file.")
    boxes = entry["bbs"]
    numeric = isinstance(boxes, np.ndarray) and boxes.dtype.kind in "iuf"
    if not numeric or boxes.size % COLUMNS:
        raise UserError(f"{origin}: bbs is not made of rows of {COLUMNS} numbers; correct it.")
    if not (np.abs(boxes.astype(np.float64)) <= MAX_PIXELS).all():  # false of what is no number
        raise UserError(f"{origin}: bbs holds numbers that are no pixels; correct it.")
    # A single row comes without its first dimension, and no row as an array without size.
    rows = boxes.reshape(-1, COLUMNS).astype(np.int64)
    return MatImage(str(entry["cityname"]), str(entry["im_name"]), rows.tolist())
