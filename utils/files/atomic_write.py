"""Atomic writes: a file is written completely or not at all, even if the process is killed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.errors import UserError

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

TEMPORARY_FILE = re.compile(r"\..+\.[0-9a-f]{12}(\.\w+)?")
UNFINISHED_EXPORT = re.compile(
    r"\..+(\.[0-9a-f]{12}\.(onnx|torchscript)|_yolov5\.[0-9a-f]{12}\.pt"
    r"|_openvino_model\.[0-9a-f]{12})"
)
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free disk space, then resume or run again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make its folder writable"),
    errno.EFBIG: "use a file system that supports files of this size",
}


class UnwritableError(UserError, OSError):
    """A file cannot be written: an OSError with its `errno`, and a message for the user.

    Args:
        target: the file to write.
        reason: the error of the operating system.
    """

    def __init__(self, target: Path, reason: OSError) -> None:
        OSError.__init__(self, reason.errno, reason.strerror or str(reason), str(target))

    def __str__(self) -> str:
        remedy = REMEDIES.get(self.errno or 0, "choose another folder")
        return (
            f"cannot write {self.filename}: {self.strerror} (an existing file is unchanged); "
            f"{remedy}."
        )


def atomic_write(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: write a temporary file beside it, flush it and rename it.

    Args:
        target: the file to write; its folder is created.
        write: writes the temporary file at the given path, which has the suffix of `target`.

    Raises:
        UnwritableError: the folder cannot be created or written, or the disk is full.
    """
    part = _temporary_path(target)
    with _unwritable_reported(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.touch(exist_ok=False)
            write(part)
            with part.open("r+b") as stream:  # Windows flushes only files open for writing
                os.fsync(stream.fileno())
            part.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):  # report the first error, not this one
                part.unlink(missing_ok=True)
            raise
    _sync_folder(target.parent)


def atomic_write_text(target: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        UnwritableError: as for `atomic_write`.
    """
    atomic_write(target, lambda part: part.write_text(text, encoding="utf-8"))


def atomic_write_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Write a folder of files: fill a temporary folder beside it, and rename it.

    A process that is killed leaves the complete old or new folder, or none: a folder that exists
    is first renamed, because a folder can replace only an empty one.

    Args:
        target: the folder to write.
        write: fills the folder at the given path.

    Raises:
        UnwritableError: a folder cannot be created or written, or the disk is full.
    """
    part, old = _temporary_path(target), _temporary_path(target)
    with _unwritable_reported(target):
        part.mkdir(parents=True)
        try:
            write(part)
            for file in part.iterdir():
                with file.open("r+b") as stream:
                    os.fsync(stream.fileno())
            if target.exists():
                target.replace(old)
            part.replace(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    _sync_folder(target.parent)


def remove_temporary_files(folder: Path) -> None:
    """Delete the temporary files and folders that killed processes left in a folder."""
    _remove_matching(folder, TEMPORARY_FILE)


def _remove_matching(folder: Path, pattern: re.Pattern[str]) -> None:
    for file in folder.glob(".*"):
        if pattern.fullmatch(file.name):
            if file.is_dir():
                shutil.rmtree(file)
            else:
                file.unlink()


@contextlib.contextmanager
def exporting(folder: Path) -> Iterator[None]:
    """Mark that models are exported into a folder, and first remove what killed exports left.

    Nothing is removed while another process exports into the folder, or where the system has no
    locks of folders.
    """
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # some network drives have no such locks
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove_matching(folder, UNFINISHED_EXPORT)
                fcntl.flock(handle, fcntl.LOCK_SH)
        yield


def atomic_copy(source: Path, target: Path) -> None:
    """Copy `source` to `target` atomically.

    Raises:
        UnwritableError: as for `atomic_write`.
    """
    atomic_write(target, lambda part: shutil.copyfile(source, part))


def atomic_link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, atomically and without copying.

    Use it to keep a `source` that is about to be replaced. If the file system does not support hard
    links, the content is copied.

    Raises:
        UnwritableError: as for `atomic_write`.
    """
    part = _temporary_path(target)
    try:
        os.link(source, part)
    except OSError:
        atomic_copy(source, target)
        return
    with _unwritable_reported(target):
        try:
            part.replace(target)
        finally:  # POSIX renames nothing if both names already are the same file
            part.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _temporary_path(target: Path) -> Path:
    """Return a unique, hidden file name beside the target, with the same suffix."""
    return target.with_name(f".{target.stem}.{uuid.uuid4().hex[:12]}{target.suffix}")


@contextlib.contextmanager
def _unwritable_reported(target: Path) -> Iterator[None]:
    """Convert file-system errors to `UnwritableError`; network errors pass unchanged."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise
        raise UnwritableError(target, error) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable by flushing the folder, as POSIX requires.

    Errors are ignored: the rename is already done, and Windows and some network drives cannot flush
    folders.
    """
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
