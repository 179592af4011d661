"""What was changed in a plan that no longer gives the rates that its run recorded; no torch."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from utils.solver.recorded_rates import EXACT, RecordedRates, agrees, lags, planned_rates
from utils.solver.schedule import BASE, Plan, Segment

MAX_TOTAL = 1_000_000
"""Planned totals are searched up to here."""
TOTAL = "the planned total"
EVIDENCE = 3
"""Epochs that must be off the plan before a change amid the run is read out of them."""


class _Suspect(NamedTuple):
    """A plan that may be the original one, and how it differs from the one at hand."""

    plan: Plan
    number: str
    """What was changed."""
    change: str
    """From what to what."""


def described(plan: Plan) -> str:
    """A plan in a few words, such as `90 epochs (linear over 60, lr0 0.01, lrf 0.2; hold from 60)`.

    What is said of the base segment is what it was planned for, also if a seam cuts it short.
    """
    base = plan.segments[0]
    over = f" over {base.epochs}" if plan.seams else ""
    seams = "".join(f"; {seam.mode} from {seam.start}" for seam in plan.seams)
    law = f"{base.law}{over}, lr0 {plan.lr0:.4g}, lrf {base.lrf:.4g}"
    return f"{plan.total_epochs} epochs ({law}{seams})"


def likely_cause(plan: Plan, records: Sequence[RecordedRates], wrong: RecordedRates) -> str:
    """Which plan the records were made with, and so why the one at hand does not give them.

    Plans that differ from it in one number are tried on all records; those with another total also
    on the records from the first wrong one on and up to the last: it may have changed amid the run.

    Args:
        plan: the plan at hand.
        records: of all epochs.
        wrong: the first one that the plan does not give.
    """
    found = _explanations(plan, records, wrong)
    if found:
        return "the recorded rates are those of " + ", or of ".join(
            f"{described(suspect.plan)}: {suspect.number} was changed {suspect.change}"
            for suspect in found
        )
    first = records.index(wrong)
    off = [record for record in records[first:] if not agrees(plan, record)]
    if len(off) >= EVIDENCE:
        stretches = {
            f"from epoch {wrong.epoch} on": records[first:],
            f"up to epoch {off[-1].epoch}": records[: records.index(off[-1]) + 1],
        }
        for when, stretch in stretches.items():
            for suspect in _explanations(plan, stretch, wrong):
                if suspect.number.startswith(TOTAL):
                    return (
                        f"{when} the recorded rates are those of {described(suspect.plan)}: "
                        f"{suspect.number} was changed amid the run"
                    )
    before = f"the {first} before it follow that plan, and " if first else ""
    return before + _cause_of_one(plan, wrong)


def _explanations(
    plan: Plan, records: Sequence[RecordedRates], wrong: RecordedRates
) -> list[_Suspect]:
    """The plans, one for each number that may have been changed, that give all records."""
    found: dict[str, _Suspect] = {}
    for suspect in _suspects(plan, records, wrong):
        if all(agrees(suspect.plan, record) for record in records):
            found.setdefault(suspect.number, suspect)
    return list(found.values())


def _cause_of_one(plan: Plan, wrong: RecordedRates) -> str:
    """Why a single epoch may have had another rate than planned, where no other plan gives it."""
    if wrong.epoch < plan.total_epochs:
        biases, weights, _ = wrong.rates
        planned = planned_rates(plan, wrong)
        if (biases == weights) != (planned[0] == planned[1]):
            return "the warm-up was entered again in that epoch, or its length was edited"
        if math.isclose(weights, plan.lr0, rel_tol=EXACT):
            return f"that is lr0 itself ({plan.lr0:g}), as after a loss of the optimizer's state"
    return "the checkpoint's plan was edited, or the history is that of another run"


def _suspects(
    plan: Plan, records: Sequence[RecordedRates], wrong: RecordedRates
) -> Iterator[_Suspect]:
    """Plans in which one number is replaced by what the records tell it was."""
    number = max(i for i, segment in enumerate(plan.segments) if segment.start <= wrong.epoch)
    last = number == len(plan.segments) - 1
    end = MAX_TOTAL if last else plan.segments[number + 1].start
    # The last epoch of the segment tells most: all laws drift apart with time.
    told = [record for record in records if record.epoch < end][-1]
    shortest = records[-1].epoch + 1 if last else end  # what was trained had been planned
    known = records[-1].epoch < plan.total_epochs  # else the plan has no rate to compare with
    for lag in lags(told):
        yield from _other_totals(plan, number, told, lag, range(shortest, MAX_TOTAL))
        if known:
            yield from _other_lrf(plan, number, told, lag)
            yield from _other_lr0(plan, told, lag)


def _other_totals(
    plan: Plan, number: int, told: RecordedRates, lag: int, stops: range
) -> Iterator[_Suspect]:
    """The totals nearest to the recorded rate; every law grows with its horizon."""
    segment = plan.segments[number]

    def changed(stop: int) -> Plan:
        return _replaced(plan, number, dataclasses.replace(segment, epochs=stop - segment.start))

    def rate(stop: int) -> float:
        return planned_rates(changed(stop), told, lag)[1]

    found = bisect.bisect_left(stops, told.rates[1], key=rate)
    near = stops[max(found - 1, 0) : found + 2]  # rounding may miss the total by one
    for stop in sorted(near, key=lambda stop: abs(rate(stop) - told.rates[1])):
        yield _Suspect(
            plan=changed(stop),
            number=f"{TOTAL}{'' if segment.mode == BASE else _seam_text(segment)}",
            change=f"from {_about(told)}{stop} to {segment.stop} epochs",
        )


def _seam_text(segment: Segment) -> str:
    return f" of the extension at epoch {segment.start}"


def _about(told: RecordedRates) -> str:
    """Five digits leave the total uncertain by a few epochs."""
    return "about " if told.iteration is None else ""


def _other_lrf(plan: Plan, number: int, told: RecordedRates, lag: int) -> Iterator[_Suspect]:
    """The final fraction that gives the recorded rate; every law is a straight line in it."""
    segment = plan.segments[number]

    def changed(lrf: float) -> Plan:
        return _replaced(plan, number, dataclasses.replace(segment, lrf=lrf))

    lowest, highest = (planned_rates(changed(lrf), told, lag)[1] for lrf in (0.0, 1.0))
    if lowest == highest:
        return
    lrf = (told.rates[1] - lowest) / (highest - lowest)
    if 0 <= lrf <= 1:
        yield _Suspect(changed(lrf), "lrf", f"from {lrf:.4g} to {segment.lrf:.4g}")


def _other_lr0(plan: Plan, told: RecordedRates, lag: int) -> Iterator[_Suspect]:
    """The initial rate that gives the recorded one."""
    planned = planned_rates(plan, told, lag)[1]
    if planned:
        lr0 = plan.lr0 * told.rates[1] / planned
        suspect = dataclasses.replace(plan, lr0=lr0)
        yield _Suspect(suspect, "lr0", f"from {lr0:.4g} to {plan.lr0:.4g}")


def _replaced(plan: Plan, number: int, segment: Segment) -> Plan:
    segments = (*plan.segments[:number], segment, *plan.segments[number + 1 :])
    return dataclasses.replace(plan, segments=segments)
