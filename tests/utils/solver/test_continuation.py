import json
from itertools import pairwise

import pytest

from tests.paths import GOLDENS, requires_shared
from tests.utils.solver.test_schedule import plan_of
from utils.errors import UserError
from utils.solver.continuation import extend_plan
from utils.solver.schedule import MODES, Plan, base_segment

SEAMLESS = ("rebase", "slope-match", "hold")
MODIFIERS = {"slope", "rewarm", "cooldown", "peak"}


def base(epochs: int, law: str = "linear", lrf: float = 0.2) -> Plan:
    return plan_of(base_segment(epochs, law, lrf))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # base, linear 1 -> 0.2 over 4 epochs: 1.0 0.8 0.6 0.4; a = 0.4, S0 = 0.2, N = 4
        ("rebase", [0.4, 0.32, 0.24, 0.16]),
        ("slope-match", [0.4, 0.3, 0.2, 0.1]),  # room for 0.4 / 4 per epoch only
        ("hold", [0.4, 0.4, 0.4, 0.4]),
        ("restart", [0.6, 0.5, 0.4, 0.3]),  # the law over 8 epochs, from its middle
    ],
)
def test_four_epochs_extended_by_four(mode: str, expected: list[float]) -> None:
    plan = extend_plan(base(4), completed=4, extra=4, mode=mode)
    assert plan.factors() == pytest.approx([1.0, 0.8, 0.6, 0.4, *expected])


def test_slope_match_goes_on_unbroken_while_there_is_room() -> None:
    plan = extend_plan(base(10, lrf=0.5), completed=10, extra=2, mode="slope-match")
    assert plan.factors()[8:] == pytest.approx([0.6, 0.55, 0.55, 0.5])


def test_slope_match_of_a_stopped_run_comes_down_to_its_lrf() -> None:
    plan = extend_plan(base(4), completed=2, extra=2, mode="slope-match")
    # a = 0.8, N = 4 + 2 - 2 = 4, (0.8 - 0.2) / 4 = 0.15 < S0
    assert plan.factors() == pytest.approx([1.0, 0.8, 0.8, 0.65, 0.5, 0.35])


@requires_shared
def test_every_case_without_modifiers_equals_the_golden() -> None:
    cases = json.loads((GOLDENS / "lr_continuation.json").read_text())
    plain = [c for c in cases if not any(MODIFIERS & set(e) for e in c["extensions"])]
    assert len(plain) == 35
    for case in plain:
        plan = base(case["epochs"], case["law"], case["lrf"])
        for e in case["extensions"]:
            plan = extend_plan(plan, e["done"], e["extra"], e["mode"], e.get("lrf"))
        assert plan.factors() == pytest.approx(case["factors"], abs=1e-9), case["extensions"]


@pytest.mark.parametrize("law", ["linear", "cosine", "linear-v5.0"])
@pytest.mark.parametrize("completed", [1, 5, 12, 20])
@pytest.mark.parametrize("extra", [1, 7, 200])
def test_chains_of_seamless_modes_meet_exactly_and_never_rise(
    law: str, completed: int, extra: int
) -> None:
    for first in SEAMLESS:
        for second in SEAMLESS:
            plan = extend_plan(base(20, law, 0.07), completed, extra, first)
            plan = extend_plan(plan, completed + 1, 9, second)
            factors = plan.factors()
            assert factors[completed] == factors[completed - 1]
            assert factors[completed + 1] == factors[completed]
            assert all(b <= a for a, b in pairwise(factors))
            assert min(factors) >= 0


def test_extending_twice_at_one_seam_leaves_no_empty_segment() -> None:
    once = extend_plan(base(4), completed=4, extra=4, mode="hold")
    twice = extend_plan(once, completed=4, extra=2, mode="rebase")
    assert [s.mode for s in twice.segments] == ["base", "rebase"]
    assert twice.total_epochs == 10


def test_the_new_law_of_a_chain_is_the_run_s_own() -> None:
    plan = extend_plan(base(4, "linear-v5.0"), completed=4, extra=4, mode="rebase")
    plan = extend_plan(plan, completed=8, extra=4, mode="restart")
    assert plan.factor(8) == pytest.approx(1 - 0.8 * 8 / 11)  # linear-v5.0 over 12 epochs


@pytest.mark.parametrize("mode", MODES)
def test_nothing_before_the_seam_changes(mode: str) -> None:
    before = base(6, "cosine")
    after = extend_plan(before, completed=4, extra=3, mode=mode)
    assert after.factors()[:4] == before.factors()[:4]
    assert after.total_epochs == 9


@pytest.mark.parametrize(
    ("completed", "extra", "mode", "message"),
    [
        (4, 0, "hold", "--extend-epochs 0: give the number of epochs to add"),
        (0, 4, "hold", "no epoch of this run is completed"),
        (4, 4, "jump", "--lr-continuation jump: choose one of rebase"),
    ],
)
def test_what_cannot_be_extended(completed: int, extra: int, mode: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        extend_plan(base(4), completed, extra, mode)
