"""Imports a run of YOLOv5: its checkpoint becomes one of ours, to be continued like any other.

    imported = import_run(Path("runs/train/exp/weights/last.pt"), ImportOptions())

Upstream stores no iteration. While a warm-up lasts, it can be read off the file; else it follows
from the number of batches per epoch, which is known once the data set is: `with_batches_per_epoch`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from utils.checkpoint.format import (
    BEST,
    FORMAT,
    VERSION,
    Best,
    DeployCheckpoint,
    OpenPosition,
    TrainingCheckpoint,
    no_progress,
    plan_digest,
)
from utils.errors import UserError
from utils.hyp import Hyp
from utils.options.train_options import TrainOptions
from utils.solver.optimizers import optimizer_from_buffers
from utils.solver.schedule import LAWS, Plan, WarmUp, accumulation, base_segment
from utils.upstream.best import convert_best
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
    law_of,
    optimizer_steps,
    require_law,
    warmup_length,
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
NOT_ON_RECORD = "amp"
"""The option of ours that YOLOv5 has no counterpart of, so that any value may be given for it."""


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


class ImportReport(NamedTuple):
    """What the files of a run held."""

    found: tuple[str, ...]
    """What was imported."""
    missing: dict[str, str]
    """What they did not hold, part by part, and what stands in for it."""


class ImportedRun(NamedTuple):
    """A run of YOLOv5 in our terms."""

    checkpoint: TrainingCheckpoint
    """With the missing parts in it. Its position may be open until the number of batches per epoch
    is known, see `with_batches_per_epoch`."""
    best: DeployCheckpoint | None
    """The weights of a best.pt beside it, if they are those of the run's best epoch."""
    report: ImportReport


def import_run(path: Path, how: ImportOptions) -> ImportedRun:
    """Turn a checkpoint of YOLOv5 (v5.0 to v7.0 and later) into one of ours; writes nothing.

    Raises:
        UserError: the file cannot be read, was stripped and `how` does not allow to continue from
            it, or planned total, completed epochs or data set are not on record; the sentence says
            what to give.
    """
    content = read_upstream(path)
    _refuse_stripped(path, content, how)
    groups = () if content.optimizer is None else name_optimizer_state(content)
    raw = raw_options(path, content)
    progress = find_progress(path, content, raw, how.completed_epochs)
    rate = last_rate(groups)
    found = find_hyp(path, content, raw, rate.initial_lr if rate else None)
    law = how.schedule or law_of(content.version, raw)
    if rate and how.schedule is None:
        completed, total = progress.completed, progress.planned
        require_law(law, rate, completed=completed, total=total, lrf=found.hyp.lrf)
    parts = _Parts(path, content, groups, progress, found.hyp, law)
    checkpoint = _checkpoint(parts, _options(parts, raw, how), raw)
    missing = _missing_parts(content) | progress.notes | found.notes | _unsupported(raw)
    if checkpoint["config"]["precision"] == UNKNOWN:
        missing |= {"AMP scaler": "never saved by YOLOv5", "number format": "not on record"}
    checkpoint["missing"] = missing
    momentum = groups[0].number("momentum") if groups else None
    warmup = warmup_progress(
        content.version, found.hyp, progress.completed, momentum, progress.history[-1]
    )
    checkpoint["open_position"] = OpenPosition(
        min_warmup=warmup.min_length,
        warmup_over=warmup.is_over,
        count_updates=ema_counter(content) is None,
    )
    if warmup.batches_per_epoch is not None:
        checkpoint = with_batches_per_epoch(checkpoint, warmup.batches_per_epoch)
    best = _import_best(path, checkpoint)
    if best is not None:
        checkpoint["best"] = Best(fitness=best["fitness"], epoch=best["epoch"])
    return ImportedRun(checkpoint, best, ImportReport(_found(parts), missing))


def with_batches_per_epoch(
    checkpoint: TrainingCheckpoint, batches_per_epoch: int
) -> TrainingCheckpoint:
    """The checkpoint with its iteration, its warm-up and its EMA counter, where these are open.

    Args:
        checkpoint: any; one with a position of its own is returned as it is.
        batches_per_epoch: of the run so far, or, where that is not on record, of the loader that
            it is continued with.
    """
    position = checkpoint.get("open_position")
    if position is None:
        return checkpoint
    completed = checkpoint["position"]["epoch"]
    iteration = completed * batches_per_epoch
    epochs = checkpoint["config"]["hyp"]["warmup_epochs"]
    length = warmup_length(epochs, batches_per_epoch, position["min_warmup"])
    if position["warmup_over"]:  # also when the data set is now so small that the formula says no
        length = min(length, iteration - 1)
    plan = Plan.from_dict(checkpoint["plan"])
    plan = dataclasses.replace(plan, warmup=dataclasses.replace(plan.warmup, iterations=length))
    complete = checkpoint.copy()
    del complete["open_position"]
    complete["plan"] = plan.to_dict()
    complete["plan_digest"] = plan_digest(complete["plan"])
    complete["position"] = {"epoch": completed, "iteration": iteration}
    if position["count_updates"]:
        updates = optimizer_steps(plan, iteration)
        complete["ema"] = {**checkpoint["ema"], "updates": updates}
    return complete


