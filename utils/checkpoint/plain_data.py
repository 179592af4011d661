"""Plain data out of the records of a pickle: our whole file, or the options of an upstream one."""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.checkpoint.pickle_records import Name, Record, require_type
from utils.checkpoint.torch_archive import PARAMETER, TENSOR, TorchArchive

PATH_KINDS = frozenset(
    f"{module}.{flavour}{system}Path"
    for module in ("pathlib", "pathlib._local")
    for flavour in ("", "Pure")
    for system in ("", "Posix", "Windows")
)
SCALAR_KINDS = frozenset({"numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"})
ARRAY_KINDS = frozenset(
    {"numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct"}
)
DATA_KINDS = (
    {"torch.Size", "torch.device", "numpy.dtype", "numpy.ndarray", "_codecs.encode"}
    | {TENSOR, PARAMETER}
    | PATH_KINDS
    | SCALAR_KINDS
    | ARRAY_KINDS
)
"""What plain data may be made of; of each only the arguments are read."""
DTYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})  # plain numbers
MAX_DEPTH = 32  # nesting; options and optimizer have 4 levels
MAX_NODES = 200_000  # the options, names and optimizer of a YOLOv5n come to about 1 000


class PlainData:
    """Turns records into plain Python: numbers, text, lists, dicts; tensors stay tensors.

    Calling it raises ValueError, TypeError or LookupError for what is no such data, or is nested
    without end: shared parts and cycles could make a few bytes as large as one likes.

    Args:
        archive: the file.
        most_nodes: how many values and bytes all data may unfold to.
        tuples: what a tuple becomes.
    """

    def __init__(
        self,
        archive: TorchArchive,
        most_nodes: int = MAX_NODES,
        tuples: type[list[Any]] | type[tuple[Any, ...]] = list,
    ) -> None:
        self._archive = archive
        self._nodes_left = most_nodes
        self._tuples = tuples

    def __call__(self, value: object, depth: int = 0) -> object:
        """The value as plain data; `depth` is how far down in a larger one it is."""
        self._charge(1)
        if depth > MAX_DEPTH:
            raise ValueError("its data is nested without end")
        if isinstance(value, dict):
            return {key: self(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self(item, depth + 1) for item in value]
        if isinstance(value, tuple):
            return self._tuples(self(item, depth + 1) for item in value)
        if isinstance(value, set):
            return sorted(value)
        if isinstance(value, Record):
            return self._from_record(value, depth)
        if isinstance(value, Name):
            raise TypeError(f"{value.qualified} where data is due")
        return value

    def _from_record(self, record: Record, depth: int) -> object:
        arguments = record.arguments
        if record.kind in {TENSOR, PARAMETER}:
            return self._archive.tensor(record)
        if record.kind in PATH_KINDS:
            separator = "\\" if "Windows" in record.kind else "/"
            parts = [require_type(part, str) for part in arguments]
            self._charge(sum(map(len, parts)))
            return separator.join(parts).replace(separator * 2, separator)
        if record.kind in {"torch.Size", "torch.device"}:
            return self(arguments[0], depth + 1)
        if record.kind in SCALAR_KINDS:
            return self._array(arguments[1], arguments[0]).item()
        if record.kind in ARRAY_KINDS:
            _, shape, dtype, _, octets = record.state
            lengths = [require_type(length, int) for length in require_type(shape, tuple)]
            if len(lengths) > 1 and min(lengths) < 1:  # (a billion, 0) is empty, its list is not
                raise ValueError("an empty array of many dimensions")
            return self._array(octets, dtype).reshape(lengths).tolist()
        raise TypeError(f"{record.kind} where data is due")

    def _array(self, value: object, dtype: object) -> np.ndarray:
        octets = _octets(value)
        self._charge(len(octets))
        return np.frombuffer(octets, _dtype(dtype))

    def _charge(self, cost: int) -> None:
        self._nodes_left -= cost
        if self._nodes_left < 0:
            raise ValueError("its data unfolds to more than any checkpoint holds")


def _octets(value: object) -> bytes:
    """Bytes, which protocol 2 writes as a call of `_codecs.encode(text, "latin1")`."""
    if isinstance(value, Record) and value.kind == "_codecs.encode":
        text, coding = value.arguments
        if coding == "latin1" and isinstance(text, str):
            return text.encode("latin1")
    if isinstance(value, bytes):
        return value
    raise TypeError("numbers without their bytes")


def _dtype(value: object) -> np.dtype[Any]:
    record = require_type(value, Record)
    code, order = require_type(record.arguments[0], str), require_type(record.state[1], str)
    if record.kind != "numpy.dtype" or code not in DTYPES or order not in {"<", ">", "|", "="}:
        raise TypeError("numbers of an unknown type")
    return np.dtype(order + code)
