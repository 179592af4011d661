"""Files that appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.errors import UserError

PART = re.compile(r"\..+\.[0-9a-f]{12}(\.\w+)?")
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, then go on"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make its folder writable"),
    errno.EFBIG: "choose a place that takes files of this size",
}


class UnwritableError(UserError, OSError):
    """A file cannot be written: an OSError, with its `errno`, that is also a sentence for the user.

    Args:
        target: the file that was to be.
        reason: what the system says.
    """

    def __init__(self, target: Path, reason: OSError) -> None:
        OSError.__init__(self, reason.errno, reason.strerror or str(reason), str(target))

    def __str__(self) -> str:
        remedy = REMEDIES.get(self.errno or 0, "choose another place")
        return (
            f"cannot write {self.filename}: {self.strerror}; "
            f"what was there before is untouched; {remedy}."
        )


def write_replacing(target: Path, write: Callable[[Path], None]) -> None:
    """Write a file beside `target`, flush it and move it there: nobody ever sees half a file.

    Args:
        target: the file to be; its folder is made.
        write: fills the file it is given, whose suffix is that of `target`.

    Raises:
        UnwritableError: the folder cannot be made or written, or the disk is full.
    """
    part = _part_of(target)
    with _sentence(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.touch(exist_ok=False)
            write(part)
            with part.open("r+b") as stream:  # Windows flushes only what is open for writing
                os.fsync(stream.fileno())
            part.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):  # what went wrong first is what is to be told
                part.unlink(missing_ok=True)
            raise
    _sync_folder(target.parent)


def write_text_replacing(target: Path, text: str) -> None:
    """Write a text file, UTF-8, at once or not at all.

    Raises:
        UnwritableError: as for `write_replacing`.
    """
    write_replacing(target, lambda part: _write_text(part, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def clear_parts(folder: Path) -> None:
    """Delete the half-written files that killed processes left in a folder."""
    for file in folder.glob(".*"):
        if PART.fullmatch(file.name) and file.is_file():
            file.unlink()


def copy_replacing(source: Path, target: Path) -> None:
    """Give `target` a copy of `source`, at once or not at all.

    Raises:
        UnwritableError: as for `write_replacing`.
    """
    write_replacing(target, lambda part: _copy(source, part))


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def link_replacing(source: Path, target: Path) -> None:
    """Let `target` be the same file as `source`, which is about to be replaced; costs nothing.

    Where the file system has no links, the content is copied.

    Raises:
        UnwritableError: as for `write_replacing`.
    """
    part = _part_of(target)
    try:
        os.link(source, part)
    except OSError:
        copy_replacing(source, target)
        return
    with _sentence(target):
        try:
            part.replace(target)
        finally:  # POSIX renames nothing where both names are one file already
            part.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _part_of(target: Path) -> Path:
    """A name beside the target that is nobody else's; hidden, and of the same suffix."""
    return target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}{target.suffix}")


@contextlib.contextmanager
def _sentence(target: Path) -> Iterator[None]:
    """Turn an error of the file system into one for the user; of a network it stays what it is."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise
        raise UnwritableError(target, error) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; POSIX keeps it in the folder, which must be flushed itself.

    The rename is done by then: where the system cannot flush a folder, as on some network drives,
    there is nothing to take back and nothing more to do.
    """
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
