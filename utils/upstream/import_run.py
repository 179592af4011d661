"""Takes a run of YOLOv5 along: its checkpoint as one of ours, so that it goes on like any other.

    adopted = adopt_upstream(Path("runs/train/exp/weights/last.pt"), AdoptionWishes())
    adopted = settled(adopted, len(train_loader))

Upstream stores no iteration. While a warm-up lasts it can be read off the file; else the number of
batches per epoch, known once the data set is, completes the checkpoint: `settled`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from utils.checkpoint.format import (
    FORMAT,
    VERSION,
    Best,
    TrainingCheckpoint,
    no_progress,
    plan_digest,
)
from utils.errors import UserError
from utils.hyp import Hyp
from utils.options.train_options import TrainOptions
from utils.solver.optimizers import optimizer_of_buffers
from utils.solver.schedule import LAWS, Plan, WarmUp, base_segment
from utils.upstream.history import best_epoch
from utils.upstream.optimizer import NamedGroup, name_optimizer_state
from utils.upstream.options import (
    WITHOUT_COUNTERPART,
    find_hyp,
    raw_options,
    train_options,
)
from utils.upstream.progress import RunProgress, find_progress
from utils.upstream.reader import UpstreamCheckpoint, read_upstream
from utils.upstream.schedule import (
    WarmupProgress,
    law_of,
    optimizer_steps,
    require_law,
    warmup_progress,
)
from utils.upstream.state import (
    buffers_by_name,
    ema_counter,
    fp32_state,
    last_rate,
    spec_from_upstream,
    stripped_parts,
)

ALWAYS_MISSING = {
    "full precision": "YOLOv5 saves weights and EMA in fp16, off by up to 0.05 % each",
    "data order": "never saved by YOLOv5; drawn from the seed and the epoch here",
}
WITHOUT_AMP = frozenset({"cpu", "mps"})
"""Devices on which YOLOv5 trains in fp32; on a GPU in fp16, unless a test of its own fails."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class ImportOptions:
    """What the command line says about an upstream run; None or False where it says nothing."""

    data: str | None = None
    """Data-set file to go on with, instead of the run's."""
    schedule: str | None = None
    """Base law of the run (`LAWS`), instead of the one that its version and options tell."""
    completed_epochs: int | None = None
    """Epochs done, for a stripped file that no results file lies beside."""
    allow_partial_state: bool = False
    """Go on from a file that was stripped of its state."""

    def __post_init__(self) -> None:
        if self.schedule is not None and self.schedule not in LAWS:
            raise UserError(f"--schedule {self.schedule}: choose one of {', '.join(LAWS)}.")
        if self.completed_epochs is not None and self.completed_epochs < 1:
            raise UserError(f"--completed-epochs {self.completed_epochs}: give at least 1.")


@dataclass(frozen=True)
class ImportedRun:
    """An upstream run in our terms."""

    checkpoint: dict[str, Any]
    """A `TrainingCheckpoint`. Until `settled`, its warm-up counts as over and its iteration and a
    counter that the file lacks stand at their least, one batch per epoch: fit to plan with, not to
    train from."""
    missing: dict[str, str]
    """What the file did not hold, part by part, and what was put in its place."""
    restored: tuple[str, ...]
    """What was taken over."""
    pace: WarmupProgress
    """What the files tell about the position in the warm-up."""
    ema_updates: int | None
    """The EMA counter in the file; None if it was stripped, and is computed when settled."""


