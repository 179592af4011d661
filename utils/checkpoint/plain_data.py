"""Converts pickle records to plain data: a whole file of ours, or an upstream file's options."""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.checkpoint.pickle_records import GlobalName, PickleRecord, require_type
from utils.checkpoint.torch_archive import REBUILD_PARAMETER, REBUILD_TENSOR, TorchArchive

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
    | {REBUILD_TENSOR, REBUILD_PARAMETER}
    | PATH_KINDS
    | SCALAR_KINDS
    | ARRAY_KINDS
)
"""Callables that plain data may reference; only their arguments are read, nothing is called."""
DTYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})  # plain numbers
MAX_DEPTH = 32  # nesting levels; options and optimizer have 4
MAX_NODES = 200_000  # options, names and optimizer of a YOLOv5n have about 1,000


class PlainData:
    """Converts records to plain Python: numbers, strings, lists, dicts; tensors stay tensors.

    A call raises ValueError, TypeError or LookupError if the value is anything else, or exceeds the
    limits: with shared objects and cycles, a few bytes can expand without bound.

    Args:
        archive: the file that holds the tensors.
        max_nodes: limit of values and bytes, over all calls.
        tuples: type that tuples are converted to.
    """

    def __init__(
        self,
        archive: TorchArchive,
        max_nodes: int = MAX_NODES,
        tuples: type[list[Any]] | type[tuple[Any, ...]] = list,
    ) -> None:
        self._archive = archive
        self._nodes_left = max_nodes
        self._tuples = tuples

    def __call__(self, value: object, depth: int = 0) -> object:
        """Return the value as plain data; `depth` is its nesting level."""
        self._charge(1)
        if depth > MAX_DEPTH:
            raise ValueError("its data is nested too deeply")
        if isinstance(value, dict):
            return {key: self(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self(item, depth + 1) for item in value]
        if isinstance(value, tuple):
            return self._tuples(self(item, depth + 1) for item in value)
        if isinstance(value, set):
            return sorted(value)
        if isinstance(value, PickleRecord):
            return self._from_record(value, depth)
        if isinstance(value, GlobalName):
            raise TypeError(f"found {value.qualified}, expected data")
        return value

    def _from_record(self, record: PickleRecord, depth: int) -> object:
        arguments = record.arguments
        if record.kind in {REBUILD_TENSOR, REBUILD_PARAMETER}:
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
            if len(lengths) > 1 and min(lengths) < 1:  # shape (10**9, 0): no data, but a huge list
                raise ValueError("an empty array has more than one dimension")
            return self._array(octets, dtype).reshape(lengths).tolist()
        raise TypeError(f"found {record.kind}, expected data")

    def _array(self, value: object, dtype: object) -> np.ndarray:
        octets = _to_bytes(value)
        self._charge(len(octets))
        return np.frombuffer(octets, _dtype(dtype))

    def _charge(self, cost: int) -> None:
        self._nodes_left -= cost
        if self._nodes_left < 0:
            raise ValueError("its data expands to more values than any checkpoint has")


def _to_bytes(value: object) -> bytes:
    """Return bytes; protocol 2 writes them as a call of `_codecs.encode(text, "latin1")`."""
    if isinstance(value, PickleRecord) and value.kind == "_codecs.encode":
        text, coding = value.arguments
        if coding == "latin1" and isinstance(text, str):
            return text.encode("latin1")
    if isinstance(value, bytes):
        return value
    raise TypeError("an array has no bytes")


def _dtype(value: object) -> np.dtype[Any]:
    record = require_type(value, PickleRecord)
    code, order = require_type(record.arguments[0], str), require_type(record.state[1], str)
    if record.kind != "numpy.dtype" or code not in DTYPES or order not in {"<", ">", "|", "="}:
        raise TypeError("an array has an unsupported dtype")
    return np.dtype(order + code)
