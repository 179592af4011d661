"""State audit of a resumed run: what was restored, changed or missing, verified by validation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from utils.checkpoint.format import Config, ContinuationRecord, TrainingCheckpoint
from utils.history import RAW_MAP_COLUMN
from utils.runs.resume import ResumePoint
from utils.runs.run import Run
from utils.solver.seam import EMA_MAP_COLUMN
from utils.training.state import TrainingState
from utils.training.validation import ValidationResult

log = logging.getLogger("yolo")

RESTORED, CHANGED, MISSING = "restored", "changed", "missing"
TOLERANCE = 1e-6  # of mAP, for other machines; on the same machine the result is identical


class AuditItem(NamedTuple):
    """One row of the audit table: a part of the state."""

    part: str
    status: str
    """restored, changed or missing."""
    detail: str


class SeamCheck(NamedTuple):
    """Saved mAP50-95, and mAP50-95 measured before the first step of a resumed run.

    Both for the EMA weights and the non-EMA (`raw`) weights; None if unknown.
    """

    saved_ema: float | None
    ema: float | None
    saved_raw: float | None
    raw: float | None

    @property
    def reproduced(self) -> bool | None:
        """Whether the EMA weights reproduce the saved mAP50-95; None if either is unknown."""
        if self.saved_ema is None or self.ema is None:
            return None
        return abs(self.saved_ema - self.ema) <= TOLERANCE


def verify_resume(
    run: Run,
    state: TrainingState,
    config: Config,
    measure: Callable[[TrainingState], ValidationResult],
) -> None:
    """Audit and validate a restored state before its first step; log the result and add it to it.

    At a seam, the metrics are added to the row of the last epoch, as the baseline for the epochs
    after the seam. Does nothing if the run is new or no epoch is left to train.

    Args:
        run: the resumed run.
        state: the restored state.
        config: configuration that the next checkpoints of the run contain.
        measure: validates the state.
    """
    resume_point = run.resume_point
    if resume_point is None or resume_point.ended:
        return
    items = audit_state(run, resume_point, state, config)
    check = compare_metrics(state, measure(state))
    seams = resume_point.plan.seams
    if seams and seams[-1].start == state.epoch and not state.progress.batches:
        state.record_seam_check(check.ema, check.raw)
    extended = resume_point.extended
    record = ContinuationRecord(
        epoch=resume_point.next_seam if extended else resume_point.completed,
        kind="extended" if extended else "resumed",
        allowed_changes=sorted(run.allowed),
        audit=[item._asdict() for item in items],
        check=check._asdict() | {"reproduced": check.reproduced},
    )
    state.record_continuation(record, replaces=resume_point.replaces)
    log_audit(items, check)


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
    tensors = f"{len(saved['model'])} tensors"
    hyp = run.hyp.to_dict()
    items = [
        AuditItem("weights", RESTORED, tensors),
        AuditItem("EMA", RESTORED, f"{tensors}, counter {state.ema.updates}"),
        _optimizer_item(saved, state, options.optimizer),
        _plan_item(resume_point),
        _scaler_item(saved, state, config["precision"]),
        _best_item(state),
        _patience_item(resume_point, options.patience),
        _comparison_item("data order", old_options["seed"], options.seed, "seed "),
        *_option_items(run, old_options),
        _comparison_item("precision", old["precision"], config["precision"]),
        *_compiled_items(old_options.get("compile", False), options.compile),
        _comparison_item("processes", old.get("processes", 1), config.get("processes", 1)),
        _values_item("hyper-parameters", old["hyp"], hyp, f"{len(hyp)} values"),
        _data_item(old.get("data"), config["data"]),
        *_progress_items(state),
    ]
    missing = dict(saved.get("missing", {}))
    for number, item in enumerate(items):
        if item.part in missing:  # the detail says what replaces it
            detail = f"{item.detail}; {missing.pop(item.part)}"
            items[number] = AuditItem(item.part, MISSING, detail)
    return [*items, *(AuditItem(part, MISSING, reason) for part, reason in missing.items())]


def _comparison_item(part: str, old: object, new: object, prefix: str = "") -> AuditItem:
    if old == new:
        return AuditItem(part, RESTORED, f"{prefix}{new}")
    return AuditItem(part, CHANGED, f"{prefix}{old} → {new}")


def _values_item(
    part: str, old: Mapping[str, object], new: Mapping[str, object], unchanged: str
) -> AuditItem:
    """Compare values by name; the detail lists those that changed, or is `unchanged`."""
    changed = [
        f"{name} {old.get(name)} → {new[name]}" for name in new if old.get(name) != new[name]
    ]
    if changed:
        return AuditItem(part, CHANGED, ", ".join(changed))
    return AuditItem(part, RESTORED, unchanged)


def _optimizer_item(saved: TrainingCheckpoint, state: TrainingState, new: str) -> AuditItem:
    if state.ema.updates == 0:
        return AuditItem("optimizer", RESTORED, "no step yet")
    old = saved["optimizer"]["name"]
    if old != new:
        return AuditItem("optimizer", CHANGED, f"{old} → {new}, buffers reset")
    parameters = len(state.parameter_names)
    buffers = len(set(saved["optimizer"]["buffers"]) & set(state.parameter_names))
    status = RESTORED if buffers >= parameters else MISSING
    return AuditItem("optimizer", status, f"{new}, buffers of {buffers} of {parameters} parameters")


def _plan_item(resume_point: ResumePoint) -> AuditItem:
    total = resume_point.plan.total_epochs
    if not resume_point.extended:
        return AuditItem("learning-rate plan", RESTORED, f"{total} epochs")
    segment = resume_point.plan.segments[-1]
    before = resume_point.saved.total_epochs
    detail = f"{before} → {total} epochs, {segment.mode} from epoch {segment.start}"
    return AuditItem("learning-rate plan", CHANGED, detail)


def _scaler_item(saved: TrainingCheckpoint, state: TrainingState, precision: str) -> AuditItem:
    """Loss scaling, which only fp16 needs; restored also if neither old nor new run uses it."""
    old, needed = saved["scaler"], state.scaler.is_enabled()
    if old and not needed:
        detail = f"scale {old['scale']:g} → none, {precision} needs none"
        return AuditItem("AMP scaler", CHANGED, detail)
    if not needed:
        return AuditItem("AMP scaler", RESTORED, f"none, {precision} needs none")
    scale = f"scale {state.scaler.get_scale():g}"
    if old:
        return AuditItem("AMP scaler", RESTORED, scale)
    if saved["config"]["precision"] == precision:
        return AuditItem("AMP scaler", MISSING, f"{scale}, the initial value")
    return AuditItem("AMP scaler", CHANGED, f"none → {scale}")


def _best_item(state: TrainingState) -> AuditItem:
    if state.best_epoch < 0:
        return AuditItem("best fitness", MISSING, "no epoch was validated, or best.pt is missing")
    detail = f"{state.best_fitness:.5g} in epoch {state.best_epoch}"
    return AuditItem("best fitness", RESTORED, detail)


def _patience_item(resume_point: ResumePoint, patience: int) -> AuditItem:
    old = resume_point.checkpoint["config"]["options"]["patience"]
    if resume_point.extended:
        detail = f"{patience} epochs" if patience == old else f"{old} → {patience} epochs"
        return AuditItem("patience", CHANGED, f"{detail}, restarts at the seam")
    return _comparison_item("patience", old, patience)


def _option_items(run: Run, old: Mapping[str, object]) -> list[AuditItem]:
    new = run.options.to_dict()
    listed = {"batch_size", "imgsz", "optimizer", "hyp", "seed", "data"}
    parts = {"batch_size": "batch size", "imgsz": "image size"}
    parts |= {name: name.replace("_", " ") for name in sorted(set(run.allowed) - listed)}
    return [
        _comparison_item(part, old.get(name, "not recorded"), new[name])
        for name, part in parts.items()
    ]


def _compiled_items(old: bool, new: bool) -> list[AuditItem]:
    """Whether the forward pass is compiled, which changes rounding; empty if it never was."""
    words = {False: "not compiled", True: "compiled"}
    return [_comparison_item("forward pass", words[old], words[new])] if old or new else []


def _data_item(old: Mapping[str, str | int] | None, new: Mapping[str, str | int]) -> AuditItem:
    """Compare the fingerprints of the data; skips keys that an older checkpoint lacks."""
    images = f"{new['file']}, {new['train images']} + {new['val images']} images"
    if old is None:
        return AuditItem("data set", MISSING, f"{images}; the earlier data are not recorded")
    return _values_item("data set", old, {name: new[name] for name in new if name in old}, images)


def _progress_items(state: TrainingState) -> list[AuditItem]:
    """The epoch under way; empty between epochs."""
    batches, pending = state.progress.batches, state.progress.pending
    detail = f"{batches} batches done, gradients of {pending} accumulated for the next step"
    return [AuditItem("epoch under way", RESTORED, detail)] if batches else []


def compare_metrics(state: TrainingState, measured: ValidationResult) -> SeamCheck:
    """The saved metrics of the last epoch, and those measured on the restored state.

    There are no saved metrics for a state in the middle of an epoch.
    """
    last = state.history[-1] if state.history and not state.progress.batches else {}

    def known(name: str) -> float | None:
        value = last.get(name, math.nan)
        return None if math.isnan(value) else value

    return SeamCheck(
        known(EMA_MAP_COLUMN),
        measured.ema.map50_95 if measured.ema else None,
        known(RAW_MAP_COLUMN),
        measured.raw.map50_95 if measured.raw else None,
    )


def log_audit(items: Sequence[AuditItem], check: SeamCheck) -> None:
    """Log the audit as a table, and the result of the seam check."""
    width = max(len(item.part) for item in items)
    log.info("\nState audit")
    for item in items:
        log.info("  %-*s  %-8s  %s", width, *item)
    if check.ema is None:
        log.info("Seam check: skipped (--noval).")
        return
    log.info(
        "Seam check: mAP50-95 of the EMA weights %s, of the non-EMA weights %.5f",
        f"{check.ema:.5f}" + ("" if check.saved_ema is None else f" (saved {check.saved_ema:.5f})"),
        check.raw if check.raw is not None else math.nan,
    )
    if check.reproduced is False:
        log.warning(
            "The restored EMA weights do not reproduce the saved mAP50-95: the validation differs "
            "(images, image size, precision or machine), or the checkpoint stores fp16 weights, as "
            "YOLOv5's do. Later epochs are compared with the value measured now."
        )
