"""Verifies a resumed run before its first step: by an audit of its state, and by validation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from utils.checkpoint.format import Config, ContinuationRecord
from utils.history import ITERATION_COLUMN, RAW_MAP_COLUMN
from utils.runs.run import Run
from utils.solver.seam import EMA_MAP_COLUMN
from utils.training.audit import CHANGED, MISSING, AuditItem, audit_state
from utils.training.state import TrainingState
from utils.training.validation import ValidationResult, common_maps

log = logging.getLogger("yolo")

TOLERANCE = 1e-6  # of mAP, for other machines; on the same machine the result is identical


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
    images: Mapping[str, int] | None = None,
) -> None:
    """Audit and validate a restored state before its first step; log the result and add it to it.

    At a seam, the metrics are added to the row of the last epoch, as the baseline for the epochs
    after the seam. Does nothing if the run is new or no epoch is left to train.

    Args:
        run: the resumed run.
        state: the restored state.
        config: configuration that the next checkpoints of the run contain.
        measure: validates the state.
        images: see `ImageRecorder.changes`.
    """
    resume_point = run.resume_point
    if resume_point is None or resume_point.ended:
        return
    items = audit_state(run, resume_point, state, config)
    if "data" in run.allowed:
        unknown = "not recorded before; whether some moved between train and val is unknown"
        counts = ", ".join(f"{count} {what}" for what, count in (images or {}).items())
        items.append(AuditItem("images", CHANGED if images else MISSING, counts or unknown))
    change = run.classes.to_record() if run.classes else None
    measured = measure(state)
    check = compare_metrics(state, measured)
    seams = resume_point.plan.seams
    if seams and seams[-1].start == state.epoch and not state.progress.batches:
        common = change["kept"] if change and (change["new"] or change["dropped"]) else ()
        state.record_seam_check(check.ema, check.raw, common_maps(measured, common))
    extended = resume_point.extended
    record = ContinuationRecord(
        epoch=resume_point.next_seam if extended else resume_point.completed,
        kind="extended" if extended else "resumed",
        allowed_changes=sorted(run.allowed),
        audit=[item._asdict() for item in items],
        check=check._asdict() | {"reproduced": check.reproduced},
    )
    if change is not None:
        record["classes"] = change
    if images is not None:
        record["images"] = dict(images)
    state.record_continuation(record, replaces=resume_point.replaces)
    log_audit(items, check)


def compare_metrics(state: TrainingState, measured: ValidationResult) -> SeamCheck:
    """The saved metrics of the last epoch, and those measured on the restored state.

    There are no saved metrics for a state in the middle of an epoch, also of one that restarts.
    """
    last = state.history[-1] if state.history else {}
    if last.get(ITERATION_COLUMN, state.iteration) != state.iteration or state.progress.batches:
        last = {}

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
            "(classes, images, image or batch size, precision, machine), or the checkpoint stores "
            "fp16 weights, as YOLOv5's do. Later epochs are compared with the value measured now."
        )
