import json
from itertools import pairwise
from typing import Any

import pytest

from tests.paths import GOLDENS
from tests.utils.solver.test_schedule import plan_of
from utils.errors import UserError
from utils.solver.continuation import Extension, counted_from, extend_plan, first_flat_epoch
from utils.solver.modes import JUMPING_MODES, SLOPED_MODES
from utils.solver.schedule import FINISH, MODES, Plan, base_segment

SEAMLESS = tuple(mode for mode in MODES if mode not in JUMPING_MODES)


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


def test_slope_match_keeps_the_slope_if_it_lasts_to_the_last_epoch() -> None:
    plan = extend_plan(base(10, lrf=0.5), 10, Extension(2, "slope-match"))
    assert plan.factors()[8:] == pytest.approx([0.6, 0.55, 0.55, 0.5])


def test_slope_match_of_a_stopped_run_ends_at_its_lrf() -> None:
    plan = extend_plan(base(4), 2, Extension(2, "slope-match"))
    # a = 0.8, N = 4 + 2 - 2 = 4, (0.8 - 0.2) / 4 = 0.15 < S0
    assert plan.factors() == pytest.approx([1.0, 0.8, 0.8, 0.65, 0.5, 0.35])


def test_slope_original_is_flat_at_its_floor() -> None:
    plan = extend_plan(base(4), 4, Extension(4, "slope-match", slope="original"))
    assert plan.factors()[4:] == pytest.approx([0.4, 0.2, 0.08, 0.08])  # 0.4 * 0.2


def test_ramp_reaches_the_peak_and_the_law_starts_there() -> None:
    plan = extend_plan(base(4), 4, Extension(4, "rebase", peak=0.8, rewarm_epochs=2))
    # a = 0.4, two epochs up to 0.8, then the law over the remaining two
    assert plan.factors()[4:] == pytest.approx([0.4, 0.6, 0.8, 0.8 * 0.6])


def test_restart_with_a_ramp() -> None:
    plan = extend_plan(base(4), 4, Extension(4, "restart", rewarm_epochs=2))
    # the law over the new total gives 0.6 0.5 0.4 0.3; the ramp leads from 0.4 to its 0.4
    assert plan.factors()[4:] == pytest.approx([0.4, 0.4, 0.4, 0.3])


def test_cooldown_ends_at_the_final_fraction() -> None:
    plan = extend_plan(base(4), 4, Extension(4, "hold", cooldown_epochs=2))
    assert plan.factors()[4:] == pytest.approx([0.4, 0.4, 0.24, 0.08])


def test_cooldown_with_the_shape_of_a_root() -> None:
    extension = Extension(6, "hold", cooldown_epochs=4, cooldown_shape="1-sqrt")
    plan = extend_plan(base(4), 4, extension)
    top, end = 0.4, 0.4 * 0.2
    roots = [0.5, 0.7071067811865476, 0.8660254037844386, 1.0]  # of 1/4, 2/4, 3/4, 4/4
    assert plan.factors()[4:6] == [plan.factor(3)] * 2
    assert plan.factors()[6:] == pytest.approx([top + (end - top) * root for root in roots])


@pytest.mark.parametrize(
    ("completed", "epochs", "lrf", "shape", "expected"),
    [
        # linear 1 -> 0.2 over 10 epochs: a = 0.76 after 4, 0.92 after 2
        (4, 4, None, "linear", [0.62, 0.48, 0.34, 0.2]),
        (4, 2, 0.5, "linear", [0.63, 0.5]),
        (2, 1, None, "linear", [0.2]),
        (4, 4, None, "1-sqrt", [0.48, 0.36402020245, 0.27502577388, 0.2]),
        (4, 6, 0.0, "linear", [0.6333333333, 0.5066666667, 0.38, 0.2533333333, 0.1266666667, 0.0]),
    ],
)
def test_finish_descends_from_the_rate_in_use_to_the_final_one(
    completed: int, epochs: int, lrf: float | None, shape: str, expected: list[float]
) -> None:
    extension = Extension(epochs, FINISH, lrf=lrf, cooldown_shape=shape)
    plan = base(10)
    finished = extend_plan(plan, completed, counted_from(completed, plan, extension))
    assert finished.total_epochs == completed + epochs
    assert finished.factors()[:completed] == plan.factors()[:completed]
    assert finished.factors()[completed:] == pytest.approx(expected)