def _import_best(path: Path, checkpoint: TrainingCheckpoint) -> DeployCheckpoint | None:
    """The best.pt beside a checkpoint, as one of ours; None if it does not belong."""
    best = path.with_name(BEST)
    if path.name == BEST or not best.is_file():
        return None
    return convert_best(best, checkpoint)


class _Parts(NamedTuple):
    """What was found, before it is put together."""

    path: Path
    content: UpstreamCheckpoint
    groups: tuple[NamedGroup, ...]
    progress: RunProgress
    hyp: Hyp
    law: str


def _refuse_stripped(path: Path, content: UpstreamCheckpoint, how: ImportOptions) -> None:
    gone = stripped_parts(content)
    if gone and not how.allow_partial_state:
        raise UserError(
            f"{path} was stripped of {', '.join(gone)}, as YOLOv5 does when a run ends; "
            "resume from an epochN.pt of the run if there is one, or add --allow-partial-state to "
            "go on from the weights with fresh momentum."
        )


def _options(parts: _Parts, raw: Mapping[str, object], how: ImportOptions) -> TrainOptions:
    data = how.data or raw.get("data")
    if not isinstance(data, str):
        raise UserError(
            f"neither {parts.path} nor an opt.yaml beside it says which data set the run was "
            "trained on; give it with --data."
        )
    decided: dict[str, object] = {
        "data": data,
        "epochs": parts.progress.planned,
        "cos_lr": parts.law == "cosine",
    }
    buffers = {name for group in parts.groups for state in group.state.values() for name in state}
    if optimizer := optimizer_from_buffers(buffers, raw.get("optimizer")):
        decided["optimizer"] = optimizer
    return train_options(raw, parts.path, **decided)


def _checkpoint(
    parts: _Parts, options: TrainOptions, raw: Mapping[str, object]
) -> TrainingCheckpoint:
    content, completed = parts.content, parts.progress.completed
    spec, plan = spec_from_upstream(content), _plan(parts, options).to_dict()
    weights = fp32_state(content.model_state, spec, parts.path)
    recorded = {name: value for name, value in options.to_dict().items() if name != NOT_ON_RECORD}
    average = fp32_state(content.ema_state or content.model_state, spec, parts.path)
    return TrainingCheckpoint(
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
            "options": recorded,
            "hyp": parts.hyp.to_dict(),
            "spec": spec.to_dict(),
            "names": list(content.names),
            "precision": "fp32" if raw.get("device") in WITHOUT_AMP else UNKNOWN,
            "processes": _processes(raw),
        },
        software={"yolov5": content.version},
    )


def _plan(parts: _Parts, options: TrainOptions) -> Plan:
    hyp = parts.hyp
    return Plan(
        lr0=hyp.lr0,
        momentum=hyp.momentum,
        accumulate=accumulation(options.nominal_batch_size, options.batch_size),
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


def _processes(raw: Mapping[str, object]) -> int:
    """As v5.0 wrote it down; else one for every GPU that --device names."""
    recorded = raw.get("world_size")
    return recorded if isinstance(recorded, int) else str(raw.get("device", "")).count(",") + 1


def _missing_parts(content: UpstreamCheckpoint) -> dict[str, str]:
    substitutes = {
        "optimizer": ("optimizer", "stripped, so its momentum starts afresh"),
        "raw weights beside the EMA": ("weights", "stripped, so the EMA's stand in for them"),
        "EMA counter": ("EMA", "its counter was stripped and is what the epochs done give"),
    }
    gone = stripped_parts(content)
    return dict(substitutes[part] for part in substitutes if part in gone) | ALWAYS_MISSING


def _unsupported(raw: Mapping[str, object]) -> dict[str, str]:
    return {
        f"--{name.replace('_', '-')}": "not in this program; left out"
        for name in WITHOUT_COUNTERPART
        if raw.get(name)
    }


def _found(parts: _Parts) -> tuple[str, ...]:
    content, progress = parts.content, parts.progress
    found = [
        f"YOLOv5 {content.version} checkpoint, {len(content.model_state)} tensors",
        f"{progress.completed} of {progress.planned} epochs completed, law {parts.law}",
    ]
    buffers = buffers_by_name(parts.groups)
    if buffers:
        total = len(content.parameter_names)
        found.append(f"optimizer buffers of {len(buffers)} of {total} parameters")
    if ema_counter(content) is not None:
        found.append(f"EMA counter {content.ema_updates}")
    if progress.rows_found:
        found.append(f"history of {progress.rows_found} epochs")
    return tuple(found)
