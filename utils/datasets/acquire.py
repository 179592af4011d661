"""Download a missing data set from its archives.

The data set is assembled in a temporary folder beside its final location and moved there when it is
complete, so a killed download never looks like a data set.
"""

from __future__ import annotations

import os
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
from utils.files.download import download_file, extract_archive

CONTENT_FOLDERS = frozenset({"images", "labels"})
MAC_FORKS = "__MACOSX"
"""Folder that the macOS archiver adds; it contains no data."""


class MissingDataError(UserError):
    """A data set or its file is missing and must be got by hand; `args`: problem and remedy."""

    def __str__(self) -> str:
        return "{}; {}.".format(*self.args)


class Archive(NamedTuple):
    """A zip or tar archive to download, and the folder inside the data set to unpack it into."""

    url: str
    folder: str = "."


def download_dataset(root: Path, archives: Sequence[Archive], obtain: str = "") -> None:
    """Download and unpack the archives of a data set; keep the archives until all are done.

    Args:
        root: the data set's folder, which must be missing or empty.
        archives: at least one archive.
        obtain: another way to get the data, as a clause for the error message; may be empty.

    Raises:
        UserError: an archive cannot be downloaded or unpacked.
    """
    kept = root.parent / f"{root.name}-download"
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as scratch:
            staging = Path(scratch) / root.name
            for archive in archives:
                name = PurePosixPath(urlsplit(archive.url).path).name
                file = kept / f"{source_key([archive.url])}-{name}"
                try:
                    if not file.is_file():
                        download_file(archive.url, file)
                except UserError as error:
                    with suppress(OSError):  # fails if the folder holds an archive, which is wanted
                        kept.rmdir()
                    raise missing_dataset_error(root, str(error), obtain) from error
                _unpack_into(file, staging, archive.folder)
            shutil.rmtree(kept)
            staging.replace(root)
    except OSError as error:
        why = f"the folder cannot be written ({error})"
        raise missing_dataset_error(root, why, obtain) from error


def missing_dataset_error(
    root: Path, why: str, obtain: str, places: Sequence[Path] = (), title: str = ""
) -> MissingDataError:
    """Build the error for a missing data set, which was looked for in the `places`.

    Two clauses say `why` the program cannot download it, and how the user can `obtain` it; the
    second may be empty. The `title` is the data set's folder as messages name it, if not `root`.
    """
    remedy = f"put it there, or set {DATASETS_VARIABLE} to the folder that contains {root.name}/"
    if obtain:
        remedy = f"{obtain}; if you already have it, {remedy}"
    return MissingDataError(
        f"data set {title or root} does not exist{looked_in(places, root)} and {why}", remedy
    )


def looked_in(places: Sequence[Path], root: Path) -> str:
    """Return the places where something was looked for, without `root`, in brackets."""
    others = ", ".join(str(place) for place in places if place != root)
    return f" (also looked in {others})" if others else ""


def _unpack_into(file: Path, staging: Path, folder: str) -> None:
    """Add the content of an archive to `staging`/`folder`.

    An archive of a whole data set usually contains a single folder with the data set's name. In
    that case the content of this folder is used. A single `images` or `labels` folder is kept.
    """
    with tempfile.TemporaryDirectory(dir=staging.parent) as scratch:
        extract_archive(file, Path(scratch))
        content = Path(scratch)
        top = [entry for entry in content.iterdir() if entry.name != MAC_FORKS]
        whole_set = PurePosixPath(folder) == PurePosixPath(".")
        if whole_set and len(top) == 1 and top[0].is_dir() and top[0].name not in CONTENT_FOLDERS:
            content = top[0]
        # Moves the files, because both folders are on the same disk.
        shutil.copytree(content, staging / folder, copy_function=os.replace, dirs_exist_ok=True)
