import json
from itertools import pairwise
from typing import Any

import pytest

from tests.paths import GOLDENS, requires_shared
from tests.utils.solver.test_schedule import plan_of
from utils.errors import UserError
from utils.solver.continuation import Extension, extend_plan, flat_from
from utils.solver.modes import JUMPING, SLOPED
from utils.solver.schedule import MODES, Plan, base_segment

SEAMLESS = tuple(mode for mode in MODES if mode not in JUMPING)


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
    plan = extend_plan(base(4), 4, Extension(4, mode))
    assert plan.factors() == pytest.approx([1.0, 0.8, 0.6, 0.4, *expected])


def test_slope_match_goes_on_unbroken_while_there_is_room() -> None:
    plan = extend_plan(base(10, lrf=0.5), 10, Extension(2, "slope-match"))
    assert plan.factors()[8:] == pytest.approx([0.6, 0.55, 0.55, 0.5])


def test_slope_match_of_a_stopped_run_comes_down_to_its_lrf() -> None:
    plan = extend_plan(base(4), 2, Extension(2, "slope-match"))
    # a = 0.8, N = 4 + 2 - 2 = 4, (0.8 - 0.2) / 4 = 0.15 < S0
    assert plan.factors() == pytest.approx([1.0, 0.8, 0.8, 0.65, 0.5, 0.35])


def test_slope_original_goes_flat_at_its_floor() -> None:
    plan = extend_plan(base(4), 4, Extension(4, "slope-match", slope="original"))
    assert plan.factors()[4:] == pytest.approx([0.4, 0.2, 0.08, 0.08])  # 0.4 * 0.2


def test_a_peak_is_reached_by_a_ramp_and_the_law_runs_from_there() -> None:
    plan = extend_plan(base(4), 4, Extension(4, "rebase", peak=0.8, rewarm_epochs=2))
    # a = 0.4, two epochs up to 0.8, then the law over the two that are left
    assert plan.factors()[4:] == pytest.approx([0.4, 0.6, 0.8, 0.8 * 0.6])


def test_a_restart_can_be_warmed_up_to() -> None:
    plan = extend_plan(base(4), 4, Extension(4, "restart", rewarm_epochs=2))
    # the re-planned law gives 0.6 0.5 0.4 0.3; two epochs lead from 0.4 to its 0.4
    assert plan.factors()[4:] == pytest.approx([0.4, 0.4, 0.4, 0.3])


def test_a_cooldown_descends_to_the_final_fraction() -> None:
    plan = extend_plan(base(4), 4, Extension(4, "hold", cooldown_epochs=2))
    assert plan.factors()[4:] == pytest.approx([0.4, 0.4, 0.24, 0.08])


@requires_shared
def test_every_case_equals_the_golden_from_a_plan_that_was_saved_and_read() -> None:
    cases = json.loads((GOLDENS / "lr_continuation.json").read_text())
    assert len(cases) == 41
    for case in cases:
        plan = base(case["epochs"], case["law"], case["lrf"])
        for e in case["extensions"]:
            extension = Extension(
                epochs=e["extra"],
                mode=e["mode"],
                slope=e.get("slope", "fit"),
                lrf=e.get("lrf"),
                peak=e.get("peak"),
                rewarm_epochs=e.get("rewarm", 0),
                cooldown_epochs=e.get("cooldown", 0),
            )
            plan = extend_plan(plan, e["done"], extension)
            plan = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
        assert plan.factors() == pytest.approx(case["factors"], abs=1e-9), case["extensions"]


@pytest.mark.parametrize("law", ["linear", "cosine", "linear-v5.0"])
@pytest.mark.parametrize("completed", [1, 5, 12, 20])
@pytest.mark.parametrize("extra", [1, 7, 200])
def test_chains_of_seamless_modes_meet_exactly_and_never_rise(
    law: str, completed: int, extra: int
) -> None:
    for first in SEAMLESS:
        for second in SEAMLESS:
            plan = extend_plan(base(20, law, 0.07), completed, Extension(extra, first))
            plan = extend_plan(plan, completed + 1, Extension(9, second))
            factors = plan.factors()
            assert factors[completed] == factors[completed - 1]
            assert factors[completed + 1] == factors[completed]
            assert all(b <= a for a, b in pairwise(factors))
            assert min(factors) >= 0


@pytest.mark.parametrize("completed", [2, 4])
@pytest.mark.parametrize("second", MODES)
@pytest.mark.parametrize("first", MODES)
def test_an_extension_that_was_not_trained_leaves_no_trace(
    first: str, second: str, completed: int
) -> None:
    once = extend_plan(base(4), completed, Extension(40, first))
    again = extend_plan(once, completed, Extension(2, second))
    assert again == extend_plan(base(4), completed, Extension(2, second))
    assert again.total_epochs == 6


def test_the_untrained_end_of_a_chain_is_chosen_anew() -> None:
    trained = extend_plan(base(4), 4, Extension(4, "hold"))
    chain = extend_plan(extend_plan(trained, 8, Extension(100)), 8, Extension(3, "restart"))
    assert [(s.mode, s.start, s.stop) for s in chain.segments] == [
        ("base", 0, 4),
        ("hold", 4, 8),
        ("restart", 8, 11),
    ]


