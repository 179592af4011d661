"""Compare recorded learning rates with a plan, and find out which number of it was edited.

Imports no torch.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from utils.history import COLUMNS, ITERATION_COLUMN
from utils.solver.schedule import BASE, Plan

RATE_COLUMNS = COLUMNS[-3:]
"""Columns of the recorded rates: biases, weights, norm weights."""
EXACT_RTOL = 1e-9
"""Relative tolerance: rates are recorded in float64."""
ZERO_TOLERANCE = 1e-12
"""Fraction of lr0 that counts as zero: the rounding error of a law that ends at 0."""
MAX_TOTAL = 1_000_000
"""Largest planned total that is tried."""
PLANNED_TOTAL = "the planned total"
MIN_MISMATCHES = 3
"""Epochs that must differ from the plan before a change during the run is inferred."""


class RecordedRates(NamedTuple):
    """Rates at the last step of one epoch, from the history."""

    epoch: int
    iteration: int
    """Iteration of that step."""
    rates: tuple[float, ...]
    """Biases, weights, norm weights."""


class _Edit(NamedTuple):
    """A plan that may be the original one, and the number in which the current plan differs."""

    plan: Plan
    name: str
    old: str
    new: str


def describe_plan(plan: Plan) -> str:
    """Return a short text such as `90 epochs (linear over 60, lr0 0.01, lrf 0.2; hold from 60)`.

    The length given for the base segment is the planned one, even if a seam ends it earlier.
    """
    base = plan.segments[0]
    over = f" over {base.epochs}" if plan.seams else ""
    seams = "".join(f"; {seam.mode} from {seam.start}" for seam in plan.seams)
    law = f"{base.law}{over}, lr0 {plan.lr0:.4g}, lrf {base.lrf:.4g}"
    return f"{plan.total_epochs} epochs ({law}{seams})"


def read_recorded_rates(history: Sequence[Mapping[str, float]]) -> list[RecordedRates]:
    """Return the rates of all epochs that this program trained.

    The rows of an imported run have no iteration. Their rates are rounded and may lag by one epoch;
    the import has compared them with its law.
    """
    records = []
    for row in history:
        rates = tuple(row.get(name, math.nan) for name in RATE_COLUMNS)
        iteration = row.get(ITERATION_COLUMN, math.nan)
        if all(map(math.isfinite, (iteration, *rates))):
            records.append(RecordedRates(int(row["epoch"]), int(iteration) - 1, rates))
    return records


def matches_plan(plan: Plan, record: RecordedRates) -> bool:
    """Return whether recorded rates are the planned ones."""
    if record.epoch >= plan.total_epochs:
        return False
    planned = plan.settings(record.epoch, record.iteration).rates
    return all(
        math.isclose(rate, wanted, rel_tol=EXACT_RTOL, abs_tol=ZERO_TOLERANCE * plan.lr0)
        for rate, wanted in zip(record.rates, planned, strict=True)
    )


def likely_cause(plan: Plan, records: Sequence[RecordedRates]) -> str:
    """Describe which plan the records were trained with, and so what was edited.

    Plans that differ from the current one in one number are compared with all records. If none
    matches, plans with another total are also compared with the records from the first mismatch on
    and with those up to the last mismatch: the total may have been changed during the run.

    Args:
        plan: the current plan.
        records: of all epochs; at least one differs from the plan.
    """
    mismatches = [i for i, record in enumerate(records) if not matches_plan(plan, record)]
    first, last = mismatches[0], mismatches[-1]
    epoch = records[first].epoch
    edits = _matching_edits(plan, records, epoch)
    if edits:
        return "the recorded rates are those of " + ", or of ".join(
            f"{describe_plan(edit.plan)}: {edit.name} was changed from {edit.old} to {edit.new}"
            for edit in edits
        )
    if len(mismatches) >= MIN_MISMATCHES:
        parts = {
            f"from epoch {epoch} on": records[first:],
            f"up to epoch {records[last].epoch}": records[: last + 1],
        }
        for when, part in parts.items():
            for edit in _matching_edits(plan, part, epoch):
                if edit.name.startswith(PLANNED_TOTAL):
                    return (
                        f"{when} the recorded rates are those of {describe_plan(edit.plan)}: "
                        f"{edit.name} was changed during the run"
                    )
    before = f"the earlier epochs ({first}) match that plan, and " if first else ""
    return f"{before}the checkpoint's plan was edited, or the history belongs to another run"


def _matching_edits(plan: Plan, records: Sequence[RecordedRates], epoch: int) -> list[_Edit]:
    """Return the edits of the segment of an epoch that explain all records."""
    return [
        edit
        for edit in _edits(plan, records, epoch)
        if all(matches_plan(edit.plan, record) for record in records)
    ]


def _edits(plan: Plan, records: Sequence[RecordedRates], epoch: int) -> Iterator[_Edit]:
    """Yield plans in which one number is replaced by the value inferred from the records."""
    number = sum(segment.start <= epoch for segment in plan.segments) - 1
    segment, later = plan.segments[number], plan.segments[number + 1 :]
    # The last epoch of the segment is the most informative: all laws diverge with time.
    record = [r for r in records if not later or r.epoch < later[0].start][-1]
    recorded = record.rates[1]

    def changed(**values: float) -> Plan:
        edited = dataclasses.replace(segment, **values)  # type: ignore[arg-type] # of its fields
        return dataclasses.replace(plan, segments=(*plan.segments[:number], edited, *later))

    def rate(plan: Plan) -> float:
        return plan.settings(record.epoch, record.iteration).lr

    def with_total(stop: int) -> Plan:
        return changed(epochs=stop - segment.start)

    def error(stop: int) -> float:
        return rate(with_total(stop)) - recorded

    trained = later[0].start if later else records[-1].epoch + 1
    stops = range(max(trained, segment.start + segment.ramp + segment.cooldown + 1), MAX_TOTAL)
    found = bisect.bisect_left(stops, 0.0, key=error)  # every law increases with its horizon
    near = stops[max(found - 1, 0) : found + 2]  # rounding may shift the total by one
    if near:
        stop = min(near, key=lambda stop: abs(error(stop)))
        extension = "" if segment.mode == BASE else f" of the extension at epoch {segment.start}"
        yield _Edit(
            with_total(stop), PLANNED_TOTAL + extension, f"{stop}", f"{segment.stop} epochs"
        )
    if records[-1].epoch >= plan.total_epochs:
        return  # the total is certainly another one
    lowest, highest = rate(changed(lrf=0.0)), rate(changed(lrf=1.0))
    if lowest != highest:  # every law is linear in lrf
        lrf = (recorded - lowest) / (highest - lowest)
        if 0 <= lrf <= 1:
            yield _Edit(changed(lrf=lrf), "lrf", f"{lrf:.4g}", f"{segment.lrf:.4g}")
    if rate(plan) * recorded > 0:  # lr0 is positive
        lr0 = plan.lr0 * recorded / rate(plan)
        yield _Edit(dataclasses.replace(plan, lr0=lr0), "lr0", f"{lr0:.4g}", f"{plan.lr0:.4g}")
