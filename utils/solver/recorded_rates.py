"""The rates that a run's history recorded, against those of a plan; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from utils.history import COLUMNS, ITERATION_COLUMN
from utils.solver.schedule import Plan

RATES = COLUMNS[-3:]
"""Recorded rates of a row: biases, weights, norm weights."""
EXACT = 1e-9
"""Relative tolerance of a rate that was recorded in float64."""
ROUNDED = 1e-3
"""The same for a row that may come from a results.csv, which keeps five digits."""
EQUAL = 2e-4
"""Two equal numbers, each rounded to five digits, differ by 1e-4 at most, relatively."""
NOISE = 1e-12
"""Share of lr0 that counts as nothing: what rounding leaves of a law that ends at 0."""
TELLING = 0.5
"""A warm-up in which biases start from less than this share of lr0 does not set them apart: where
they have come within `EQUAL` of the weights, both may still be `EQUAL / TELLING` off the plan."""


class RecordedRates(NamedTuple):
    """The rates that one epoch ended with, read off the history."""

    epoch: int
    rates: tuple[float, ...]
    """Biases, weights, norm weights."""
    iteration: int | None
    """Of the epoch's last step; None for a row that was converted or is older than the key."""


def read_records(history: Sequence[Mapping[str, float]]) -> list[RecordedRates]:
    """The rows that hold rates; results.txt of YOLOv5 v5.0, for one, has none."""
    records = []
    for row in history:
        rates = tuple(row.get(name, math.nan) for name in RATES)
        iteration = row.get(ITERATION_COLUMN, math.nan)
        if all(map(math.isfinite, rates)):
            last = int(iteration) - 1 if math.isfinite(iteration) else None
            records.append(RecordedRates(int(row["epoch"]), rates, last))
    return records


def agrees(plan: Plan, record: RecordedRates) -> bool:
    """Whether recorded rates are the planned ones, or cannot be judged."""
    if record.epoch >= plan.total_epochs:
        return False
    if record.iteration is None and not _is_behind_warmup(plan, record):
        return True
    tolerance = EXACT if record.iteration is not None else ROUNDED
    return any(
        all(
            math.isclose(rate, wish, rel_tol=tolerance, abs_tol=NOISE * plan.lr0)
            for rate, wish in zip(record.rates, planned_rates(plan, record, lag), strict=True)
        )
        for lag in lags(record)
    )


def lags(record: RecordedRates) -> tuple[int, ...]:
    """How many epochs behind the plan a record may be: upstream's rates lag by one."""
    return (0,) if record.iteration is not None or record.epoch == 0 else (0, 1)


def planned_rates(plan: Plan, record: RecordedRates, lag: int = 0) -> tuple[float, float, float]:
    """The plan's rates for the step that a record was taken at.

    Raises:
        ValueError: the plan has no such epoch.
    """
    epoch = record.epoch - lag
    past_warmup = plan.warmup.iterations + 1
    iteration = past_warmup if record.iteration is None else record.iteration
    return plan.settings(epoch, iteration).rates


def _is_behind_warmup(plan: Plan, record: RecordedRates) -> bool:
    """Whether an epoch of unknown iteration must have ended after the warm-up.

    It has if there were more epochs than the warm-up has iterations; or if the biases, which the
    warm-up leads down from another rate, have that of the weights.
    """
    if record.epoch > plan.warmup.iterations:
        return True
    tells_apart = plan.warmup.bias_lr >= TELLING * plan.lr0
    return tells_apart and max(record.rates) - min(record.rates) <= EQUAL * max(record.rates)
