"""Where files derived from a data set are kept: beside it, or in the user's cache folder.

A cache is only ever a copy of what can be made again, so every reader of one checks a digest of the
files it was made from, and every writer replaces the file as a whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files.atomic_write import write_replacing

APPLICATION = "yolov5-extend"
ANY_WRITE_BIT = 0o222
KEY_LENGTH = 12  # hexadecimal digits: 48 bits tell the data sets of one machine apart


def cache_home() -> Path:
    """The user's cache folder for this program: $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / APPLICATION


def writable(folder: Path) -> bool:
    """Whether files may be put into `folder`, or into its nearest existing parent.

    A folder without any write bit was made read-only on purpose and is left alone, even by the
    superuser, for whom the access check alone always says yes.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return bool(folder.stat().st_mode & ANY_WRITE_BIT) and os.access(folder, os.W_OK)


def source_key(sources: Iterable[str | Path]) -> str:
    """Short name for a list of sources, for telling their cache files apart."""
    text = "\n".join(str(source) for source in sources)
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:KEY_LENGTH]


def files_digest(paths: Iterable[str | Path], version: str) -> str:
    """SHA-256 over the names, sizes and modification times of files; absent files count as such.

    Reading the contents would cost minutes on 120,000 images; a change that keeps both the size
    and the time in nanoseconds is made by nothing but malice.
    """
    digest = hashlib.sha256(version.encode())
    for path in paths:
        digest.update(os.fsencode(path))
        try:
            status = os.stat(path)  # noqa: PTH116 -- a Path of each would cost seconds
            digest.update(b"\n%d %d\n" % (status.st_size, status.st_mtime_ns))
        except OSError:
            digest.update(b"\nabsent\n")
    return digest.hexdigest()


def cache_places(folder: Path, name: str) -> tuple[Path, Path]:
    """The two places of a cache file, in the order to look: in `folder`, in the user's cache."""
    return folder / name, cache_home() / name


def write_first_writable(places: Sequence[Path], write: Callable[[Path], None]) -> Path:
    """Write to the first of `places` that takes the file, and say which that was.

    Raises:
        UserError: none of them does.
    """
    reason = "they are read-only or full"
    for place in places:
        if not writable(place.parent):
            continue
        try:
            write_replacing(place, write)
        except OSError as error:
            reason = str(error)
            continue
        return place
    raise UserError(f"no place can be written to ({reason}); set XDG_CACHE_HOME to one with room.")