def test_finish_of_an_extension_is_at_most_as_long_as_the_rest_of_it() -> None:
    plan = extend_plan(base(4), 4, Extension(6, "hold"))
    longest = counted_from(7, plan, Extension(3, FINISH))
    assert extend_plan(plan, 7, longest).total_epochs == 10
    with pytest.raises(UserError, match=r"--finish-epochs 4: 3 of 10 epochs are left"):
        extend_plan(plan, 7, counted_from(7, plan, Extension(4, FINISH)))


def test_decayed_run_is_warmed_up_held_and_decayed_again() -> None:
    # WSD-S, arXiv 2410.05192: the run continues from the decayed weights, at the earlier rate.
    stable = extend_plan(base(4), 4, Extension(4, "hold", cooldown_epochs=2))
    again = Extension(5, "hold", peak=0.4, rewarm_epochs=1, cooldown_epochs=2)
    factors = extend_plan(stable, 8, again).factors()
    assert factors[4:8] == pytest.approx([0.4, 0.4, 0.24, 0.08])
    assert factors[8:] == pytest.approx([0.08, 0.4, 0.4, 0.24, 0.08])


def test_epochs_count_from_those_done_instead_of_the_planned_ones() -> None:
    plan = base(10)
    counted = counted_from(4, plan, Extension(3, "hold"))
    assert extend_plan(plan, 4, counted).factors()[3:] == [plan.factor(3)] * 4
    untrained = extend_plan(plan, 4, counted)  # an extension that is replaced does not count
    assert counted_from(4, untrained, Extension(3, "hold")) == counted


def test_last_epochs_of_a_segment_have_no_mosaic() -> None:
    start = plan_of(base_segment(10, "linear", 0.2, close_mosaic=2))
    plan = extend_plan(start, 9, Extension(4, "hold", close_mosaic=1))
    plan = extend_plan(plan, 14, Extension(2, "hold"))
    # of the last two of ten epochs, one was trained before the seam
    assert [epoch for epoch in range(16) if not plan.uses_mosaic(epoch)] == [8, 13]
    with pytest.raises(UserError, match=r"--close-mosaic 3: must be at most 2, the epochs to t"):
        extend_plan(plan, 16, Extension(2, "hold", close_mosaic=3))


def golden_extension(saved: dict[str, Any]) -> Extension:
    """Return an extension of a case of the goldens."""
    return Extension(
        epochs=saved["extra"],
        mode=saved["mode"],
        slope=saved.get("slope", "fit"),
        lrf=saved.get("lrf"),
        peak=saved.get("peak"),
        rewarm_epochs=saved.get("rewarm", 0),
        cooldown_epochs=saved.get("cooldown", 0),
    )


def test_factors_of_a_saved_and_loaded_plan_equal_the_goldens() -> None:
    cases = json.loads((GOLDENS / "lr_continuation.json").read_text())
    assert len(cases) == 41
    for case in cases:
        plan = base(case["epochs"], case["law"], case["lrf"])
        for e in case["extensions"]:
            plan = extend_plan(plan, e["done"], golden_extension(e))
            plan = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
        assert plan.factors() == pytest.approx(case["factors"], abs=1e-9), case["extensions"]


