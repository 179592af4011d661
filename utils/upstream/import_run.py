"""Imports a run of YOLOv5: converts its checkpoint to one of this project, which can be resumed.

    imported = import_run(Path("runs/train/exp/weights/last.pt"), Continuation())

Upstream does not store the iteration. During the warm-up it can be computed from the file. After
the warm-up it follows from the number of batches per epoch, which is known once the data set is
loaded: see `with_batches_per_epoch`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from models.spec import ModelSpec
from utils.checkpoint.format import (
    BEST,
    FORMAT,
    VERSION,
    Best,
    DeployCheckpoint,
    TrainingCheckpoint,
    UnresolvedPosition,
    no_progress,
    plan_digest,
)
from utils.errors import UserError
from utils.hyp import MOSAIC_BATCHES, Hyp
from utils.options.train_options import Continuation, TrainOptions
from utils.solver.schedule import Plan, WarmUp, accumulation, base_segment
from utils.upstream.best import import_best
from utils.upstream.history import RunProgress, best_epoch, find_progress
from utils.upstream.options import (
    UNSUPPORTED_OPTIONS,
    find_hyp,
    raw_options,
    train_options,
)
from utils.upstream.reader import UpstreamCheckpoint, read_upstream
from utils.upstream.schedule import (
    base_law,
    check_law,
    optimizer_steps,
    warmup_length,
    warmup_progress,
)
from utils.upstream.state import OptimizerState, fp32_state, optimizer_state

NEVER_SAVED = {
    "full precision": "YOLOv5 saves weights and EMA in fp16; relative rounding error about 0.05 %",
    "data order": "never saved by YOLOv5; derived from the seed and the epoch",
}
FP32_DEVICES = frozenset({"cpu", "mps"})
"""Devices on which YOLOv5 trains in fp32; on a GPU it uses fp16, unless its AMP check fails."""
UNKNOWN = "unknown"
UNRECORDED_OPTION = "amp"
"""Option that YOLOv5 does not have. It is not recorded, so that a resume may set any value."""


class ImportedRun(NamedTuple):
    """A run of YOLOv5, converted to our formats."""

    checkpoint: TrainingCheckpoint
    """Lists the missing parts. Its position may be unknown until the number of batches per epoch is
    known; see `with_batches_per_epoch`."""
    best: DeployCheckpoint | None
    """Weights of the best.pt in the same folder, if they are from the run's best epoch."""
    found: tuple[str, ...]
    """Descriptions of the imported parts."""


def import_run(path: Path, how: Continuation, data: str | None = None) -> ImportedRun:
    """Convert a checkpoint of YOLOv5 (v5.0 and later) to one of this project; write nothing.

    Args:
        path: the checkpoint.
        how: command-line options of the continuation, some of which are for the import.
        data: data-set file to continue with, instead of the run's.

    Raises:
        UserError: the file cannot be read; it was stripped and `how` does not allow partial state;
            planned epochs, completed epochs or data set are unknown; or the learning rate does not
            match the run's law.
    """
    content = read_upstream(path)
    stripped = _stripped_parts(content)
    if stripped and not how.allow_partial_state:
        raise UserError(
            f"{path} was stripped of {', '.join(stripped)}, as YOLOv5 does at the end of a run; "
            "resume from an epochN.pt of the run, or add --allow-partial-state to "
            "continue from the weights with momentum reset to zero."
        )
    optimizer, raw = optimizer_state(content), raw_options(path, content)
    progress = find_progress(path, content, raw, how.completed_epochs)
    hyp, hyp_notes = find_hyp(path, content, raw, optimizer.initial_lr)
    law = how.schedule or base_law(content.version, raw)
    if how.schedule is None and optimizer.lr is not None and optimizer.initial_lr:
        factor = optimizer.lr / optimizer.initial_lr
        completed, total = progress.completed, progress.planned
        check_law(law, factor, completed=completed, total=total, lrf=hyp.lrf)
    options = train_options(
        raw,
        path,
        data=data or raw.get("data"),
        epochs=progress.planned,
        law=law,
        buffers={name for state in optimizer.buffers.values() for name in state},
    )
    parts = _RunParts(path, content, optimizer, raw, progress, hyp, law)
    checkpoint = _checkpoint(parts, options)
    missing = _missing_parts(stripped) | progress.notes | hyp_notes | _unsupported(raw)
    if checkpoint["config"]["precision"] == UNKNOWN:
        missing |= {"AMP scaler": "never saved by YOLOv5", "precision": "not recorded by YOLOv5"}
    checkpoint["missing"] = missing
    warmup = warmup_progress(
        content.version, hyp, progress.completed, optimizer.momentum, progress.history[-1]
    )
    checkpoint["unresolved_position"] = UnresolvedPosition(
        min_warmup=warmup.min_length,
        warmup_over=warmup.is_over,
        count_updates=content.ema_updates is None,
    )
    if warmup.batches_per_epoch is not None:
        checkpoint = with_batches_per_epoch(checkpoint, warmup.batches_per_epoch)
    best = None if path.name == BEST else import_best(path.parent, checkpoint)
    if best is not None:
        checkpoint["best"] = Best(fitness=best["fitness"], epoch=best["epoch"])
    return ImportedRun(checkpoint, best, _found(parts))


