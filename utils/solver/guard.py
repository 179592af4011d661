"""Checks of the learning rates against the plan: recorded, planned and applied; imports no torch.

If a plan was edited or belongs to another run, the rates in the history differ from it. If a plan
contains an undeclared jump of the learning rate, the plan itself shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from utils.errors import UserError
from utils.solver.modes import JUMPING_MODES
from utils.solver.plan_forensics import (
    ZERO_TOLERANCE,
    RecordedRates,
    describe_plan,
    likely_cause,
    matches_plan,
    read_recorded_rates,
)
from utils.solver.schedule import Plan

GROUP_NAMES = ("biases", "weights", "norm weights")
REMEDY = "Resume from an unedited checkpoint of the run, such as weights/last_prev.pt"
MAX_RISE = 1.5
"""Largest undeclared ratio of the learning rates of two consecutive epochs."""


def check_recorded_rates(plan: Plan, history: Sequence[Mapping[str, float]]) -> None:
    """Check that the recorded rates of every epoch are those of the plan at the epoch's last step.

    Args:
        plan: the plan that the history was trained with, before any new extension.
        history: one row per completed epoch; rows of an imported run are not checked.

    Raises:
        UserError: a rate differs. The message names the epoch, both rates, both plans and the
            likely cause.
    """
    records = read_recorded_rates(history)
    mismatch = next((record for record in records if not matches_plan(plan, record)), None)
    if mismatch is not None:
        difference = _difference(plan, mismatch, whose="the checkpoint's")
        cause = likely_cause(plan, records)
        raise UserError(f"{difference}; {cause}. {REMEDY}; to add epochs, use --extend-epochs.")


def check_extension_trains(plan: Plan) -> None:
    """Check that the learning rate of the last extension is not 0 in every epoch.

    Raises:
        UserError: it is, because the rate at the seam is 0.
    """
    seam = plan.segments[-1]
    if all(plan.factor(epoch) <= ZERO_TOLERANCE for epoch in range(seam.start, seam.stop)):
        raise UserError(
            f"the learning rate at the seam is 0, so {seam.mode} would train nothing; add --peak P "
            f"--rewarm-epochs K, or use --lr-continuation {' or '.join(JUMPING_MODES)}."
        )


def check_planned_rates(plan: Plan, completed: int) -> None:
    """Check that the rate has no undeclared jump in the epochs that are not completed.

    Declared are: the first epoch of a mode that may jump, a ramp, and the epoch after a ramp.

    Raises:
        UserError: the rate rises by more than a factor of 1.5. The message names the epoch, both
            rates and the plan.
    """
    factors = plan.factors()
    for epoch in range(max(completed, 1), len(factors)):
        before, after = factors[epoch - 1], factors[epoch]
        if is_jump(before, after) and not _is_declared(plan, epoch):
            ratio = f"a factor of {after / before:.4g}" if before else "from zero"
            raise UserError(
                f"the learning rate would rise from {plan.lr0 * before:.6g} in epoch {epoch - 1} "
                f"to {plan.lr0 * after:.6g} in epoch {epoch} ({ratio}), which the plan does not "
                f"declare: it has {describe_plan(plan)}. {REMEDY}, or request a higher rate with "
                f"--extend-epochs and --lr-continuation {' or '.join(JUMPING_MODES)}, or --peak."
            )


def is_jump(before: float, after: float) -> bool:
    """Return whether a rate or factor rises by more than a factor of 1.5, apart from rounding."""
    return after > MAX_RISE * before + ZERO_TOLERANCE


def check_applied_rates(plan: Plan, epoch: int, iteration: int, rates: Sequence[float]) -> None:
    """Check that the rates of an epoch's last step are those of the plan.

    Args:
        plan: the current plan.
        epoch: the epoch, 0-based.
        iteration: batches trained since the start of the run, including this epoch.
        rates: of the optimizer's parameter groups: biases, weights, norm weights.

    Raises:
        UserError: a rate differs.
    """
    record = RecordedRates(epoch, iteration - 1, tuple(rates))  # at the last step
    if not matches_plan(plan, record):
        difference = _difference(plan, record, whose="the run's")
        raise UserError(
            f"{difference}; the optimizer's learning rates were changed outside the plan; "
            "resume from the last checkpoint."
        )


def _difference(plan: Plan, record: RecordedRates, whose: str) -> str:
    """Describe the recorded and the planned rate of the group in which they differ most."""
    if record.epoch >= plan.total_epochs:
        return (
            f"epoch {record.epoch} was trained with a learning rate of {record.rates[1]:.8g}, but "
            f"{whose} plan, {describe_plan(plan)}, ends before this epoch"
        )
    planned = plan.settings(record.epoch, record.iteration).rates
    # On a tie the weights come first: theirs is the rate that users know.
    group = max((1, 0, 2), key=lambda i: abs(record.rates[i] - planned[i]))
    return (
        f"epoch {record.epoch} was trained with a learning rate of {record.rates[group]:.8g} "
        f"({GROUP_NAMES[group]}), but {whose} plan, {describe_plan(plan)}, gives "
        f"{planned[group]:.8g}"
    )


def _is_declared(plan: Plan, epoch: int) -> bool:
    segment = plan.segment_at(epoch)
    since = epoch - segment.start
    return (segment.mode in JUMPING_MODES and since == 0) or 0 < segment.ramp >= since
