"""What became of every part of a run's state when the run goes on; and the proof, by validation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from utils.checkpoint.format import Config, ContinuationRecord, TrainingCheckpoint
from utils.history import RAW_MAP
from utils.runs.resume import ResumePoint
from utils.runs.run import Run
from utils.solver.seam import EMA
from utils.training.state import TrainingState
from utils.training.validation import ValidationResult

log = logging.getLogger("yolo")

RESTORED, CHANGED, MISSING = "restored", "changed", "missing"
TOLERANCE = 1e-6  # of mAP; on the machine that saved it a result comes back exactly


class AuditItem(NamedTuple):
    """One part of the state."""

    part: str
    status: str
    """restored, changed or missing."""
    detail: str


class SeamCheck(NamedTuple):
    """mAP50-95 as it was saved and as it is measured before the first step; None if not known."""

    saved_ema: float | None
    ema: float | None
    saved_raw: float | None
    raw: float | None

    @property
    def reproduced(self) -> bool | None:
        """Whether the average gives the saved result again; None if there is nothing to compare."""
        if self.saved_ema is None or self.ema is None:
            return None
        return abs(self.saved_ema - self.ema) <= TOLERANCE


class Audit(NamedTuple):
    """What is known of a state before its first step."""

    items: list[AuditItem]
    check: SeamCheck


def verify_resume(
    run: Run,
    state: TrainingState,
    config: Config,
    measure: Callable[[TrainingState], ValidationResult],
) -> Audit | None:
    """Audit and validate a restored state before its first step, and record what was found.

    At a seam the results enter the last epoch's row: they are what the epochs after the seam are
    compared with.

    Args:
        run: how the run goes on; of a new one there is nothing to prove.
        state: as restored.
        config: what the run's next checkpoints will say of it.
        measure: validates the state.
    """
    if run.resume_point is None or run.resume_point.ended:
        return None
    items = audit_state(run, run.resume_point, state, config)
    check = compare_metrics(state, measure(state))
    seams = run.resume_point.plan.seams
    if seams and seams[-1].start == state.epoch and not state.progress.batches:
        state.record_seam_check(check.ema, check.raw)
    audit = Audit(items, check)
    state.record_continuation(
        _continuation(run, run.resume_point, audit), replaces=run.resume_point.replaces
    )
    return audit


def _continuation(run: Run, resume_point: ResumePoint, audit: Audit) -> ContinuationRecord:
    """How the run is continued this time, as plain data for the checkpoint."""
    extended = resume_point.extended
    return ContinuationRecord(
        epoch=resume_point.next_seam if extended else resume_point.completed,
        kind="extended" if extended else "resumed",
        allowed_changes=sorted(run.allowed),
        audit=[item._asdict() for item in audit.items],
        check=audit.check._asdict() | {"reproduced": audit.check.reproduced},
    )


def audit_state(
    run: Run, resume_point: ResumePoint, state: TrainingState, config: Config
) -> list[AuditItem]:
    """Compare what a checkpoint holds with what the run goes on with.

    Args:
        run: how the run goes on.
        resume_point: where it comes from.
        state: as restored.
        config: what the run's next checkpoints will say of it.
    """
    saved, options = resume_point.checkpoint, run.options
    old, old_options = saved["config"], saved["config"]["options"]
    tensors = f"{len(saved['model'])} tensors"
    items = [
        AuditItem("weights", RESTORED, tensors),
        AuditItem("EMA", RESTORED, f"{tensors}, counter {state.ema.updates}"),
        _optimizer_item(saved, state, options.optimizer),
        _plan_item(resume_point),
        _scaler_item(saved, state, config["precision"]),
        _best_item(state),
        _patience_item(resume_point, options.patience),
        _compared("data order", old_options["seed"], options.seed, "seed "),
        *_option_items(run, old_options),
        _compared("precision", old["precision"], config["precision"]),
        *_compiled_items(old_options.get("compile", False), options.compile),
        _compared("processes", old.get("processes", 1), config.get("processes", 1)),
        _hyp_item(old["hyp"], run.hyp.to_dict()),
        _data_item(old.get("data"), config["data"]),
    ]
    under_way = state.progress
    if under_way.batches:
        detail = f"{under_way.batches} batches done, {under_way.pending} summed for the next step"
        items.append(AuditItem("epoch under way", RESTORED, detail))
    lost = dict(saved.get("missing", {}))
    known = [_less(item, lost.pop(item.part, None)) for item in items]
    return [*known, *(AuditItem(part, MISSING, what) for part, what in lost.items())]


def _less(item: AuditItem, lost: str | None) -> AuditItem:
    """The item, missing if something of it is lost, with what is there in its place."""
    if lost is None:
        return item
    return AuditItem(item.part, MISSING, f"{item.detail}; {lost}")


def _compared(part: str, old: object, new: object, prefix: str = "") -> AuditItem:
    if old == new:
        return AuditItem(part, RESTORED, f"{prefix}{new}")
    return AuditItem(part, CHANGED, f"{prefix}{old} → {new}")


def _optimizer_item(saved: TrainingCheckpoint, state: TrainingState, new: str) -> AuditItem:
    if state.ema.updates == 0:
        return AuditItem("optimizer", RESTORED, "no step was made yet")
    old = saved["optimizer"]["name"]
    if old != new:
        return AuditItem("optimizer", CHANGED, f"{old} → {new}, its buffers start afresh")
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
    """Loss scaling, which fp16 alone needs: restored is also that there was none and is none."""
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
        return AuditItem("AMP scaler", MISSING, f"{scale}, as at the start of a run")
    return AuditItem("AMP scaler", CHANGED, f"none → {scale}")


def _best_item(state: TrainingState) -> AuditItem:
    if state.best_epoch < 0:
        return AuditItem("best fitness", MISSING, "not validated, or its weights are not there")
    detail = f"{state.best_fitness:.5g} in epoch {state.best_epoch}"
    return AuditItem("best fitness", RESTORED, detail)


def _patience_item(resume_point: ResumePoint, patience: int) -> AuditItem:
    old = resume_point.checkpoint["config"]["options"]["patience"]
    if resume_point.extended:
        detail = f"{patience} epochs" if patience == old else f"{old} → {patience} epochs"
        return AuditItem("patience", CHANGED, f"{detail}, starts afresh at the seam")
    return _compared("patience", old, patience)


def _option_items(run: Run, old: Mapping[str, object]) -> list[AuditItem]:
    new = run.options.to_dict()
    always = [
        _compared("batch size", old["batch_size"], new["batch_size"]),
        _compared("image size", old["imgsz"], new["imgsz"]),
    ]
    listed = {"batch_size", "imgsz", "optimizer", "hyp", "seed", "data"}
    others = sorted(set(run.allowed) - listed)
    return [
        *always,
        *(
            _compared(name.replace("_", " "), old.get(name, "not on record"), new[name])
            for name in others
        ),
    ]


def _compiled_items(old: bool, new: bool) -> list[AuditItem]:
    """Whether steps are compiled, which changes their rounding, where they are or were."""
    words = {False: "not compiled", True: "compiled"}
    return [_compared("forward pass", words[old], words[new])] if old or new else []


def _hyp_item(old: Mapping[str, float], new: Mapping[str, float]) -> AuditItem:
    changed = [
        f"{name} {old.get(name)} → {new[name]}" for name in new if old.get(name) != new[name]
    ]
    if changed:
        return AuditItem("hyper-parameters", CHANGED, ", ".join(changed))
    return AuditItem("hyper-parameters", RESTORED, f"{len(new)} values")


def _data_item(old: Mapping[str, str | int] | None, new: Mapping[str, str | int]) -> AuditItem:
    """Compare what both say of the data; what an older checkpoint lacks is passed over."""
    images = f"{new['file']}, {new['train images']} + {new['val images']} images"
    if old is None:
        return AuditItem("data set", MISSING, f"{images}; those of before are not on record")
    changed = [
        f"{name} {old[name]} → {new[name]}"
        for name in new
        if name in old and old[name] != new[name]
    ]
    if changed:
        return AuditItem("data set", CHANGED, ", ".join(changed))
    return AuditItem("data set", RESTORED, images)


def compare_metrics(state: TrainingState, measured: ValidationResult) -> SeamCheck:
    """The last epoch's saved results beside those measured of the restored state.

    Of a state in the middle of an epoch there are no saved results.
    """
    last = state.history[-1] if state.history and not state.progress.batches else {}

    def known(name: str) -> float | None:
        value = last.get(name, math.nan)
        return None if math.isnan(value) else value

    return SeamCheck(
        known(EMA),
        measured.ema.map50_95 if measured.ema else None,
        known(RAW_MAP),
        measured.raw.map50_95 if measured.raw else None,
    )


def log_audit(items: Sequence[AuditItem], check: SeamCheck) -> None:
    """Show the audit as a table, and what the check found."""
    width = max(len(item.part) for item in items)
    log.info("\nState audit")
    for item in items:
        log.info("  %-*s  %-8s  %s", width, *item)
    if check.ema is None:
        log.info("Seam check: not made (--noval).")
        return
    log.info(
        "Seam check: mAP50-95 of the average %s, of the raw weights %.5f",
        f"{check.ema:.5f}" + ("" if check.saved_ema is None else f" (saved {check.saved_ema:.5f})"),
        check.raw if check.raw is not None else math.nan,
    )
    if check.reproduced is False:
        log.warning(
            "The restored average does not give the saved figure again: the validation differs "
            "(images, their size, number format, machine), or the file was rounded, as YOLOv5's "
            "are. What follows a seam is compared with the figure measured here."
        )
