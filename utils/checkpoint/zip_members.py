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

from utils.checkpoint.pickle_records import DAMAGE_ERRORS
from utils.errors import UserError

ZIP_START = b"PK"
# RuntimeError includes NotImplementedError, for flags and versions unknown to zipfile.
ZIP_ERRORS = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, struct.error, *DAMAGE_ERRORS)
BAD_CHECKSUM = "Bad CRC-32"
PICKLE_MEMBER = "data.pkl"
CHUNK_BYTES = 1 << 20
HEADER_BYTES = 64
"""Bytes that are read to recognize the kind of a file."""
OLD_TORCH = "was written by a torch version before 1.6; save it again with a newer version"
NOT_A_CHECKPOINT = "is not a checkpoint"


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
    with _open_archive(path) as (archive, entries):
        content = {}
        for name, entry in entries.items():
            if only is None or name in only:
                try:
                    content[name] = archive.read(entry)
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
    with _open_archive(path) as (archive, entries):
        for name, entry in entries.items():
            try:
                with archive.open(entry) as stream:
                    while stream.read(CHUNK_BYTES):
                        pass
            except zipfile.BadZipFile:
                wrong.append(_escaped(name))
        return ChecksumResult(len(entries), tuple(wrong))


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """Open a torch.save file; also return its members by name, without the top-level folder."""
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
                raise UserError(f"{path} {_describe(start)}.")
            try:
                archive = zipfile.ZipFile(stream)
            except zipfile.BadZipFile as error:
                raise UserError(f"{path} {_describe(start)}.") from error
            yield archive, _entries(archive, path)
    except ZIP_ERRORS as error:
        raise UserError(
            f"{path} is damaged ({str(error)[:100]}); use another checkpoint."
        ) from error


def _entries(file: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    entries = file.infolist()
    by_name = {entry.filename.partition("/")[2]: entry for entry in entries}
    if len(by_name) < len(entries):
        raise ValueError("it has two members with the same name")
    if "constants.pkl" in by_name:
        raise UserError(
            f"{path} {NOT_A_CHECKPOINT}, it is a TorchScript archive; "
            "give the .pt file that it was exported from."
        )
    if PICKLE_MEMBER not in by_name:
        raise UserError(
            f"{path} {NOT_A_CHECKPOINT}, it is a zip file without data.pkl; use another checkpoint."
        )
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise ValueError("it has compressed members, which torch never writes")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("it claims more bytes than it has")
    return by_name


def _escaped(name: str) -> str:
    """Escape a member name for a message; in a damaged file it may contain any character."""
    return ascii(name)[1:-1]


FILE_KINDS = {
    rb"\Z": f"{NOT_A_CHECKPOINT}, it is empty; use another checkpoint",
    rb"PK(\x03\x04|\x05\x06)": f"{NOT_A_CHECKPOINT}, or it is truncated: its zip directory is "
    "missing or wrong; use another checkpoint",
    # Before 1.6, torch wrote tar files or bare pickles that begin with this magic number.
    rb".{0,5}\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19": OLD_TORCH,
    rb"(\./)?(sys_info|pickle|storages|tensors)\x00": OLD_TORCH,
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF....WEBP|II\*\x00|MM\x00\*": f"{NOT_A_CHECKPOINT}, "
    "it is an image; give a .pt file",
    rb"\x80[\x02-\x05]": f"{NOT_A_CHECKPOINT}, it is a bare pickle, which could run any code; "
    "save its tensors with torch.save of torch 1.6 or later",
    rb"[\t\n\r\x20-\x7e]+\Z": f"{NOT_A_CHECKPOINT}, it is a text file; give a .pt file",
    rb"": f"{NOT_A_CHECKPOINT}, it is not a file that torch writes; use another checkpoint",
}
"""Patterns of a file's first bytes, each with the end of the message; the first that matches."""


def _describe(start: bytes) -> str:
    """Describe a file by its first `HEADER_BYTES` bytes; the text follows the path in a message."""
    return next(
        message for pattern, message in FILE_KINDS.items() if re.match(pattern, start, re.DOTALL)
    )
