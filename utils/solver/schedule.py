"""The learning rate as a pure function of a plan and a position; imports no torch.

The scheduler has no counters. Its state is the plan: plain data, stored in the checkpoint. Every
value is computed from the plan, so a resume restores exactly the same learning rates.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils.solver.modes import (
    BASE_MODE,
    CONTINUATIONS,
    COOLDOWN_SHAPES,
    FINISH_MODE,
    descend,
    get_mode,
)

LAWS = ("linear", "cosine", "linear-v5.0")
MODES = tuple(mode.name for mode in CONTINUATIONS)
BASE, FINISH = BASE_MODE.name, FINISH_MODE.name
RATE_RTOL = 1e-9
"""Relative tolerance within which two learning rates are equal."""
MIN_WARMUP_ITERATIONS = 100


def law_factor(law: str, epoch: float, horizon: int, final: float) -> float:
    """Return the factor of the initial learning rate, `epoch` epochs after the start of a law.

    Also in floating point, the value at epoch 0 is exactly 1 and the values never increase; an
    extended run relies on both.

    Args:
        law: `linear` (YOLOv5 v6.1 and later), `cosine` (Loshchilov and Hutter 2017, no restarts),
            or `linear-v5.0`, which reaches `final` in the last epoch instead of one epoch later.
        epoch: 0 to `horizon`.
        horizon: length of the law in epochs.
        final: final fraction of the law (`lrf`).

    Raises:
        ValueError: unknown law.
    """
    if law == "linear":
        return 1 - (1 - final) * (epoch / horizon)
    if law == "cosine":
        return 1 - (1 - final) * ((1 - math.cos(math.pi * epoch / horizon)) / 2)
    if law == "linear-v5.0":
        return 1 - (1 - final) * (epoch / max(horizon - 1, 1))
    raise ValueError(f"unknown learning-rate law {law!r}; known are {', '.join(LAWS)}")


@dataclass(frozen=True)
class Segment:
    """Consecutive epochs whose learning rate follows one rule.

    A segment ends where the next one starts; `epochs` is the length planned when it was created.
    """

    mode: str
    """`BASE` for the first segment of a run, otherwise one of `MODES` or `FINISH`."""
    start: int
    """First epoch of the segment; a seam, except for the base segment."""
    epochs: int
    """Planned length in epochs."""
    law: str
    """Base law of the run (`LAWS`), which base, rebase and restart follow."""
    lrf: float
    """Final fraction of the law."""
    level: float = 1.0
    """`L`, the factor at which the segment starts: that of the seam, or the peak of a ramp."""
    slope: float = 0.0
    """slope-match: decline of the factor per epoch."""
    floor: float = 0.0
    """slope-match: the factor at which the decline ends."""
    before: float = 1.0
    """`a`, the factor before the seam, at which a ramp starts."""
    ramp: int = 0
    """Epochs at the start of the segment that lead linearly from `before` to the rule."""
    cooldown: int = 0
    """Epochs at the end of the segment that lead from the rule down to `level * lrf`."""
    shape: str = COOLDOWN_SHAPES[0]
    """Shape of the cooldown or of the finish, one of `COOLDOWN_SHAPES`."""
    close_mosaic: int = 0
    """Epochs at the end of the segment without mosaic and mixup."""

    @property
    def stop(self) -> int:
        """End of the planned epochs, exclusive; the run's total if this is the last segment."""
        return self.start + self.epochs

    def factor(self, epoch: int) -> float:
        """Return `f(epoch)`, the factor of the initial rate.

        Raises:
            ValueError: unknown mode.
        """
        rule = get_mode(self.mode).rule
        since = epoch - self.start
        cooling = since - (self.epochs - self.cooldown)  # `j`
        if since < self.ramp:
            return self.before + (rule(self, self.ramp) - self.before) * since / self.ramp
        if cooling >= 0 and self.cooldown:
            top = rule(self, self.epochs - self.cooldown)
            end = self.level * self.lrf
            return descend(top, end, cooling + 1, self.cooldown, self.shape)
        return rule(self, since)

    def law_at(self, epoch: int, horizon: int) -> float:
        """Return the factor of the segment's law in an epoch, for a law of `horizon` epochs."""
        return law_factor(self.law, epoch, horizon, self.lrf)


@dataclass(frozen=True)
class WarmUp:
    """Warm-up at the start of a run, a function of the iteration (Goyal et al. 2017)."""

    iterations: int
    """Length; the warm-up covers iterations 0 … `iterations`, both included."""
    bias_lr: float
    """Learning rate of the biases at iteration 0; the other groups start from 0."""
    momentum: float
    """Momentum at iteration 0."""
    changes: tuple[tuple[int, int], ...] = ()
    """Iterations from which on the length is another one, each with this length."""

    @property
    def length(self) -> int:
        """The length after the last change."""
        return self.changes[-1][1] if self.changes else self.iterations

    def share(self, iteration: int) -> float:
        """Return the completed share at an iteration; above 1, the warm-up is over.

        It is `iteration / iterations`, and after a change at iteration c
        `share(c) + (iteration - c) / length`.
        """
        done, start, length = 0.0, 0, self.iterations
        for change, new_length in self.changes:
            if change > iteration:
                break
            done, start, length = done + (change - start) / length, change, new_length
        return done + (iteration - start) / length if length else math.inf

    def with_length(self, iteration: int, length: int) -> WarmUp:
        """Return a copy with another length from an iteration on; the completed share stays.

        The rest takes that share of the new length. A finished warm-up does not change.
        """
        if length == self.length or self.share(iteration) >= 1:
            return self
        earlier = (change for change in self.changes if change[0] < iteration)
        return dataclasses.replace(self, changes=(*earlier, (iteration, length)))


