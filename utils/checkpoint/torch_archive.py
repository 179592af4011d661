"""Reads the files of torch.save without torch.load, which trusts the sizes that a file claims.

Every size is checked against the file before memory is allocated, every view against its storage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.checkpoint.pickle_records import GlobalName, PickleRecord, read_records, require_type
from utils.checkpoint.zip_members import PICKLE_MEMBER, read_members
from utils.errors import UserError

MAX_DIMENSIONS = 8
MAX_DEPTH = 32  # nesting levels; options and optimizer have 4
MAX_NODES = 1_000_000  # values and bytes; options, names and optimizer of a YOLOv5n have 1,000
STORAGE_TYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
TENSOR_NAMES = {*STORAGE_TYPES, REBUILD_TENSOR, REBUILD_PARAMETER, "collections.OrderedDict"}
"""Names that a checkpoint of tensors and plain data may reference."""
SET_KINDS = frozenset({"__builtin__.set", "builtins.set"})
PATH_KINDS = frozenset(
    f"{module}.{system}Path"
    for module in ("pathlib", "pathlib._local")
    for system in ("Posix", "Windows")
)
ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
SCALAR_KINDS = frozenset(f"{module}.scalar" for module in ARRAY_MODULES)
ARRAY_KINDS = frozenset(f"{module}._reconstruct" for module in ARRAY_MODULES)
DATA_NAMES = (
    TENSOR_NAMES
    | {"torch.Size", "torch.device", "numpy.dtype", "numpy.ndarray", "_codecs.encode"}
    | SET_KINDS.union(PATH_KINDS, SCALAR_KINDS, ARRAY_KINDS)
)
"""Callables that `TorchArchive.plain` understands; only their arguments are read."""
DTYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})  # plain numbers


class TorchArchive:
    """A torch.save file, read into memory.

    Args:
        path: the file.
        is_allowed: whether its pickle may reference a dotted name.

    Raises:
        UserError: see `zip_members.read_members` and `pickle_records.read_records`.
    """

    def __init__(self, path: Path, is_allowed: Callable[[str], bool]) -> None:
        self._members = read_members(path)
        if self._members.get("byteorder", b"little") != b"little":
            raise UserError(
                f"{path} was written on a big-endian machine; save it again on a little-endian one."
            )
        self.content = read_records(self._members[PICKLE_MEMBER], is_allowed, path)
        """Content of the pickle, with recorded calls."""
        self._elements_left = sum(map(len, self._members.values()))
        self._nodes_left = MAX_NODES
        self._storages: dict[str, Tensor] = {}
        self._tensors: dict[PickleRecord, Tensor] = {}

    def tensor(self, record: object) -> Tensor:
        """Return the tensor or parameter that a record describes, as a view of its storage.

        The same record always returns the same tensor.

        Raises:
            ValueError, TypeError, LookupError: it does not fit its storage, or is not a tensor.
        """
        record = require_type(record, PickleRecord)
        if record.kind == REBUILD_PARAMETER:
            record = require_type(record.arguments[0], PickleRecord)
        if record not in self._tensors:
            if record.kind != REBUILD_TENSOR:
                raise TypeError(f"found {record.kind}, expected a tensor")
            self._tensors[record] = self._view(*record.arguments[:4])
        return self._tensors[record]

    def _view(self, storage: object, offset: object, size: object, stride: object) -> Tensor:
        flat = self._storage(storage)
        start = require_type(offset, int)
        lengths, steps = require_type(size, tuple), require_type(stride, tuple)
        if len(lengths) != len(steps) or len(lengths) > MAX_DIMENSIONS:
            raise ValueError("a tensor's size and stride do not match")
        for number in (start, *lengths, *steps):
            if not 0 <= require_type(number, int) <= max(len(flat), 1):  # an empty one has stride 1
                raise ValueError("a tensor's offset, size or stride is beyond its storage")
        count = math.prod(lengths)
        last = start + sum((n - 1) * step for n, step in zip(lengths, steps, strict=True))
        # With a stride of 0, one element can appear any number of times; hence the limit on count.
        if count > len(flat) or (count and last >= len(flat)):
            raise ValueError("a tensor reaches beyond its storage")
        self._elements_left -= count
        if self._elements_left < 0:
            raise ValueError("the tensors are larger than the file")
        return flat.as_strided(lengths, steps, start)

    def _storage(self, record: object) -> Tensor:
        if not isinstance(record, PickleRecord) or record.kind != "storage":
            raise TypeError("a tensor has no storage")
        tag, kind, key, _, count = record.arguments
        if tag != "storage" or not isinstance(kind, GlobalName) or not isinstance(key, str):
            raise TypeError("a storage is of an unknown kind")
        dtype = STORAGE_TYPES[kind.qualified]
        if key not in self._storages:
            content = self._members.pop(f"data/{key}")
            # frombuffer needs a writable, non-empty buffer; the copy is aligned by torch.
            flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0)
            self._storages[key] = flat.to(dtype, copy=True)
        if self._storages[key].dtype != dtype:
            raise ValueError(f"storage {key} is used with two dtypes")
        if len(self._storages[key]) != count:
            raise ValueError(f"storage {key} does not have {count} elements")
        return self._storages[key]

    def plain(self, value: object, depth: int = 0) -> object:
        """Return a part of the content as numbers, strings, lists, tuples, dicts and tensors.

        Args:
            value: the part.
            depth: its nesting level.

        Raises:
            ValueError, TypeError, LookupError: it is anything else, or all parts together exceed
                the limits: with shared objects and cycles, a few bytes can expand without bound.
        """
        self._charge(1)
        if depth > MAX_DEPTH:
            raise ValueError("its data is nested too deeply")
        if isinstance(value, dict):
            return {key: self.plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.plain(item, depth + 1) for item in value)
        if isinstance(value, PickleRecord):
            return self._plain_record(value, depth)
        if isinstance(value, GlobalName):
            raise TypeError(f"found {value.qualified}, expected data")
        return value

    def _plain_record(self, record: PickleRecord, depth: int) -> object:
        arguments = record.arguments
        if record.kind in {REBUILD_TENSOR, REBUILD_PARAMETER}:
            return self.tensor(record)
        if record.kind in PATH_KINDS:
            separator = "\\" if "Windows" in record.kind else "/"
            parts = [require_type(part, str) for part in arguments]
            self._charge(sum(map(len, parts)))
            return separator.join(parts).replace(separator * 2, separator)
        if record.kind in {"torch.Size", "torch.device"} | SET_KINDS:
            return self.plain(arguments[0], depth + 1)
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
