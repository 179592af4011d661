"""Inspection of a run's files: whether checkpoints are intact, and whether two runs are equal.

Checkpoints are read with zipfile and torch alone, because the program's own reader is under test.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

LAST = "last.pt"
PREVIOUS = "last_prev.pt"
PART_KEYS = {"weights": "model", "EMA": "ema", "momentum": "optimizer"}
"""Keys of last.pt, by the name in reports."""


class CheckpointStatus(NamedTuple):
    """The condition of a checkpoint file, and the position of its run."""

    state: str
    """intact, damaged or missing."""
    epoch: int = 0
    """Number of completed epochs."""
    iteration: int = 0
    """Number of batches trained since the start of the run."""
    finalized: bool = False
    """Whether the run has finished."""

    @property
    def intact(self) -> bool:
        """Whether a run can resume from the file."""
        return self.state == "intact"


MISSING = CheckpointStatus("missing")


class Settings(NamedTuple):
    """Options of a run, as stored in its checkpoint."""

    save_steps: int
    workers: int
    precision: str


def inspect_checkpoint(path: Path) -> CheckpointStatus:
    """Verify the checksums of all members of a checkpoint, then read the position of its run."""
    if not path.is_file():
        return MISSING
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        broken = str(error)
    if broken is not None:
        return CheckpointStatus("damaged")
    content = read_content(path)
    return CheckpointStatus("intact", **content["position"], finalized=content["closed"])


def read_settings(path: Path) -> Settings:
    """Read the options of the run from a checkpoint."""
    config = read_content(path)["config"]
    options = config["options"]
    return Settings(options["save_steps"], options["workers"], config["precision"])


def compare_runs(one: Path, two: Path) -> dict[str, list[str]]:
    """Return the bitwise differences of two finished runs, for each part of their files.

    The names of the folders and the records of resumes are not compared.
    """
    last, other = (read_content(run / "weights" / LAST) for run in (one, two))
    for content in (last, other):
        del content["continuations"], content["config"]["options"]["name"]
    found = {
        title: find_differences(last.pop(part), other.pop(part), part)
        for title, part in PART_KEYS.items()
    }
    found["rest of last.pt"] = find_differences(last, other, "last.pt")
    best, other = (read_content(run / "weights" / "best.pt") for run in (one, two))
    found["best.pt"] = find_differences(best, other, "best.pt")
    tables = {(run / "results.csv").read_bytes() for run in (one, two)}
    found["results.csv"] = [] if len(tables) == 1 else ["results.csv"]
    return found


def find_differences(one: object, two: object, path: str) -> list[str]:
    """Return the paths at which two trees of tensors and plain data differ, bit for bit."""
    import torch

    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        same_type = (one.dtype, one.shape) == (two.dtype, two.shape)
        bits, others = (t.contiguous().reshape(-1).view(torch.uint8) for t in (one, two))
        return [] if same_type and torch.equal(bits, others) else [path]
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return [d for key in one for d in find_differences(one[key], two[key], f"{path}/{key}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return [d for i, (a, b) in pairs for d in find_differences(a, b, f"{path}/{i}")]
    return [] if repr(one) == repr(two) else [path]  # NaN equals NaN; -0.0 differs from 0.0


def read_content(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, tensors and plain data."""
    import torch

    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content
