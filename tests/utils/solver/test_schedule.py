import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.paths import GOLDENS
from utils.solver.schedule import (
    Plan,
    Segment,
    WarmUp,
    accumulation,
    base_segment,
    law_factor,
    scaled_weight_decay,
    warmup_iterations,
)

LAWS = ("linear", "cosine", "linear-v5.0")


def plan_of(*segments: Segment, nw: int = 100, accumulate: int = 4) -> Plan:
    warmup = WarmUp(iterations=nw, bias_lr=0.1, momentum=0.8)
    return Plan(lr0=0.01, momentum=0.937, accumulate=accumulate, warmup=warmup, segments=segments)


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        ("linear", [1.0, 0.8, 0.6, 0.4]),  # never reaches lrf: that would be epoch 4
        ("linear-v5.0", [1.0, 1 - 0.8 / 3, 1 - 1.6 / 3, 0.2]),  # reaches it in the last epoch
        ("cosine", [1.0, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.6 - 0.4 * math.sqrt(0.5)]),
    ],
)
def test_law_over_four_epochs_with_lrf_0_2(law: str, expected: list[float]) -> None:
    assert base_segment(4, law, 0.2).factor(0) == 1.0
    assert [law_factor(law, e, 4, 0.2) for e in range(4)] == pytest.approx(expected, abs=1e-15)


