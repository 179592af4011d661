"""Link original files into a data set, without copying or changing them."""

from __future__ import annotations

import os
from pathlib import Path

from utils.datasets.image_files import IMAGE_SUFFIXES
from utils.errors import UserError


def link(source: Path, target: Path) -> None:
    """Create a link to the file `source` at `target`, unless `target` already is this file.

    Symbolic links are preferred, because they are visible as links and work across disks. On
    Windows hard links are preferred, because symbolic links need privileges.

    Raises:
        UserError: another file is at `target`, or no kind of link can be created.
    """
    if target.is_symlink() or target.exists():
        if target.exists() and target.samefile(source):
            return
        if not target.is_symlink():
            raise UserError(f"{target} exists and is not {source}; remove it or move it away.")
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
        f"cannot write {target} as a link to {source}: {', '.join(map(str, reasons))}; "
        "give a folder on the same disk with --out."
    )


def other_images(folder: Path, expected: set[Path]) -> int:
    """Return the number of images below `folder` that are not `expected`."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return sum(path not in expected for path in found)