@dataclass(frozen=True)
class StepSettings:
    """Settings of an optimizer step at one position."""

    bias_lr: float
    lr: float
    """Learning rate of the weights and of the norm weights."""
    momentum: float
    accumulate: int
    """Batches whose gradients are summed for one step."""

    @property
    def rates(self) -> tuple[float, float, float]:
        """Rates in the order of the parameter groups: biases, weights, norm weights."""
        return (self.bias_lr, self.lr, self.lr)


@dataclass(frozen=True)
class Plan:
    """All values that determine the rates of a run, as plain data: the state of the scheduler."""

    lr0: float
    momentum: float
    accumulate: int
    """Batches per step after the warm-up: nominal batch / batch, at least 1."""
    warmup: WarmUp
    segments: tuple[Segment, ...]

    @property
    def total_epochs(self) -> int:
        """Planned epochs of the whole run, including extensions."""
        return self.segments[-1].stop

    @property
    def seams(self) -> tuple[Segment, ...]:
        """The segments that start at a seam: all but the base segment."""
        return tuple(segment for segment in self.segments if segment.mode != BASE)

    def segment_at(self, epoch: int) -> Segment:
        """Return the segment that an epoch belongs to.

        Raises:
            ValueError: the epoch is not planned.
        """
        if not 0 <= epoch < self.total_epochs:
            raise ValueError(f"epoch {epoch} is outside the plan of {self.total_epochs} epochs")
        return next(s for s in reversed(self.segments) if s.start <= epoch)

    def uses_mosaic(self, epoch: int) -> bool:
        """Return whether the samples of an epoch may be mosaics, if the hyper-parameters say so."""
        segment = self.segment_at(epoch)
        return epoch < segment.stop - segment.close_mosaic

    def averaged(self, last: int, completed: int) -> int:
        """Return how many of the `last` planned epochs are among the completed ones."""
        return max(completed - (self.total_epochs - last), 0)

    def raises_rate(self, seam: Segment) -> bool:
        """Return whether an extension trains at a higher rate than the epoch before its seam."""
        if seam.mode == BASE:
            return False
        after = (seam.factor(epoch) for epoch in range(seam.start, seam.stop))
        return max(after) > self.factor(seam.start - 1) * (1 + RATE_RTOL)

    def factor(self, epoch: int) -> float:
        """Return `f(epoch)`; the rate after the warm-up is exactly `lr0 * f(epoch)`."""
        return self.segment_at(epoch).factor(epoch)

    def factors(self) -> list[float]:
        """Return `f(0) … f(total_epochs - 1)`."""
        return [self.factor(epoch) for epoch in range(self.total_epochs)]

    def settings(self, epoch: int, iteration: int) -> StepSettings:
        """Return learning rates, momentum and accumulation in an epoch, at an iteration.

        Iterations are batches trained since the start of the run, before and after resumes alike.
        """
        target = self.lr0 * self.factor(epoch)
        progress = self.warmup.share(iteration)
        if progress > 1:
            return StepSettings(target, target, self.momentum, self.accumulate)

        def ramp(first: float, last: float) -> float:
            return first + (last - first) * progress

        return StepSettings(
            bias_lr=ramp(self.warmup.bias_lr, target),
            lr=ramp(0.0, target),
            momentum=ramp(self.warmup.momentum, self.momentum),
            accumulate=max(round(ramp(1, self.accumulate)), 1),
        )

    def to_dict(self) -> dict[str, Any]:  # the inverse of `from_dict`, whose keys it has
        """Return plain data for the checkpoint."""
        warmup = dataclasses.asdict(self.warmup)
        changes = [list(change) for change in warmup.pop("changes")]
        return {
            **dataclasses.asdict(self),
            "warmup": warmup | ({"changes": changes} if changes else {}),
            "segments": [dataclasses.asdict(s) for s in self.segments],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Plan:  # not checked yet, see Raises
        """Inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: the data is not a plan.
        """
        warmup = data["warmup"]
        changes = tuple((int(start), int(length)) for start, length in warmup.get("changes", ()))
        return Plan(
            lr0=data["lr0"],
            momentum=data["momentum"],
            accumulate=data["accumulate"],
            warmup=WarmUp(**{**warmup, "changes": changes}),
            segments=tuple(Segment(**segment) for segment in data["segments"]),
        )


def warmup_iterations(warmup_epochs: float, batches_per_epoch: int) -> int:
    """Return the length of the warm-up in iterations, at least 100."""
    return max(round(warmup_epochs * batches_per_epoch), MIN_WARMUP_ITERATIONS)


def accumulation(nominal_batch_size: int, batch_size: int) -> int:
    """Return the batches whose gradients are summed for one step after the warm-up."""
    return max(round(nominal_batch_size / batch_size), 1)


def scaled_weight_decay(decay: float, effective_batch: int, nominal_batch_size: int) -> float:
    """Return the weight decay of a step over `effective_batch` images, batch size * accumulation.

    `decay` is that of the hyper-parameters, for the nominal batch size.
    """
    return decay * effective_batch / nominal_batch_size


def base_segment(epochs: int, law: str, lrf: float, close_mosaic: int = 0) -> Segment:
    """Return the base segment, the only one of a run without extensions."""
    return Segment(BASE, start=0, epochs=epochs, law=law, lrf=lrf, close_mosaic=close_mosaic)
