"""Extend a run by a new segment after a seam, in one of the modes; imports no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from utils.errors import UserError
from utils.solver.modes import (
    COOLDOWN_SHAPES,
    DEFAULT_MODE,
    FINISH_MODE,
    JUMPING_MODES,
    SLOPED_MODES,
    get_mode,
)
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
    """Epochs added to the planned total; negative if the run becomes shorter, see
    `counted_from`."""
    mode: str = DEFAULT_MODE
    """One of `MODES`, or `FINISH`."""
    slope: str = "fit"
    """Slope of slope-match: `fit` declines until the last epoch, `original` keeps the old slope."""
    lrf: float | None = None
    """Final fraction of the extension; that of the run if None."""
    peak: float | None = None
    """Fraction of lr0 to start from instead of the rate at the seam; a ramp leads to it."""
    rewarm_epochs: int = 0
    """Length of the ramp to the peak, or to the rate of a mode that may jump."""
    cooldown_epochs: int = 0
    """Length of the decay to the final fraction at the end."""
    cooldown_shape: str = COOLDOWN_SHAPES[0]
    """Shape of that decay, or of a finish."""
    close_mosaic: int = 0
    """Epochs at the end without mosaic and mixup."""

    @property
    def finishes(self) -> bool:
        """Whether this ends the run before its planned total."""
        return self.mode == FINISH_MODE.name

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
        if self.cooldown_shape != COOLDOWN_SHAPES[0] and not (
            self.cooldown_epochs or self.finishes
        ):
            raise UserError(
                f"--cooldown-shape {self.cooldown_shape} has no effect without a cooldown; add "
                "--cooldown-epochs K."
            )


def extend_plan(plan: Plan, completed: int, extension: Extension) -> Plan:
    """Return the plan of a run that is extended beyond its planned epochs.

    Epochs before the seam keep their segments. The new segment covers the
    `N = planned + added - completed` epochs after it. It replaces an earlier extension of which no
    epoch is trained: the epochs of that extension no longer count as planned. `completed` is the
    seam `E`; it is less than planned if the run was stopped.

    Raises:
        UserError: no epoch is completed, ramp and cooldown leave no epoch between them, the
            learning rate would rise in the cooldown, or the run is too far to be finished so.
    """
    trained = _trained_segments(plan, completed)
    base, last = trained[0], trained[-1]
    epochs = last.stop + extension.epochs - completed
    if extension.finishes and completed >= last.stop:
        raise UserError(
            f"--finish-epochs {epochs}: all {last.stop} planned epochs are done; add epochs with "
            "--extend-epochs."
        )
    if extension.finishes and epochs > last.stop - completed:
        raise UserError(
            f"--finish-epochs {epochs}: {last.stop - completed} of {last.stop} epochs are left; "
            "use fewer, or add epochs with --extend-epochs."
        )
    check_close_mosaic(extension.close_mosaic, epochs)
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
        shape=extension.cooldown_shape,
        close_mosaic=extension.close_mosaic,
    )
    if extension.finishes and segment.lrf >= a:
        raise UserError(
            f"--finish-epochs {epochs}: the learning rate is at {a:.4g} of lr0, so it cannot "
            f"descend to lrf {segment.lrf:g}; add --lrf F with a smaller F."
        )
    mode = get_mode(segment.mode)
    segment = mode.complete(segment, last, extension.slope == "original")
    if mode.seamless and segment.cooldown:  # a mode that may jump does not start at the level
        _check_cooldown(segment)
    return dataclasses.replace(plan, segments=(*trained, segment))


def counted_from(completed: int, plan: Plan, extension: Extension) -> Extension:
    """Return an extension whose epochs count from the completed ones, not from the planned total.

    Raises:
        UserError: no epoch is completed.
    """
    left = _trained_segments(plan, completed)[-1].stop - completed
    return dataclasses.replace(extension, epochs=extension.epochs - left)


def _trained_segments(plan: Plan, completed: int) -> list[Segment]:
    if completed < 1:
        raise UserError(
            "this run has no completed epoch, so it cannot be extended; train it first."
        )
    return [segment for segment in plan.segments if segment.start < completed]


def check_close_mosaic(closed: int, epochs: int) -> None:
    """Check that the epochs without mosaic are not more than those of their segment.

    Raises:
        UserError: they are.
    """
    if closed > epochs:
        raise UserError(f"--close-mosaic {closed}: must be at most {epochs}, the epochs to train.")


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
