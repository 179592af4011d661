"""The learning rate as a pure function of a plan and a position; imports no torch.

Nothing here counts: the plan is plain data, stored in the checkpoint as the scheduler's state, and
every value is computed from it anew. So nothing can come back wrong after a resume.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from utils.solver.modes import CONTINUATIONS, RUN, mode_named

LAWS = ("linear", "cosine", "linear-v5.0")
MODES = tuple(mode.name for mode in CONTINUATIONS)
BASE = RUN.name
MINIMUM_WARMUP_ITERATIONS = 100


def law_factor(law: str, epoch: float, horizon: int, final: float) -> float:
    """The share of the initial rate that a base law gives in an epoch.

    Written so that the value at epoch 0 is exactly 1 and the values never increase, also in
    floating point: a continued run relies on both.

    Args:
        law: `linear` (YOLOv5 v6.1 and later), `cosine` (Loshchilov and Hutter 2017, no restarts),
            or `linear-v5.0`, which reaches `final` in the last epoch rather than after it.
        epoch: epochs since the law began.
        horizon: epochs that the law is spread over.
        final: fraction that the law ends at (`lrf`).

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
    """A stretch of consecutive epochs governed by one rule.

    A segment ends where the next one begins; `epochs` is what was planned for it when it was made.
    """

    mode: str
    """`BASE` for the first segment of a run, else the one of `MODES` that made it."""
    start: int
    """First epoch of the segment; for any but the base segment this is a seam."""
    epochs: int
    """Planned length."""
    law: str
    """Base law of the run (`LAWS`); the shape of base, rebase and restart."""
    lrf: float
    """Final fraction of the law."""
    level: float = 1.0
    """`L`, the factor that the segment starts from: the seam's, or the peak of a ramp."""
    slope: float = 0.0
    """slope-match: decline of the factor per epoch."""
    floor: float = 0.0
    """slope-match: where the decline ends."""
    before: float = 1.0
    """`a`, the factor in use before the seam: where a ramp begins."""
    ramp: int = 0
    """Epochs at the start that lead from `before` to the rule."""
    cooldown: int = 0
    """Epochs at the end that lead from the rule down to `level * lrf`."""

    @property
    def stop(self) -> int:
        """One past the last planned epoch: the run's total while this segment is the last."""
        return self.start + self.epochs

    def factor(self, epoch: int) -> float:
        """`f(epoch)`: what the initial rate is multiplied with.

        Raises:
            ValueError: unknown mode.
        """
        rule = mode_named(self.mode).rule
        since = epoch - self.start
        cooling = since - (self.epochs - self.cooldown)  # `j`
        if since < self.ramp:
            return self.before + (rule(self, self.ramp) - self.before) * since / self.ramp
        if cooling >= 0 and self.cooldown:
            top = rule(self, self.epochs - self.cooldown)
            return top + (self.level * self.lrf - top) * (cooling + 1) / self.cooldown
        return rule(self, since)

    def law_at(self, epoch: int, horizon: int) -> float:
        """The segment's law in an epoch, were it spread over so many epochs."""
        return law_factor(self.law, epoch, horizon, self.lrf)


@dataclass(frozen=True)
class WarmUp:
    """Start of a run, a function of the iteration counted since then (Goyal et al. 2017)."""

    iterations: int
    """Length; the warm-up covers iterations 0 … `iterations`."""
    bias_lr: float
    """Rate of the biases at iteration 0; the other groups start from 0."""
    momentum: float
    """Momentum at iteration 0."""


@dataclass(frozen=True)
class StepSettings:
    """What an optimizer step at one position uses."""

    bias_lr: float
    lr: float
    """Rate of the weights and of the norm weights."""
    momentum: float
    accumulate: int
    """Batches whose gradients are summed for one step."""

    @property
    def rates(self) -> tuple[float, float, float]:
        """In the order of the parameter groups: biases, weights, norm weights."""
        return (self.bias_lr, self.lr, self.lr)


@dataclass(frozen=True)
class Plan:
    """Everything that decides the rates of a run, as plain data: this is the scheduler's state."""

    lr0: float
    momentum: float
    accumulate: int
    """Batches per step after the warm-up: nominal batch / batch, at least 1."""
    warmup: WarmUp
    segments: tuple[Segment, ...]

    @property
    def total_epochs(self) -> int:
        """Epochs planned for the whole run, extensions included."""
        return self.segments[-1].stop

    @property
    def seams(self) -> tuple[Segment, ...]:
        """The segments that begin at a seam: all but the base one."""
        return tuple(segment for segment in self.segments if segment.mode != BASE)

    def segment_at(self, epoch: int) -> Segment:
        """The segment that governs an epoch.

        Raises:
            ValueError: the epoch is not planned.
        """
        if not 0 <= epoch < self.total_epochs:
            raise ValueError(f"epoch {epoch} is outside the plan of {self.total_epochs} epochs")
        return next(s for s in reversed(self.segments) if s.start <= epoch)

    def factor(self, epoch: int) -> float:
        """`f(epoch)`: the rate after the warm-up is exactly `lr0 * f(epoch)`."""
        return self.segment_at(epoch).factor(epoch)

    def factors(self) -> list[float]:
        """`f(0) … f(total_epochs - 1)`."""
        return [self.factor(epoch) for epoch in range(self.total_epochs)]

    def settings(self, epoch: int, iteration: int) -> StepSettings:
        """Rates, momentum and accumulation at a position.

        Args:
            epoch: 0-based epoch.
            iteration: batches trained since the start of the run, whichever process trained them.
        """
        target = self.lr0 * self.factor(epoch)
        if iteration > self.warmup.iterations:
            return StepSettings(target, target, self.momentum, self.accumulate)
        progress = iteration / self.warmup.iterations

        def ramp(first: float, last: float) -> float:
            return first + (last - first) * progress

        return StepSettings(
            bias_lr=ramp(self.warmup.bias_lr, target),
            lr=ramp(0.0, target),
            momentum=ramp(self.warmup.momentum, self.momentum),
            accumulate=max(round(ramp(1, self.accumulate)), 1),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the checkpoint."""
        return {
            **dataclasses.asdict(self),
            "segments": [dataclasses.asdict(s) for s in self.segments],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Plan:
        """Inverse of `to_dict`.

        Raises:
            KeyError, TypeError: the data is not that of a plan.
        """
        return Plan(
            lr0=data["lr0"],
            momentum=data["momentum"],
            accumulate=data["accumulate"],
            warmup=WarmUp(**data["warmup"]),
            segments=tuple(Segment(**segment) for segment in data["segments"]),
        )


def warmup_iterations(warmup_epochs: float, batches_per_epoch: int) -> int:
    """Length of the warm-up, at least a hundred iterations."""
    return max(round(warmup_epochs * batches_per_epoch), MINIMUM_WARMUP_ITERATIONS)


def accumulation(nominal_batch_size: int, batch_size: int) -> int:
    """Batches whose gradients are summed for one step after the warm-up."""
    return max(round(nominal_batch_size / batch_size), 1)


def base_segment(epochs: int, law: str, lrf: float) -> Segment:
    """The only segment of a run that was never extended."""
    return Segment(mode=BASE, start=0, epochs=epochs, law=law, lrf=lrf)
