"""Opening only what is a file: a pipe might never begin, and a device never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading.

    Raises:
        OSError: there is none, or it is a folder, a pipe, a socket or a device.
    """
    stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 -- Path.open has no opener
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        return stream
    stream.close()
    raise OSError(errno.EINVAL, "Not a regular file")


def _without_waiting(path: str, flags: int) -> int:
    """Opening a pipe waits for whoever writes to it; not so with this flag, where there is one."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
