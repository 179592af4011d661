"""Reads the zip archive of a checkpoint; checks all sizes first, and the checksum of each member.

torch does not compress members, so together they are at most as large as the file. This rules out
zip bombs.
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
ZIP_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    RuntimeError,  # includes NotImplementedError, for flags and versions unknown to zipfile
    ValueError,
    LookupError,
    OverflowError,
    struct.error,
)
BAD_CHECKSUM = "Bad CRC-32"
PICKLE_MEMBER = "data.pkl"
CHUNK_BYTES = 1 << 20
HEADER_BYTES = 64
"""Bytes that are read to recognize the kind of a file."""
OLD_TORCH = "was written by a torch version before 1.6; save it again with a newer version"
NOT_A_CHECKPOINT = "is not a checkpoint"


class _Archive(NamedTuple):
    file: zipfile.ZipFile
    entries: dict[str, zipfile.ZipInfo]
    """By name, without the top-level folder that torch.save creates."""


def read_members(path: Path, only: Collection[str] | None = None) -> dict[str, bytes]:
    """Read the members of a torch.save file and verify their checksums.

    Args:
        path: the file.
        only: names of the members to read, such as "data.pkl"; all members if None.

    Returns:
        Content by member name.

    Raises:
        UserError: the file is missing, empty, not a torch zip file, damaged, compressed, or claims
            more bytes than it has. The message begins with the path.
    """
    with _open_archive(path) as archive:
        content = {}
        for name, entry in archive.entries.items():
            if only is None or name in only:
                try:
                    content[name] = archive.file.read(entry)
                except zipfile.BadZipFile as error:
                    if not str(error).startswith(BAD_CHECKSUM):
                        raise
                    raise UserError(
                        f"{path} is damaged (the checksum of {_escaped(name)} is wrong); "
                        "use another checkpoint."
                    ) from error
        return content


class ChecksumResult(NamedTuple):
    """Result of verifying the checksums of a file."""

    members: int
    """Number of members checked."""
    wrong: tuple[str, ...]
    """Names of the damaged members."""


def verify_checksums(path: Path) -> ChecksumResult:
    """Verify the checksum of every member of a torch.save file, reading it in chunks.

    Raises:
        UserError: see `read_members`; a wrong checksum is returned, not raised.
    """
    wrong = []
    with _open_archive(path) as archive:
        for name, entry in archive.entries.items():
            try:
                with archive.file.open(entry) as stream:
                    while stream.read(CHUNK_BYTES):
                        pass
            except zipfile.BadZipFile:
                wrong.append(_escaped(name))
        return ChecksumResult(len(archive.entries), tuple(wrong))


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[_Archive]:
    if not path.exists():
        raise UserError(f"{path} does not exist; give the path of a checkpoint or run folder.")
    if not path.is_file():  # opening a named pipe may block forever
        raise UserError(
            f"{path} {NOT_A_CHECKPOINT}, it is a folder or a device; give the path of a checkpoint."
        )
    try:
        with path.open("rb") as stream:
            start = stream.read(HEADER_BYTES)
        if not start.startswith(ZIP_START):
            raise UserError(f"{path} {describe_header(start)}.")
        try:
            file = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path} {describe_header(start)}.") from error
        with file:
            yield _Archive(file, _entries(file, path))
    except ZIP_DAMAGE_ERRORS as error:
        raise UserError(
            f"{path} is damaged ({str(error)[:100]}); use another checkpoint."
        ) from error


def _entries(file: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    entries = file.infolist()
    by_name = {entry.filename.partition("/")[2]: entry for entry in entries}
    if len(by_name) < len(entries):
        raise ValueError("it has two members with the same name")
    if PICKLE_MEMBER not in by_name or "constants.pkl" in by_name:
        raise UserError(f"{path} {describe_zip(by_name)}.")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError("it has compressed members, which torch never writes")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("it claims more bytes than it has")
    return by_name


def _escaped(name: str) -> str:
    """Escape a member name for a message; in a damaged file it may contain any character."""
    return ascii(name)[1:-1]


class FileKind(NamedTuple):
    """Pattern of the first bytes of a kind of file, and the end of the message about it."""

    pattern: re.Pattern[bytes]
    message: str


def _file_kind(pattern: bytes, message: str) -> FileKind:
    return FileKind(re.compile(pattern, re.DOTALL), message)


FILE_KINDS = (
    _file_kind(rb"\Z", f"{NOT_A_CHECKPOINT}, it is empty; use another checkpoint"),
    _file_kind(
        rb"PK(\x03\x04|\x05\x06)",
        f"{NOT_A_CHECKPOINT}, or it is truncated: its zip directory is missing or wrong; "
        "use another checkpoint",
    ),
    # Before 1.6, torch wrote tar files or bare pickles that begin with this magic number.
    _file_kind(rb".{0,5}\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", OLD_TORCH),
    _file_kind(rb"(\./)?(sys_info|pickle|storages|tensors)\x00", OLD_TORCH),
    _file_kind(
        rb"\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF....WEBP|II\*\x00|MM\x00\*",
        f"{NOT_A_CHECKPOINT}, it is an image; give a .pt file",
    ),
    _file_kind(
        rb"\x80[\x02-\x05]",
        f"{NOT_A_CHECKPOINT}, it is a bare pickle, which could run any code; "
        "save its tensors with torch.save of torch 1.6 or later",
    ),
    _file_kind(rb"[\t\n\r\x20-\x7e]+\Z", f"{NOT_A_CHECKPOINT}, it is a text file; give a .pt file"),
    _file_kind(
        rb"", f"{NOT_A_CHECKPOINT}, it is not a file that torch writes; use another checkpoint"
    ),
)


def describe_header(start: bytes) -> str:
    """Describe a file by its first `HEADER_BYTES` bytes; the text follows the path in a message."""
    return next(kind.message for kind in FILE_KINDS if kind.pattern.match(start))


def describe_zip(members: Collection[str]) -> str:
    """Describe a zip file by its member names; the text follows the path in a message."""
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        return (
            f"{NOT_A_CHECKPOINT}, it is a TorchScript archive; "
            "give the .pt file that it was exported from"
        )
    return f"{NOT_A_CHECKPOINT}, it is a zip file without data.pkl; use another checkpoint"
