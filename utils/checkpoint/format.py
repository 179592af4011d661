"""The checkpoint format: tensors and plain data under fixed names; imports no torch.

Reading a file runs no code; `torch.load(path, weights_only=True)` can read it too. There are two
kinds: `training`, everything a run needs to go on, and `deploy`, averaged weights in fp16 for use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from utils.errors import UserError
from utils.history import METRIC_COLUMNS, Row, fitness

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "yolov5-extend"
VERSION = 1
LAST, PREVIOUS, BEST = "last.pt", "last_prev.pt", "best.pt"
"""Names of a run's checkpoints: the newest, the one before it, and that of the best epoch."""


class Position(TypedDict):
    """Where a run stands."""

    epoch: int
    """Completed epochs, which is also the 0-based epoch that comes next."""
    iteration: int
    """Batches trained since the start of the run."""


class SavedProgress(TypedDict):
    """What is done of the epoch that comes next, where a run was saved in the middle of it."""

    batches: int
    """Batches trained; 0 between epochs."""
    counted: int
    """Those whose loss is in the sum."""
    losses: Tensor | None
    """Sum of box, objectness and class loss, float32 [3]; None between epochs."""
    pending: int
    """Batches whose gradients are summed but not yet applied."""
    skipped: int
    """Batches left out for a loss or gradient that is not finite."""
    bad_losses: int
    """Batches left out for their loss since the last good one, in this epoch or those before."""
    bad_gradients: int
    """Steps left out for their gradient since the last good one."""
    gradients: dict[str, Tensor]
    """What is summed, by parameter name."""


class Best(TypedDict):
    """The best epoch so far."""

    fitness: float
    epoch: int
    """0-based; -1 while nothing was validated."""


class Ema(TypedDict):
    """Averaged weights, fp32, and the number of updates that decides the decay."""

    weights: dict[str, Tensor]
    updates: int


class Optimizer(TypedDict):
    """Buffers by parameter name, e.g. `momentum_buffer`; the rates are in the plan."""

    name: str
    buffers: dict[str, dict[str, Tensor]]


class ConfigExtras(TypedDict, total=False):
    """What a converted checkpoint may lack."""

    processes: int
    """How many trained together."""
    data: dict[str, str | int]
    """Data-set file, and how many images and boxes it had."""


class Config(ConfigExtras):
    """The resolved configuration of a run."""

    options: dict[str, Any]  # each value is of the type of its field in `TrainOptions`
    """Those on record."""
    hyp: dict[str, float]
    spec: dict[str, object]
    """The model, in the schema of the model files, with the run's classes and anchors."""
    names: list[str]
    precision: str


class ContinuationRecord(TypedDict):
    """How a run was continued, once."""

    epoch: int
    """Completed epochs at that point."""
    kind: Literal["extended", "resumed"]
    allowed_changes: list[str]
    """Options that were allowed to differ."""
    audit: list[dict[str, str]]
    """The state audit: `part`, `status` and `detail` of every part."""
    check: dict[str, float | bool | None]
    """The seam check: mAP50-95 as saved and as measured, and whether it was reproduced."""


class OpenPosition(TypedDict):
    """What of a run's position is open until the number of batches per epoch is known.

    A run of another program may have no record of its iteration. Then the position and the plan
    count one batch per epoch: good enough to plan with, not to train from.
    """

    min_warmup: int
    """Shortest warm-up of the program that trained the run, iterations."""
    warmup_over: bool
    """Whether the warm-up is known to be over, whatever the number of batches says."""
    count_updates: bool
    """Whether the EMA counter is open too, and follows from the optimizer steps made."""


class TrainingExtras(TypedDict, total=False):
    """What only a checkpoint has that was converted in memory; never in a file."""

    missing: dict[str, str]
    """Parts of the state that are not on record, and what stands in for each."""
    open_position: OpenPosition


class TrainingCheckpoint(TrainingExtras):
    """A `training` file."""

    format: str
    version: int
    kind: Literal["training"]
    model: dict[str, Tensor]
    ema: Ema
    optimizer: Optimizer
    scaler: dict[str, object]
    plan: dict[str, Any]  # as `Plan.from_dict` takes it, which checks every value
    plan_digest: str
    """Of the plan as it was saved, so that an edit of it shows; see `plan_digest`."""
    position: Position
    progress: SavedProgress
    best: Best
    stopped_early: bool
    closed: bool
    """Whether the run ended as it should: best.pt stripped and judged, pictures drawn."""
    continuations: list[ContinuationRecord]
    history: list[Row]
    config: Config
    software: dict[str, str]


