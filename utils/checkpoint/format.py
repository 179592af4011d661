"""The checkpoint format: tensors and plain data under fixed names; imports no torch.

Reading a file runs no code; `torch.load(path, weights_only=True)` can read it too. There are two
kinds: `training` holds everything that a run needs to resume; `deploy` holds weights in fp16, for
inference: the EMA weights, or in average.pt a mean over epochs.
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
LAST, PREVIOUS, BEST, AVERAGE = "last.pt", "last_prev.pt", "best.pt", "average.pt"
"""File names of a run's checkpoints: the newest, the one before it, the best epoch's, and the mean
of the last epochs."""


class Position(TypedDict):
    """How far a run has been trained."""

    epoch: int
    """Completed epochs; also the 0-based index of the next epoch."""
    iteration: int
    """Batches trained since the start of the run."""


class SavedProgress(TypedDict):
    """Progress in an unfinished epoch, if the run was saved in the middle of one."""

    batches: int
    """Batches trained; 0 between epochs."""
    counted: int
    """Batches whose loss is in `losses`."""
    losses: Tensor | None
    """Sums of the box, objectness and class losses, float32 [3]; None between epochs."""
    pending: int
    """Batches whose gradients are accumulated but not yet applied."""
    skipped: int
    """Batches skipped because of a non-finite loss or gradient."""
    bad_losses: int
    """Consecutive batches skipped because of their loss; may have begun in an earlier epoch."""
    bad_gradients: int
    """Consecutive optimizer steps skipped because of their gradient."""
    gradients: dict[str, Tensor]
    """Accumulated gradients by parameter name."""


VALIDATION_DIGESTS = ("val sequence", "val content", "content")
"""Digests of the validation images in `Config`; older checkpoints have only the later ones."""
Validation = dict[str, str | int]
"""What a fitness depends on besides the weights: image size, batch size, digest of the images."""


class BestExtras(TypedDict, total=False):
    """Keys that earlier checkpoints and imported ones lack."""

    validation: Validation
    """The validation in which the fitness was measured."""
    saved_fitness: float
    """The fitness in best.pt, if it was measured in another validation."""


class Best(BestExtras):
    """An epoch, such as the best one so far, and the fitness of its weights."""

    fitness: float
    """-inf or NaN if the epoch was not evaluated."""
    epoch: int
    """0-based; -1 if no epoch was evaluated yet."""


class Ema(TypedDict):
    """EMA weights in fp32, and the number of updates, which determines the decay."""

    weights: dict[str, Tensor]
    updates: int


class Optimizer(TypedDict):
    """Optimizer buffers (e.g. `momentum_buffer`) by parameter name; the plan holds the rates."""

    name: str
    buffers: dict[str, dict[str, Tensor]]


class ConfigExtras(TypedDict, total=False):
    """Keys that an imported checkpoint may lack."""

    processes: int
    """World size of the training."""
    data: dict[str, str | int]
    """Data-set file, and its number of images and boxes."""
    mosaic_batches: int
    """Batches whose images mosaics combine; absent: as many as have 64 images."""


class Config(ConfigExtras):
    """The resolved configuration of a run."""

    options: dict[str, Any]  # each value is of the type of its field in `TrainOptions`
    """Recorded command-line options."""
    hyp: dict[str, float]
    spec: dict[str, object]
    """Model in the schema of the model files, with the classes and anchors of the run."""
    names: list[str]
    precision: str


def validation_of(config: Config) -> Validation:
    """Return the validation of a run with this configuration, as far as it is recorded."""
    options, data = config["options"], config.get("data", {})
    found: Validation = {name: options[name] for name in ("imgsz", "batch_size") if name in options}
    return found | {name: data[name] for name in VALIDATION_DIGESTS if name in data}


class ClassRecord(TypedDict):
    """A change of classes."""

    kept: list[str]
    """Classes before and after the change, by their new names."""
    new: list[str]
    dropped: list[str]
    renamed: dict[str, str]
    """Old to new names of kept classes."""


class ContinuationExtras(TypedDict, total=False):
    """Keys of a continuation in which data or classes changed."""

    classes: ClassRecord
    images: dict[str, int]
    """Numbers of images that moved between the splits, are new or are gone."""


class ContinuationRecord(ContinuationExtras):
    """One continuation (resume or extension) of a run."""

    epoch: int
    """Completed epochs at the continuation."""
    kind: Literal["extended", "resumed"]
    allowed_changes: list[str]
    """Options that the user allowed to differ."""
    audit: list[dict[str, str]]
    """State audit: `part`, `status` and `detail` of each part of the state."""
    check: dict[str, float | bool | None]
    """Seam check: saved and measured mAP50-95, and whether the saved value was reproduced."""


class UnresolvedPosition(TypedDict):
    """What is needed to compute a run's position once its number of batches per epoch is known.

    A run of YOLOv5 has no record of its iteration. Until the number of batches is known, position
    and plan count one batch per epoch, which is enough to plan with but not to train from.
    """

    min_warmup: int
    """Minimum warm-up of the program that trained the run, iterations."""
    warmup_over: bool
    """Whether the warm-up is known to be over, even if the number of batches suggests otherwise."""
    count_updates: bool
    """Whether the EMA counter is unknown too, and is computed from the optimizer steps."""


class OptionalParts(TypedDict, total=False):
    """Keys of a `training` file that only some runs write."""

    average: Ema
    """Mean of the weights after the last epochs (`--average`), and the number of epochs in it."""


class TrainingExtras(TypedDict, total=False):
    """Keys of an imported checkpoint that exist in memory only and are never written to a file."""

    missing: dict[str, str]
    """Parts of the state that were not recorded, and the replacement for each."""
    unresolved_position: UnresolvedPosition


class TrainingCheckpoint(TrainingExtras, OptionalParts):
    """Content of a `training` file."""

    format: str
    version: int
    kind: Literal["training"]
    model: dict[str, Tensor]
    ema: Ema
    optimizer: Optimizer
    scaler: dict[str, object]
    plan: dict[str, Any]  # input of `Plan.from_dict`, which validates every value
    plan_digest: str
    """Digest of the saved plan, which reveals later edits; see `plan_digest`."""
    position: Position
    progress: SavedProgress
    best: Best
    stopped_early: bool
    closed: bool
    """Whether the run was finalized: best.pt stripped and evaluated, plots written."""
    continuations: list[ContinuationRecord]
    history: list[Row]
    config: Config
    software: dict[str, str]


class DeployCheckpoint(TypedDict):
    """Content of a `deploy` file."""

    format: str
    version: int
    kind: Literal["deploy"]
    weights: dict[str, Tensor]
    spec: dict[str, object]
    names: list[str]
    epoch: int
    fitness: float


Checkpoint = TrainingCheckpoint | DeployCheckpoint
MEMORY_ONLY_KEYS: frozenset[str] = TrainingExtras.__optional_keys__

_KINDS: dict[str, type] = {
    "training": TrainingCheckpoint,
    "deploy": DeployCheckpoint,
}
_KEY_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("model", "ema", "average", "optimizer", "scaler", "plan", "position", "progress", "best"),
        dict,
    ),
    **dict.fromkeys(("config", "software", "weights", "spec"), dict),
    **dict.fromkeys(("history", "names", "continuations"), list),
    **dict.fromkeys(("format", "kind", "plan_digest"), str),
    **dict.fromkeys(("version", "epoch"), int),
    **dict.fromkeys(("stopped_early", "closed"), bool),
    "fitness": (int, float),
}
_REQUIRED_KEYS: dict[str, frozenset[str]] = {
    "position": Position.__required_keys__,
    "progress": SavedProgress.__required_keys__,
    "best": Best.__required_keys__,
    "ema": Ema.__required_keys__,
    "average": Ema.__required_keys__,
    "optimizer": Optimizer.__required_keys__,
    "config": Config.__required_keys__,
}


def plan_digest(plan: Mapping[str, object]) -> str:
    """The SHA-256 of a plan's plain data; detects accidental edits, not forgery."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def newest_checkpoint(folder: Path) -> Path | None:
    """The last.pt in `folder/weights` or `folder`, else the last_prev.pt; None if there is none."""
    places = (place / name for name in (LAST, PREVIOUS) for place in (folder / "weights", folder))
    return next((place for place in places if place.is_file()), None)


