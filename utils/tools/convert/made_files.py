"""The files that a conversion made: a later one removes these and no others.

They are listed in the record conversion.json. Before a conversion changes a file, it writes a
record that is marked as incomplete and lists the files made before and those to be made; so after
a kill at any moment the next conversion knows them all.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Set
from pathlib import Path, PurePosixPath

from utils.errors import UserError
from utils.files.json_file import read_json
from utils.tools.convert.annotated import shown

RECORD = "conversion.json"
"""Record of the conversion. Its presence shows that the folder was written by the converter."""
FILES = "files"
"""Key of the files in the record: path in the data set to checksum, or null for a link."""
COMPLETE = "complete"
SOURCE = "source"

Files = Mapping[str, int | None]


def checksum(text: str) -> int:
    """Return the checksum of a text file's content, as it is in the record."""
    return zlib.crc32(text.encode())


def read_made_files(out: Path) -> Files | None:
    """Return the files that earlier conversions made in a folder; None without a record.

    Raises:
        UserError: the record is damaged or lists no files, or a file was changed since.
    """
    record = out / RECORD
    if not record.is_file():
        return None
    content = read_json(record)
    files = content.get(FILES) if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(map(_is_inside, files)):
        raise UserError(
            f"{record} does not list the files of the conversion, for example because an earlier "
            "version wrote it; move the folder away, or give another one with --out."
        )
    if content.get(COMPLETE):
        changed = [place for place, mark in files.items() if not _is_unchanged(out / place, mark)]
        if changed:
            raise UserError(
                f"{len(changed)} files in {out} were changed after the conversion and would be "
                f"lost: {shown(changed)}; move them away, or give another folder with --out."
            )
    return files


def made_below(folder: Path) -> frozenset[Path]:
    """Return the files in a folder that conversions of this folder, or of a part of it, made.

    They are not read as annotations when it is converted again. What was converted from elsewhere
    is a data set like any other.
    """
    folder = folder.resolve()
    found: set[Path] = set()
    for record in folder.rglob(RECORD):
        try:
            content = read_json(record)
        except UserError:  # reported where the record is needed
            continue
        files = content.get(FILES) if isinstance(content, dict) else None
        source = content.get(SOURCE) if isinstance(content, dict) else None
        if isinstance(files, dict) and isinstance(source, str):
            origin = Path(source)
            if origin.is_relative_to(folder) or folder.is_relative_to(origin):
                found.update(record.parent / place for place in files)
    return frozenset(found)


def require_same_source(out: Path, source: str) -> None:
    """Check that no other data set was converted to a folder that the user has not chosen.

    Raises:
        UserError: the record names another source.
    """
    content = read_json(out / RECORD) if (out / RECORD).is_file() else None
    other = content.get(SOURCE, source) if isinstance(content, dict) else source
    if other != source:
        raise UserError(
            f"{out} was converted from {other}; give this folder or another with --out."
        )


def require_own(out: Path, places: Iterable[str], made: Set[str], what: str) -> None:
    """Check that none of these files exists, except those made by earlier conversions.

    Raises:
        UserError: such a file exists.
    """
    found = [place for place in places if place not in made and _exists(out / place)]
    if found:
        raise UserError(
            f"{out / found[0]} exists and was not written by a conversion"
            + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
            + f"; {what}, or give another folder with --out."
        )


def remove(out: Path, places: Iterable[str]) -> None:
    """Remove files, and then the folders that have become empty."""
    folders: set[PurePosixPath] = set()
    for place in places:
        (out / place).unlink(missing_ok=True)
        folders.update(PurePosixPath(place).parents)
    for folder in sorted(folders - {PurePosixPath()}, key=lambda path: -len(path.parts)):
        target = out / folder
        if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
            target.rmdir()


def _exists(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _is_inside(place: str) -> bool:
    path = PurePosixPath(place)
    return not path.is_absolute() and ".." not in path.parts


def _is_unchanged(path: Path, mark: int | None) -> bool:
    """Whether a file is as the conversion made it, or was removed; a copy of an image is not."""
    if not _exists(path):
        return True
    if mark is None:  # without links to a file, it is the only one with this content
        return path.is_symlink() or path.stat().st_nlink > 1
    return path.is_file() and not path.is_symlink() and zlib.crc32(path.read_bytes()) == mark


def json_text(content: object) -> str:
    """Return content as JSON without spaces."""
    return json.dumps(content, separators=(",", ":"))
