"""Extending a run: the segment that goes on from a seam, in one of the modes; no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from utils.errors import UserError
from utils.solver.modes import DEFAULT_MODE, JUMPING, SLOPED, mode_named
from utils.solver.schedule import MODES, Plan, Segment

SLOPES = ("fit", "original")
LRF_STEPS = 1000
"""A final fraction that is suggested is rounded down to three decimals."""


@dataclass(frozen=True)
class Extension:
    """What is asked for: how many epochs more, and what the learning rate does in them."""

    epochs: int
    """Added to the planned total."""
    mode: str = DEFAULT_MODE
    """One of `MODES`."""
    slope: str = "fit"
    """Of a line: `fit` comes down to the last epoch, `original` keeps the old slope as it is."""
    lrf: float | None = None
    """Final fraction in the extension; the run's own when None."""
    peak: float | None = None
    """Start from this factor, a fraction of lr0, instead of the seam's; reached by a ramp."""
    rewarm_epochs: int = 0
    """Length of the ramp up to the peak, or to the rate of a mode that may jump."""
    cooldown_epochs: int = 0
    """Length of a straight descent to the final fraction at the end."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"--lr-continuation {self.mode}: choose one of {', '.join(MODES)}.")
        if self.epochs < 1:
            raise UserError(f"--extend-epochs {self.epochs}: give the epochs to add, at least 1.")
        if self.slope not in SLOPES:
            raise UserError(f"--slope {self.slope}: choose one of {', '.join(SLOPES)}.")
        if self.slope == "original" and self.mode not in SLOPED:
            sloped = " and ".join(SLOPED)
            raise UserError(f"--slope original belongs to {sloped}; {self.mode} has no slope.")
        if self.lrf is not None and not 0 <= self.lrf <= 1:
            raise UserError(f"--lrf {self.lrf}: give a fraction from 0 to 1.")
        if self.rewarm_epochs < 0 or self.cooldown_epochs < 0:
            raise UserError("--rewarm-epochs and --cooldown-epochs cannot be negative.")
        self._check_ramp()

    def _check_ramp(self) -> None:
        if self.peak is not None:
            if self.mode in JUMPING:
                raise UserError(
                    f"--peak does not go with {self.mode}, whose rate is that of the new plan."
                )
            if not 0 < self.peak <= 1:
                raise UserError(f"--peak {self.peak}: give a fraction of lr0 above 0, at most 1.")
            if self.rewarm_epochs == 0:
                raise UserError("--peak needs --rewarm-epochs K, or the rate would jump to it.")
        elif self.rewarm_epochs and self.mode not in JUMPING:
            raise UserError(
                f"--rewarm-epochs: {self.mode} goes on at the seam's rate, there is nothing to "
                f"warm up to; add --peak, or use {' or '.join(JUMPING)}."
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
    mode = mode_named(segment.mode)
    segment = mode.shape(segment, last, extension.slope == "original")
    if mode.seamless and segment.cooldown:  # one that jumps does not go by the level
        _refuse_rising_cooldown(segment)
    return dataclasses.replace(plan, segments=(*trained, segment))


def _refuse_rising_cooldown(segment: Segment) -> None:
    """Refuse a cooldown that ends above where its mode has come down to when it begins.

    Raises:
        UserError: it does.
    """
    top = dataclasses.replace(segment, cooldown=0).factor(segment.stop - segment.cooldown)
    if top < segment.level * segment.lrf:
        highest = math.floor(top / segment.level * LRF_STEPS) / LRF_STEPS
        raise UserError(
            f"--cooldown-epochs {segment.cooldown} would raise the rate: it ends at lrf "
            f"{segment.lrf:g} of the starting level, and {segment.mode} has come down to "
            f"{top / segment.level:.3g} of it by then; leave it out, or give --lrf {highest:g}."
        )


def flat_from(segment: Segment) -> int | None:
    """The epoch in which a line with a slope reaches its floor and goes flat, if it does."""
    if segment.mode not in SLOPED or not segment.level:
        return None
    epochs = range(segment.start + segment.ramp, segment.stop)
    return next((epoch for epoch in epochs if segment.factor(epoch) <= segment.floor), None)