@pytest.mark.parametrize("law", ["linear", "cosine", "linear-v5.0"])
@pytest.mark.parametrize("completed", [1, 5, 12, 20])
@pytest.mark.parametrize("extra", [1, 7, 200])
def test_chained_seamless_modes_are_continuous_and_never_rise(
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
def test_untrained_extension_is_replaced(first: str, second: str, completed: int) -> None:
    once = extend_plan(base(4), completed, Extension(40, first))
    again = extend_plan(once, completed, Extension(2, second))
    assert again == extend_plan(base(4), completed, Extension(2, second))
    assert again.total_epochs == 6


def test_untrained_extension_at_the_end_of_a_chain_is_replaced() -> None:
    trained = extend_plan(base(4), 4, Extension(4, "hold"))
    chain = extend_plan(extend_plan(trained, 8, Extension(100)), 8, Extension(3, "restart"))
    assert [(s.mode, s.start, s.stop) for s in chain.segments] == [
        ("base", 0, 4),
        ("hold", 4, 8),
        ("restart", 8, 11),
    ]


def test_slope_match_that_replaces_an_untrained_extension_equals_that_of_a_finished_run() -> None:
    once = extend_plan(base(4), 4, Extension(4, "hold"))
    plan = extend_plan(once, 4, Extension(4, "slope-match"))
    assert plan.factors()[4:] == pytest.approx([0.4, 0.3, 0.2, 0.1])  # down to zero, not to lrf


def test_restart_in_a_chain_follows_the_law_of_the_run() -> None:
    plan = extend_plan(base(4, "linear-v5.0"), 4, Extension(4, "rebase"))
    plan = extend_plan(plan, 8, Extension(4, "restart"))
    assert plan.factor(8) == pytest.approx(1 - 0.8 * 8 / 11)  # linear-v5.0 over 12 epochs


@pytest.mark.parametrize("mode", MODES)
def test_factors_before_the_seam_do_not_change(mode: str) -> None:
    before = base(6, "cosine")
    after = extend_plan(before, 4, Extension(3, mode))
    assert after.factors()[:4] == before.factors()[:4]
    assert after.total_epochs == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"slope": "original"},
            f"--slope original needs --lr-continuation {' or '.join(SLOPED_MODES)}; rebase has no "
            "slope",
        ),
        ({"peak": 0.5}, "--peak needs --rewarm-epochs K"),
        ({"peak": 0.0, "rewarm_epochs": 1}, "--peak 0.0: must be above 0 and at most 1"),
        (
            {"peak": 0.5, "rewarm_epochs": 1, "mode": "restart"},
            "--peak cannot be combined with restart",
        ),
        (
            {"rewarm_epochs": 1},
            "--rewarm-epochs has no effect: rebase continues at the learning rate of the seam; add "
            "--peak P, or use --lr-continuation",
        ),
    ],
)
def test_contradictory_options_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Extension(**{"epochs": 4, **options})


def test_impossible_extension_is_rejected() -> None:
    with pytest.raises(UserError, match="this run has no completed epoch"):
        extend_plan(base(4), 0, Extension(4))
    with pytest.raises(
        UserError,
        match=r"--cooldown-epochs 4: must leave at least one of the 4 epochs after the seam",
    ):
        extend_plan(base(4), 4, Extension(4, "hold", cooldown_epochs=4))


def test_rising_cooldown_is_rejected_with_a_remedy_that_works() -> None:
    # The line down to zero is at a / 300 in its last epoch; the cooldown would end at a / 5.
    with pytest.raises(UserError) as caught:
        extend_plan(base(300), 300, Extension(300, "slope-match", cooldown_epochs=1))
    assert str(caught.value) == (
        "--cooldown-epochs 1 would raise the learning rate: it ends at lrf 0.2 of the starting "
        "level, but slope-match is already at 0.00333 of it; omit --cooldown-epochs, or use --lrf "
        "0.003."
    )
    extension = Extension(300, "slope-match", lrf=0.003, cooldown_epochs=1)
    *_, before, last = extend_plan(base(300), 300, extension).factors()
    assert last < before


@pytest.mark.parametrize("mode", MODES)
def test_falling_cooldown_is_accepted(mode: str) -> None:
    # With 60 of 300 epochs, slope-match is at a / 5 when the cooldown starts: it is constant.
    plan = extend_plan(base(300), 300, Extension(300, mode, cooldown_epochs=60))
    assert all(b <= a for a, b in pairwise(plan.factors()[301:]))
    stopped = extend_plan(base(300), 150, Extension(1, mode, cooldown_epochs=1))
    assert all(b <= a for a, b in pairwise(stopped.factors()[151:]))


@pytest.mark.parametrize(
    ("plan", "extension", "epoch"),
    [
        # a = 0.4 after a decline of 0.2 per epoch, whose floor is 0.4 * 0.2: 0.4 0.2 0.08
        (base(4), Extension(4, "slope-match", slope="original"), 6),
        (base(4), Extension(4, "slope-match", slope="original", lrf=0.0), 6),  # 0.4 0.2 0
        (base(4), Extension(2, "slope-match", slope="original"), None),  # ends before the floor
        (base(4), Extension(4, "slope-match"), None),
        (base(4), Extension(4, "hold"), None),
        (base(4, "linear-v5.0", 0.0), Extension(4, "slope-match"), None),  # starts at zero
        # 0.4 0.6 | 0.8 0.6 0.48 0.48 0.48: the ramp starts below the floor of 0.8 * 0.6, but rises
        (
            base(4),
            Extension(7, "slope-match", slope="original", peak=0.8, lrf=0.6, rewarm_epochs=2),
            8,
        ),
    ],
)
def test_first_flat_epoch(plan: Plan, extension: Extension, epoch: int | None) -> None:
    assert first_flat_epoch(extend_plan(plan, 4, extension).segments[-1]) == epoch