def import_run(path: Path, wishes: ImportOptions) -> ImportedRun:
    """Turn a checkpoint of YOLOv5 (v5.0 to v7.0 and later) into one of ours; writes nothing.

    Raises:
        UserError: the file cannot be read, was stripped and `wishes` do not allow going on from
            it, or planned total, completed epochs or data set are nowhere told; the sentence says
            what to give.
    """
    content = read_upstream(path)
    _refuse_stripped(path, content, wishes)
    groups = () if content.optimizer is None else name_optimizer_state(content)
    raw = raw_options(path, content)
    progress = find_progress(path, content, raw, wishes.completed_epochs)
    rate = last_rate(groups)
    found = find_hyp(path, content, raw, rate.initial_lr if rate else None)
    law = wishes.schedule or law_of(content.version, raw)
    if rate and wishes.schedule is None:
        completed, total = progress.completed, progress.planned
        require_law(law, rate, completed=completed, total=total, lrf=found.hyp.lrf)
    parts = _Parts(path, content, groups, progress, found.hyp, law)
    options = _options(parts, raw, wishes)
    momentum = groups[0].settings.get("momentum") if groups else None
    pace = warmup_progress(
        content.version, found.hyp, progress.completed, momentum, progress.history[-1]
    )
    checkpoint = _checkpoint(parts, options, raw)
    missing = _told_missing(content) | progress.notes | found.notes | _unsupported(raw)
    if checkpoint["config"]["precision"] == UNKNOWN:
        missing |= {"AMP scaler": "never saved by YOLOv5", "number format": "not on record"}
    draft = ImportedRun(checkpoint, missing, _restored(parts), pace, ema_counter(content))
    return draft if pace.batches_per_epoch is None else settled(draft, pace.batches_per_epoch)


def settled(adopted: ImportedRun, batches_per_epoch: int) -> ImportedRun:
    """Complete a checkpoint with its iteration, its warm-up and, if it was stripped, EMA counter.

    Args:
        adopted: as `import_run` gives it.
        batches_per_epoch: of the loader that the run goes on with; not used where the file tells
            exactly how many the run had.
    """
    pace = adopted.pace
    batches = pace.batches_per_epoch or batches_per_epoch
    checkpoint = copy.copy(adopted.checkpoint)
    completed = checkpoint["position"]["epoch"]
    iteration = completed * batches
    length = pace.warmup_length(checkpoint["config"]["hyp"]["warmup_epochs"], batches)
    if pace.warmup_over:  # also when the data set has become so small that the formula says no
        length = min(length, iteration - 1)
    plan = Plan.from_dict(checkpoint["plan"])
    plan = dataclasses.replace(plan, warmup=dataclasses.replace(plan.warmup, iterations=length))
    updates = adopted.ema_updates
    if updates is None:
        updates = optimizer_steps(plan, iteration)
    checkpoint |= {
        "plan": plan.to_dict(),
        "plan_digest": plan_digest(plan.to_dict()),
        "position": {"epoch": completed, "iteration": iteration},
        "ema": {**checkpoint["ema"], "updates": updates},
    }
    return dataclasses.replace(adopted, checkpoint=checkpoint)


class _Parts(NamedTuple):
    """What was found, before it is put together."""

    path: Path
    content: UpstreamCheckpoint
    groups: tuple[NamedGroup, ...]
    progress: RunProgress
    hyp: Hyp
    law: str


def _refuse_stripped(path: Path, content: UpstreamCheckpoint, wishes: ImportOptions) -> None:
    gone = stripped_parts(content)
    if gone and not wishes.allow_partial_state:
        raise UserError(
            f"{path} was stripped of {', '.join(gone)}, as YOLOv5 does when a run ends; "
            "resume from an epochN.pt of the run if there is one, or add --allow-partial-state to "
            "go on from the weights with fresh momentum."
        )


def _options(parts: _Parts, raw: dict[str, Any], wishes: ImportOptions) -> TrainOptions:
    data = wishes.data or raw.get("data")
    if not isinstance(data, str):
        raise UserError(
            f"neither {parts.path} nor an opt.yaml beside it says which data set the run was "
            "trained on; give it with --data."
        )
    settled_options: dict[str, object] = {
        "data": data,
        "epochs": parts.progress.planned,
        "cos_lr": parts.law == "cosine",
    }
    buffers = {name for group in parts.groups for state in group.state.values() for name in state}
    if optimizer := optimizer_of_buffers(buffers, raw.get("optimizer")):
        settled_options["optimizer"] = optimizer
    return train_options(raw, parts.path, **settled_options)


