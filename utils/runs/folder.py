"""Run folders: numbered names, and finding the checkpoint to resume."""

from __future__ import annotations

import re
from pathlib import Path

from utils.checkpoint.format import newest_checkpoint
from utils.errors import UserError

RUN_FILES = re.compile(
    r"weights/((last|last_prev|best|average|(seam|trunk)_\d+|epoch\d+)\.pt|\.[^/]*\.pt)"
    r"|(opt|hyp)\.yaml|results\.(csv|png)|(seams|metrics|lr_plan)\.json|lr_(map|plan)\.png"
    r"|images_[0-9a-f]{12}\.npz|labels(_correlogram)?\.jpg|train_batch\d+\.jpg|val_batch\d+_(labels|pred)\.jpg"
    r"|confusion_matrix\.png|(PR|F1|P|R)_curve\.png|miss_rate\.png|events\.out\.tfevents\..*"
)
"""Files that a run writes into its folder."""
TRUNK_FILE = re.compile(r"trunk_\d+\.pt")
"""Name of the checkpoint at the start of a cooldown."""


def create_run_folder(project: str | Path, name: str, exist_ok: bool) -> Path:
    """Create and return `project/name`, or `project/name2`, `name3`, … if it exists.

    With `exist_ok`, this is `project/name` even if it exists.

    Raises:
        UserError: if the folder cannot be created.
    """
    folder = Path(project) / name
    number = 1
    while True:
        try:
            # Creating the folder decides: another process may start at the same time.
            folder.mkdir(parents=True, exist_ok=exist_ok)
        except FileExistsError as error:
            if exist_ok:
                raise _creation_error(folder, error) from error
            number += 1
            folder = Path(project) / f"{name}{number}"
        except OSError as error:
            raise _creation_error(folder, error) from error
        else:
            return folder


def name_within(name: str) -> str:
    """Return a recorded run name without the folders that could lead out of the project."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "exp" if last in ("", ".", "..") else last


def _creation_error(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot create the folder {folder}: {error.strerror}; choose another --project."
    )


def delete_run_files(folder: Path) -> None:
    """Delete the files of an earlier run from a folder; keeps all other files."""
    for file in [*folder.iterdir(), *(folder / "weights").glob("*")]:
        if file.is_file() and RUN_FILES.fullmatch(file.relative_to(folder).as_posix()):
            file.unlink()


def latest_checkpoint(project: str | Path) -> Path:
    """The most recently written `**/weights/last.pt` under `project`.

    Raises:
        UserError: if there is none.
    """
    found = list(Path(project).glob("**/weights/last.pt"))
    if not found:
        raise UserError(
            f"{project} contains no weights/last.pt to resume; give its path with --resume PATH."
        )
    return max(found, key=lambda file: file.stat().st_mtime)


def resolve_checkpoint(target: str | Path) -> Path:
    """The checkpoint file at a path: the file, or the `last.pt` or `last_prev.pt` of a run folder.

    Raises:
        UserError: if the file does not exist, or the folder contains no checkpoint.
    """
    path = Path(target)
    file = newest_checkpoint(path) if path.is_dir() else path
    if file is None:
        raise UserError(
            f"{path} contains no weights/last.pt to resume; start a new run without --resume."
        )
    if not file.is_file():
        raise UserError(f"{file} does not exist; give a run folder or a checkpoint to --resume.")
    return file


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder of a checkpoint: the parent of its `weights/` folder, else its own folder."""
    folder = checkpoint.resolve().parent
    folder = folder.parent if folder.name == "weights" else folder
    here = Path.cwd()
    return folder.relative_to(here) if here in folder.parents else folder
