"""Location of a data set: how the `path:` of a data-set file is resolved to a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from utils.datasets.cache_files import cache_home
from utils.files.writable import is_writable

log = logging.getLogger("yolo")

REPOSITORY = Path(__file__).resolve().parents[2]
DATASETS_VARIABLE = "YOLO_DATASETS_DIR"
DATASETS_FOLDER = "datasets"


def find_root(entry: str, beside: Path, places: Sequence[Path] = ()) -> Path:
    """Resolve the `path:` entry of a data-set file in the folder `beside`.

    The result is the first of the `places` that exists, see `root_places`. If none exists, it is
    the first of $YOLO_DATASETS_DIR, datasets/ beside the repository and the user's cache folder
    that is writable, as the folder to download to; but an absolute entry, or one without a name,
    is used as it is.

    Raises:
        RuntimeError: the entry begins with `~` and an unknown user name.
    """
    given, places = native_path(entry).expanduser(), places or root_places(entry, beside)
    name = _bare_name(given)
    if given.is_absolute() or name is None:
        return places[0]
    found = next((place for place in places if place.is_dir()), None)
    if found is not None:
        return found
    homes = _homes()
    return (next((home for home in homes if is_writable(home)), homes[-1]) / name).resolve()


def root_places(entry: str, beside: Path) -> list[Path]:
    """Return the folders that the `path:` entry of a data-set file can mean, the first preferred.

    An absolute path is used as it is. If it does not exist, as on another machine, it means its
    copy in $YOLO_DATASETS_DIR, see `moved_copy`, or the folder `beside` of the data-set file, which
    may have moved together with the data, or what its last part means as an entry. An empty
    entry, or one like `.` or `../datasets`, is relative to the file, to the working directory and
    to the repository. Otherwise the places are (NAME is the entry without leading `..`, `.` and
    `datasets`; for ../datasets/coco128 it is coco128):

    1. $YOLO_DATASETS_DIR/NAME, if the variable is set, then with only the last part of NAME
    2. the entry relative to the working directory, to the repository, and to the file
    3. datasets/NAME beside the repository
    4. datasets/NAME in the user's cache folder

    Raises:
        RuntimeError: the entry begins with `~` and an unknown user name.
    """
    given = native_path(entry).expanduser()
    name = _bare_name(given)
    if given.is_absolute():
        if given.exists():
            return [given]
        moved, last = [moved_copy(given) or given, given], root_places(given.name, beside)
        return list(dict.fromkeys([*moved, *_copies(given), beside.resolve(), *last]))
    folders = (Path.cwd(), REPOSITORY, beside)
    if name is None:
        places = [beside / given, *(folder / given for folder in folders)]
    else:
        chosen = _chosen()
        places = [
            *(home / part for home in chosen for part in (name, name.name)),
            *(folder / given for folder in folders),
            *(home / name for home in _homes()),
        ]
    return list(dict.fromkeys(place.resolve() for place in places))


def report_moved(entry: str, root: Path) -> None:
    """Log which folder is used for a `path:` entry that is an absolute path and does not exist."""
    given = native_path(entry).expanduser()
    if given.is_absolute() and root != given and not given.exists():
        log.warning("%s does not exist; using %s.", entry, root)


def can_mean(entry: str, folder: Path) -> bool:
    """Return whether a folder, which was found once, can be what a `path:` entry means."""
    given = native_path(entry)
    name = _bare_name(given)
    return given.is_absolute() or name is None or folder.parts[-len(name.parts) :] == name.parts


def native_path(entry: str) -> Path:
    """Return a path of a data-set file; on other systems, one of Windows without its drive."""
    windows = PureWindowsPath(entry)
    if os.sep != "/" or not (windows.drive or "\\" in entry):
        return Path(entry)
    return Path("/" * bool(windows.drive or windows.root), *windows.parts[bool(windows.anchor) :])


def _chosen() -> list[Path]:
    base = os.environ.get(DATASETS_VARIABLE)
    return [Path(base).expanduser()] if base else []


def _homes() -> list[Path]:
    return [*_chosen(), REPOSITORY.parent / DATASETS_FOLDER, cache_home() / DATASETS_FOLDER]


def moved_copy(path: Path) -> Path | None:
    """Return the copy in $YOLO_DATASETS_DIR of a path that does not exist, as on another machine.

    For /home/me/sets/cells/data.yaml it is sets/cells/data.yaml, cells/data.yaml or data.yaml in
    this folder: the first that exists. None if there is none, or if the path itself exists.
    """
    return None if path.exists() else next((copy for copy in _copies(path) if copy.exists()), None)


def _copies(path: Path) -> list[Path]:
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    return [home.joinpath(*parts[i:]) for home in _chosen() for i in range(len(parts))]


def _bare_name(given: Path) -> Path | None:
    """Return the entry without leading `..`, `.` and `datasets`; None if nothing else is left."""
    parts = list(given.parts)
    while parts and parts[0] in ("..", ".", DATASETS_FOLDER):
        parts.pop(0)
    return Path(*parts) if parts else None
