"""Properties of every extension, over laws, lengths, final fractions, seams and chains of seams.

The formulas are implemented here a second time, independently, epoch by epoch.
"""

import io
import json
import math
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.paths import GOLDENS
from tests.utils.solver.test_continuation import golden_extension
from tests.utils.solver.test_schedule import plan_of
from utils.errors import UserError
from utils.solver.continuation import Extension, extend_plan
from utils.solver.guard import check_planned_rates
from utils.solver.modes import JUMPING_MODES, SLOPED_MODES
from utils.solver.schedule import LAWS, MODES, Plan, base_segment

MODES_WITH_FORMULAS = ("rebase", "slope-match", "hold", "restart")  # implemented below
SEAMLESS = tuple(mode for mode in MODES if mode not in JUMPING_MODES)
MAX_SEGMENT_EPOCHS = 400
ITERATION_AFTER_WARMUP = 10_000_000

few_examples = settings(derandomize=True, database=None, deadline=None, max_examples=60)
many_examples = settings(few_examples, max_examples=120)


class Seam(NamedTuple):
    """One extension, with the plan before and the plan after it."""

    old: Plan
    completed: int
    extension: Extension
    new: Plan


def fractions() -> st.SearchStrategy[float]:
    return st.sampled_from([0.0, 0.01, 0.1, 0.2, 1.0]) | st.floats(0.0, 1.0)


@st.composite
def extensions(draw: st.DrawFn, modes: tuple[str, ...], left: int, *, modified: bool) -> Extension:
    """Generate an extension of a run with `left` planned epochs remaining."""
    mode = draw(st.sampled_from(modes))
    epochs = draw(st.integers(1, MAX_SEGMENT_EPOCHS))
    options: dict[str, Any] = {"lrf": draw(st.none() | fractions())}
    if mode in SLOPED_MODES:
        options["slope"] = draw(st.sampled_from(["fit", "original"]))
    if modified:
        room = epochs + left - 1
        options["cooldown_epochs"] = draw(st.integers(0, room))
        ramp = draw(st.integers(0, room - options["cooldown_epochs"]))
        if ramp and mode not in JUMPING_MODES:
            options["peak"] = draw(st.floats(0.001, 1.0))
        options["rewarm_epochs"] = ramp
    return Extension(epochs, mode, **options)


@st.composite
def chains(
    draw: st.DrawFn, modes: tuple[str, ...] = MODES, *, modified: bool = False
) -> list[Seam]:
    """Generate one to four extensions of a run, each at the planned end or at an earlier epoch."""
    law = draw(st.sampled_from(LAWS))
    plan = plan_of(base_segment(draw(st.integers(1, MAX_SEGMENT_EPOCHS)), law, draw(fractions())))
    seams: list[Seam] = []
    for _ in range(draw(st.integers(1, 4))):
        total, earliest = plan.total_epochs, seams[-1].completed + 1 if seams else 1
        completed = draw(st.just(total) | st.integers(earliest, total))
        extension = draw(extensions(modes, total - completed, modified=modified))
        try:
            new = extend_plan(plan, completed, extension)
        except UserError as error:
            assert "would raise the learning rate" in str(error)  # noqa: PT017 -- of some chains only
            break
        seams.append(Seam(plan, completed, extension, new))
        plan = new
    return seams


@given(chains(SEAMLESS))
@many_examples
def test_seamless_modes_are_continuous_and_never_rise(seams: list[Seam]) -> None:
    for seam in seams:
        factors = seam.new.factors()
        assert factors[seam.completed] == factors[seam.completed - 1]
        assert all(later <= earlier for earlier, later in pairwise(factors))
        assert min(factors) >= 0.0
        settings_ = [
            seam.new.settings(e, ITERATION_AFTER_WARMUP)
            for e in (seam.completed - 1, seam.completed)
        ]
        assert settings_[0].rates == settings_[1].rates  # for every parameter group


@given(chains(modified=True))
@many_examples
def test_trained_epochs_keep_their_factors_and_requested_epochs_are_added(
    seams: list[Seam],
) -> None:
    for old, completed, extension, new in seams:
        assert new.factors()[:completed] == old.factors()[:completed]
        assert new.total_epochs == old.total_epochs + extension.epochs


@given(chains(MODES_WITH_FORMULAS, modified=True))
@many_examples
def test_segments_follow_the_formulas(seams: list[Seam]) -> None:
    for seam in seams:
        factors = seam.new.factors()[seam.completed :]
        assert factors == pytest.approx(expected(seam), abs=1e-12)


def law(name: str, epoch: int, horizon: int, lrf: float) -> float:
    """Return the factor of a base law."""
    if name == "cosine":
        return ((1 - math.cos(math.pi * epoch / horizon)) / 2) * (lrf - 1) + 1
    if name == "linear-v5.0":
        horizon = max(horizon - 1, 1)
    return (1 - epoch / horizon) * (1 - lrf) + lrf


