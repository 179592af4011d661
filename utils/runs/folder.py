"""Folders of runs: numbered names, and finding the checkpoint to go on from."""

from __future__ import annotations

import re
from pathlib import Path

from utils.checkpoint.format import newest_checkpoint
from utils.errors import UserError

RUN_FILES = re.compile(
    r"weights/((last|last_prev|best|seam_\d+|epoch\d+)\.pt|\.[^/]*\.pt)"
    r"|(opt|hyp)\.yaml|results\.(csv|png)|(seams|metrics|lr_plan)\.json|lr_(map|plan)\.png"
    r"|labels\.jpg|train_batch\d+\.jpg|val_batch\d+_(labels|pred)\.jpg"
    r"|confusion_matrix\.png|(PR|F1|P|R)_curve\.png|miss_rate\.png|events\.out\.tfevents\..*"
)
"""The files that a run leaves in its folder."""


def create_run_folder(project: str | Path, name: str, exist_ok: bool) -> Path:
    """Make and return `project/name`, or `project/name2`, `name3`, … when it is taken.

    Raises:
        UserError: the folder cannot be made.
    """
    folder = Path(project) / name
    number = 2
    while folder.exists() and not exist_ok:
        folder = Path(project) / f"{name}{number}"
        number += 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}; choose another --project."
        ) from error
    return folder


def delete_run_files(folder: Path) -> None:
    """Delete what an earlier run left in a folder, and nothing else."""
    for file in [*folder.iterdir(), *(folder / "weights").glob("*")]:
        if file.is_file() and RUN_FILES.fullmatch(file.relative_to(folder).as_posix()):
            file.unlink()


def latest_checkpoint(project: str | Path) -> Path:
    """The most recently written `*/weights/last.pt` under `project`.

    Raises:
        UserError: there is none.
    """
    found = list(Path(project).glob("**/weights/last.pt"))
    if not found:
        raise UserError(f"no last.pt under {project} to resume; give its path: --resume PATH.")
    return max(found, key=lambda file: file.stat().st_mtime)


def resolve_checkpoint(target: str | Path) -> Path:
    """The checkpoint file meant by a path: the file itself, or the `last.pt` of a run folder.

    Where that is gone, it is the `last_prev.pt` beside it.

    Raises:
        UserError: there is no such file, or the folder holds no `weights/last.pt`.
    """
    path = Path(target)
    if path.is_dir():
        path = newest_checkpoint(path) or path
    if path.is_dir():
        raise UserError(
            f"the folder {path} holds no weights/last.pt to resume from; start the run anew."
        )
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path} to resume from; name a run's folder.")
    return path


def run_folder_of(checkpoint: Path) -> Path:
    """The run of a checkpoint: the folder above its `weights/`, else its own folder."""
    folder = checkpoint.resolve().parent
    folder = folder.parent if folder.name == "weights" else folder
    here = Path.cwd()
    return folder.relative_to(here) if here in folder.parents else folder
