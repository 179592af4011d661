"""Whether files can be created in a folder."""

from __future__ import annotations

import os
from pathlib import Path

ANY_WRITE_BIT = 0o222


def existing_parent(folder: Path) -> Path:
    """Return `folder` if it exists, else its nearest existing parent."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def is_writable(folder: Path) -> bool:
    """Whether files can be created in `folder`, or in its nearest existing parent.

    A folder without any write bit was made read-only on purpose. It counts as not writable even for
    the superuser, who passes every access check.
    """
    folder = existing_parent(folder)
    return bool(folder.stat().st_mode & ANY_WRITE_BIT) and os.access(folder, os.W_OK)
