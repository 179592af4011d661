"""The learning rate of an upstream run, as a plan: law, warm-up, and how far it had come; no torch.

Upstream stores no schedule. The law follows from the version and its options and is checked
against the rate in the optimizer; the position in the warm-up can be read off the momentum, which
rises with every iteration as long as the warm-up lasts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from utils.errors import UserError
from utils.history import Row
from utils.hyp import Hyp
from utils.solver.schedule import (
    LAWS,
    MIN_WARMUP_ITERATIONS,
    Plan,
    law_factor,
    warmup_iterations,
)

COSINE_BY_DEFAULT = frozenset({"v5.0", "v6.0"})
LONG_WARMUP = frozenset({"v5.0", "v6.0", "v6.1"})
MIN_LONG_WARMUP = 1000  # iterations
SAME_FACTOR = 1e-6
SAME_PROGRESS = 1e-12
MAX_BATCHES = 200_000  # per epoch; beyond, two numbers of them hardly differ in progress


def law_of(version: str, options: Mapping[str, object]) -> str:
    """The base law of a run.

    v6.1 and later: linear, or cosine with `cos_lr`. v5.0 and v6.0: cosine, or their own linear one
    with `linear_lr`. The option's name tells them apart where there are options.
    """
    if "cos_lr" in options:
        return "cosine" if options["cos_lr"] else "linear"
    if "linear_lr" in options:
        return "linear-v5.0" if options["linear_lr"] else "cosine"
    return "cosine" if version in COSINE_BY_DEFAULT else "linear"


class LastRate(NamedTuple):
    """The rate that the file's optimizer was left with: `lr0 f(completed - 1)`, free of warm-up."""

    lr: float
    initial_lr: float


def require_law(law: str, rate: LastRate, *, completed: int, total: int, lrf: float) -> None:
    """Check that a law gives the rate that the optimizer was left with.

    Raises:
        UserError: it does not; the sentence names the laws that do.
    """
    found = rate.lr / rate.initial_lr

    def fits(candidate: str) -> bool:
        return abs(law_factor(candidate, completed - 1, total, lrf) - found) <= SAME_FACTOR

    if fits(law):
        return
    others = [candidate for candidate in LAWS if fits(candidate)]
    remedy = (
        f"--schedule {others[0]} gives it"
        if others
        else "no law does: check `epochs` and `lrf` in opt.yaml and hyp.yaml, "
        "or insist with --schedule"
    )
    raise UserError(
        f"after {completed} of {total} epochs the file's learning rate is {found:.6g} of the "
        f"initial one, but `{law}` with lrf {lrf:g} gives "
        f"{law_factor(law, completed - 1, total, lrf):.6g}; {remedy}."
    )


def warmup_length(warmup_epochs: float, batches_per_epoch: int, min_length: int) -> int:
    """Length of a warm-up in iterations, in a version whose shortest is `min_length`."""
    return max(warmup_iterations(warmup_epochs, batches_per_epoch), min_length)


class WarmupProgress(NamedTuple):
    """How far the warm-up of a run had come, as far as its files say."""

    min_length: int
    """Shortest warm-up of its version, iterations."""
    batches_per_epoch: int | None
    """Exact; None where it is not on record, as after the warm-up."""
    is_over: bool
    """Known to be over; False also where nothing is known."""


def warmup_progress(
    version: str, hyp: Hyp, completed: int, momentum: float | None, last_row: Row
) -> WarmupProgress:
    """Read the progress off the momentum of the optimizer, else off the last rates on record.

    Args:
        version: of upstream.
        hyp: the run's.
        completed: epochs.
        momentum: as the file's optimizer was left with; None where it has none.
        last_row: of the history; its rates may be NaN.
    """
    shortest = MIN_LONG_WARMUP if version in LONG_WARMUP else MIN_WARMUP_ITERATIONS
    bias, weight = last_row["x/lr0"], last_row["x/lr1"]
    over = hyp.warmup_bias_lr > 0 and bias == weight  # false if both are NaN
    found = WarmupProgress(shortest, None, over)
    if momentum is None or hyp.warmup_momentum == hyp.momentum:
        return found
    share = (momentum - hyp.warmup_momentum) / (hyp.momentum - hyp.warmup_momentum)
    if share >= 1 - SAME_FACTOR:
        return found._replace(is_over=True)
    matching = {
        batches
        for batches in _candidates(share, completed, hyp.warmup_epochs, shortest)
        if abs(_share(hyp.warmup_epochs, shortest, completed, batches) - share) <= SAME_PROGRESS
    }
    return found._replace(batches_per_epoch=matching.pop()) if len(matching) == 1 else found


def _share(warmup_epochs: float, shortest: int, completed: int, batches: int) -> float:
    """Share of the warm-up at the last iteration, `completed * batches - 1`."""
    return (completed * batches - 1) / warmup_length(warmup_epochs, batches, shortest)


def _candidates(
    progress: float, completed: int, warmup_epochs: float, shortest: int
) -> Iterator[int]:
    """Numbers of batches n that may have led to a progress `(E n - 1) / length`.

    The length is the shortest one, or `warmup_epochs * n` rounded, that is off by up to 0.5: then
    `n = (1 + progress * error) / (E - progress * warmup_epochs)`.
    """
    yield max(round((progress * shortest + 1) / completed), 1)
    left = completed - progress * warmup_epochs
    if left * MAX_BATCHES > 1:
        error = progress * 0.5
        yield from range(max(math.floor((1 - error) / left), 1), math.ceil((1 + error) / left) + 1)


def optimizer_steps(plan: Plan, iterations: int) -> int:
    """Optimizer steps, which are EMA updates, that so many batches give from the start of a run.

    Upstream sums gradients across the end of an epoch; during the warm-up the number of batches
    per step grows from 1 to `plan.accumulate`.
    """
    steps = pending = 0
    ramp = min(iterations, plan.warmup.iterations + 1)
    for iteration in range(ramp):
        pending += 1
        if pending >= plan.settings(0, iteration).accumulate:
            steps, pending = steps + 1, 0
    return steps + math.floor((pending + iterations - ramp) / plan.accumulate)