def no_progress() -> SavedProgress:
    """Progress of a run that was saved between two epochs and has skipped no batch."""
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


def deploy_info(checkpoint: TrainingCheckpoint) -> Best:
    """Epoch and fitness of a training checkpoint's own weights, which need not be the best ones."""
    epoch, best = checkpoint["position"]["epoch"] - 1, checkpoint["best"]
    if best["epoch"] == epoch:
        return Best(epoch=epoch, fitness=best["fitness"])
    row = checkpoint["history"][-1]
    return Best(epoch=epoch, fitness=fitness(row[METRIC_COLUMNS[2]], row[METRIC_COLUMNS[3]]))


def validate_checkpoint(data: object, origin: str) -> Checkpoint:
    """Return a file's content after checking that it is a complete checkpoint of this program.

    Args:
        data: content of the file.
        origin: name of the file, for messages.

    Raises:
        UserError: foreign content, another version, or a key that is missing or of the wrong type.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise UserError(
            f"{origin} is not a checkpoint of this program or of YOLOv5; use another checkpoint."
        )
    version = data.get("version")
    if version != VERSION:
        raise UserError(
            f"{origin} has format version {version}, but this program reads version {VERSION}; "
            "use the program that wrote the file."
        )
    kind = _KINDS.get(str(data.get("kind")))
    if kind is None:
        raise UserError(
            f"{origin} is damaged (kind {data.get('kind')!r} is unknown); use another checkpoint."
        )
    skipped = MEMORY_ONLY_KEYS | (OptionalParts.__optional_keys__ - data.keys())
    for name in (name for name in kind.__annotations__ if name not in skipped):
        if not isinstance(data.get(name), _KEY_TYPES[name]):
            raise UserError(
                f"{origin} is damaged (key `{name}` is missing or of the wrong type); "
                "use another checkpoint."
            )
        absent = _REQUIRED_KEYS[name].difference(data[name]) if name in _REQUIRED_KEYS else ()
        if absent:
            raise UserError(
                f"{origin} is damaged (key `{name}` lacks {', '.join(sorted(absent))}); "
                "use another checkpoint."
            )
    return cast("Checkpoint", dict(data))
