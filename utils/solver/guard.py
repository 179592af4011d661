"""Refuses a learning rate that nobody planned: recorded, yet to come, or just used; no torch.

A plan that was edited, or that belongs to another run, gives itself away by the rates that the
history recorded; one that would make the rate jump, by itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from utils.errors import UserError
from utils.solver.modes import JUMPING
from utils.solver.plan_forensics import described, likely_cause
from utils.solver.recorded_rates import (
    EXACT,
    NOISE,
    RecordedRates,
    agrees,
    planned_rates,
    read_records,
)
from utils.solver.schedule import Plan

GROUPS = ("biases", "weights", "norm weights")
REMEDY = "Go on from a checkpoint as the run wrote it, such as weights/last_prev.pt"
RISE = 1.5
"""A rate that grows by more than this factor from one epoch to the next must be declared."""


def check_past(plan: Plan, history: Sequence[Mapping[str, float]]) -> None:
    """Compare the rates that every epoch recorded with what the plan gives for its last step.

    A row without an iteration is compared only if the warm-up must be over, and may also be one
    epoch behind the plan, as upstream's rates are after the warm-up. A row without rates is passed.

    Args:
        plan: the plan that the history was made with, before any new extension.
        history: one row per completed epoch.

    Raises:
        UserError: a rate differs; names the epoch, both rates, both plans and the likely cause.
    """
    records = read_records(history)
    wrong = next((record for record in records if not agrees(plan, record)), None)
    if wrong is None:
        return
    difference = _difference(plan, wrong, whose="the checkpoint's")
    cause = likely_cause(plan, records, wrong)
    raise UserError(f"{difference}; {cause}. {REMEDY}; --extend-epochs adds epochs.")


def check_future(plan: Plan, completed: int) -> None:
    """Look for a jump of the rate, in the epochs to come, that no segment declares.

    Declared are the first epoch of a mode that may jump, a ramp, and the epoch right after it.

    Args:
        plan: the plan to go on with.
        completed: epochs trained so far.

    Raises:
        UserError: the rate rises by more than 1.5 times; names the epoch, both rates and the cause.
    """
    factors = plan.factors()
    for epoch in range(max(completed, 1), len(factors)):
        before, after = factors[epoch - 1], factors[epoch]
        if jumps(before, after) and not _is_declared(plan, epoch):
            ratio = f"{after / before:.4g} times" if before else "from nothing"
            raise UserError(
                f"the learning rate would rise from {plan.lr0 * before:.6g} in epoch {epoch - 1} "
                f"to {plan.lr0 * after:.6g} in epoch {epoch} ({ratio}), and nothing declares this: "
                f"{_cause_of_rise(plan, epoch)}. {REMEDY}, or ask for a rise with "
                f"--extend-epochs and {' or '.join(JUMPING)} or --peak."
            )


def jumps(before: float, after: float) -> bool:
    """Whether a rate, or factor, rises by more than 1.5 times; rounding aside."""
    return after > RISE * before + NOISE


def check_applied(plan: Plan, epoch: int, iteration: int, rates: Sequence[float]) -> None:
    """Compare the rates that an epoch's last step used with the plan.

    Args:
        plan: the plan in force.
        epoch: the epoch, 0-based.
        iteration: batches trained since the start of the run, this epoch's included: its last step
            was number `iteration - 1`, as in the history.
        rates: of the optimizer's parameter groups: biases, weights, norm weights.

    Raises:
        UserError: a rate differs.
    """
    record = RecordedRates(epoch, tuple(rates), iteration - 1)
    if not agrees(plan, record):
        difference = _difference(plan, record, whose="the run's")
        raise UserError(
            f"{difference}; something other than the plan sets the optimizer's rates, so training "
            "stops here; resume from the last checkpoint."
        )


def _difference(plan: Plan, record: RecordedRates, whose: str) -> str:
    """Recorded and planned rate of the group in which they differ most."""
    if record.epoch >= plan.total_epochs:
        return (
            f"epoch {record.epoch} was trained with a learning rate of {record.rates[1]:.8g}, but "
            f"{whose} plan, {described(plan)}, ends before it"
        )
    planned = planned_rates(plan, record)
    # The weights first among equals: theirs is the rate that people know.
    group = max((1, 0, 2), key=lambda i: abs(record.rates[i] - planned[i]))
    return (
        f"epoch {record.epoch} was trained with a learning rate of {record.rates[group]:.8g} "
        f"({GROUPS[group]}), but {whose} plan, {described(plan)}, gives {planned[group]:.8g}"
    )


def _is_declared(plan: Plan, epoch: int) -> bool:
    segment = plan.segment_at(epoch)
    since = epoch - segment.start
    if segment.mode in JUMPING and since == 0:
        return True
    return 0 < segment.ramp >= since


def _cause_of_rise(plan: Plan, epoch: int) -> str:
    """Why an undeclared rise is in the plan, as far as its segments show."""
    segment = plan.segment_at(epoch)
    whole = described(plan)
    if segment.start != epoch:
        return (
            f"no {segment.mode} of this program rises like that, so the checkpoint's plan, {whole},"
            " was edited"
        )
    earlier = tuple(s for s in plan.segments if s.start < epoch)
    until_then = described(dataclasses.replace(plan, segments=earlier))
    ended = plan.factor(epoch - 1)
    if math.isclose(segment.before, ended, rel_tol=EXACT):
        cause = f"the level of its {segment.mode} was edited to {segment.level:.6g} of lr0"
    else:
        cause = (
            f"it was extended at {segment.before:.6g} of lr0, where the earlier plan now has "
            f"{ended:.6g}, so that one's total or lrf was edited"
        )
    return f"until then the plan is {until_then}, from then on {whole}, and {cause}"
