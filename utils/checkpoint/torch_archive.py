"""The zip file that torch.save writes, opened without torch.load.

Every size is checked against the file before anything is allocated, every view against its storage.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor

from utils.checkpoint.pickle_records import Name, Record, read_records, require_type
from utils.errors import UserError

# torch before 1.6 wrote bare pickles, the first of them this number (serialization.MAGIC_NUMBER)
OLD_FORMAT_START = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
OLD_FORMAT_SPAN = 16
LARGEST_RANK = 8
ZIP_DAMAGE = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    RuntimeError,  # NotImplementedError too: flags and versions zipfile does not know
    ValueError,
    LookupError,
    OverflowError,
    struct.error,
)
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


def is_old_format(path: Path) -> bool:
    """Whether the file was written by a torch older than 1.6, before zip files."""
    with path.open("rb") as file:
        return OLD_FORMAT_START in file.read(OLD_FORMAT_SPAN)


class TorchArchive:
    """A torch.save file, read into memory.

    Args:
        path: the file.
        only: names of the members to read, such as "data.pkl"; all of them if None.

    Raises:
        UserError: it is missing, empty, not a torch zip file, damaged, compressed, or claims more
            bytes than it has. The sentence begins with the path.
    """

    def __init__(self, path: Path, only: Collection[str] | None = None) -> None:
        if not path.exists():
            raise UserError(f"{path} does not exist.")
        try:
            old = is_old_format(path)
            self._members = {} if old else _read_members(path, only)
        except ZIP_DAMAGE as error:
            raise UserError(
                f"{path} is not a checkpoint, or is damaged: {str(error)[:100]}."
            ) from error
        if old:
            raise UserError(
                f"{path} was written by a torch older than 1.6; save it again with a newer one."
            )
        self.path = path
        self._elements_left = sum(map(len, self._members.values()))
        self._storages: dict[str, Tensor] = {}
        self._tensors: dict[Record, Tensor] = {}

    @property
    def program(self) -> bytes:
        """The pickle inside."""
        if "data.pkl" not in self._members:
            raise UserError(
                f"{self.path} is a zip file, but not one that torch wrote: no data.pkl in it."
            )
        return self._members["data.pkl"]

    def records(self, check_name: Callable[[str], None]) -> object:
        """The pickle's content, with every call left undone; see `read_records`."""
        if self._members.get("byteorder", b"little") != b"little":
            raise UserError(
                f"{self.path} was written on a big-endian machine; it cannot be read here."
            )
        try:
            return read_records(self.program, check_name)
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
        if len(lengths) != len(steps) or len(lengths) > LARGEST_RANK:
            raise ValueError("a tensor's size and stride do not belong together")
        for number in (start, *lengths, *steps):
            if not 0 <= require_type(number, int) <= len(flat):
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
            # frombuffer wants a writable, non-empty buffer
            flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0)
            self._storages[key] = flat.to(dtype)
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


def _read_members(path: Path, only: Collection[str] | None) -> dict[str, bytes]:
    """Content by name below the archive's one folder.

    torch stores members uncompressed, so together they are not larger than the file; a bomb is.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed members, which torch does not write")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it claims more bytes than it has")
        by_name = {entry.filename.partition("/")[2]: entry for entry in entries}
        return {
            name: archive.read(entry)
            for name, entry in by_name.items()
            if only is None or name in only
        }