def test_slope_match_chosen_anew_is_that_of_a_finished_run() -> None:
    once = extend_plan(base(4), 4, Extension(4, "hold"))
    plan = extend_plan(once, 4, Extension(4, "slope-match"))
    assert plan.factors()[4:] == pytest.approx([0.4, 0.3, 0.2, 0.1])  # down to zero, not to lrf


def test_the_new_law_of_a_chain_is_the_run_s_own() -> None:
    plan = extend_plan(base(4, "linear-v5.0"), 4, Extension(4, "rebase"))
    plan = extend_plan(plan, 8, Extension(4, "restart"))
    assert plan.factor(8) == pytest.approx(1 - 0.8 * 8 / 11)  # linear-v5.0 over 12 epochs


@pytest.mark.parametrize("mode", MODES)
def test_nothing_before_the_seam_changes(mode: str) -> None:
    before = base(6, "cosine")
    after = extend_plan(before, 4, Extension(3, mode))
    assert after.factors()[:4] == before.factors()[:4]
    assert after.total_epochs == 9


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"epochs": 0}, "--extend-epochs 0: give the epochs to add, at least 1"),
        ({"mode": "jump"}, "--lr-continuation jump: choose one of rebase"),
        ({"slope": "steep"}, "--slope steep: choose one of fit, original"),
        (
            {"slope": "original"},
            f"--slope original belongs to {' and '.join(SLOPED)}; rebase has no slope",
        ),
        ({"lrf": 1.5}, "--lrf 1.5: give a fraction"),
        ({"peak": 0.5}, "--peak needs --rewarm-epochs K"),
        ({"peak": 0.0, "rewarm_epochs": 1}, "--peak 0.0: give a fraction of lr0"),
        ({"peak": 0.5, "rewarm_epochs": 1, "mode": "restart"}, "--peak does not go with restart"),
        ({"rewarm_epochs": 1}, "rebase goes on at the seam's rate, there is nothing to warm up to"),
        ({"cooldown_epochs": -1}, "cannot be negative"),
    ],
)
def test_wishes_that_contradict_each_other(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Extension(**{"epochs": 4, **wish})


def test_what_cannot_be_extended() -> None:
    with pytest.raises(UserError, match="no epoch of this run is completed"):
        extend_plan(base(4), 0, Extension(4))
    with pytest.raises(UserError, match=r"of the 4 epochs after the seam, .* would leave none"):
        extend_plan(base(4), 4, Extension(4, "hold", cooldown_epochs=4))


def test_a_cooldown_that_would_go_up_is_refused_with_a_remedy_that_works() -> None:
    # The line down to zero is at a / 300 in its last epoch, where the cooldown asks for a / 5.
    with pytest.raises(UserError) as caught:
        extend_plan(base(300), 300, Extension(300, "slope-match", cooldown_epochs=1))
    assert str(caught.value) == (
        "--cooldown-epochs 1 would raise the rate: it ends at lrf 0.2 of the starting level, and "
        "slope-match has come down to 0.00333 of it by then; leave it out, or give --lrf 0.003."
    )
    wish = Extension(300, "slope-match", lrf=0.003, cooldown_epochs=1)
    *_, before, last = extend_plan(base(300), 300, wish).factors()
    assert last < before


@pytest.mark.parametrize("mode", MODES)
def test_a_cooldown_that_goes_down_is_not_refused(mode: str) -> None:
    # With 60 of 300 epochs, slope-match is at a / 5 when the cooldown to a / 5 begins: level.
    plan = extend_plan(base(300), 300, Extension(300, mode, cooldown_epochs=60))
    assert all(b <= a for a, b in pairwise(plan.factors()[301:]))
    stopped = extend_plan(base(300), 150, Extension(1, mode, cooldown_epochs=1))
    assert all(b <= a for a, b in pairwise(stopped.factors()[151:]))


@pytest.mark.parametrize(
    ("plan", "wish", "epoch"),
    [
        # a = 0.4 after a decline of 0.2 per epoch, whose floor is 0.4 * 0.2: 0.4 0.2 0.08
        (base(4), Extension(4, "slope-match", slope="original"), 6),
        (base(4), Extension(4, "slope-match", slope="original", lrf=0.0), 6),  # 0.4 0.2 0
        (base(4), Extension(2, "slope-match", slope="original"), None),  # ends before
        (base(4), Extension(4, "slope-match"), None),
        (base(4), Extension(4, "hold"), None),
        (base(4, "linear-v5.0", 0.0), Extension(4, "slope-match"), None),  # nothing to begin with
        # 0.4 0.6 | 0.8 0.6 0.4 0.2 0.16: the ramp begins below the floor of 0.8 * 0.6, and is none
        (
            base(4),
            Extension(7, "slope-match", slope="original", peak=0.8, lrf=0.6, rewarm_epochs=2),
            8,
        ),
    ],
)
def test_the_epoch_from_which_a_line_is_flat(
    plan: Plan, wish: Extension, epoch: int | None
) -> None:
    assert flat_from(extend_plan(plan, 4, wish).segments[-1]) == epoch