def with_batches_per_epoch(
    checkpoint: TrainingCheckpoint, batches_per_epoch: int
) -> TrainingCheckpoint:
    """Fill in iteration, warm-up length and EMA counter where unknown; return the checkpoint.

    Args:
        checkpoint: any training checkpoint; if its position is known, it is returned unchanged.
        batches_per_epoch: that of the original run or, if it was not recorded, that of the loader
            with which the run continues.
    """
    position = checkpoint.get("unresolved_position")
    if position is None:
        return checkpoint
    completed = checkpoint["position"]["epoch"]
    iteration = completed * batches_per_epoch
    epochs = checkpoint["config"]["hyp"]["warmup_epochs"]
    length = warmup_length(epochs, batches_per_epoch, position["min_warmup"])
    if position["warmup_over"]:  # on a smaller data set `length` might exceed `iteration`
        length = min(length, iteration - 1)
    plan = Plan.from_dict(checkpoint["plan"])
    plan = dataclasses.replace(plan, warmup=dataclasses.replace(plan.warmup, iterations=length))
    complete = checkpoint.copy()
    del complete["unresolved_position"]
    complete["plan"] = plan.to_dict()
    complete["plan_digest"] = plan_digest(complete["plan"])
    complete["position"] = {"epoch": completed, "iteration": iteration}
    if position["count_updates"]:
        updates = optimizer_steps(plan, iteration)
        complete["ema"] = {**checkpoint["ema"], "updates": updates}
    return complete


class _RunParts(NamedTuple):
    """Parts of a run from which the checkpoint is built."""

    path: Path
    content: UpstreamCheckpoint
    optimizer: OptimizerState
    raw: dict[str, object]
    """Upstream's options; see `raw_options`."""
    progress: RunProgress
    hyp: Hyp
    law: str


def _stripped_parts(content: UpstreamCheckpoint) -> list[str]:
    """Return the names of the parts of the state that the file was stripped of."""
    parts = {
        "optimizer": content.optimizer is None,
        "non-EMA weights": content.ema_state is None,
        "EMA counter": content.ema_updates is None,
        "epoch": content.epoch < 0,
    }
    return [name for name, gone in parts.items() if gone]


