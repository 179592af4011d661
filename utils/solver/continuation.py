"""Extending a run: the segment that goes on from a seam, in one of four modes; imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from utils.errors import UserError
from utils.solver.schedule import MODES, Plan, Segment


def extend_plan(
    plan: Plan, completed: int, extra: int, mode: str, lrf: float | None = None
) -> Plan:
    """The plan of a run that goes on for `extra` epochs more than it was planned for.

    Continuing is composing: epochs before the seam keep their segments, and the new segment covers
    `N = planned + extra - completed` epochs after it.

    Args:
        plan: the run's plan so far.
        completed: epochs trained, the seam `E`; less than planned for a run that was stopped.
        extra: epochs added to the planned total.
        mode: one of `MODES`.
        lrf: final fraction for the extension; the run's own when None.

    Raises:
        UserError: nothing was trained yet, no epoch is added, or the mode is unknown.
    """
    if mode not in MODES:
        raise UserError(f"--lr-continuation {mode}: choose one of {', '.join(MODES)}.")
    if extra < 1:
        raise UserError(f"--extend-epochs {extra}: give the number of epochs to add, at least 1.")
    if completed < 1:
        raise UserError(
            "no epoch of this run is completed, so there is nothing to extend; start it anew."
        )
    # A segment that was planned but never trained (extended twice at one epoch) leaves no trace.
    trained = [segment for segment in plan.segments if segment.start < completed]
    segment = _segment_after(
        trained,
        start=completed,
        epochs=plan.total_epochs + extra - completed,
        mode=mode,
        lrf=trained[0].lrf if lrf is None else lrf,
        finished=completed >= plan.total_epochs,
    )
    return dataclasses.replace(plan, segments=(*trained, segment))


def _segment_after(
    trained: Sequence[Segment], *, start: int, epochs: int, mode: str, lrf: float, finished: bool
) -> Segment:
    """The new segment; three of the modes begin at `a`, the factor of the last completed epoch."""
    base, before = trained[0], trained[-1]
    a = before.factor(start - 1)
    new = Segment(mode=mode, start=start, epochs=epochs, law=base.law, lrf=lrf, level=a)
    if mode == "restart":
        return dataclasses.replace(new, level=1.0)
    if mode == "rebase" and base.law == "linear-v5.0":
        return dataclasses.replace(new, law="linear")  # a new law has no old run to match
    if mode == "slope-match":
        floor = 0.0 if finished else lrf
        return dataclasses.replace(new, slope=matched_slope(before, start, epochs, floor))
    return new


def matched_slope(before: Segment, seam: int, epochs: int, floor: float) -> float:
    """Decline per epoch that carries the old line on, or the steepest one there is room for.

    `min(S0, (a - floor) / N)`, where `S0` is the mean decline per epoch of the segment before the
    seam, 0 if that is a single epoch; never negative, since this mode must not rise.

    Args:
        before: the segment that ends at the seam.
        seam: first epoch after it, `E`.
        epochs: epochs after the seam, `N`.
        floor: factor that the line may come down to.
    """
    last = seam - 1
    a = before.factor(last)
    observed = (
        0.0 if last == before.start else (before.factor(before.start) - a) / (last - before.start)
    )
    return max(min(observed, (a - floor) / epochs), 0.0)
