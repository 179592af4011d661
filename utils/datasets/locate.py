"""Location of a data set: how the `path:` of a data-set file is resolved to a folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from utils.datasets.cache_files import cache_home
from utils.files.writable import is_writable

log = logging.getLogger("yolo")

REPOSITORY = Path(__file__).resolve().parents[2]
DATASETS_VARIABLE = "YOLO_DATASETS_DIR"
DATASETS_FOLDER = "datasets"


def find_root(entry: str, beside: Path) -> Path:
    """Resolve the `path:` entry of a data-set file in the folder `beside`.

    An empty entry, or one like `.`, is relative to the data-set file. An absolute path is used as
    it is, or its copy in $YOLO_DATASETS_DIR, see `moved_copy`. Otherwise the result is the first
    of these folders that exists (NAME is the entry without leading `..`, `.` and `datasets`; for
    ../datasets/coco128 it is coco128):

    1. $YOLO_DATASETS_DIR/NAME, if the variable is set, then with only the last part of NAME
    2. the entry relative to the working directory, to the repository, and to the file
    3. datasets/NAME beside the repository
    4. datasets/NAME in the user's cache folder

    If none exists, the result is the first of 1, 3 and 4 that is writable, as the folder to
    download to.

    Raises:
        RuntimeError: the entry begins with `~` and an unknown user name.
    """
    given = Path(entry).expanduser()
    name = _bare_name(given)
    if given.is_absolute():
        return moved_copy(given) or given
    if name is None:
        return (beside / given).resolve()

    base = os.environ.get(DATASETS_VARIABLE)
    chosen = [Path(base).expanduser()] if base else []
    homes = [*chosen, REPOSITORY.parent / DATASETS_FOLDER, cache_home() / DATASETS_FOLDER]
    candidates = [
        *(home / part for home in chosen for part in (name, name.name)),
        *(folder / given for folder in (Path.cwd(), REPOSITORY, beside)),
        *(home / name for home in homes),
    ]
    found = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if found is None:
        found = next((home for home in homes if is_writable(home)), homes[-1]) / name
    return found.resolve()


def moved_copy(path: Path) -> Path | None:
    """Return the copy in $YOLO_DATASETS_DIR of a path that does not exist, as on another machine.

    For /home/me/sets/cells/data.yaml it is sets/cells/data.yaml, cells/data.yaml or data.yaml in
    this folder: the first that exists. None if there is none, or if the path itself exists.
    """
    base = os.environ.get(DATASETS_VARIABLE)
    if not base or path.exists():
        return None
    parts = [part for part in path.parts if part not in (path.anchor, "..")]
    candidates = (Path(base).expanduser().joinpath(*parts[i:]) for i in range(len(parts)))
    found = next((candidate for candidate in candidates if candidate.exists()), None)
    if found is not None:
        log.warning("%s does not exist; using %s.", path, found)
    return found


def _bare_name(given: Path) -> Path | None:
    """Return the entry without leading `..`, `.` and `datasets`; None if nothing else is left."""
    parts = list(given.parts)
    while parts and parts[0] in ("..", ".", DATASETS_FOLDER):
        parts.pop(0)
    return Path(*parts) if parts else None
