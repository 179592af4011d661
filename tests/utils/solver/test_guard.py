import dataclasses
import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from tests.paths import GOLDENS
from tests.utils.solver.test_continuation import golden_extension
from tests.utils.solver.test_schedule import LAWS, plan_of
from utils.errors import UserError
from utils.solver.continuation import Extension, extend_plan
from utils.solver.guard import check_applied_rates, check_planned_rates, check_recorded_rates
from utils.solver.modes import JUMPING_MODES, SLOPED_MODES
from utils.solver.plan_forensics import RATE_COLUMNS
from utils.solver.schedule import MODES, Plan, Segment, base_segment

BATCHES = 7  # per epoch: the warm-up of a hundred iterations ends within epoch 14

Row = dict[str, float]


def base(epochs: int, law: str = "linear", lrf: float = 0.2) -> Plan:
    return plan_of(base_segment(epochs, law, lrf))


def recorded(plan: Plan, epochs: int, batches: int = BATCHES) -> list[Row]:
    """Return the history of a run that followed the plan."""
    rows = []
    for epoch in range(epochs):
        iteration = (epoch + 1) * batches
        rates = plan.settings(epoch, iteration - 1).rates
        rows.append(
            {"epoch": epoch, "iteration": iteration} | dict(zip(RATE_COLUMNS, rates, strict=True))
        )
    return rows


def edited(plan: Plan, number: int = 0, **changes: Any) -> Plan:
    """Return the plan with other values in one segment."""
    segments = list(plan.segments)
    segments[number] = dataclasses.replace(segments[number], **changes)
    return dataclasses.replace(plan, segments=tuple(segments))


def golden_plans() -> Iterator[tuple[Plan, int]]:
    """Yield every plan of the goldens between two extensions, and the epochs trained with it."""
    for case in json.loads((GOLDENS / "lr_continuation.json").read_text()):
        plan = base(case["epochs"], case["law"], case["lrf"])
        for e in case["extensions"]:
            yield plan, e["done"]
            plan = extend_plan(plan, e["done"], golden_extension(e))
        yield plan, plan.total_epochs


def test_goldens_resumed_at_every_epoch_pass() -> None:
    plans = list(golden_plans())
    assert len(plans) == 85
    for plan, trained in plans:
        # A check of the whole run covers the checks at each of its epochs.
        check_planned_rates(plan, 0)
        for batches in (1, BATCHES, 150):
            check_recorded_rates(plan, recorded(plan, trained, batches))
        for row in recorded(plan, trained):
            rates = [row[name] for name in RATE_COLUMNS]
            check_applied_rates(plan, int(row["epoch"]), int(row["iteration"]), rates)


def extensions_of(mode: str) -> list[Extension]:
    """Return extensions in a mode, with every modifier that the mode supports."""
    ramps: list[dict[str, Any]] = [{}]
    ramps += (
        [{"rewarm_epochs": 2}] if mode in JUMPING_MODES else [{"peak": 0.7, "rewarm_epochs": 2}]
    )
    slopes = ("fit", "original") if mode in SLOPED_MODES else ("fit",)
    return [
        Extension(9, mode, slope=slope, lrf=lrf, cooldown_epochs=cooldown, **ramp)
        for ramp, slope, lrf, cooldown in product(ramps, slopes, (None, 0.5), (0, 4))
    ]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("lrf", [0.0, 0.01, 0.3])
def test_chains_of_modes_and_modifiers_pass(law: str, lrf: float) -> None:
    every = [extension for mode in MODES for extension in extensions_of(mode)]
    start = base(12, law, lrf)
    checked = 0
    for first, second in product(every, every):
        for seam in (5, 12):
            try:
                plan = extend_plan(start, seam, first)
                plan = extend_plan(plan, plan.total_epochs - 3, second)
            except UserError as error:
                assert "would raise the learning rate" in str(error)  # noqa: PT017 -- of some chains only
                continue
            checked += 1
            check_recorded_rates(plan, recorded(plan, plan.total_epochs, batches=30))
            check_planned_rates(plan, 0)
    assert checked > len(every) ** 2


@pytest.mark.parametrize("name", RATE_COLUMNS)
def test_each_group_is_checked(name: str) -> None:
    history = recorded(base(60), 30)
    history[3][name] *= 1 + 1e-8
    with pytest.raises(UserError, match="epoch 3 was trained"):
        check_recorded_rates(base(60), history)


def test_rows_of_an_imported_run_are_not_checked() -> None:
    # Their rates are rounded and may lag by one epoch; they have no iteration.
    rows = recorded(base(60), 30)
    for row in rows:
        del row["iteration"]
    check_recorded_rates(base(600), rows)


