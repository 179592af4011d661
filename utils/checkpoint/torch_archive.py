"""The file that torch.save writes, read without torch.load.

Every size is checked against the file before anything is allocated, every view against its storage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from utils.checkpoint.pickle_records import Name, Record, read_records, require_type
from utils.checkpoint.zip_members import PROGRAM, read_members
from utils.errors import UserError

MAX_RANK = 8
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
TENSOR = "torch._utils._rebuild_tensor_v2"
PARAMETER = "torch._utils._rebuild_parameter"


class TorchArchive:
    """A torch.save file, read into memory.

    Args:
        path: the file.

    Raises:
        UserError: as for `zip_members.read_members`.
    """

    def __init__(self, path: Path) -> None:
        self._members = read_members(path)
        self.path = path
        self._elements_left = sum(map(len, self._members.values()))
        self._storages: dict[str, Tensor] = {}
        self._tensors: dict[Record, Tensor] = {}

    def records(self, check_name: Callable[[str], None]) -> object:
        """The pickle's content, with every call left undone; see `read_records`."""
        if self._members.get("byteorder", b"little") != b"little":
            raise UserError(
                f"{self.path} was written on a big-endian machine; it cannot be read here."
            )
        try:
            return read_records(self._members[PROGRAM], check_name)
        except UserError as error:
            raise UserError(f"{self.path} {error}") from error

    def tensor(self, record: Record) -> Tensor:
        """The tensor (or parameter) that a record describes, as a view of its storage.

        Records that are one object in the file give one tensor.

        Raises:
            ValueError, TypeError, LookupError: it does not fit its storage, or is no tensor.
        """
        require_type(record, Record)
        if record not in self._tensors:
            if record.kind == PARAMETER:
                return self.tensor(_inner(record))
            if record.kind != TENSOR:
                raise TypeError(f"{record.kind} where a tensor is due")
            self._tensors[record] = self._view(*record.arguments[:4])
        return self._tensors[record]

    def _view(self, storage: object, offset: object, size: object, stride: object) -> Tensor:
        flat = self._storage(storage)
        start = require_type(offset, int)
        lengths, steps = require_type(size, tuple), require_type(stride, tuple)
        if len(lengths) != len(steps) or len(lengths) > MAX_RANK:
            raise ValueError("a tensor's size and stride do not belong together")
        for number in (start, *lengths, *steps):
            if not 0 <= require_type(number, int) <= max(len(flat), 1):  # an empty one has stride 1
                raise ValueError("a tensor's offset, size or stride lies beyond its storage")
        count = math.prod(lengths)
        last = start + sum((n - 1) * step for n, step in zip(lengths, steps, strict=True))
        # a stride of 0 would make any number of elements out of one, hence the bound on the count
        if count > len(flat) or (count and last >= len(flat)):
            raise ValueError("a tensor reaches beyond its storage")
        self._elements_left -= count
        if self._elements_left < 0:
            raise ValueError("the tensors are larger than the file")
        return flat.as_strided(lengths, steps, start)

    def _storage(self, record: object) -> Tensor:
        if not isinstance(record, Record) or record.kind != "storage":
            raise TypeError("a tensor without a storage")
        tag, kind, key, _, count = record.arguments
        if tag != "storage" or not isinstance(kind, Name) or not isinstance(key, str):
            raise TypeError("an unknown kind of storage")
        dtype = STORAGE_TYPES[kind.qualified]
        if key not in self._storages:
            content = self._members.pop(f"data/{key}")
            # frombuffer wants a writable, non-empty buffer; torch's own memory is aligned for it
            flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0)
            self._storages[key] = flat.to(dtype, copy=True)
        if self._storages[key].dtype != dtype:
            raise ValueError(f"storage {key} is used as two types")
        if len(self._storages[key]) != count:
            raise ValueError(f"storage {key} does not have its {count} elements")
        return self._storages[key]


def _inner(parameter: Record) -> Record:
    inner = parameter.arguments[0]
    if not isinstance(inner, Record) or inner.kind != TENSOR:
        raise TypeError("a parameter without a tensor")
    return inner