def expected(seam: Seam) -> list[float]:
    """Return the factors after a seam, computed from those before it."""
    old, completed, extension, _ = seam
    ramp, cooldown = extension.rewarm_epochs, extension.cooldown_epochs
    a = old.factor(completed - 1)
    level = a if extension.peak is None else extension.peak
    n = old.total_epochs + extension.epochs - completed
    base = old.segments[0]
    lrf = base.lrf if extension.lrf is None else extension.lrf

    def mode(k: int) -> float:
        if extension.mode == "hold":
            return level
        if extension.mode == "restart":
            return law(base.law, completed + k, completed + n, lrf)
        if extension.mode == "rebase":
            shape = "cosine" if base.law == "cosine" else "linear"
            return level * law(shape, k - ramp, n - ramp, lrf)
        before = next(s for s in reversed(old.segments) if s.start < completed)
        epochs = completed - 1 - before.start
        observed = (old.factor(before.start) - a) / epochs if epochs else 0.0
        if extension.slope == "original":
            return max(level - max(observed, 0.0) * (k - ramp), level * lrf)
        floor = 0.0 if completed == old.total_epochs else lrf
        return level - max(min(observed, (level - floor) / (n - ramp)), 0.0) * (k - ramp)

    def factor(k: int) -> float:
        if k < ramp:
            return a + (mode(ramp) - a) * k / ramp
        j = k - (n - cooldown)
        if j >= 0:
            top = mode(n - cooldown)
            return top + (level * lrf - top) * (j + 1) / cooldown
        return mode(k)

    return [factor(k) for k in range(n)]


@given(chains(modified=True))
@many_examples
def test_every_chain_passes_the_guard_and_only_ramps_and_restarts_rise(
    seams: list[Seam],
) -> None:
    for seam in seams:
        check_planned_rates(seam.new, 0)
        after_ramp = seam.completed + seam.extension.rewarm_epochs
        factors = seam.new.factors()[after_ramp:]
        rounding = 1e-15 if seam.extension.mode in JUMPING_MODES else 0.0
        assert all(later <= earlier + rounding for earlier, later in pairwise(factors))


@given(chains(modified=True), st.data())
@many_examples
def test_untrained_extension_is_replaced(seams: list[Seam], data: st.DataObject) -> None:
    for old, completed, _, new in seams:
        extension = data.draw(extensions(MODES, old.total_epochs - completed, modified=False))
        assert extend_plan(new, completed, extension) == extend_plan(old, completed, extension)


def reloaded(plan: Plan) -> Plan:
    """Return a plan after a round trip through JSON and through a checkpoint file."""
    plan = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    file = io.BytesIO()
    torch.save(plan.to_dict(), file)
    file.seek(0)
    return Plan.from_dict(torch.load(file, weights_only=True))


def resumed_at_every_epoch(plan: Plan, start: int) -> list[float]:
    """Return the factors from `start` on, for a run that is resumed before each epoch."""
    factors = []
    for epoch in range(start, plan.total_epochs):
        plan = reloaded(plan)
        factors.append(plan.factor(epoch))
    return factors


@given(chains(modified=True))
@settings(few_examples, max_examples=15)
def test_plan_reloaded_at_every_epoch_does_not_change(seams: list[Seam]) -> None:
    for seam in seams[-1:]:
        factors = seam.new.factors()[seam.completed :]
        assert resumed_at_every_epoch(seam.new, seam.completed) == factors
        assert reloaded(seam.new) == seam.new


def test_golden_extensions_resumed_at_every_epoch() -> None:
    cases = json.loads((GOLDENS / "lr_continuation.json").read_text())
    for case in cases:
        plan = plan_of(base_segment(case["epochs"], case["law"], case["lrf"]))
        for e in case["extensions"]:
            plan = extend_plan(reloaded(plan), e["done"], golden_extension(e))
        seam = plan.segments[-1].start
        assert plan.factors()[:seam] == pytest.approx(case["factors"][:seam], abs=1e-9)
        after = resumed_at_every_epoch(plan, seam)
        assert after == pytest.approx(case["factors"][seam:], abs=1e-9), case["extensions"]


def test_golden_laws_resumed_at_every_epoch() -> None:
    for case in json.loads((GOLDENS / "lr_laws.json").read_text()):
        plan = plan_of(base_segment(case["epochs"], case["law"], case["lrf"]))
        assert resumed_at_every_epoch(plan, 0) == pytest.approx(case["factors"], abs=1e-9)


@pytest.mark.parametrize(
    ("name", "lrf", "factor"),
    [
        ("linear", 0.01, 0.505),  # 1 - 0.99 / 2
        ("linear", 0.2, 0.6),  # 1 - 0.8 / 2
        ("cosine", 0.2, 0.6),  # halfway: cos = 0
        ("linear-v5.0", 0.2, 0.599332),  # 1 - 0.8 * 300 / 599
    ],
)
def test_restart_from_300_to_600_epochs(name: str, lrf: float, factor: float) -> None:
    plan = plan_of(base_segment(300, name, lrf))
    restarted = reloaded(extend_plan(plan, 300, Extension(300, "restart")))
    assert restarted.factor(300) == pytest.approx(factor, abs=5e-7)
    assert restarted.total_epochs == 600
