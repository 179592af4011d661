"""Untyped reading and writing of checkpoints; tests use all keys and also write damaged files."""

from pathlib import Path
from typing import Any, cast

from utils.checkpoint import store
from utils.checkpoint.format import Checkpoint


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of this project."""
    return cast("dict[str, Any]", store.read_checkpoint(path))


def save_checkpoint(content: Any, path: Path, *, keep_previous: bool = False) -> None:
    """Write a checkpoint, complete or damaged."""
    store.save_checkpoint(cast("Checkpoint", content), path, keep_previous=keep_previous)
