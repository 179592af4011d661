"""Getting a data set that is not there by downloading its archives.

Everything is put together in a folder beside the final one and moved there when complete, so that
a killed download is never taken for a data set.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import urlsplit

from utils.datasets.cache_files import source_key
from utils.datasets.locate import DATASETS_VARIABLE
from utils.errors import UserError
from utils.files.download import fetch, unpack

CONTENT_FOLDERS = frozenset({"images", "labels"})
MAC_FORKS = "__MACOSX"
"""The folder that the archiver of macOS adds; it holds nothing of the data set."""


class Archive(NamedTuple):
    """A zip to fetch, and the folder inside the data set that its content belongs into."""

    url: str
    folder: str = "."


def acquire(root: Path, archives: Sequence[Archive], obtain: str = "") -> None:
    """Make the data set's folder `root`, which must be absent or empty.

    Args:
        root: the folder.
        archives: what to put into it, one at least.
        obtain: how else the user can get it, half a sentence for the message; may be empty.

    Raises:
        UserError: an archive cannot be reached or used.
    """
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as scratch:
            staging = Path(scratch) / root.name
            _download_all(root, archives, staging, obtain)
            staging.replace(root)
    except OSError as error:
        raise absence(root, f"and cannot be made ({error})", obtain) from error


def absence(root: Path, why: str, obtain: str) -> UserError:
    """The error that says that a data set is not there, and what to do.

    Args:
        root: where it would have to be.
        why: the program cannot get it, the end of the sentence's first half.
        obtain: how the user can get it, half a sentence; may be empty.
    """
    remedy = f"put it there, or set {DATASETS_VARIABLE} to the folder that holds {root.name}/"
    if obtain:
        remedy = f"{obtain}; if you have it, {remedy}"
    return UserError(f"the data set {root.name} is not at {root} {why}; {remedy}.")


def _download_all(root: Path, archives: Sequence[Archive], staging: Path, obtain: str) -> None:
    """Fetch and unpack every archive into `staging`; fetched ones are kept until all are there."""
    kept = root.parent / f"{root.name}-download"
    for archive in archives:
        name = PurePosixPath(urlsplit(archive.url).path).name
        file = kept / f"{source_key([archive.url])}-{name}"
        if not file.is_file():
            try:
                fetch(archive.url, file)
            except UserError as error:
                with suppress(OSError):  # unless an archive is kept in it
                    kept.rmdir()
                raise absence(root, f"and {error}", obtain) from error
        _unpack_into(file, staging, archive.folder)
    shutil.rmtree(kept)


def _unpack_into(file: Path, staging: Path, folder: str) -> None:
    """Add an archive's content to `staging`/`folder`.

    An archive of the whole data set usually holds one folder with the set's name; that folder is
    the data set itself. `images` and `labels` are never taken for it.
    """
    with tempfile.TemporaryDirectory(dir=staging.parent) as scratch:
        unpack(file, Path(scratch))
        content = Path(scratch)
        top = [entry for entry in content.iterdir() if entry.name != MAC_FORKS]
        whole_set = PurePosixPath(folder) == PurePosixPath(".")
        if whole_set and len(top) == 1 and top[0].is_dir() and top[0].name not in CONTENT_FOLDERS:
            content = top[0]
        _merge(content, staging / folder)


def _merge(source: Path, target: Path) -> None:
    """Move the files below `source` to the same places below `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.is_dir() and (target / entry.name).is_dir():
            _merge(entry, target / entry.name)
        else:
            entry.replace(target / entry.name)
