"""Compare the learning rates in a run's history with those of a plan; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from utils.history import COLUMNS, ITERATION_COLUMN
from utils.solver.schedule import Plan

RATE_COLUMNS = COLUMNS[-3:]
"""Columns of the recorded rates: biases, weights, norm weights."""
EXACT_RTOL = 1e-9
"""Relative tolerance of a rate that was recorded in float64."""
ROUNDED_RTOL = 1e-3
"""Relative tolerance of a rate that may come from results.csv, which has five digits."""
EQUAL_RTOL = 2e-4
"""Relative tolerance of equal numbers, each rounded to five digits: they differ by up to 1e-4."""
ZERO_TOLERANCE = 1e-12
"""Fraction of lr0 that counts as zero: the rounding error of a law that ends at 0."""
MIN_BIAS_LR_SHARE = 0.5
"""Smallest initial rate of the biases, as a fraction of lr0, for which equal rates of biases and
weights show that the warm-up has ended. Once the two are within `EQUAL_RTOL` of each other, both
may still differ from the plan by `EQUAL_RTOL / MIN_BIAS_LR_SHARE`."""


class RecordedRates(NamedTuple):
    """Rates at the last step of one epoch, from the history."""

    epoch: int
    rates: tuple[float, ...]
    """Biases, weights, norm weights."""
    iteration: int | None
    """Iteration of the epoch's last step; None if the row was converted or predates the column."""


def read_recorded_rates(history: Sequence[Mapping[str, float]]) -> list[RecordedRates]:
    """Return the rows that have rates; results.txt of YOLOv5 v5.0, for example, has none."""
    records = []
    for row in history:
        rates = tuple(row.get(name, math.nan) for name in RATE_COLUMNS)
        iteration = row.get(ITERATION_COLUMN, math.nan)
        if all(map(math.isfinite, rates)):
            last = int(iteration) - 1 if math.isfinite(iteration) else None
            records.append(RecordedRates(int(row["epoch"]), rates, last))
    return records


def matches_plan(plan: Plan, record: RecordedRates) -> bool:
    """Return whether recorded rates are the planned ones, or cannot be compared."""
    if record.epoch >= plan.total_epochs:
        return False
    if record.iteration is None and not _is_after_warmup(plan, record):
        return True
    tolerance = EXACT_RTOL if record.iteration is not None else ROUNDED_RTOL
    return any(
        all(
            math.isclose(rate, planned, rel_tol=tolerance, abs_tol=ZERO_TOLERANCE * plan.lr0)
            for rate, planned in zip(record.rates, planned_rates(plan, record, lag), strict=True)
        )
        for lag in possible_lags(record)
    )


def possible_lags(record: RecordedRates) -> tuple[int, ...]:
    """Return by how many epochs a record may lag behind the plan: upstream's rates lag by one."""
    return (0,) if record.iteration is not None or record.epoch == 0 else (0, 1)


def planned_rates(plan: Plan, record: RecordedRates, lag: int = 0) -> tuple[float, float, float]:
    """Return the planned rates of the step at which a record was made.

    Raises:
        ValueError: the epoch is not planned.
    """
    epoch = record.epoch - lag
    past_warmup = plan.warmup.iterations + 1
    iteration = past_warmup if record.iteration is None else record.iteration
    return plan.settings(epoch, iteration).rates


def _is_after_warmup(plan: Plan, record: RecordedRates) -> bool:
    """Return whether an epoch of unknown iteration certainly ended after the warm-up.

    It did if there were more epochs than the warm-up has iterations. It also did if biases and
    weights have the same rate: the biases start the warm-up from another rate.
    """
    if record.epoch > plan.warmup.iterations:
        return True
    distinguishable = plan.warmup.bias_lr >= MIN_BIAS_LR_SHARE * plan.lr0
    return distinguishable and max(record.rates) - min(record.rates) <= EQUAL_RTOL * max(
        record.rates
    )