def _checkpoint(parts: _RunParts, options: TrainOptions) -> TrainingCheckpoint:
    content, completed, raw = parts.content, parts.progress.completed, parts.raw
    spec, plan = ModelSpec.from_dict(content.spec), _plan(parts, options).to_dict()
    weights = fp32_state(content.model_state, spec, parts.path)
    recorded = {
        name: value for name, value in options.to_dict().items() if name != UNRECORDED_OPTION
    }
    ema_weights = fp32_state(content.weights, spec, parts.path)
    return TrainingCheckpoint(
        format=FORMAT,
        version=VERSION,
        kind="training",
        model=weights,
        # The iteration, and a counter that is not recorded, are set by `with_batches_per_epoch`.
        ema={"weights": ema_weights, "updates": content.ema_updates or completed},
        optimizer={"name": options.optimizer, "buffers": parts.optimizer.buffers},
        scaler={},
        plan=plan,
        plan_digest=plan_digest(plan),
        position={"epoch": completed, "iteration": completed},
        progress=no_progress(),
        best=_best(parts),
        stopped_early=parts.progress.stopped_early,
        closed=True,
        continuations=[],
        history=parts.progress.history,
        config={
            "options": recorded,
            "hyp": parts.hyp.to_dict(),
            "spec": spec.to_dict(),
            "names": list(content.names),
            "precision": "fp32" if raw.get("device") in FP32_DEVICES else UNKNOWN,
            "processes": _processes(raw),
            "mosaic_batches": MOSAIC_BATCHES,
        },
        software={"yolov5": content.version},
    )


def _plan(parts: _RunParts, options: TrainOptions) -> Plan:
    hyp = parts.hyp
    return Plan(
        lr0=hyp.lr0,
        momentum=hyp.momentum,
        accumulate=accumulation(options.nominal_batch_size, options.batch_size),
        warmup=WarmUp(0, hyp.warmup_bias_lr, hyp.warmup_momentum),
        segments=(base_segment(parts.progress.planned, parts.law, hyp.lrf),),
    )


def _best(parts: _RunParts) -> Best:
    """Return the best epoch of the history, with the exact fitness if the file has it.

    If the file has a fitness but there is no history, the last epoch is used.
    """
    saved = parts.content.best_fitness
    best = best_epoch(parts.progress.history)
    if best is not None:
        return {"fitness": saved or best.fitness, "epoch": best.epoch}
    if saved:
        return {"fitness": saved, "epoch": parts.progress.completed - 1}
    return {"fitness": -math.inf, "epoch": -1}


def _processes(raw: Mapping[str, object]) -> int:
    """Return the world size: recorded by v5.0, else the number of GPUs in `--device`."""
    recorded = raw.get("world_size")
    return recorded if isinstance(recorded, int) else str(raw.get("device", "")).count(",") + 1


def _missing_parts(stripped: list[str]) -> dict[str, str]:
    substitutes = {
        "optimizer": ("optimizer", "stripped; momentum is reset"),
        "non-EMA weights": ("weights", "stripped; replaced by the EMA weights"),
        "EMA counter": ("EMA", "counter stripped; computed from the completed epochs"),
    }
    return dict(substitutes[part] for part in substitutes if part in stripped) | NEVER_SAVED


def _unsupported(raw: Mapping[str, object]) -> dict[str, str]:
    return {
        f"--{name.replace('_', '-')}": "not supported by this program; ignored"
        for name in UNSUPPORTED_OPTIONS
        if raw.get(name)
    }


def _found(parts: _RunParts) -> tuple[str, ...]:
    content, progress = parts.content, parts.progress
    found = [
        f"YOLOv5 {content.version} checkpoint, {len(content.model_state)} tensors",
        f"{progress.completed} of {progress.planned} epochs completed, {parts.law} schedule",
    ]
    if parts.optimizer.buffers:
        with_buffers, total = len(parts.optimizer.buffers), len(content.parameter_kinds)
        found.append(f"optimizer buffers of {with_buffers} of {total} parameters")
    if content.ema_updates is not None:
        found.append(f"EMA counter {content.ema_updates}")
    if progress.rows_found:
        found.append(f"history of {progress.rows_found} epochs")
    return tuple(found)
