"""The rule by which a file is found if its name is written in another way.

Names count as equal if they differ in upper and lower case, in Unicode form (macOS writes `é` as
two characters, other systems as one) or in percent-encoding (`%C3%A9`, as web tools write). A file
of exactly the wanted name is preferred, so a data set gives the same training on all systems.
"""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from urllib.parse import unquote


def name_key(name: str) -> str:
    """Return a key that is the same for all ways to write a file name; see the module."""
    plain = unquote(name, errors="surrogateescape") if "%" in name else name
    if plain.isascii():  # nearly all names, of millions
        return plain.casefold()
    # Unicode 15, section 3.13: canonical caseless matching
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", plain).casefold())


def find_files(wanted: Sequence[str], others: Iterable[tuple[str, str]] = ()) -> list[str]:
    """Return the file to use for each wanted one: itself, or one of an equal name if it is missing.

    A file that is wanted itself is never used for another one. If nothing is found, the result is
    the wanted path, which does not exist. Folders of equal names are searched for missing folders.

    Args:
        wanted: absolute paths.
        others: pairs of a folder of wanted files, and another folder that may have them instead.
    """
    missing = set(wanted)  # of millions of images, only one set fits in memory
    folders = {path.rpartition(os.sep)[0] for path in wanted}
    places: defaultdict[str, list[str]] = defaultdict(list)
    for folder, other in [*((folder, folder) for folder in sorted(folders)), *others]:
        places[folder] += (place for place in _existing_folders(other) if place not in folders)
        if other == folder:
            places[folder].append(folder)
    found: list[tuple[str, str, str]] = []  # folder, name, path
    for folder, where in places.items():
        for place in where:
            for name in _names_in(place):
                path = f"{place}{os.sep}{name}"
                if path in missing:
                    missing.remove(path)
                else:
                    found.append((folder, name_key(name), path))
    found.sort(key=lambda item: item[-1], reverse=True)  # keeps the first of several
    by_key = {(folder, key): path for folder, key, path in found}

    def alike(path: str) -> str:
        folder, _, name = path.rpartition(os.sep)
        return by_key.get((folder, name_key(name)), path)

    return [alike(path) if path in missing else path for path in wanted]


def _existing_folders(path: str) -> list[str]:
    """Return the folder, if it exists, else those whose path is equal to it in each name."""
    if os.path.isdir(path):  # noqa: PTH112 -- a plain string needs no Path
        return [path]
    parent, _, name = path.rpartition(os.sep)
    if not name:
        return []
    key = name_key(name)
    found = (
        f"{folder}{os.sep}{inner}"
        for folder in _existing_folders(parent or os.sep)
        for inner in sorted(_names_in(folder))
        if name_key(inner) == key
    )
    return [folder for folder in found if os.path.isdir(folder)]  # noqa: PTH112


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 -- Path would create an object per name
    except OSError:  # a folder that is missing or unreadable has no files
        return []
