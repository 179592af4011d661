"""Checkpoints on disk: written beside and renamed, verified when read."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils.atomic_files import link_replacing, write_replacing
from utils.checkpoint.format import validated
from utils.errors import UserError

log = logging.getLogger("yolo")

PREVIOUS = "last_prev.pt"


def save_checkpoint(
    checkpoint: Mapping[str, Any], path: Path, *, keep_previous: bool = False
) -> None:
    """Write a checkpoint; at every moment `path` is either the old file or the new one, whole.

    Args:
        checkpoint: a `TrainingCheckpoint` or `DeployCheckpoint`.
        path: the file to write; its folder exists.
        keep_previous: leave the file that is replaced beside it, as `last_prev.pt`.

    Raises:
        UserError: the disk is full or the folder cannot be written to; the old file is untouched.
    """

    def write(part: Path) -> None:
        torch.save(dict(checkpoint), part)
        if keep_previous and path.is_file():
            link_replacing(path, path.with_name(PREVIOUS))

    try:
        write_replacing(path, write)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise UserError(f"cannot save {path}: {error}; the file before it is untouched.") from error


class Loaded(NamedTuple):
    """What was read, and from which file."""

    path: Path
    content: dict[str, Any]


def load_whole(path: Path) -> Loaded:
    """Read a checkpoint of ours; a damaged `last.pt` falls back to `last_prev.pt` beside it.

    Raises:
        UserError: the file is missing, damaged, foreign or of another version.
    """
    try:
        return Loaded(path, read_checkpoint(path))
    except UserError as error:
        previous = path.with_name(PREVIOUS)
        if path.name == PREVIOUS or not previous.is_file():
            raise
        log.warning("%s Falling back to %s.", error, previous)
        return Loaded(previous, read_checkpoint(previous))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content that `load_whole` reads."""
    return load_whole(path).content


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one file: every record's checksum is verified, and nothing in it is executed.

    Raises:
        UserError: the file is missing, damaged, foreign or of another version.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(
                f"{path} is damaged: the checksum of {damaged} is wrong; use another checkpoint."
            )
        data = torch.load(path, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path} is not a checkpoint, or it is cut short; use another file."
        ) from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds more than tensors and plain data; it is refused.") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}."
        ) from error
    return validated(data, origin=str(path))