def test_laws_equal_the_goldens() -> None:
    cases = json.loads((GOLDENS / "lr_laws.json").read_text())
    assert {case["law"] for case in cases} == set(LAWS)
    for case in cases:
        factors = plan_of(base_segment(case["epochs"], case["law"], case["lrf"])).factors()
        assert factors == pytest.approx(case["factors"], abs=1e-9)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("lrf", [0.0, 0.01, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("epochs", [1, 2, 7, 300])
def test_law_starts_at_exactly_one_and_never_rises(law: str, lrf: float, epochs: int) -> None:
    factors = [law_factor(law, e, epochs, lrf) for e in range(epochs)]
    assert factors[0] == 1.0
    assert all(later <= earlier for earlier, later in pairwise(factors))


def test_unknown_names_are_rejected() -> None:
    with pytest.raises(ValueError, match="unknown learning-rate law 'step'"):
        law_factor("step", 0, 1, 0.1)
    with pytest.raises(ValueError, match="unknown continuation mode 'leap'"):
        Segment(mode="leap", start=0, epochs=1, law="linear", lrf=0.1).factor(0)


def test_epoch_belongs_to_the_segment_that_started_last() -> None:
    base = base_segment(4, "linear", 0.2)
    held = Segment(mode="hold", start=3, epochs=5, law="linear", lrf=0.2, level=0.6)
    plan = plan_of(base, held)  # the base segment has 4 planned epochs, the seam is at 3
    assert plan.total_epochs == 8
    assert plan.factors() == pytest.approx([1.0, 0.8, 0.6, *[0.6] * 5])
    assert plan.seams == (held,)
    with pytest.raises(ValueError, match="epoch 8 is outside the plan of 8 epochs"):
        plan.factor(8)


@pytest.mark.parametrize(
    ("iteration", "bias_lr", "lr", "momentum", "accumulate"),
    [
        (0, 0.1, 0.0, 0.8, 1),  # the first iteration
        (50, 0.054, 0.004, 0.8685, 2),  # half way to 0.01 * 0.8: 1 + 3/2 rounds to 2
        (100, 0.008, 0.008, 0.937, 4),  # the last iteration of the warm-up is at the target
        (101, 0.008, 0.008, 0.937, 4),
        (10_000, 0.008, 0.008, 0.937, 4),
    ],
)
def test_warm_up_depends_only_on_the_iteration(
    iteration: int, bias_lr: float, lr: float, momentum: float, accumulate: int
) -> None:
    settings = plan_of(base_segment(4, "linear", 0.2)).settings(epoch=1, iteration=iteration)
    assert settings.rates == pytest.approx((bias_lr, lr, lr))
    assert settings.momentum == pytest.approx(momentum)
    assert settings.accumulate == accumulate


def test_rate_after_the_warm_up_is_exactly_lr0_times_the_factor() -> None:
    plan = plan_of(base_segment(300, "cosine", 0.01))
    for epoch in (0, 1, 150, 299):
        assert plan.settings(epoch, 10_000).rates == (0.01 * plan.factor(epoch),) * 3


@pytest.mark.parametrize(
    ("epochs", "batches", "expected"),
    [(3.0, 8, 100), (3.0, 100, 300), (1.33, 90, 120), (0, 50, 100)],
)
def test_warm_up_lasts_at_least_100_iterations(epochs: float, batches: int, expected: int) -> None:
    assert warmup_iterations(epochs, batches) == expected


def test_warm_up_keeps_its_share_if_its_length_changes() -> None:
    """Nine batches per epoch, then 6, 3 and 2: 450, 300, 150 and 100 iterations of 50 epochs."""
    warmup = WarmUp(450, bias_lr=0.1, momentum=0.8)
    for iteration, length in ((9, 300), (15, 150), (18, 100)):
        warmup = warmup.with_length(iteration, length)
    assert warmup.changes == ((9, 300), (15, 150), (18, 100))
    assert warmup.length == 100
    shares = {0: 0.0, 8: 8 / 450, 9: 0.02, 12: 0.03, 15: 0.04, 16: 0.04 + 1 / 150, 18: 0.06}
    shares |= {20: 0.08, 112: 1.0, 113: 1.01}  # the rest, 0.94, takes 94 iterations
    assert [warmup.share(i) for i in shares] == pytest.approx(list(shares.values()), rel=1e-12)


def test_warm_up_that_is_over_stays_over() -> None:
    warmup = WarmUp(100, bias_lr=0.1, momentum=0.8)
    assert warmup.with_length(100, 900) is warmup
    assert warmup.with_length(50, 100) is warmup  # the same length
    changed = warmup.with_length(50, 900)
    assert changed.with_length(50, 200).changes == ((50, 200),)  # no batch was trained between
    assert changed.with_length(500, 100) is changed


def test_changed_warm_up_does_not_change_earlier_settings() -> None:
    plan = plan_of(base_segment(4, "linear", 0.2))
    changed = replace(plan, warmup=plan.warmup.with_length(60, 200))
    assert [changed.settings(0, i) for i in range(61)] == [plan.settings(0, i) for i in range(61)]
    settings = changed.settings(1, 80)  # 0.6 + 20 / 200 = 0.7
    assert settings.lr == pytest.approx(0.01 * 0.8 * 0.7)
    assert settings.bias_lr == pytest.approx(0.1 + (0.01 * 0.8 - 0.1) * 0.7)
    assert settings.momentum == pytest.approx(0.8 + 0.137 * 0.7)
    assert settings.accumulate == 3  # 1 + 3 * 0.7, rounded
    assert changed.settings(1, 141) == plan.settings(1, 101)  # 60 + 0.4 * 200 = 140 is the last
    assert Plan.from_dict(json.loads(json.dumps(changed.to_dict()))) == changed
    assert "changes" not in plan.to_dict()["warmup"]  # so that its digest stays the same


@pytest.mark.parametrize(("batch", "factor"), [(16, 1.0), (24, 1.125), (48, 0.75), (128, 2.0)])
def test_weight_decay_is_scaled_to_the_effective_batch(batch: int, factor: float) -> None:
    effective = batch * accumulation(64, batch)
    assert scaled_weight_decay(0.0005, effective, 64) == pytest.approx(0.0005 * factor)


def test_plan_to_dict_and_back() -> None:
    plan = plan_of(
        base_segment(4, "cosine", 0.2),
        Segment(mode="slope-match", start=4, epochs=2, law="cosine", lrf=0.2, level=0.3, slope=0.1),
    )
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
