"""What there is to tell of a checkpoint, as plain facts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from utils.checkpoint.pickle_records import require_type

NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked", "anchors", "anchor_grid")
"""Last parts of the names of what a model holds and does not learn."""


@dataclass(frozen=True)
class Facts:
    """What a file says of itself; None where it does not say it."""

    format: str
    """yolov5-extend, or YOLOv5 for upstream's."""
    version: str | int
    """Of our format; of upstream the release that wrote the file, v7.0 standing for later ones."""
    kind: str
    """training; deploy, stripped for use."""
    epoch: int | None
    """Completed epochs, which is also the 0-based number of the one that comes next."""
    step: int | None
    """Batches trained since the start of the run."""
    under_way: dict[str, int] | None
    """Of an epoch that was not finished: its batches, those not yet applied, those left out."""
    planned: int | None
    """Epochs planned for the whole run."""
    segments: list[dict[str, Any]]
    """Of the learning-rate plan: mode, first epoch (start) and planned length (epochs)."""
    ema_updates: int | None
    """The EMA's counter."""
    optimizer: dict[str, Any] | None
    """Its name, how many buffers it has, and of how many parameters."""
    scaler: dict[str, Any] | None
    """State of the AMP scaler; None if there is none."""
    history: int
    """Epochs on record in the file."""
    best: dict[str, Any] | None
    """Fitness and, where it is known, epoch of the best weights so far; of a deploy file's own."""
    model: dict[str, Any]
    """Parameters, tensors, number format, depth and width."""
    classes: list[str]
    software: dict[str, str]
    resume: dict[str, Any]
    """Whether the run can go on from the file (possible), how, what is there and what missing."""

    def __post_init__(self) -> None:
        """What a file calls a number or a name need not be one; TypeError if it is not."""
        for number in (self.epoch, self.step, self.planned, self.ema_updates):
            require_type(number or 0, int)
        for segment in self.segments:
            require_type(segment["start"], int)
            require_type(segment["epochs"], int)
        for value in (self.best or {}).values():
            require_type(value, float if isinstance(value, float) else int)
        for name in (*self.classes, *self.software.values()):
            require_type(name, str)


def to_json(facts: Facts) -> dict[str, Any]:
    """The facts as plain data; a number that JSON does not have becomes None."""
    return {name: _plain(value) for name, value in dataclasses.asdict(facts).items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def model_facts(state: Mapping[str, Tensor], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Size and number format of a model, of its state dict and the model file kept with it."""
    learned = [t for name, t in state.items() if name.rpartition(".")[2] not in NO_PARAMETERS]
    formats = sorted({str(t.dtype).removeprefix("torch.") for t in learned})
    return {
        "parameters": sum(tensor.numel() for tensor in learned),
        "tensors": len(state),
        "number_format": " ".join(formats),
        "depth_multiple": spec.get("depth_multiple"),
        "width_multiple": spec.get("width_multiple"),
    }


def sorted_parts(parts: Mapping[str, bool]) -> dict[str, list[str]]:
    """Names of the parts that are there and of those that are missing."""
    return {
        "there": [name for name, there in parts.items() if there],
        "missing": [name for name, there in parts.items() if not there],
    }
