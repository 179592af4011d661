"""Refuses a learning rate that nobody planned: recorded, yet to come, or just used; no torch.

A plan that was edited, or that belongs to another run, gives itself away by the rates that the
history recorded; one that would make the rate jump, by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from utils.errors import UserError
from utils.solver.plan_forensics import likely_cause
from utils.solver.recorded_rates import Record, agrees, planned_rates, read_records
from utils.solver.schedule import Plan

GROUPS = ("biases", "weights", "norm weights")
NOISE = 1e-12
"""Factors below this are nothing: what rounding leaves of a law that ends at 0."""
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
        UserError: a rate differs; names the epoch, both rates and the likely cause.
    """
    records = read_records(history)
    wrong = next((record for record in records if not agrees(plan, record)), None)
    if wrong is None:
        return
    raise UserError(
        f"{_difference(plan, wrong)}; {likely_cause(plan, records, wrong)}. Go on from a "
        "checkpoint as the run wrote it, such as weights/last_prev.pt; --extend-epochs adds epochs."
    )


def check_future(plan: Plan, completed: int) -> None:
    """Look for a jump of the rate, in the epochs to come, that no segment declares.

    Declared are the first epoch of a `restart`, a ramp, and the epoch right after it.

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
                f"the plan would raise the learning rate from {plan.lr0 * before:.6g} in epoch "
                f"{epoch - 1} to {plan.lr0 * after:.6g} in epoch {epoch} ({ratio}) and nothing "
                f"declares this: {_cause_of_rise(plan, epoch)}."
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
    record = Record(epoch, tuple(rates), iteration - 1)
    if not agrees(plan, record):
        raise UserError(
            f"{_difference(plan, record)}; something other than the plan sets the optimizer's "
            "rates, so training stops here; resume from the last checkpoint."
        )


def _difference(plan: Plan, record: Record) -> str:
    """Recorded and planned rate of the group in which they differ most."""
    if record.epoch >= plan.total_epochs:
        return (
            f"epoch {record.epoch} was trained with a learning rate of {record.rates[1]:.8g}, but "
            f"the plan ends after {plan.total_epochs} epochs"
        )
    planned = planned_rates(plan, record)
    # The weights first among equals: theirs is the rate that people know.
    group = max((1, 0, 2), key=lambda i: abs(record.rates[i] - planned[i]))
    return (
        f"epoch {record.epoch} was trained with a learning rate of {record.rates[group]:.8g} "
        f"({GROUPS[group]}), but the plan of {plan.total_epochs} epochs gives {planned[group]:.8g}"
    )


def _is_declared(plan: Plan, epoch: int) -> bool:
    segment = plan.segment_at(epoch)
    since = epoch - segment.start
    if segment.mode == "restart" and since == 0:
        return True
    return 0 < segment.ramp >= since


def _cause_of_rise(plan: Plan, epoch: int) -> str:
    """Why an undeclared rise is in the plan, as far as the segment shows."""
    segment = plan.segment_at(epoch)
    if segment.cooldown and epoch >= segment.stop - segment.cooldown:
        return (
            f"the cooldown ends at {segment.lrf:g} of the level that {segment.mode} started from, "
            "above what it has come down to; leave --cooldown-epochs out or give a smaller --lrf"
        )
    if segment.start == epoch:
        return (
            f"{segment.mode} starts at {segment.level:.6g} of lr0, not where the epochs before it "
            "ended, so the checkpoint's plan was edited; go on from one as the run wrote it, or "
            "use restart or --peak to ask for a rise"
        )
    return (
        f"the final fraction {segment.lrf:g} of its {segment.mode} segment lies above its start, "
        "or the checkpoint's plan was edited; give an lrf of at most 1"
    )
