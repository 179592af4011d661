"""Checkpoints on disk: written beside and renamed, verified when read.

A file can be read by `torch.load(path, weights_only=True)`. Here it is read as strictly as one of
upstream's: that function believes what a file says of its sizes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from utils.checkpoint.format import LAST, NOT_IN_FILES, PREVIOUS, Checkpoint, validated
from utils.checkpoint.pickle_records import DAMAGE, MAX_STEPS, refused_name
from utils.checkpoint.plain_data import PlainData
from utils.checkpoint.torch_archive import PARAMETER, STORAGE_TYPES, TENSOR, TorchArchive
from utils.errors import UserError
from utils.files.atomic_write import atomic_link, atomic_write

log = logging.getLogger("yolo")

ALLOWED = STORAGE_TYPES.keys() | {TENSOR, PARAMETER, "collections.OrderedDict"}
"""All that tensors and plain data are made of."""


def save_checkpoint(checkpoint: Checkpoint, path: Path, *, keep_previous: bool = False) -> None:
    """Write a checkpoint; at every moment `path` is either the old file or the new one, whole.

    Args:
        checkpoint: what to write; parts that no file holds are left out.
        path: the file to write; its folder exists.
        keep_previous: leave the file that is replaced beside it, as `last_prev.pt`.

    Raises:
        UserError: the disk is full or the folder cannot be written to; the old file is untouched.
    """
    content = {name: part for name, part in checkpoint.items() if name not in NOT_IN_FILES}

    def write(part: Path) -> None:
        with part.open("wb") as stream:
            try:
                torch.save(content, stream)
            except RuntimeError as error:
                # What the stream raised is lost in a complaint of torch's about positions.
                raise next(_disk_errors(error), error) from error
        if keep_previous and path.is_file():
            atomic_link(path, path.with_name(PREVIOUS))

    atomic_write(path, write)


def _disk_errors(error: BaseException | None) -> Iterator[OSError]:
    while error is not None:
        if isinstance(error, OSError):
            yield error
        error = error.__context__


class LoadedCheckpoint(NamedTuple):
    """What was read, and from which file."""

    path: Path
    content: Checkpoint


def load_whole(path: Path) -> LoadedCheckpoint:
    """Read a checkpoint of ours; for a damaged `last.pt` the `last_prev.pt` beside it is taken.

    A whole file that is of another version or kind is refused: an older one would not be better.

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
            raise UserError(f"{error} Nor is there a good file before it: {worse}") from error
        log.warning("%s Falling back to %s.", error, previous)
        return found
    return LoadedCheckpoint(path, validated(content, origin=str(path)))


def load_checkpoint(path: Path) -> Checkpoint:
    """The content that `load_whole` reads."""
    return load_whole(path).content


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one file: every member's checksum is verified, and nothing in it is executed.

    Raises:
        UserError: the file is missing, damaged, foreign or of another version.
    """
    return validated(_content(path), origin=str(path))


def _content(path: Path) -> object:
    """Tensors and plain data of a file, whatever they are.

    Raises:
        UserError: the file is missing, damaged or foreign, or holds more than these.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}.")
    archive = TorchArchive(path)
    records = archive.records(_check_name)
    try:
        return PlainData(archive, most_nodes=MAX_STEPS, tuples=tuple)(records)
    except DAMAGE as error:
        raise UserError(
            f"{path} is damaged: {str(error)[:100]}; use another checkpoint."
        ) from error


def _check_name(name: str) -> None:
    if name not in ALLOWED:
        raise refused_name(name)