class DeployCheckpoint(TypedDict):
    """A `deploy` file."""

    format: str
    version: int
    kind: Literal["deploy"]
    weights: dict[str, Tensor]
    spec: dict[str, object]
    names: list[str]
    epoch: int
    fitness: float


Checkpoint = TrainingCheckpoint | DeployCheckpoint
NOT_IN_FILES: frozenset[str] = TrainingExtras.__optional_keys__

_KINDS: dict[str, type] = {
    "training": TrainingCheckpoint,
    "deploy": DeployCheckpoint,
}
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("model", "ema", "optimizer", "scaler", "plan", "position", "progress", "best"), dict
    ),
    **dict.fromkeys(("config", "software", "weights", "spec"), dict),
    **dict.fromkeys(("history", "names", "continuations"), list),
    **dict.fromkeys(("format", "kind", "plan_digest"), str),
    **dict.fromkeys(("version", "epoch"), int),
    **dict.fromkeys(("stopped_early", "closed"), bool),
    "fitness": (int, float),
}
_PARTS: dict[str, frozenset[str]] = {
    "position": Position.__required_keys__,
    "progress": SavedProgress.__required_keys__,
    "best": Best.__required_keys__,
    "ema": Ema.__required_keys__,
    "optimizer": Optimizer.__required_keys__,
    "config": Config.__required_keys__,
}


def plan_digest(plan: Mapping[str, object]) -> str:
    """The SHA-256 of a plan's plain data; against slips, not against forgery."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def newest_checkpoint(folder: Path) -> Path | None:
    """The last.pt of a run's folder, or of its `weights/`, else the last_prev.pt; None without."""
    places = (place / name for name in (LAST, PREVIOUS) for place in (folder / "weights", folder))
    return next((place for place in places if place.is_file()), None)


def no_progress() -> SavedProgress:
    """Of a run that was saved between two epochs, and has left nothing out."""
    return SavedProgress(
        batches=0,
        counted=0,
        losses=None,
        pending=0,
        skipped=0,
        bad_losses=0,
        bad_gradients=0,
        gradients={},
    )


class DeployInfo(TypedDict):
    """Which epoch's weights a file holds, and how good they are."""

    epoch: int
    fitness: float
    """NaN if the epoch was not validated."""


def deploy_info(checkpoint: TrainingCheckpoint) -> DeployInfo:
    """What a training checkpoint says of its own weights, which need not be the best ones."""
    epoch, best = checkpoint["position"]["epoch"] - 1, checkpoint["best"]
    if best["epoch"] == epoch:
        return DeployInfo(epoch=epoch, fitness=best["fitness"])
    row = checkpoint["history"][-1]
    return DeployInfo(epoch=epoch, fitness=fitness(row[METRIC_COLUMNS[2]], row[METRIC_COLUMNS[3]]))


def validated(data: object, origin: str) -> Checkpoint:
    """The content of a file, after checking that it is one of ours and whole.

    Raises:
        UserError: foreign content, a newer version, or a part that is missing or of the wrong type.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise UserError(f"{origin} is not a checkpoint of this program or of YOLOv5.")
    version = data.get("version")
    if version != VERSION:
        raise UserError(
            f"{origin} has format version {version}, this program reads {VERSION}; "
            "use the program that wrote it."
        )
    kind = _KINDS.get(str(data.get("kind")))
    if kind is None:
        raise UserError(
            f"{origin} is damaged: its kind {data.get('kind')!r} is unknown; use another file."
        )
    for name in (name for name in kind.__annotations__ if name not in NOT_IN_FILES):
        if not isinstance(data.get(name), _TYPES[name]):
            raise UserError(f"{origin} is damaged: `{name}` is missing or wrong; use another file.")
        absent = set(_PARTS.get(name, ())) - set(data[name] if name in _PARTS else ())
        if absent:
            raise UserError(
                f"{origin} is damaged: `{name}` lacks {', '.join(sorted(absent))}; take another."
            )
    return cast("Checkpoint", dict(data))
