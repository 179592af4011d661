"""The zip file around a checkpoint: every size is checked before anything is read, every checksum.

torch writes its members uncompressed, so together they are not larger than the file; a bomb is.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError

ZIP_START = b"PK"
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
BAD_SUM = "Bad CRC-32"
PROGRAM = "data.pkl"
CHUNK = 1 << 20  # bytes
START = 64
"""How many bytes are looked at."""
OLD_TORCH = "was written by a torch older than 1.6; save it again with a newer one"
NOT = "is not a checkpoint"


class _Archive(NamedTuple):
    file: zipfile.ZipFile
    entries: dict[str, zipfile.ZipInfo]
    """By name below the one folder that torch puts everything into."""


def read_members(path: Path, only: Collection[str] | None = None) -> dict[str, bytes]:
    """The content of a torch.save file's members, each checked by its checksum.

    Args:
        path: the file.
        only: names of the members to read, such as "data.pkl"; all of them if None.

    Raises:
        UserError: it is missing, empty, not a torch zip file, damaged, compressed, or claims more
            bytes than it has. The sentence begins with the path.
    """
    with _opened(path) as archive:
        content = {}
        for name, entry in archive.entries.items():
            if only is None or name in only:
                try:
                    content[name] = archive.file.read(entry)
                except zipfile.BadZipFile as error:
                    if not str(error).startswith(BAD_SUM):
                        raise
                    raise UserError(
                        f"{path} is damaged: the checksum of {_shown(name)} is wrong; "
                        "use another checkpoint."
                    ) from error
        return content


class Sums(NamedTuple):
    """What a check of the checksums found."""

    members: int
    """How many were checked."""
    wrong: tuple[str, ...]
    """Names of those that are damaged."""


def check_sums(path: Path) -> Sums:
    """Read every member of a torch.save file, a piece at a time, and compare its checksum.

    Raises:
        UserError: as for `read_members`, but for a wrong checksum.
    """
    wrong = []
    with _opened(path) as archive:
        for name, entry in archive.entries.items():
            try:
                with archive.file.open(entry) as stream:
                    while stream.read(CHUNK):
                        pass
            except zipfile.BadZipFile:
                wrong.append(_shown(name))
        return Sums(len(archive.entries), tuple(wrong))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Archive]:
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    if not path.is_file():  # opening a pipe might wait for ever
        raise UserError(f"{path} is not a checkpoint, it is a folder or a device.")
    try:
        with path.open("rb") as stream:
            start = stream.read(START)
        if not start.startswith(ZIP_START):
            raise UserError(f"{path} {what_it_is(start)}.")
        try:
            file = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path} {what_it_is(start)}.") from error
        with file:
            yield _Archive(file, _entries(file, path))
    except ZIP_DAMAGE as error:
        raise UserError(
            f"{path} is damaged: {str(error)[:100]}; use another checkpoint."
        ) from error


def _entries(file: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    entries = file.infolist()
    by_name = {entry.filename.partition("/")[2]: entry for entry in entries}
    if len(by_name) < len(entries):
        raise ValueError("it holds two members of one name")
    if PROGRAM not in by_name or "constants.pkl" in by_name:
        raise UserError(f"{path} {what_zip_it_is(by_name)}.")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError("it has compressed members, which torch does not write")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("it claims more bytes than it has")
    return by_name


def _shown(name: str) -> str:
    """The name of a member for a message; a damaged one may hold anything."""
    return ascii(name)[1:-1]


class Kind(NamedTuple):
    """A kind of file, and how it begins."""

    pattern: re.Pattern[bytes]
    sentence: str


def _kind(pattern: bytes, sentence: str) -> Kind:
    return Kind(re.compile(pattern, re.DOTALL), sentence)


KINDS = (
    _kind(rb"\Z", f"{NOT}, it is empty; use another file"),
    _kind(
        rb"PK(\x03\x04|\x05\x06)",
        f"{NOT}, or it is cut short: its table of contents is missing or wrong; use another file",
    ),
    # torch before 1.6 wrote bare pickles, the first of them this number, or else tar files
    _kind(rb".{0,5}\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", OLD_TORCH),
    _kind(rb"(\./)?(sys_info|pickle|storages|tensors)\x00", OLD_TORCH),
    _kind(
        rb"\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF....WEBP|II\*\x00|MM\x00\*",
        f"{NOT}, it is a picture; name a .pt file",
    ),
    _kind(
        rb"\x80[\x02-\x05]",
        f"{NOT}, it is a bare pickle, which could make a program do anything; refused",
    ),
    _kind(rb"[\t\n\r\x20-\x7e]+\Z", f"{NOT}, it is a text file; name a .pt file"),
    _kind(rb"", f"{NOT}: it is of no kind that torch writes; use another file"),
)


def what_it_is(start: bytes) -> str:
    """The rest of a sentence about a file, of which the first `START` bytes are given."""
    return next(kind.sentence for kind in KINDS if kind.pattern.match(start))


def what_zip_it_is(members: Collection[str]) -> str:
    """The rest of a sentence about a zip file that is no checkpoint, given the names inside."""
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        return f"{NOT}, it is a TorchScript archive; give the file that it was exported from"
    return "is a zip file, but not one that torch wrote: no data.pkl in it"