def test_rows_without_rates_are_not_checked() -> None:
    check_recorded_rates(
        base(9), [{"epoch": 0.0}, {"epoch": 1.0} | dict.fromkeys(RATE_COLUMNS, float("nan"))]
    )
    check_recorded_rates(base(9), [])


def test_only_a_declared_restart_may_rise() -> None:
    plan = extend_plan(base(30), 30, Extension(30, "restart"))
    check_planned_rates(plan, 30)
    with pytest.raises(UserError) as caught:
        check_planned_rates(edited(plan, 1, mode="hold", level=0.6), 30)
    assert str(caught.value) == (
        "the learning rate would rise from 0.00226667 in epoch 29 to 0.006 in epoch 30 "
        "(a factor of 2.647), which the plan does not declare: it has 60 epochs (linear over 30, "
        "lr0 0.01, lrf 0.2; hold from 30). Resume from an unedited checkpoint of the run, such as "
        "weights/last_prev.pt, or request a higher rate "
        f"with --extend-epochs and --lr-continuation {' or '.join(JUMPING_MODES)}, or --peak."
    )


def test_base_segment_shortened_after_an_extension_is_rejected() -> None:
    plan = edited(extend_plan(base(300), 100, Extension(30, "hold")), 0, epochs=100)
    with pytest.raises(UserError, match=r"rise from 0\.00208 in epoch 99 to 0\.00736 in epoch 100"):
        check_planned_rates(plan, 100)


def test_completed_epochs_are_not_checked_for_jumps() -> None:
    plan = edited(extend_plan(base(30), 20, Extension(30, "hold")), 1, level=0.9)
    with pytest.raises(UserError, match="in epoch 20"):
        check_planned_rates(plan, 20)
    check_planned_rates(plan, 21)


def test_ramp_and_the_epoch_after_it_are_declared() -> None:
    # 0.0133 -> 0.3 in three epochs: 0.0133 0.1089 0.2044 0.3
    plan = extend_plan(base(300, lrf=0.01), 300, Extension(30, peak=0.3, rewarm_epochs=3))
    check_planned_rates(plan, 300)
    one = extend_plan(base(300, lrf=0.01), 300, Extension(30, peak=0.3, rewarm_epochs=1))
    assert one.factors()[300:302] == pytest.approx([0.0133, 0.3])
    check_planned_rates(one, 300)


def test_rise_by_exactly_one_and_a_half_passes() -> None:
    held = [
        Segment(mode="hold", start=start, epochs=3, law="linear", lrf=0.2, level=level)
        for start, level in ((1, 0.25), (2, 0.375), (3, 0.75))
    ]
    plan = plan_of(base_segment(1, "linear", 0.2), *held)
    with pytest.raises(UserError, match=r"in epoch 2 to 0\.0075 in epoch 3 \(a factor of 2\)"):
        check_planned_rates(plan, 1)


def test_rise_from_zero() -> None:
    plan = extend_plan(base(4, "linear-v5.0", 0.0), 4, Extension(4, "hold"))
    check_planned_rates(plan, 4)
    with pytest.raises(UserError, match=r"from 0 in epoch 3 to 1e-05 in epoch 4 \(from zero\)"):
        check_planned_rates(edited(plan, 1, level=0.001), 4)


@pytest.mark.parametrize(
    ("number", "edit"),
    [(1, {"lrf": 0.9, "cooldown": 1}), (1, {"slope": -0.3}), (0, {"lrf": 99.0})],
    ids=["cooldown", "slope", "final fraction"],
)
def test_segment_edited_to_rise_is_rejected(number: int, edit: dict[str, float]) -> None:
    plan = edited(extend_plan(base(30), 20, Extension(300, "slope-match")), number, **edit)
    with pytest.raises(UserError, match="which the plan does not declare"):
        check_planned_rates(plan, 1)


def test_applied_rates_are_checked() -> None:
    plan = base(60)
    warming = plan.settings(3, 27).rates
    check_applied_rates(plan, 3, 28, warming)
    check_applied_rates(plan, 30, 31 * BATCHES, (0.01 * plan.factor(30),) * 3)
    with pytest.raises(UserError) as caught:
        check_applied_rates(plan, 30, 31 * BATCHES, (0.006, 0.006, 0.007))
    assert str(caught.value) == (
        "epoch 30 was trained with a learning rate of 0.007 (norm weights), but the run's "
        "plan, 60 epochs (linear, lr0 0.01, lrf 0.2), gives 0.006; the optimizer's learning rates "
        "were changed outside the plan; resume from the last checkpoint."
    )
