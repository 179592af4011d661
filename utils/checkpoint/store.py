"""Checkpoints on disk: written atomically, verified when read.

`torch.load(path, weights_only=True)` can read the files too, but it trusts the sizes that a file
claims. Here, a file of ours is read as strictly as one of upstream's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils.checkpoint.format import (
    LAST,
    MEMORY_ONLY_KEYS,
    PREVIOUS,
    Checkpoint,
    validate_checkpoint,
)
from utils.checkpoint.pickle_records import DAMAGE_ERRORS
from utils.checkpoint.torch_archive import TENSOR_NAMES, TorchArchive
from utils.errors import UserError
from utils.files.atomic_write import atomic_link, atomic_write

log = logging.getLogger("yolo")


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, keep_previous: bool = False) -> None:
    """Write a checkpoint atomically: at any time, `path` is the complete old or new file.

    Args:
        checkpoint: what to write, except for the keys that exist in memory only.
        path: the file; its folder must exist.
        keep_previous: keep the replaced file as `last_prev.pt` in the same folder.

    Raises:
        UserError: the disk is full or the folder cannot be written to; the old file is untouched.
    """
    content = {name: part for name, part in checkpoint.items() if name not in MEMORY_ONLY_KEYS}

    def write(part: Path) -> None:
        write_torch_file(content, part)
        if keep_previous and path.is_file():
            atomic_link(path, path.with_name(PREVIOUS))

    atomic_write(path, write)


def write_torch_file(content: object, path: Path, **settings: Any) -> None:  # noqa: ANN401
    """Write a file with `torch.save` and its settings, not atomically.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as stream:
        try:
            torch.save(content, stream, **settings)
        except RuntimeError as error:
            # torch hides the stream's error behind one of its own about file positions.
            raise next(_disk_errors(error), error) from error


def _disk_errors(error: BaseException | None) -> Iterator[OSError]:
    while error is not None:
        if isinstance(error, OSError):
            yield error
        error = error.__context__


class LoadedCheckpoint(NamedTuple):
    """Content of a checkpoint, and the file that it was read from."""

    path: Path
    content: Checkpoint


def load_with_fallback(path: Path) -> LoadedCheckpoint:
    """Read a checkpoint of ours; if it is a damaged `last.pt`, fall back to `last_prev.pt`.

    There is no fallback for an intact file of another version or kind: an older file would not be
    better.

    Raises:
        UserError: the file is missing, damaged, foreign or of another version.
    """
    try:
        content = _content(path)
    except UserError as error:
        previous = path.with_name(PREVIOUS)
        if path.name != LAST or not previous.is_file():
            raise
        try:
            found = LoadedCheckpoint(previous, read_checkpoint(previous))
        except UserError as worse:
            raise UserError(
                f"{error} The previous checkpoint cannot be used either: {worse}"
            ) from error
        log.warning("%s Falling back to %s.", error, previous)
        return found
    return LoadedCheckpoint(path, validate_checkpoint(content, origin=str(path)))


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the content that `load_with_fallback` reads."""
    return load_with_fallback(path).content


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one file, verify the checksum of every member, and execute nothing in it.

    Raises:
        UserError: the file is missing, damaged, foreign or of another version.
    """
    return validate_checkpoint(_content(path), origin=str(path))


def _content(path: Path) -> object:
    """Return the tensors and plain data of a file, without checking its keys.

    Raises:
        UserError: the file is missing, damaged or foreign, or holds other objects.
    """
    archive = TorchArchive(path, TENSOR_NAMES.__contains__)
    try:
        return archive.plain(archive.content)
    except DAMAGE_ERRORS as error:
        raise UserError(
            f"{path} is damaged ({str(error)[:100]}); use another checkpoint."
        ) from error
