"""Files that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_replacing(target: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside `target`, flush it and move it there: nobody ever sees half a file.

    Args:
        target: the file to be; its folder is made.
        write: fills the file it is given, whose suffix is that of `target`.

    Raises:
        OSError: the folder cannot be made or written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.stem}.", suffix=target.suffix, delete=False
    ) as stream:
        part = Path(stream.name)
    try:
        write(part)
        with part.open("r+b") as stream:  # Windows flushes only what is open for writing
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~_umask())  # temporary files are made for their owner alone
        part.replace(target)
        _sync_folder(target.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def copy_replacing(source: Path, target: Path) -> None:
    """Give `target` a copy of `source`, at once or not at all."""

    def write(part: Path) -> None:
        shutil.copyfile(source, part)

    write_replacing(target, write)


def link_replacing(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`, which is about to be replaced; costs nothing.

    Where the file system has no links, the content is copied.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.stem}.") as folder:
        part = Path(folder) / target.name
        try:
            os.link(source, part)
        except OSError:
            copy_replacing(source, target)
        else:
            part.replace(target)
            _sync_folder(target.parent)


def _umask() -> int:
    """The permissions that new files are to lack; there is no way to ask but to set them."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; POSIX keeps it in the folder, which must be flushed itself."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
