"""Locations of cache files: beside the data set, or in the user's cache folder.

A cache file can always be rebuilt. Every reader compares a digest of the source files, and every
writer replaces the file atomically.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError
from utils.files.atomic_write import TEMPORARY_FILE, atomic_write
from utils.files.regular_file import read_regular_file
from utils.files.writable import is_writable

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted
    fcntl = None  # type: ignore[assignment]

PREFIX = "yolo-"
"""Of the names of cache files."""
APPLICATION = "yolov5-extend"
MAX_BYTES = 64 << 20
"""Of a small file that are read for its digest."""
KEY_LENGTH = 12  # hexadecimal digits; 48 bits distinguish the data sets of one machine


def cache_home() -> Path:
    """Return the user's cache folder for this program, below $XDG_CACHE_HOME or ~/.cache.

    A user without a home folder, as in many containers, has one in the folder of temporary files.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / APPLICATION
    try:
        return Path.home() / ".cache" / APPLICATION
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"{APPLICATION}-{os.getuid()}"


def source_key(sources: Iterable[str | Path]) -> str:
    """Return a short hash of a list of sources, for the names of their cache files."""
    text = "\n".join(str(source) for source in sources)
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:KEY_LENGTH]


def files_digest(
    paths: Iterable[str | Path], version: str, contents: Iterable[str | Path] = ()
) -> str:
    """Return the SHA-256 of the names, sizes and modification times of files.

    Missing files are included as missing. The content of images is not read: that would take
    minutes for 120,000 of them.

    Args:
        paths: the files.
        version: included in the digest.
        contents: small files, such as labels, which are read instead: an archive may give equal
            sizes and times to different files.
    """
    digest = hashlib.sha256(version.encode())
    for path in paths:
        digest.update(os.fsencode(path))
        try:
            status = os.stat(path)  # noqa: PTH116 -- a Path per file would cost seconds
            digest.update(b"\n%d %d\n" % (status.st_size, status.st_mtime_ns))
        except OSError:
            digest.update(b"\nabsent\n")
    for path in contents:
        digest.update(os.fsencode(path))
        try:
            content = read_regular_file(path, MAX_BYTES)
            digest.update(b"\n%d\n" % len(content))
            digest.update(content)
        except OSError as error:
            digest.update(b"\n%s\n" % type(error).__name__.encode())
    return digest.hexdigest()


def cache_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the paths to look for a cache file: in `folder`, then in the user's cache folder."""
    return folder / name, cache_home() / name


def write_to_first_writable(places: Sequence[Path], write: Callable[[Path], None]) -> Path:
    """Write to the first writable path of `places` and return that path.

    Raises:
        UserError: none of them is writable.
    """
    reason = "they are read-only or full"
    for place in places:
        if not is_writable(place.parent):
            continue
        try:
            atomic_write(place, lambda part: _write_locked(part, write))
        except OSError as error:
            reason = str(error)
            continue
        return place
    raise UserError(
        f"cannot write a cache file: {reason}; "
        "set XDG_CACHE_HOME to a writable folder with enough free space."
    )


def remove_unfinished(*folders: Path) -> None:
    """Delete the unfinished cache files in folders that no process is writing any more."""
    for folder in folders:
        with contextlib.suppress(OSError):  # no such folder, or a read-only one
            for file in folder.glob(f".{PREFIX}*"):
                if TEMPORARY_FILE.fullmatch(file.name) and file.is_file():
                    with file.open("rb") as stream:
                        is_unused = _lock(stream)
                    if is_unused:
                        file.unlink()


def _write_locked(part: Path, write: Callable[[Path], None]) -> None:
    """Write a file while it is locked; the system releases the lock when the process ends."""
    with part.open("rb") as stream:
        _lock(stream)
        write(part)


def _lock(stream: BinaryIO) -> bool:
    """Lock an open file until it is closed; return whether no other process has locked it."""
    if fcntl is not None:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # also on file systems without locks
            return False
    return True
