"""Recovers the learning-rate schedule of an upstream run: law, warm-up and position; no torch.

Upstream does not store its schedule. The law follows from the version and the options, and is
checked against the learning rate in the optimizer. The position in the warm-up is computed from the
momentum, which rises with every iteration of the warm-up.
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
FACTOR_TOLERANCE = 1e-6
PROGRESS_TOLERANCE = 1e-12
MAX_BATCHES = 200_000  # per epoch; larger numbers give the same warm-up fraction


def base_law(version: str, options: Mapping[str, object]) -> str:
    """Return the base law of a run.

    v6.1 and later: linear, or cosine with `cos_lr`. v5.0 and v6.0: cosine, or their own linear law
    with `linear_lr`. If either option is recorded, it decides; else the version.
    """
    if "cos_lr" in options:
        return "cosine" if options["cos_lr"] else "linear"
    if "linear_lr" in options:
        return "linear-v5.0" if options["linear_lr"] else "cosine"
    return "cosine" if version in COSINE_BY_DEFAULT else "linear"


def check_law(law: str, found: float, *, completed: int, total: int, lrf: float) -> None:
    """Check that a law gives the learning rate in the file's optimizer.

    `found` is that rate as a fraction of the initial one: `f(completed - 1)`, without warm-up.

    Raises:
        UserError: the rates differ; the message names a law that matches, if there is one.
    """

    def fits(candidate: str) -> bool:
        return abs(law_factor(candidate, completed - 1, total, lrf) - found) <= FACTOR_TOLERANCE

    if fits(law):
        return
    others = [candidate for candidate in LAWS if fits(candidate)]
    remedy = (
        f"add --schedule {others[0]}, which matches"
        if others
        else "no schedule matches: correct `epochs` and `lrf` in opt.yaml and hyp.yaml, "
        "or choose one with --schedule"
    )
    raise UserError(
        f"after {completed} of {total} epochs the checkpoint's learning rate is {found:.6g} of "
        f"the initial one, but the {law} schedule with lrf {lrf:g} gives "
        f"{law_factor(law, completed - 1, total, lrf):.6g}; {remedy}."
    )


def warmup_length(warmup_epochs: float, batches_per_epoch: int, min_length: int) -> int:
    """Return the length of a warm-up in iterations, at least `min_length`."""
    return max(warmup_iterations(warmup_epochs, batches_per_epoch), min_length)


class WarmupProgress(NamedTuple):
    """Progress of a run's warm-up, as far as it is recorded."""

    min_length: int
    """Minimum warm-up of the version, iterations."""
    batches_per_epoch: int | None
    """Exact; None if unknown, for example after the warm-up."""
    is_over: bool
    """Whether the warm-up is known to be over; False if unknown."""


def warmup_progress(
    version: str, hyp: Hyp, completed: int, momentum: float | None, last_row: Row
) -> WarmupProgress:
    """Compute the batches per epoch from the optimizer's momentum, which rises during the warm-up.

    The last recorded learning rates show only whether the warm-up is over.

    Args:
        version: version of upstream.
        hyp: hyper-parameters of the run.
        completed: completed epochs.
        momentum: momentum in the file's optimizer; None if it has none.
        last_row: last row of the history; its learning rates may be NaN.
    """
    min_length = MIN_LONG_WARMUP if version in LONG_WARMUP else MIN_WARMUP_ITERATIONS
    bias, weight = last_row["x/lr0"], last_row["x/lr1"]
    over = hyp.warmup_bias_lr > 0 and bias == weight  # False if both are NaN
    found = WarmupProgress(min_length, None, over)
    if momentum is None or hyp.warmup_momentum == hyp.momentum:
        return found
    fraction = (momentum - hyp.warmup_momentum) / (hyp.momentum - hyp.warmup_momentum)
    if fraction >= 1 - FACTOR_TOLERANCE:
        return found._replace(is_over=True)
    matching = set()
    for batches in _candidate_batches(fraction, completed, hyp.warmup_epochs, min_length):
        length = warmup_length(hyp.warmup_epochs, batches, min_length)
        if abs((completed * batches - 1) / length - fraction) <= PROGRESS_TOLERANCE:
            matching.add(batches)
    return found._replace(batches_per_epoch=matching.pop()) if len(matching) == 1 else found


def _candidate_batches(
    progress: float, completed: int, warmup_epochs: float, min_length: int
) -> Iterator[int]:
    """Yield the numbers of batches n for which the progress may be `(E n - 1) / length`.

    E is the number of completed epochs. The length is the minimum, or `warmup_epochs * n` with a
    rounding error of up to 0.5; then `n = (1 + progress * error) / (E - progress * warmup_epochs)`.
    """
    yield max(round((progress * min_length + 1) / completed), 1)
    denominator = completed - progress * warmup_epochs
    if denominator * MAX_BATCHES > 1:
        margin = progress * 0.5
        first, last = math.floor((1 - margin) / denominator), math.ceil((1 + margin) / denominator)
        yield from range(max(first, 1), last + 1)


def optimizer_steps(plan: Plan, iterations: int) -> int:
    """Return the optimizer steps (= EMA updates) in the first `iterations` batches of a run.

    Upstream accumulates gradients across the end of an epoch. During the warm-up, the number of
    batches per step grows from 1 to `plan.accumulate`.
    """
    steps = pending = 0
    ramp = min(iterations, plan.warmup.iterations + 1)
    for iteration in range(ramp):
        pending += 1
        if pending >= plan.settings(0, iteration).accumulate:
            steps, pending = steps + 1, 0
    return steps + math.floor((pending + iterations - ramp) / plan.accumulate)
