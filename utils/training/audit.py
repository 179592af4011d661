"""State audit of a resumed run: what was restored, changed or missing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from utils.checkpoint.format import Config, TrainingCheckpoint
from utils.history import ITERATION_COLUMN
from utils.options.train_options import CLASSES, TrainOptions
from utils.runs.changes import data_changes
from utils.runs.resume import ResumePoint
from utils.runs.run import Run
from utils.solver.schedule import FINISH, Plan, scaled_weight_decay
from utils.training.state import TrainingState, software

log = logging.getLogger("yolo")

RESTORED, CHANGED, MISSING = "restored", "changed", "missing"
Finding = tuple[str, str]
"""Status and detail of an `AuditItem`."""


class AuditItem(NamedTuple):
    """One row of the audit table: a part of the state."""

    part: str
    status: str
    """restored, changed or missing."""
    detail: str


def audit_state(
    run: Run, resume_point: ResumePoint, state: TrainingState, config: Config
) -> list[AuditItem]:
    """Compare a checkpoint with the state and configuration that the run continues with.

    Args:
        run: the resumed run.
        resume_point: the checkpoint that it continues from.
        state: the restored state.
        config: configuration that the next checkpoints of the run contain.
    """
    saved, options = resume_point.checkpoint, run.options
    old, old_options = saved["config"], saved["config"]["options"]
    tensors, hyp = f"{len(saved['model'])} tensors", run.hyp.to_dict()
    parts: dict[str, Finding] = {
        "weights": (RESTORED, tensors),
        "EMA": _ema(state, tensors),
        "optimizer": _optimizer(saved, state, options),
        "history": _history(state),
        "learning-rate plan": _plan(resume_point),
        "AMP scaler": _scaler(saved, state, config["precision"]),
        "best fitness": _best(run, state),
        "patience": _patience(resume_point, options.patience),
        "data order": _compared(old_options["seed"], options.seed, "seed "),
        **_options(run, old_options),
        **_batch_effects(run, resume_point),
        "precision": _compared(old["precision"], config["precision"]),
        **_compilation(old_options.get("compile", False), options.compile),
        "processes": _compared(old.get("processes", 1), config.get("processes", 1)),
        **_software(saved["software"]),
        "hyper-parameters": _values(old["hyp"], hyp, f"{len(hyp)} values"),
        "data set": _data(old, config["data"]),
        **({"classes": (CHANGED, run.classes.describe())} if run.classes else {}),
        **_epoch_under_way(state),
        **_average(saved, state, options.average),
    }
    for part, reason in saved.get("missing", {}).items():
        replaced_by = f"{parts[part][1]}; " if part in parts else ""
        parts[part] = MISSING, replaced_by + reason
    return [AuditItem(part, *found) for part, found in parts.items()]


def _compared(old: object, new: object, unit: str = "") -> Finding:
    return (RESTORED, f"{unit}{new}") if old == new else (CHANGED, f"{unit}{old} → {new}")


def _values(old: Mapping[str, object], new: Mapping[str, object], unchanged: str) -> Finding:
    """Compare values by name; the detail lists those that changed, or is `unchanged`."""
    changed = [
        f"{name} {old.get(name)} → {new[name]}" for name in new if old.get(name) != new[name]
    ]
    return (CHANGED, ", ".join(changed)) if changed else (RESTORED, unchanged)


def _ema(state: TrainingState, tensors: str) -> Finding:
    """The EMA counter; an epoch has a step, except in YOLOv5, and a step has at least one batch."""
    detail = f"{tensors}, counter {state.ema.updates}"
    if state.epoch and not 0 < state.ema.updates <= state.iteration:
        return MISSING, f"{detail}, which does not fit {state.iteration} batches"
    return RESTORED, detail


def _history(state: TrainingState) -> Finding:
    """Epochs in the history; a restarted epoch leaves an iteration beyond them."""
    rows = len(state.history)
    if rows < state.epoch:
        return MISSING, f"{rows} of {state.epoch} epochs"
    last = int(state.history[-1].get(ITERATION_COLUMN, 0)) if rows else 0
    if last > state.iteration:
        return CHANGED, f"ends at iteration {last}, the weights are of iteration {state.iteration}"
    return RESTORED, f"{rows} {'epoch' if rows == 1 else 'epochs'}"


def _software(saved: Mapping[str, str]) -> dict[str, Finding]:
    """What the last digits depend on; nothing if it is not recorded, as by YOLOv5."""
    new = {name: value for name, value in software().items() if name in saved}
    unchanged = ", ".join(f"{name} {value}" for name, value in new.items())
    return {"software": _values(saved, new, unchanged)} if new else {}


def _optimizer(saved: TrainingCheckpoint, state: TrainingState, options: TrainOptions) -> Finding:
    if state.ema.updates == 0 and state.epoch == 0:
        return RESTORED, "no step yet"
    old, new = saved["optimizer"]["name"], options.optimizer
    if old != new:
        return CHANGED, f"{old} → {new}, buffers reset"
    names = set(state.parameter_names)
    without = names - {name for name, buffers in saved["optimizer"]["buffers"].items() if buffers}
    detail = f"{new}, buffers of {len(names) - len(without)} of {len(names)} parameters"
    layers = TrainOptions(freeze=saved["config"]["options"]["freeze"]).frozen_layers()
    frozen = tuple(f"model.{layer}." for layer in layers)
    if without and all(name.startswith(frozen) for name in without):
        return CHANGED, f"{detail}; the others were frozen"
    return (MISSING if without else RESTORED), detail


def _plan(resume_point: ResumePoint) -> Finding:
    total = resume_point.plan.total_epochs
    if not resume_point.extended:
        return RESTORED, f"{total} epochs"
    segment = resume_point.plan.segments[-1]
    before = resume_point.saved.total_epochs
    detail = f"{before} → {total} epochs, {segment.mode} from epoch {segment.start}"
    if segment.close_mosaic:
        detail += f", no mosaic from epoch {segment.stop - segment.close_mosaic}"
    return CHANGED, detail


def _scaler(saved: TrainingCheckpoint, state: TrainingState, precision: str) -> Finding:
    """Loss scaling, which only fp16 needs; restored also if neither old nor new run uses it."""
    old = saved["scaler"]
    if not state.scaler.is_enabled():
        none = f"none, {precision} needs none"
        return (CHANGED, f"scale {old['scale']:g} → {none}") if old else (RESTORED, none)
    scale = f"scale {state.scaler.get_scale():g}"
    if old:
        return RESTORED, scale
    if saved["config"]["precision"] == precision:
        return MISSING, f"{scale}, the initial value"
    return CHANGED, f"none → {scale}"


def _best(run: Run, state: TrainingState) -> Finding:
    if run.classes is not None and not run.classes.only_renames:
        return CHANGED, "begins again, because the classes changed"
    if state.best_epoch < 0:
        return MISSING, "no best.pt of an epoch so far; the next epochs determine it"
    return RESTORED, f"{state.best_fitness:.5g} in epoch {state.best_epoch}"


def _patience(resume_point: ResumePoint, patience: int) -> Finding:
    old = resume_point.checkpoint["config"]["options"]["patience"]
    if resume_point.extended:
        detail = f"{patience} epochs" if patience == old else f"{old} → {patience} epochs"
        if resume_point.plan.segments[-1].mode == FINISH:
            return CHANGED, f"{detail}, does not stop a finish"
        return CHANGED, f"{detail}, restarts at the seam"
    return _compared(old, patience)


def _options(run: Run, old: Mapping[str, object]) -> dict[str, Finding]:
    """Batch size and image size, and all options that were allowed to change."""
    new = run.options.to_dict()
    listed = {"batch_size", "imgsz", "optimizer", "hyp", "seed", "data", CLASSES}
    parts = {"batch_size": "batch size", "imgsz": "image size"}
    parts |= {name: name.replace("_", " ") for name in sorted(run.allowed - listed)}
    return {
        part: _compared(old.get(name, "not recorded"), new[name]) for name, part in parts.items()
    }


def _batch_effects(run: Run, resume_point: ResumePoint) -> dict[str, Finding]:
    """What follows from the batch size and the number of images; only values that change."""
    saved, plan = resume_point.checkpoint, resume_point.plan
    config, before = saved["config"], Plan.from_dict(saved["plan"])
    old = _batch_values(before, config["options"], config["hyp"]["weight_decay"])
    new = _batch_values(plan, run.options.to_dict(), run.hyp.weight_decay)
    found = {part: _compared(old[part], new[part]) for part in old if old[part] != new[part]}
    if plan.warmup != before.warmup:
        share = plan.warmup.share(saved["position"]["iteration"])
        lengths = f"{before.warmup.length} → {plan.warmup.length} iterations"
        found["warm-up"] = CHANGED, f"{lengths}, continues at {share:.1%}"
    return found


def _batch_values(plan: Plan, options: Mapping[str, Any], decay: float) -> dict[str, str]:
    """The effective batch of an optimizer step, and its weight decay."""
    size, nominal = options["batch_size"], options.get("nominal_batch_size", 64)
    batch = size * plan.accumulate
    return {
        "effective batch": f"{batch} ({size} × {plan.accumulate})",
        "weight decay": f"{scaled_weight_decay(decay, batch, nominal):g}",
    }


def _compilation(old: bool, new: bool) -> dict[str, Finding]:
    """Whether the forward pass is compiled, which changes rounding; empty if it never was."""
    words = {False: "not compiled", True: "compiled"}
    return {"forward pass": _compared(words[old], words[new])} if old or new else {}


def _data(saved: Config, new: Mapping[str, str | int]) -> Finding:
    """Compare the data set with that of a checkpoint; also if it only moved to another place."""
    images = f"{new['file']}, {new['train images']} + {new['val images']} images"
    old = saved.get("data")
    if old is None:
        return MISSING, f"{images}; the earlier data are not recorded"
    moved, changes = old["file"] != new["file"], data_changes(saved, new)
    if changes:
        return CHANGED, ", ".join([f"{old['file']} → {new['file']}"] * moved + changes)
    return RESTORED, images + f", the same as in {old['file']}" * moved


def _epoch_under_way(state: TrainingState) -> dict[str, Finding]:
    """The progress within an epoch; empty between epochs."""
    batches, pending = state.progress.batches, state.progress.pending
    detail = f"{batches} batches done, gradients of {pending} accumulated for the next step"
    return {"epoch under way": (RESTORED, detail)} if batches else {}


def _average(saved: TrainingCheckpoint, state: TrainingState, last: int) -> dict[str, Finding]:
    """The mean of the last epochs; empty if there is none and none is requested."""
    mean = state.average
    if mean is None and "average" in saved:
        then = f"; another begins for the last {last} epochs" if last else ""
        return {"average": (CHANGED, f"mean of {saved['average']['updates']} epochs ends{then}")}
    return (
        {"average": (RESTORED, f"{mean.updates if mean else 0} of {last} epochs")} if last else {}
    )
