"""Preview the learning rate of each way to extend a run; imports no torch.

`train.py --resume … --extend-epochs … --plan` prints it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from utils.errors import UserError
from utils.solver.continuation import Extension, extend_plan, first_flat_epoch
from utils.solver.guard import is_jump
from utils.solver.modes import COOLDOWN_SHAPES, JUMPING_MODES
from utils.solver.schedule import FINISH, MODES, Plan

AS_PLANNED = "as planned"
"""Label of the plan as it is, with which a finish is compared."""
SMALL_FACTOR = 0.01
"""Rates below this fraction of lr0 count as small."""
MIN_LR_SUM_PERCENT = 3.0
"""An extension whose sum of learning rates is below this percentage of the run's so far barely
trains."""


@dataclass(frozen=True)
class PlanPreview:
    """Learning rates of one way to extend a run."""

    label: str
    """Mode and modifiers, as on the command line."""
    plan: Plan
    """Plan of the whole run with this extension."""
    requested: bool
    """Whether this is the extension of the command line."""
    rate_before: float
    """Learning rate of the last epoch before the seam."""
    rate_after: float
    """Learning rate of the first epoch after the seam."""
    ratio: float
    """`rate_after / rate_before`."""
    final_rate: float
    """Learning rate of the last epoch."""
    small_from: int | None
    """First epoch after the seam with a rate below 1 % of lr0; None if there is none."""
    lr_sum_percent: float
    """Sum of the rates of the extension, in percent of the sum over the run so far."""
    ineffective: bool
    """Whether the extension has modifiers, but the same rates as the plain mode."""

    @property
    def mode(self) -> str:
        """The continuation mode, without modifiers."""
        return self.plan.segments[-1].mode


def plan_previews(plan: Plan, completed: int, extension: Extension) -> list[PlanPreview]:
    """Return previews of the plain modes, then of every mode that the requested modifiers change.

    A modifier that a mode does not support is omitted for that mode: `--peak 0.3 --rewarm-epochs 3`
    is compared with `restart --rewarm-epochs 3`. A mode is omitted if its rate would rise in the
    cooldown. The requested extension is always included, and marked.

    A finish is compared only with the plan as it is, because the modes extend a run.

    Raises:
        UserError: the extension does not fit the run, see `extend_plan`.
    """
    if extension.finishes:
        finish = preview_extension(plan, completed, extension, requested=True)
        return [_preview(AS_PLANNED, plan, completed), finish]
    plain = [_plain(extension, mode) for mode in MODES]
    modified = [_adapted(extension, mode) for mode in MODES]
    found = []
    for candidate in dict.fromkeys([*plain, *modified]):
        requested = candidate == extension
        try:
            preview = preview_extension(plan, completed, candidate, requested=requested)
        except UserError:
            if requested:
                raise
            continue
        if requested or not preview.ineffective:
            found.append(preview)
    return found


def preview_extension(
    plan: Plan, completed: int, extension: Extension, *, requested: bool
) -> PlanPreview:
    """Return the preview of one extension; see `plan_previews`."""
    extended = extend_plan(plan, completed, extension)
    plain = _plain(extension, extension.mode)
    preview = _preview(_label(extension), extended, completed)
    ineffective = extension != plain and preview.plan.factors() == (
        extend_plan(plan, completed, plain).factors()
    )
    return dataclasses.replace(preview, requested=requested, ineffective=ineffective)


def _preview(label: str, plan: Plan, completed: int) -> PlanPreview:
    """Return the preview of a plan from its completed epochs on."""
    factors = plan.factors()
    before, after = factors[completed - 1], factors[completed]
    ahead = range(completed, plan.total_epochs)
    past, added = math.fsum(factors[:completed]), math.fsum(factors[completed:])
    return PlanPreview(
        label=label,
        plan=plan,
        requested=False,
        rate_before=plan.lr0 * before,
        rate_after=plan.lr0 * after,
        ratio=1.0 if after == before else after / before if before else math.inf,
        final_rate=plan.lr0 * factors[-1],
        small_from=next((epoch for epoch in ahead if factors[epoch] < SMALL_FACTOR), None),
        lr_sum_percent=100 * added / past,
        ineffective=False,
    )


def _plain(extension: Extension, mode: str) -> Extension:
    """Return the extension in a mode without modifiers of the learning rate."""
    if extension.finishes:  # its --lrf may be necessary
        return extension
    return Extension(extension.epochs, mode, close_mosaic=extension.close_mosaic)


def patience_rule(plan: Plan) -> str:
    """Return a sentence on where `--patience` begins to count after the last seam."""
    if plan.segments[-1].mode == FINISH:
        return "Patience does not stop a finish."
    if plan.raises_rate(plan.segments[-1]):
        return "Patience counts from the best epoch since the seam, because the rate rises there."
    return "Patience counts from the best epoch of the whole run, or from the seam if it is later."


def preview_warnings(choices: Sequence[PlanPreview]) -> list[str]:
    """Return one sentence with a remedy for each problem of the extensions."""
    warnings = []
    barely = [
        f"{preview.label} ({preview.lr_sum_percent:.2g} %)"
        for preview in choices
        if preview.lr_sum_percent < MIN_LR_SUM_PERCENT and preview.plan.segments[-1].mode != FINISH
    ]
    if barely:
        warnings.append(
            f"{', '.join(barely)}: barely trains, because the sum of learning rates is below "
            f"{MIN_LR_SUM_PERCENT:g} % of the sum over the run so far; add more epochs with "
            "--extend-epochs, or start hold or rebase from a higher rate with --peak P "
            "--rewarm-epochs K."
        )
    jumping = [
        f"{preview.label} (×{preview.ratio:.3g})"
        for preview in choices
        if is_jump(preview.rate_before, preview.rate_after)
    ]
    if jumping:
        warnings.append(
            f"{', '.join(jumping)}: raises the learning rate at the seam, so expect mAP to drop "
            "before it improves; --rewarm-epochs K spreads the rise over K epochs."
        )
    return warnings + [warning for preview in choices for warning in modifier_warnings(preview)]


def modifier_warnings(preview: PlanPreview) -> list[str]:
    """Return one sentence with a remedy for each problem of the modifiers of one extension."""
    warnings = []
    flat = first_flat_epoch(preview.plan.segments[-1])
    if flat is not None:
        rate = preview.plan.lr0 * preview.plan.factor(flat)
        warnings.append(
            f"{preview.label} is constant at {rate:.3g} from epoch {flat} on; use --slope fit to "
            "decay until the last epoch."
        )
    if preview.ineffective:
        warnings.append(
            f"{preview.label} has the same learning rates as plain {preview.mode}; omit the "
            "modifiers."
        )
    return warnings


def _adapted(extension: Extension, mode: str) -> Extension:
    """Return the extension in another mode, without the modifiers that the mode cannot have."""
    if mode == extension.mode:
        return extension
    peak = None if mode in JUMPING_MODES else extension.peak
    ramped = peak is not None or mode in JUMPING_MODES
    return dataclasses.replace(
        extension,
        mode=mode,
        slope="fit",  # `original` applies only to the requested mode
        peak=peak,
        rewarm_epochs=extension.rewarm_epochs if ramped else 0,
    )


def _label(extension: Extension) -> str:
    """Return mode and modifiers as on the command line."""
    words = [extension.mode]
    if extension.slope != "fit":
        words.append(f"--slope {extension.slope}")
    if extension.lrf is not None:
        words.append(f"--lrf {extension.lrf:g}")
    if extension.peak is not None:
        words.append(f"--peak {extension.peak:g}")
    if extension.rewarm_epochs:
        words.append(f"--rewarm-epochs {extension.rewarm_epochs}")
    if extension.cooldown_epochs:
        words.append(f"--cooldown-epochs {extension.cooldown_epochs}")
    if extension.cooldown_shape != COOLDOWN_SHAPES[0]:
        words.append(f"--cooldown-shape {extension.cooldown_shape}")
    return " ".join(words)
