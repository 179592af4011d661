"""A lock on a run folder, so that two processes never train the same run."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from utils.errors import UserError

log = logging.getLogger("yolo")

LOCK_FILE = ".lock"
LOCKED_BYTE = 1 << 20  # beyond the text, which other processes read
HELD_ERRORS = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}
"""Reported by the system if another process holds the lock."""


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder for the duration of a with-block.

    The system releases the lock when the process ends, however it ends. Loader processes do not
    inherit it, so a killed run can be resumed at once. The lock file itself stays in the folder;
    nothing else in the process may open it, because closing it would release the lock.

    Args:
        folder: the run folder; must exist.

    Raises:
        UserError: if another process holds the lock.
    """
    try:
        file = (folder / LOCK_FILE).open("a+b", buffering=0)
    except OSError as error:
        _warn_unlocked(folder, error)
        yield
        return
    with file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in HELD_ERRORS:
                raise UserError(
                    f"{folder} is being trained by {_owner(file)}; wait until it ends, or stop it, "
                    "or train in another folder with --name NAME."
                ) from error
            _warn_unlocked(folder, error)
        else:
            with contextlib.suppress(OSError):  # a full disk
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _warn_unlocked(folder: Path, error: OSError) -> None:
    log.warning(
        "%s cannot be locked (%s); make sure that no other process trains this run.",
        *(folder, error.strerror),
    )


def _owner(file: BinaryIO) -> str:
    """Return the text that the owner of the lock wrote into the file."""
    file.seek(0)
    text = file.read(LOCKED_BYTE).decode(errors="replace")
    return text if text.isprintable() and text else "another process"


if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        file.seek(LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        # a record lock: unlike flock, child processes do not inherit it
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LOCKED_BYTE)
