"""The detection head of a checkpoint with other classes: kept rows move, others begin or go."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from models.detector import Detector
from models.head import BOX_FIELDS, initial_class_bias
from utils.checkpoint.format import Best, Ema, Optimizer, TrainingCheckpoint, no_progress
from utils.runs.classes import ClassChange


def with_classes(
    checkpoint: TrainingCheckpoint, change: ClassChange, model: Detector
) -> TrainingCheckpoint:
    """Return a checkpoint of the same run with the new classes; the given one is not changed.

    In weights, EMA weights and optimizer buffers, the rows of kept classes move to their new
    numbers, bit for bit. The row of a new class has the weights of a new model, the bias
    `log(0.6 / (classes - 0.99999))` and zeros in the buffers. A best epoch so far is of another
    head, so the best begins again. If only names change, the checkpoint is returned as it is.

    Args:
        checkpoint: between two epochs.
        change: how the classes change.
        model: a new model with the new classes.
    """
    if change.only_renames:
        return checkpoint
    prefix = f"model.{len(model.model) - 1}.m."
    anchors = model.head.anchors_per_level
    fresh = {name: t.cpu() for name, t in model.state_dict().items() if name.startswith(prefix)}
    for name in fresh:
        if name.endswith("bias"):
            rows = fresh[name].view(anchors, -1).clone()
            rows[:, BOX_FIELDS:] = initial_class_bias(len(change.new))
            fresh[name] = rows.flatten()
    old_rows = anchors * (BOX_FIELDS + len(change.old))

    def moved(name: str, old: Tensor, start: float | None = None) -> Tensor:
        if name not in fresh or old.shape[:1] != (old_rows,):  # such as Adam's count of steps
            return old
        new = fresh[name] if start is None else torch.full_like(fresh[name], start)
        return _with_rows(old, new, change, anchors)

    def moved_all(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: moved(name, tensor) for name, tensor in tensors.items()}

    optimizer, ema = checkpoint["optimizer"], checkpoint["ema"]
    changed = checkpoint.copy()
    changed["model"] = moved_all(checkpoint["model"])
    changed["ema"] = Ema(weights=moved_all(ema["weights"]), updates=ema["updates"])
    if "average" in checkpoint:
        mean = checkpoint["average"]
        changed["average"] = Ema(weights=moved_all(mean["weights"]), updates=mean["updates"])
    buffers = {
        name: {key: moved(name, buffer, start=0.0) for key, buffer in found.items()}
        for name, found in optimizer["buffers"].items()
    }
    changed["optimizer"] = Optimizer(name=optimizer["name"], buffers=buffers)
    changed["progress"] = no_progress()
    changed["best"] = Best(fitness=-math.inf, epoch=-1)
    return changed


def _with_rows(old: Tensor, fresh: Tensor, change: ClassChange, anchors: int) -> Tensor:
    """Return `fresh` [anchors * (5 + classes), ...] with the old rows of boxes and kept classes."""
    box = list(range(BOX_FIELDS))
    kept = [(new, source) for new, source in enumerate(change.sources) if source is not None]
    result = fresh.unflatten(0, (anchors, -1)).clone()
    result[:, box + [BOX_FIELDS + new for new, _ in kept]] = old.unflatten(0, (anchors, -1))[
        :, box + [BOX_FIELDS + source for _, source in kept]
    ]
    return result.flatten(0, 1)
