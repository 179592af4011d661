"""Find out which number of a plan was edited, from the recorded rates; imports no torch."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from utils.solver.recorded_rates import (
    EXACT_RTOL,
    RecordedRates,
    matches_plan,
    planned_rates,
    possible_lags,
)
from utils.solver.schedule import BASE, Plan, Segment

MAX_TOTAL = 1_000_000
"""Largest planned total that is tried."""
PLANNED_TOTAL = "the planned total"
MIN_MISMATCHES = 3
"""Epochs that must differ from the plan before a change during the run is inferred."""


class _Candidate(NamedTuple):
    """A plan that may be the original one, and how the current plan differs from it."""

    plan: Plan
    name: str
    """Name of the number that was changed."""
    change: str
    """Its values: `from OLD to NEW`."""


def describe_plan(plan: Plan) -> str:
    """Return a short text such as `90 epochs (linear over 60, lr0 0.01, lrf 0.2; hold from 60)`.

    The length given for the base segment is the planned one, even if a seam ends it earlier.
    """
    base = plan.segments[0]
    over = f" over {base.epochs}" if plan.seams else ""
    seams = "".join(f"; {seam.mode} from {seam.start}" for seam in plan.seams)
    law = f"{base.law}{over}, lr0 {plan.lr0:.4g}, lrf {base.lrf:.4g}"
    return f"{plan.total_epochs} epochs ({law}{seams})"


def likely_cause(plan: Plan, records: Sequence[RecordedRates], mismatch: RecordedRates) -> str:
    """Describe which plan the records were trained with, and so what was edited.

    Plans that differ from the current one in one number are compared with all records. If none
    matches, plans with another total are also compared with the records from the first mismatch on
    and with those up to the last mismatch: the total may have been changed during the run.

    Args:
        plan: the current plan.
        records: of all epochs.
        mismatch: the first record that differs from the plan.
    """
    found = _matching_candidates(plan, records, mismatch)
    if found:
        return "the recorded rates are those of " + ", or of ".join(
            f"{describe_plan(candidate.plan)}: {candidate.name} was changed {candidate.change}"
            for candidate in found
        )
    first = records.index(mismatch)
    mismatches = [record for record in records[first:] if not matches_plan(plan, record)]
    if len(mismatches) >= MIN_MISMATCHES:
        ranges = {
            f"from epoch {mismatch.epoch} on": records[first:],
            f"up to epoch {mismatches[-1].epoch}": records[: records.index(mismatches[-1]) + 1],
        }
        for when, part in ranges.items():
            for candidate in _matching_candidates(plan, part, mismatch):
                if candidate.name.startswith(PLANNED_TOTAL):
                    return (
                        f"{when} the recorded rates are those of {describe_plan(candidate.plan)}: "
                        f"{candidate.name} was changed during the run"
                    )
    before = f"the earlier epochs ({first}) match that plan, and " if first else ""
    return before + _cause_of_single_epoch(plan, mismatch)


def _matching_candidates(
    plan: Plan, records: Sequence[RecordedRates], mismatch: RecordedRates
) -> list[_Candidate]:
    """Return the candidates that match all records, at most one for each number."""
    found: dict[str, _Candidate] = {}
    for candidate in _candidates(plan, records, mismatch):
        if all(matches_plan(candidate.plan, record) for record in records):
            found.setdefault(candidate.name, candidate)
    return list(found.values())


def _cause_of_single_epoch(plan: Plan, mismatch: RecordedRates) -> str:
    """Describe why a single epoch has another rate than planned, if no other plan matches."""
    if mismatch.epoch < plan.total_epochs:
        biases, weights, _ = mismatch.rates
        planned = planned_rates(plan, mismatch)
        if (biases == weights) != (planned[0] == planned[1]):
            return "the warm-up ran again in that epoch, or its length was edited"
        if math.isclose(weights, plan.lr0, rel_tol=EXACT_RTOL):
            return f"the rate equals lr0 ({plan.lr0:g}), as after a loss of the optimizer state"
    return "the checkpoint's plan was edited, or the history belongs to another run"


def _candidates(
    plan: Plan, records: Sequence[RecordedRates], mismatch: RecordedRates
) -> Iterator[_Candidate]:
    """Yield plans in which one number is replaced by the value inferred from the records."""
    number = max(i for i, segment in enumerate(plan.segments) if segment.start <= mismatch.epoch)
    last = number == len(plan.segments) - 1
    end = MAX_TOTAL if last else plan.segments[number + 1].start
    # The last epoch of the segment is the most informative: all laws diverge with time.
    record = [r for r in records if r.epoch < end][-1]
    shortest = records[-1].epoch + 1 if last else end  # trained epochs were planned
    known = records[-1].epoch < plan.total_epochs  # otherwise the plan has no rate to compare
    for lag in possible_lags(record):
        yield from _other_totals(plan, number, record, lag, range(shortest, MAX_TOTAL))
        if known:
            yield from _other_lrf(plan, number, record, lag)
            yield from _other_lr0(plan, record, lag)


def _other_totals(
    plan: Plan, number: int, record: RecordedRates, lag: int, stops: range
) -> Iterator[_Candidate]:
    """Yield the totals closest to the recorded rate; every law increases with its horizon."""
    segment = plan.segments[number]

    def changed(stop: int) -> Plan:
        return _replaced(plan, number, dataclasses.replace(segment, epochs=stop - segment.start))

    def rate(stop: int) -> float:
        return planned_rates(changed(stop), record, lag)[1]

    found = bisect.bisect_left(stops, record.rates[1], key=rate)
    near = stops[max(found - 1, 0) : found + 2]  # rounding may shift the total by one
    for stop in sorted(near, key=lambda stop: abs(rate(stop) - record.rates[1])):
        yield _Candidate(
            plan=changed(stop),
            name=f"{PLANNED_TOTAL}{'' if segment.mode == BASE else _seam_text(segment)}",
            change=f"from {_about(record)}{stop} to {segment.stop} epochs",
        )


def _seam_text(segment: Segment) -> str:
    return f" of the extension at epoch {segment.start}"


def _about(record: RecordedRates) -> str:
    """Return "about " for a rate of five digits: the total is uncertain by a few epochs."""
    return "about " if record.iteration is None else ""


def _other_lrf(plan: Plan, number: int, record: RecordedRates, lag: int) -> Iterator[_Candidate]:
    """Yield the final fraction of the recorded rate; every law is linear in it."""
    segment = plan.segments[number]

    def changed(lrf: float) -> Plan:
        return _replaced(plan, number, dataclasses.replace(segment, lrf=lrf))

    lowest, highest = (planned_rates(changed(lrf), record, lag)[1] for lrf in (0.0, 1.0))
    if lowest == highest:
        return
    lrf = (record.rates[1] - lowest) / (highest - lowest)
    if 0 <= lrf <= 1:
        yield _Candidate(changed(lrf), "lrf", f"from {lrf:.4g} to {segment.lrf:.4g}")


def _other_lr0(plan: Plan, record: RecordedRates, lag: int) -> Iterator[_Candidate]:
    """Yield the initial rate that gives the recorded one."""
    planned = planned_rates(plan, record, lag)[1]
    if planned:
        lr0 = plan.lr0 * record.rates[1] / planned
        changed = dataclasses.replace(plan, lr0=lr0)
        yield _Candidate(changed, "lr0", f"from {lr0:.4g} to {plan.lr0:.4g}")


def _replaced(plan: Plan, number: int, segment: Segment) -> Plan:
    segments = (*plan.segments[:number], segment, *plan.segments[number + 1 :])
    return dataclasses.replace(plan, segments=segments)
