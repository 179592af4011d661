"""Extending a run: the segment that goes on from a seam, in one of four modes; imports no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from utils.errors import UserError
from utils.solver.schedule import MODES, Plan, Segment

SLOPES = ("fit", "original")
LRF_STEPS = 1000
"""A final fraction that is suggested is rounded down to three decimals."""


@dataclass(frozen=True)
class Extension:
    """What is asked for: how many epochs more, and what the learning rate does in them."""

    epochs: int
    """Added to the planned total."""
    mode: str = "rebase"
    """One of `MODES`."""
    slope: str = "fit"
    """slope-match: `fit` comes down to the last epoch, `original` keeps the old slope as it is."""
    lrf: float | None = None
    """Final fraction in the extension; the run's own when None."""
    peak: float | None = None
    """Start from this factor, a fraction of lr0, instead of the seam's; reached by a ramp."""
    rewarm_epochs: int = 0
    """Length of the ramp up to the peak, or to the rate of `restart`."""
    cooldown_epochs: int = 0
    """Length of a straight descent to the final fraction at the end."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"--lr-continuation {self.mode}: choose one of {', '.join(MODES)}.")
        if self.epochs < 1:
            raise UserError(f"--extend-epochs {self.epochs}: give the epochs to add, at least 1.")
        if self.slope not in SLOPES:
            raise UserError(f"--slope {self.slope}: choose one of {', '.join(SLOPES)}.")
        if self.slope == "original" and self.mode != "slope-match":
            raise UserError(f"--slope original belongs to slope-match; {self.mode} has no slope.")
        if self.lrf is not None and not 0 <= self.lrf <= 1:
            raise UserError(f"--lrf {self.lrf}: give a fraction from 0 to 1.")
        if self.rewarm_epochs < 0 or self.cooldown_epochs < 0:
            raise UserError("--rewarm-epochs and --cooldown-epochs cannot be negative.")
        self._check_ramp()

    def _check_ramp(self) -> None:
        if self.peak is not None:
            if self.mode == "restart":
                raise UserError(
                    "--peak does not go with restart, whose rate is that of the new plan."
                )
            if not 0 < self.peak <= 1:
                raise UserError(f"--peak {self.peak}: give a fraction of lr0 above 0, at most 1.")
            if self.rewarm_epochs == 0:
                raise UserError("--peak needs --rewarm-epochs K, or the rate would jump to it.")
        elif self.rewarm_epochs and self.mode != "restart":
            raise UserError(
                f"--rewarm-epochs: {self.mode} goes on at the seam's rate, there is nothing to "
                "warm up to; add --peak, or use restart."
            )


def extend_plan(plan: Plan, completed: int, extension: Extension) -> Plan:
    """The plan of a run that goes on for more epochs than it was planned for.

    Continuing is composing: epochs before the seam keep their segments, and the new segment covers
    `N = planned + added - completed` epochs after it. An earlier extension at the same seam, none
    of whose epochs is trained, is replaced and leaves no trace, its epochs included.

    Args:
        plan: the run's plan so far.
        completed: epochs trained, the seam `E`; less than planned for a run that was stopped.
        extension: what is asked for.

    Raises:
        UserError: nothing was trained yet, ramp and cooldown leave no epoch between them, or the
            cooldown would go up.
    """
    if completed < 1:
        raise UserError("no epoch of this run is completed, so there is nothing to extend.")
    trained = [segment for segment in plan.segments if segment.start < completed]
    base, last = trained[0], trained[-1]
    planned = last.stop
    epochs = planned + extension.epochs - completed
    if extension.rewarm_epochs + extension.cooldown_epochs >= epochs:
        parts = {"rewarm": extension.rewarm_epochs, "cooldown": extension.cooldown_epochs}
        asked = " and ".join(
            f"--{part}-epochs {length}" for part, length in parts.items() if length
        )
        raise UserError(
            f"of the {epochs} epochs after the seam, {asked} would leave none; shorten them."
        )
    a = last.factor(completed - 1)
    segment = Segment(
        mode=extension.mode,
        start=completed,
        epochs=epochs,
        law=base.law,
        lrf=base.lrf if extension.lrf is None else extension.lrf,
        level=a if extension.peak is None else extension.peak,
        before=a,
        ramp=extension.rewarm_epochs,
        cooldown=extension.cooldown_epochs,
    )
    if segment.mode == "rebase" and base.law == "linear-v5.0":
        segment = dataclasses.replace(segment, law="linear")  # a new law has no old run to match
    if segment.mode == "slope-match":
        observed = mean_decline(last, completed)
        segment = _with_slope(segment, observed, extension.slope, finished=completed >= planned)
        _refuse_rising_cooldown(segment)
    return dataclasses.replace(plan, segments=(*trained, segment))


def mean_decline(before: Segment, seam: int) -> float:
    """`S0`: decline per epoch of the segment before a seam, 0 if that is a single epoch."""
    last = seam - 1
    if last == before.start:
        return 0.0
    return (before.factor(before.start) - before.factor(last)) / (last - before.start)


def _with_slope(segment: Segment, observed: float, slope: str, *, finished: bool) -> Segment:
    """The line of slope-match.

    `fit`: the old slope, or the steepest one that still comes down all the way to the last epoch,
    `min(S0, (L - floor) / N)`. `original`: the old slope read literally, flat from `L * lrf` on.
    Never negative: an extension of this mode must not rise.
    """
    if slope == "original":
        return dataclasses.replace(
            segment, slope=max(observed, 0.0), floor=segment.level * segment.lrf
        )
    floor = 0.0 if finished else segment.lrf
    room = (segment.level - floor) / (segment.epochs - segment.ramp)
    return dataclasses.replace(segment, slope=max(min(observed, room), 0.0))


def _refuse_rising_cooldown(segment: Segment) -> None:
    """Refuse a cooldown that ends above where slope-match has come down to when it begins.

    No other mode comes below `level * lrf`, where the cooldown ends.

    Raises:
        UserError: it does.
    """
    if not segment.cooldown:
        return
    top = dataclasses.replace(segment, cooldown=0).factor(segment.stop - segment.cooldown)
    if top < segment.level * segment.lrf:
        highest = math.floor(top / segment.level * LRF_STEPS) / LRF_STEPS
        raise UserError(
            f"--cooldown-epochs {segment.cooldown} would raise the rate: it ends at lrf "
            f"{segment.lrf:g} of the starting level, and slope-match has come down to "
            f"{top / segment.level:.3g} of it by then; leave it out, or give --lrf {highest:g}."
        )


def flat_from(segment: Segment) -> int | None:
    """The epoch in which the line of a slope-match reaches its floor and goes flat, if it does."""
    if segment.mode != "slope-match" or not segment.level:
        return None
    epochs = range(segment.start + segment.ramp, segment.stop)
    return next((epoch for epoch in epochs if segment.factor(epoch) <= segment.floor), None)
