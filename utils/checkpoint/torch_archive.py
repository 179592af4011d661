"""Reads the files of torch.save without torch.load.

Every size is checked against the file before memory is allocated, every view against its storage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from utils.checkpoint.pickle_records import GlobalName, PickleRecord, read_records, require_type
from utils.checkpoint.zip_members import PICKLE_MEMBER, read_members
from utils.errors import UserError

MAX_DIMENSIONS = 8
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


class TorchArchive:
    """A torch.save file, read into memory.

    Args:
        path: the file.

    Raises:
        UserError: see `zip_members.read_members`.
    """

    def __init__(self, path: Path) -> None:
        self._members = read_members(path)
        self.path = path
        self._elements_left = sum(map(len, self._members.values()))
        self._storages: dict[str, Tensor] = {}
        self._tensors: dict[PickleRecord, Tensor] = {}

    def records(self, check_name: Callable[[str], None]) -> object:
        """Return the content of the pickle, with recorded calls; see `read_records`."""
        if self._members.get("byteorder", b"little") != b"little":
            raise UserError(
                f"{self.path} was written on a big-endian machine; "
                "save it again on a little-endian one."
            )
        try:
            return read_records(self._members[PICKLE_MEMBER], check_name)
        except UserError as error:
            raise UserError(f"{self.path} {error}") from error

    def tensor(self, record: PickleRecord) -> Tensor:
        """Return the tensor or parameter that a record describes, as a view of its storage.

        The same record always returns the same tensor.

        Raises:
            ValueError, TypeError, LookupError: it does not fit its storage, or is not a tensor.
        """
        require_type(record, PickleRecord)
        if record not in self._tensors:
            if record.kind == REBUILD_PARAMETER:
                return self.tensor(_inner(record))
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


def _inner(parameter: PickleRecord) -> PickleRecord:
    inner = parameter.arguments[0]
    if not isinstance(inner, PickleRecord) or inner.kind != REBUILD_TENSOR:
        raise TypeError("a parameter has no tensor")
    return inner
