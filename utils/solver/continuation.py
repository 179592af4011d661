"""Extend a run by a new segment after a seam, in one of the modes; imports no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from utils.errors import UserError
from utils.solver.modes import DEFAULT_MODE, JUMPING_MODES, SLOPED_MODES, get_mode
from utils.solver.schedule import Plan, Segment

SLOPES = ("fit", "original")
LRF_STEPS = 1000
"""Steps from 0 to 1: a suggested `--lrf` is rounded down to three decimals."""


@dataclass(frozen=True)
class Extension:
    """Options of an extension: the epochs to add, and the learning rate in them.

    Raises:
        UserError: the options contradict each other. `utils.options` checks each of them alone.
    """

    epochs: int
    """Epochs added to the planned total."""
    mode: str = DEFAULT_MODE
    """One of `MODES`."""
    slope: str = "fit"
    """Slope of slope-match: `fit` declines until the last epoch, `original` keeps the old slope."""
    lrf: float | None = None
    """Final fraction of the extension; that of the run if None."""
    peak: float | None = None
    """Fraction of lr0 to start from instead of the rate at the seam; a ramp leads to it."""
    rewarm_epochs: int = 0
    """Length of the ramp to the peak, or to the rate of a mode that may jump."""
    cooldown_epochs: int = 0
    """Length of the linear decay to the final fraction at the end."""

    def __post_init__(self) -> None:
        if self.slope == "original" and self.mode not in SLOPED_MODES:
            sloped = " or ".join(SLOPED_MODES)
            raise UserError(
                f"--slope original needs --lr-continuation {sloped}; {self.mode} has no slope."
            )
        if self.peak is not None:
            if self.mode in JUMPING_MODES:
                raise UserError(
                    f"--peak cannot be combined with {self.mode}, which sets its own learning "
                    "rate; omit --peak."
                )
            if not 0 < self.peak <= 1:
                raise UserError(
                    f"--peak {self.peak}: must be above 0 and at most 1 (a fraction of lr0)."
                )
            if self.rewarm_epochs == 0:
                raise UserError(
                    "--peak needs --rewarm-epochs K; without it the learning rate would jump to "
                    "the peak."
                )
        elif self.rewarm_epochs and self.mode not in JUMPING_MODES:
            raise UserError(
                f"--rewarm-epochs has no effect: {self.mode} continues at the learning rate of the "
                f"seam; add --peak P, or use --lr-continuation {' or '.join(JUMPING_MODES)}."
            )


def extend_plan(plan: Plan, completed: int, extension: Extension) -> Plan:
    """Return the plan of a run that is extended beyond its planned epochs.

    Epochs before the seam keep their segments. The new segment covers the
    `N = planned + added - completed` epochs after it. It replaces an earlier extension of which no
    epoch is trained: the epochs of that extension no longer count as planned. `completed` is the
    seam `E`; it is less than planned if the run was stopped.

    Raises:
        UserError: no epoch is completed, ramp and cooldown leave no epoch between them, or the
            learning rate would rise in the cooldown.
    """
    if completed < 1:
        raise UserError(
            "this run has no completed epoch, so it cannot be extended; train it first."
        )
    trained = [segment for segment in plan.segments if segment.start < completed]
    base, last = trained[0], trained[-1]
    planned = last.stop
    epochs = planned + extension.epochs - completed
    if extension.rewarm_epochs + extension.cooldown_epochs >= epochs:
        parts = {"rewarm": extension.rewarm_epochs, "cooldown": extension.cooldown_epochs}
        options = " and ".join(
            f"--{part}-epochs {length}" for part, length in parts.items() if length
        )
        raise UserError(
            f"{options}: must leave at least one of the {epochs} epochs after the seam."
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
    mode = get_mode(segment.mode)
    segment = mode.complete(segment, last, extension.slope == "original")
    if mode.seamless and segment.cooldown:  # a mode that may jump does not start at the level
        _check_cooldown(segment)
    return dataclasses.replace(plan, segments=(*trained, segment))


def _check_cooldown(segment: Segment) -> None:
    """Refuse a cooldown that ends above the rate that its mode has reached when it begins."""
    top = dataclasses.replace(segment, cooldown=0).factor(segment.stop - segment.cooldown)
    if top < segment.level * segment.lrf:
        highest = math.floor(top / segment.level * LRF_STEPS) / LRF_STEPS
        raise UserError(
            f"--cooldown-epochs {segment.cooldown} would raise the learning rate: it ends at lrf "
            f"{segment.lrf:g} of the starting level, but {segment.mode} is already at "
            f"{top / segment.level:.3g} of it; omit --cooldown-epochs, or use --lrf {highest:g}."
        )


def first_flat_epoch(segment: Segment) -> int | None:
    """Return the first epoch in which a sloped segment is at its floor; None if it never is."""
    if segment.mode not in SLOPED_MODES or not segment.level:
        return None
    epochs = range(segment.start + segment.ramp, segment.stop)
    return next((epoch for epoch in epochs if segment.factor(epoch) <= segment.floor), None)
