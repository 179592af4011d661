"""Locations of cache files: beside the data set, or in the user's cache folder.

A cache file can always be rebuilt. Every reader compares a digest of the source files, and every
writer replaces the file atomically.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files.atomic_write import atomic_write
from utils.files.writable import is_writable

APPLICATION = "yolov5-extend"
KEY_LENGTH = 12  # hexadecimal digits; 48 bits distinguish the data sets of one machine


def cache_home() -> Path:
    """Return the user's cache folder for this program, below $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / APPLICATION


def source_key(sources: Iterable[str | Path]) -> str:
    """Return a short hash of a list of sources, for the names of their cache files."""
    text = "\n".join(str(source) for source in sources)
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:KEY_LENGTH]


def files_digest(paths: Iterable[str | Path], version: str) -> str:
    """Return the SHA-256 of the names, sizes and modification times of files.

    Missing files are included as missing. The contents are not read: that would take minutes for
    120,000 images, and only a deliberate change keeps both the size and the time in nanoseconds.
    """
    digest = hashlib.sha256(version.encode())
    for path in paths:
        digest.update(os.fsencode(path))
        try:
            status = os.stat(path)  # noqa: PTH116 -- a Path per file would cost seconds
            digest.update(b"\n%d %d\n" % (status.st_size, status.st_mtime_ns))
        except OSError:
            digest.update(b"\nabsent\n")
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
            atomic_write(place, write)
        except OSError as error:
            reason = str(error)
            continue
        return place
    raise UserError(
        f"cannot write a cache file: {reason}; "
        "set XDG_CACHE_HOME to a writable folder with enough free space."
    )
