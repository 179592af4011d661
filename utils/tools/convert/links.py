"""Putting originals into a data set without copying or changing them."""

from __future__ import annotations

import os
from pathlib import Path

from utils.datasets.image_files import IMAGE_SUFFIXES
from utils.errors import UserError


def link(source: Path, target: Path) -> None:
    """Let the file `source` be at `target` too, by a link; if it lies there, it is left in place.

    Symbolic links are preferred, since they show what they are and lead to other disks. On Windows
    they take privileges that hard links do not.

    Raises:
        UserError: another file is at `target`, or no kind of link can be made.
    """
    if target.is_symlink() or target.exists():
        if target.exists() and target.samefile(source):
            return
        if not target.is_symlink():
            raise UserError(f"{target} is another file than {source}; remove it or move it away.")
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    original = source.resolve()
    ways = (target.symlink_to, target.hardlink_to)
    reasons = []
    for way in reversed(ways) if os.name == "nt" else ways:
        try:
            way(original)
        except OSError as error:
            reasons.append(error.strerror)
        else:
            return
    raise UserError(
        f"{target} cannot be made a link to {source} ({', '.join(map(str, reasons))}); "
        "let --out be a folder on the same disk."
    )


def other_images(folder: Path, expected: set[Path]) -> int:
    """How many images below `folder` are not `expected`."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sum(path not in expected for path in found)
