"""What each way to extend a run would do to the learning rate, before training; no torch.

`train.py --resume … --extend-epochs … --plan` shows it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from utils.errors import UserError
from utils.solver.continuation import Extension, extend_plan, flat_from
from utils.solver.guard import jumps
from utils.solver.modes import JUMPING
from utils.solver.schedule import MODES, Plan

SMALL = 0.01
"""Below this fraction of lr0 a rate counts as small."""
BARELY = 3.0
"""Percent of the run so far under which an extension barely trains."""


@dataclass(frozen=True)
class PlanPreview:
    """One way to go on, and what it means."""

    label: str
    """The mode and its modifiers, as on the command line."""
    plan: Plan
    """The whole run, extended in this way."""
    requested: bool
    """Whether this is what the command line asks for."""
    rate_before: float
    """Learning rate of the last epoch before the seam."""
    rate_after: float
    """Learning rate of the first epoch after it."""
    ratio: float
    """`rate_after / rate_before`."""
    final_rate: float
    """Learning rate of the last epoch."""
    small_from: int | None
    """First epoch after the seam with less than 1 % of lr0; None if there is none."""
    lr_sum_percent: float
    """Sum of the rate over the extension, in percent of the sum over the run so far."""

    @property
    def mode(self) -> str:
        """The continuation mode, without modifiers."""
        return self.plan.segments[-1].mode

    def same_rates(self, other: PlanPreview) -> bool:
        """Whether two ways to go on come to the same."""
        return self.plan.factors() == other.plan.factors()


def plan_previews(plan: Plan, completed: int, extension: Extension) -> list[PlanPreview]:
    """The plain modes; then, if modifiers are asked for, every mode that they change.

    A modifier that a mode cannot have is left out for that mode: `--peak 0.3 --rewarm-epochs 3` is
    compared with `restart --rewarm-epochs 3`; so is a mode in which the cooldown would go up. What
    is asked for is always among them, and marked.

    Args:
        plan: the run's plan so far.
        completed: epochs trained.
        extension: what is asked for.

    Raises:
        UserError: the extension does not fit the run, see `extend_plan`.
    """
    plain = [Extension(extension.epochs, mode) for mode in MODES]
    wishes = plain + [
        modified
        for modified in (_adapted(extension, mode) for mode in MODES)
        if modified not in plain
    ]
    found: list[PlanPreview] = []
    for wish in wishes:
        try:
            preview = _preview(plan, completed, wish, requested=wish == extension)
        except UserError:
            if wish == extension:
                raise
            continue
        known = any(preview.same_rates(other) for other in found)
        if preview.requested or wish in plain or not known:
            found.append(preview)
    return found


def preview_warnings(choices: Sequence[PlanPreview]) -> list[str]:
    """Sentences on what would disappoint or surprise, each with a way out; none if all is well."""
    said = []
    barely = [preview for preview in choices if preview.lr_sum_percent < BARELY]
    if barely:
        names = _listed([f"{preview.label} ({preview.lr_sum_percent:.2g} %)" for preview in barely])
        train = "trains" if len(barely) == 1 else "train"
        said.append(
            f"{names} barely {train}: under {BARELY:g} % of the run's sum of learning rates so far."
            f" {_way_out(choices)}"
        )
    jumping = [o for o in choices if jumps(o.rate_before, o.rate_after)]
    if jumping:
        names = _listed([f"{preview.label} (×{preview.ratio:.3g})" for preview in jumping])
        raises = "raises" if len(jumping) == 1 else "raise"
        said.append(
            f"{names} {raises} the rate at the seam, so expect accuracy to fall before it rises; "
            "--rewarm-epochs K spreads the rise over K epochs."
        )
    said += [_goes_flat(o, epoch) for o in choices if (epoch := flat_from(o.plan.segments[-1]))]
    plain = {preview.mode: preview for preview in choices if preview.label == preview.mode}
    said += [
        f"{o.label} gives the rates of plain {o.mode}: its modifiers change nothing here."
        for o in choices
        if o.label != o.mode and o.same_rates(plain[o.mode])
    ]
    return said


def _goes_flat(preview: PlanPreview, epoch: int) -> str:
    rate = preview.plan.lr0 * preview.plan.factor(epoch)
    return (
        f"{preview.label} goes flat in epoch {epoch}, at {rate:.3g}; --slope fit comes down to the "
        "last epoch."
    )


def _way_out(choices: Sequence[PlanPreview]) -> str:
    """What helps: a higher rate where that is enough, else more epochs."""
    jumping = next(preview for preview in choices if preview.mode in JUMPING)
    if jumping.lr_sum_percent < BARELY:
        segment = jumping.plan.segments[-1]
        return (
            f"{segment.epochs} epochs are few after {segment.start}: add more with "
            "--extend-epochs, or go higher with --peak P --rewarm-epochs K."
        )
    return (
        "To learn more, start from a higher rate with --peak P --rewarm-epochs K, "
        f"or use --lr-continuation {jumping.mode} --rewarm-epochs K."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _adapted(extension: Extension, mode: str) -> Extension:
    """The same wish in another mode, without the modifiers that the mode cannot have."""
    if mode == extension.mode:
        return extension
    peak = None if mode in JUMPING else extension.peak
    ramped = peak is not None or mode in JUMPING
    return dataclasses.replace(
        extension,
        mode=mode,
        slope="fit",  # a slope is kept only in the mode that is asked for
        peak=peak,
        rewarm_epochs=extension.rewarm_epochs if ramped else 0,
    )


def _preview(plan: Plan, completed: int, extension: Extension, *, requested: bool) -> PlanPreview:
    extended = extend_plan(plan, completed, extension)
    factors = extended.factors()
    before, after = factors[completed - 1], factors[completed]
    ahead = range(completed, extended.total_epochs)
    past, bought = math.fsum(factors[:completed]), math.fsum(factors[completed:])
    return PlanPreview(
        label=_label(extension),
        plan=extended,
        requested=requested,
        rate_before=plan.lr0 * before,
        rate_after=plan.lr0 * after,
        ratio=1.0 if after == before else after / before if before else math.inf,
        final_rate=plan.lr0 * factors[-1],
        small_from=next((epoch for epoch in ahead if factors[epoch] < SMALL), None),
        lr_sum_percent=100 * bought / past,
    )


def _label(extension: Extension) -> str:
    """The wish as on the command line: mode and those modifiers that are given."""
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
    return " ".join(words)
