"""Find the images that annotations name; tools write these names in many ways."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from utils.datasets.image_files import IMAGE_SUFFIXES, list_images
from utils.datasets.matching import name_key
from utils.errors import UserError
from utils.tools.convert.annotated import shown, without_query
from utils.tools.convert.made_files import made_below

UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-")
"""Label Studio writes it before the names of uploaded images."""
SURROGATE = re.compile("[\ud800-\udfff]")
"""Python represents a byte of a file name that is not UTF-8 by such a character."""
LOCAL_FILES = "?d="
"""Label Studio's URL of an image in local storage ends with this and the path."""
Score = tuple[int, int, bool, bool, int]


def stem_of(name: str, suffixes: Set[str] = IMAGE_SUFFIXES) -> str:
    """Return a name without its suffix, if it is one of these; other dots belong to the name."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in suffixes else name


def require_same(one: str, other: str, place: PurePosixPath) -> None:
    """Check that two names of a file that is found for both differ in the first folders only.

    Otherwise one of two images is missing, and its annotations do not belong to the other.

    Raises:
        UserError: they name two files.
    """
    names = map(without_query, (one, other))
    texts = (unquote(name).replace("\\", "/").removeprefix("./") for name in names)
    shorter, longer = sorted(map(name_key, texts), key=len)
    if not f"/{longer}".endswith(f"/{shorter}"):
        raise UserError(
            f"{one} and {other} are both found as {place}; put the images in these folders, or "
            "correct the names."
        )


class FileFinder:
    """Files of a folder, to be found by the names of annotations.

    Args:
        folder: an absolute path without links.
        files: files below it.
        suffixes: their suffixes, in lower case; a name may be without it.
    """

    def __init__(self, folder: Path, files: Iterable[Path], suffixes: Set[str]) -> None:
        files = list(files)
        names = [os.fsencode(path.name) for path in files if SURROGATE.search(str(path))]
        if names:
            texts = [name.decode(errors="backslashreplace") for name in names]
            raise UserError(
                f"{len(names)} files in {folder} have names that are not UTF-8: {shown(texts)}; "
                "rename them, or unpack the archive again with its encoding."
            )
        self.folder = folder
        self._suffixes = suffixes
        self._files = {
            path: PurePosixPath(path.relative_to(folder).as_posix()) for path in sorted(files)
        }
        self._by_stem: defaultdict[str, list[Path]] = defaultdict(list)
        for path in self._files:
            self._by_stem[name_key(stem_of(path.name, suffixes))].append(path)

    def __iter__(self) -> Iterator[Path]:
        """All files, sorted."""
        return iter(self._files)

    def place(self, file: Path) -> PurePosixPath:
        """Return the path of a file below the folder."""
        return self._files[file]

    def find(self, name: str, near: Set[str] = frozenset()) -> Path | None:
        """Return the file that a name means; None if there is none.

        The name may be a path of another machine, with backslashes, without suffix, escaped as in
        a URL, in another Unicode form or with the prefix of an upload. Among several files the
        one is chosen whose path ends with most of the name's folders; then the one with most of
        its folders (train/labels/a is for train/images/a), then the one with exactly the same
        name, then the one in a folder named in `near`, then the least nested one.

        Raises:
            UserError: two files fit equally well.
        """
        name = without_query(name).rpartition(LOCAL_FILES)[2].replace("\\", "/")
        plain = unquote(name)
        folder, slash, last = plain.rpartition("/")
        variants = (name, plain, f"{folder}{slash}{UPLOAD_PREFIX.sub('', last, count=1)}")
        return next(filter(None, (self._best(each, near) for each in variants)), None)

    def _best(self, name: str, near: Set[str]) -> Path | None:
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        if not parts:
            return None
        stem = stem_of(parts[-1], self._suffixes)
        found = self._by_stem.get(name_key(stem), [])
        if stem != parts[-1]:
            key = name_key(parts[-1])
            found = [path for path in found if name_key(path.name) == key]
        if not found:
            return None
        ranked = sorted(((self._score(path, parts, near), path) for path in found), reverse=True)
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            raise UserError(
                f"{name} can be {self.place(ranked[0][1])} or {self.place(ranked[1][1])} "
                f"in {self.folder}; rename one of them, or give a folder with one of them."
            )
        return ranked[0][1]

    def _score(self, path: Path, parts: list[str], near: Set[str]) -> Score:
        place = self.place(path).parts
        folders = zip(reversed(place[:-1]), reversed(parts[:-1]), strict=False)
        common = 0
        for ours, theirs in folders:
            if name_key(ours) != name_key(theirs):
                break
            common += 1
        exact = parts[-1] in (place[-1], stem_of(place[-1], self._suffixes))
        shared = len({*map(name_key, place[:-1])} & {*map(name_key, parts[:-1])})
        return common, shared, exact, not near.isdisjoint(place), -len(place)


def find_images(folder: Path) -> FileFinder:
    """Return the images of a folder, searched recursively; there may be none.

    Raises:
        UserError: the folder does not exist.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of the images.")
    folders: dict[Path, Path] = {}
    found, made = [], made_below(root)
    try:
        listed = list_images([root])
    except UserError:  # there are none
        listed = []
    for path in map(Path, listed):
        if path.parent not in folders:
            folders[path.parent] = path.parent.resolve()
        real = folders[path.parent] / path.name
        real = real.resolve() if path.is_symlink() else real
        # A link to another of the images was made by an earlier conversion in this folder.
        if path not in made and (real == path or not real.is_relative_to(root)):
            found.append(path)
    return FileFinder(root, found, IMAGE_SUFFIXES)


def find_files(folder: Path, suffix: str) -> FileFinder:
    """Return the files with this suffix of a folder, searched recursively.

    Hidden files, and those that earlier conversions of the folder made, are left out.
    """
    root, made = folder.resolve(), made_below(folder)
    files = (
        path
        for path in root.rglob("*")
        if path.suffix.lower() == suffix
        and path not in made
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    return FileFinder(root, files, frozenset({suffix}))
