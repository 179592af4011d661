"""Law, warm-up progress and number of optimizer steps of an upstream run."""

import math
from typing import Any

import numpy as np
import pytest

from utils.errors import UserError
from utils.history import COLUMNS
from utils.hyp import Hyp
from utils.solver.schedule import Plan, WarmUp, base_segment
from utils.upstream.schedule import (
    base_law,
    check_law,
    optimizer_steps,
    warmup_length,
    warmup_progress,
)

NO_RATES = dict.fromkeys(COLUMNS, math.nan)


@pytest.mark.parametrize(
    ("version", "options", "law"),
    [
        ("v5.0", {}, "cosine"),
        ("v5.0", {"linear_lr": False}, "cosine"),
        ("v5.0", {"linear_lr": True}, "linear-v5.0"),
        ("v6.0", {}, "cosine"),
        ("v6.1", {}, "linear"),
        ("v7.0", {"cos_lr": False}, "linear"),
        ("v7.0", {"cos_lr": True}, "cosine"),
        # between two releases, the option's name is more reliable than the version
        ("v6.1", {"linear_lr": False}, "cosine"),
    ],
)
def test_law(version: str, options: dict[str, Any], law: str) -> None:
    assert base_law(version, options) == law


class TestCheckLaw:
    def test_matching_law(self) -> None:
        check_law("linear", 0.7525, completed=2, total=4, lrf=0.01)
        check_law("cosine", 0.8, completed=2, total=3, lrf=0.2)
        check_law("linear-v5.0", 0.6, completed=2, total=3, lrf=0.2)

    def test_another_law_matches(self) -> None:
        with pytest.raises(UserError, match="add --schedule cosine, which matches"):
            check_law("linear", 0.8, completed=2, total=3, lrf=0.2)

    def test_no_law_matches(self) -> None:
        with pytest.raises(UserError, match=r"is 0\.99 of .* gives 0\.7525; no schedule matches"):
            check_law("linear", 0.99, completed=2, total=4, lrf=0.01)


class TestWarmupProgress:
    @pytest.mark.parametrize(
        ("version", "momentum", "batches"),
        [
            ("v7.0", 0.8 + 0.137 * 15 / 100, 8),  # two epochs of 8 batches, minimum warm-up
            ("v5.0", 0.8 + 0.137 * 15 / 1000, 8),
            ("v7.0", 0.8 + 0.137 * 199 / 300, 100),  # 3 epochs of 100 batches
            ("v6.1", 0.8 + 0.137 * 665 / 1000, 333),
            ("v6.1", 0.8 + 0.137 * 667 / 1002, 334),
        ],
    )
    def test_from_the_momentum(self, version: str, momentum: float, batches: int) -> None:
        found = warmup_progress(version, Hyp(), 2, momentum, NO_RATES)
        assert found.batches_per_epoch == batches
        assert not found.is_over

    @pytest.mark.parametrize("warmup_epochs", [0.7, 2.5, 3.0, 5.0])
    def test_all_sizes_of_data_sets(self, warmup_epochs: float) -> None:
        hyp = Hyp(warmup_epochs=warmup_epochs)
        for batches in (1, 7, 33, 34, 100, 1849, 7393, 100_000):
            length = max(round(warmup_epochs * batches), 100)
            for completed in (1, 2, 4):
                last = completed * batches - 1
                momentum = float(np.interp(last, [0, length], [0.8, 0.937]))
                found = warmup_progress("v7.0", hyp, completed, momentum, NO_RATES)
                if last >= length:
                    assert (found.batches_per_epoch, found.is_over) == (None, True)
                else:
                    assert (found.batches_per_epoch, found.is_over) == (batches, False)

    def test_momentum_that_matches_no_iteration(self) -> None:
        assert warmup_progress("v7.0", Hyp(), 2, 0.8123, NO_RATES) == (100, None, False)

    def test_from_the_rates(self) -> None:
        """The learning rate of biases differs from the others until the warm-up ends."""
        during = NO_RATES | {"x/lr0": 0.07, "x/lr1": 0.0008}
        after = NO_RATES | {"x/lr0": 0.005, "x/lr1": 0.005}
        assert not warmup_progress("v7.0", Hyp(), 4, None, during).is_over
        assert warmup_progress("v7.0", Hyp(), 4, None, after).is_over
        assert not warmup_progress("v7.0", Hyp(warmup_bias_lr=0), 4, None, after).is_over

    def test_warmup_length(self) -> None:
        assert warmup_length(3.0, 8, 1000) == 1000
        assert warmup_length(3.0, 400, 1000) == 1200
        assert warmup_length(3.0, 8, 100) == 100


def plan_of(accumulate: int, warmup: int) -> Plan:
    segments = (base_segment(10, "linear", 0.01),)
    return Plan(0.01, 0.937, accumulate, WarmUp(warmup, 0.1, 0.8), segments)


class TestOptimizerSteps:
    def test_one_batch_per_step(self) -> None:
        assert optimizer_steps(plan_of(1, 100), 0) == 0
        assert optimizer_steps(plan_of(1, 100), 37) == 37
        assert optimizer_steps(plan_of(1, 100), 500) == 500

    def test_after_the_warmup(self) -> None:
        """Iteration 0 is a step of its own; then there are four batches per step."""
        plan = plan_of(4, 1)
        assert [optimizer_steps(plan, n) for n in (1, 2, 5, 6, 9)] == [1, 1, 2, 2, 3]

    def test_ramp(self) -> None:
        """Batches per step, `round(1 + 3 i / 12)` for i = 0 … 12: 1 1 2 2 2 2 2 3 3 3 4 4 4."""
        plan = plan_of(4, 12)
        steps = [optimizer_steps(plan, n) for n in range(1, 18)]
        #     i: 0, 1, 2–3, 4–5, 6–8, 9–12 and 13–16 make a step each
        assert steps == [1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7]
