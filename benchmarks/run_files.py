"""What a run left behind: whether its checkpoints are whole, and whether two runs left the same.

Checkpoints are read with zipfile and torch alone: the program's own reader is what is being judged.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

LAST = "last.pt"
PREVIOUS = "last_prev.pt"
PARTS = {"weights": "model", "EMA": "ema", "momentum": "optimizer"}
"""Of last.pt, by the names that are told."""


class Saved(NamedTuple):
    """What a checkpoint file is found to be."""

    state: str
    """whole, damaged or absent."""
    epoch: int = 0
    """Completed epochs."""
    iteration: int = 0
    """Batches trained since the start of the run."""
    closed: bool = False
    """Whether the run is over."""

    @property
    def whole(self) -> bool:
        """Whether a run can go on from it."""
        return self.state == "whole"


ABSENT = Saved("absent")


class Settings(NamedTuple):
    """What a checkpoint tells of how its run is trained."""

    save_steps: int
    workers: int
    precision: str


def inspect(path: Path) -> Saved:
    """Read a checkpoint: the checksums of all its members first, then where the run stands."""
    if not path.is_file():
        return ABSENT
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile as error:
        broken = str(error)
    if broken is not None:
        return Saved("damaged")
    content = _content(path)
    return Saved("whole", **content["position"], closed=content["closed"])


def settings_of(path: Path) -> Settings:
    """Read how the run of a checkpoint is trained."""
    config = _content(path)["config"]
    options = config["options"]
    return Settings(options["save_steps"], options["workers"], config["precision"])


def compare_runs(one: Path, two: Path) -> dict[str, list[str]]:
    """Where two finished runs differ, bit for bit, for each part of what they leave.

    Not compared are the folders' names, and what is kept of each resume.
    """
    last, other = (_content(run / "weights" / LAST) for run in (one, two))
    for content in (last, other):
        del content["continuations"], content["config"]["options"]["name"]
    found = {
        title: differences(last.pop(part), other.pop(part), part) for title, part in PARTS.items()
    }
    found["rest of last.pt"] = differences(last, other, "last.pt")
    best, other = (_content(run / "weights" / "best.pt") for run in (one, two))
    found["best.pt"] = differences(best, other, "best.pt")
    tables = {(run / "results.csv").read_bytes() for run in (one, two)}
    found["results.csv"] = [] if len(tables) == 1 else ["results.csv"]
    return found


def differences(one: object, two: object, path: str) -> list[str]:
    """Where two trees of tensors and plain data differ, bit for bit."""
    import torch

    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        alike = (one.dtype, one.shape) == (two.dtype, two.shape)
        bits, others = (t.contiguous().reshape(-1).view(torch.uint8) for t in (one, two))
        return [] if alike and torch.equal(bits, others) else [path]
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return [d for key in one for d in differences(one[key], two[key], f"{path}/{key}")]
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        pairs = enumerate(zip(one, two, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}/{i}")]
    return [] if repr(one) == repr(two) else [path]  # a NaN is itself; -0.0 is not 0.0


def _content(path: Path) -> dict[str, Any]:
    import torch

    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content