def _checkpoint(parts: _Parts, options: TrainOptions, raw: dict[str, Any]) -> dict[str, Any]:
    content, completed = parts.content, parts.progress.completed
    spec, plan = spec_from_upstream(content), _plan(parts, options).to_dict()
    weights = fp32_state(content.model_state, spec, parts.path)
    average = fp32_state(content.ema_state or content.model_state, spec, parts.path)
    checkpoint = TrainingCheckpoint(
        format=FORMAT,
        version=VERSION,
        kind="training",
        model=weights,
        ema={"weights": average, "updates": ema_counter(content) or completed},
        optimizer={"name": options.optimizer, "buffers": buffers_by_name(parts.groups)},
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
            "options": options.to_dict(),
            "hyp": parts.hyp.to_dict(),
            "spec": spec.to_dict(),
            "names": list(content.names),
            "precision": "fp32" if raw.get("device") in WITHOUT_AMP else UNKNOWN,
            "processes": _processes(raw),
        },
        software={"yolov5": content.version},
    )
    return cast("dict[str, Any]", checkpoint)


def _plan(parts: _Parts, options: TrainOptions) -> Plan:
    hyp = parts.hyp
    return Plan(
        lr0=hyp.lr0,
        momentum=hyp.momentum,
        accumulate=max(round(options.nominal_batch_size / options.batch_size), 1),
        warmup=WarmUp(0, hyp.warmup_bias_lr, hyp.warmup_momentum),
        segments=(base_segment(parts.progress.planned, parts.law, hyp.lrf),),
    )


def _best(parts: _Parts) -> Best:
    """From the history; the fitness exact where the file has it.

    With a fitness but no record of it the last epoch stands in for the one that gave it.
    """
    saved = parts.content.best_fitness
    best = best_epoch(parts.progress.history)
    if best is not None:
        return {"fitness": saved or best.fitness, "epoch": best.epoch}
    if saved:
        return {"fitness": saved, "epoch": parts.progress.completed - 1}
    return {"fitness": -math.inf, "epoch": -1}


def _processes(raw: dict[str, Any]) -> int:
    """As v5.0 wrote it down; else one for every GPU that --device names."""
    told = raw.get("world_size")
    return told if isinstance(told, int) else str(raw.get("device", "")).count(",") + 1


def _told_missing(content: UpstreamCheckpoint) -> dict[str, str]:
    substitutes = {
        "optimizer": ("optimizer", "stripped, so its momentum starts afresh"),
        "raw weights beside the EMA": ("weights", "stripped, so the EMA's stand in for them"),
        "EMA counter": ("EMA", "its counter was stripped and is what the epochs done give"),
    }
    gone = stripped_parts(content)
    return dict(substitutes[part] for part in substitutes if part in gone) | ALWAYS_MISSING


def _unsupported(raw: dict[str, Any]) -> dict[str, str]:
    return {
        f"--{name.replace('_', '-')}": "not in this program; left out"
        for name in WITHOUT_COUNTERPART
        if raw.get(name)
    }


def _restored(parts: _Parts) -> tuple[str, ...]:
    content, progress = parts.content, parts.progress
    told = [
        f"YOLOv5 {content.version} checkpoint, {len(content.model_state)} tensors",
        f"{progress.completed} of {progress.planned} epochs completed, law {parts.law}",
    ]
    buffers = buffers_by_name(parts.groups)
    if buffers:
        total = len(content.parameter_names)
        told.append(f"optimizer buffers of {len(buffers)} of {total} parameters")
    if ema_counter(content) is not None:
        told.append(f"EMA counter {content.ema_updates}")
    if progress.rows_found:
        told.append(f"history of {progress.rows_found} epochs")
    return tuple(told)
