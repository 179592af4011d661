import dataclasses
import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from tests.paths import GOLDENS, requires_shared
from tests.utils.solver.test_schedule import LAWS, plan_of
from utils.errors import UserError
from utils.solver.continuation import Extension, extend_plan
from utils.solver.guard import check_applied, check_future, check_past
from utils.solver.modes import JUMPING, SLOPED
from utils.solver.recorded_rates import RATES
from utils.solver.schedule import MODES, Plan, Segment, base_segment

BATCHES = 7  # per epoch: the warm-up of a hundred iterations ends within epoch 14

Row = dict[str, float]


def base(epochs: int, law: str = "linear", lrf: float = 0.2) -> Plan:
    return plan_of(base_segment(epochs, law, lrf))


def recorded(plan: Plan, epochs: int, batches: int = BATCHES) -> list[Row]:
    """The history of a run that did as planned."""
    rows = []
    for epoch in range(epochs):
        iteration = (epoch + 1) * batches
        rates = plan.settings(epoch, iteration - 1).rates
        rows.append({"epoch": epoch, "iteration": iteration} | dict(zip(RATES, rates, strict=True)))
    return rows


def converted(rows: list[Row]) -> list[Row]:
    """What a results.csv keeps of it."""
    return [
        {name: float(f"{value:.5g}") for name, value in row.items() if name != "iteration"}
        for row in rows
    ]


def upstream(plan: Plan, epochs: int, batches: int = BATCHES) -> list[Row]:
    """A converted run of upstream, whose rates lag by one epoch after the warm-up."""
    rows = recorded(plan, epochs, batches)
    for row in rows:
        if row["iteration"] > plan.warmup.iterations + 1:
            row.update(dict.fromkeys(RATES, plan.lr0 * plan.factor(max(int(row["epoch"]) - 1, 0))))
    return converted(rows)


def edited(plan: Plan, number: int = 0, **changes: Any) -> Plan:
    """The plan with other numbers in one segment."""
    segments = list(plan.segments)
    segments[number] = dataclasses.replace(segments[number], **changes)
    return dataclasses.replace(plan, segments=tuple(segments))


def golden_plans() -> Iterator[tuple[Plan, int]]:
    """Every plan of the goldens as it stood between two extensions; epochs trained with it."""
    for case in json.loads((GOLDENS / "lr_continuation.json").read_text()):
        plan = base(case["epochs"], case["law"], case["lrf"])
        for wish in case["extensions"]:
            yield plan, wish["done"]
            extension = Extension(
                epochs=wish["extra"],
                mode=wish["mode"],
                slope=wish.get("slope", "fit"),
                lrf=wish.get("lrf"),
                peak=wish.get("peak"),
                rewarm_epochs=wish.get("rewarm", 0),
                cooldown_epochs=wish.get("cooldown", 0),
            )
            plan = extend_plan(plan, wish["done"], extension)
        yield plan, plan.total_epochs


@requires_shared
def test_no_false_alarm_for_the_goldens_resumed_at_every_epoch() -> None:
    plans = list(golden_plans())
    assert len(plans) == 85
    for plan, trained in plans:
        # A check of the whole run is the sum of the checks at each of its epochs.
        check_future(plan, 0)
        for batches in (1, BATCHES, 150):
            check_past(plan, recorded(plan, trained, batches))
        check_past(plan, converted(recorded(plan, trained)))
        check_past(plan, upstream(plan, trained))
        for row in recorded(plan, trained):
            rates = [row[name] for name in RATES]
            check_applied(plan, int(row["epoch"]), int(row["iteration"]), rates)


def wishes(mode: str) -> list[Extension]:
    """Extensions of a mode, with every modifier that it can have."""
    ramps: list[dict[str, Any]] = [{}]
    ramps += [{"rewarm_epochs": 2}] if mode in JUMPING else [{"peak": 0.7, "rewarm_epochs": 2}]
    slopes = ("fit", "original") if mode in SLOPED else ("fit",)
    return [
        Extension(9, mode, slope=slope, lrf=lrf, cooldown_epochs=cooldown, **ramp)
        for ramp, slope, lrf, cooldown in product(ramps, slopes, (None, 0.5), (0, 4))
    ]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("lrf", [0.0, 0.01, 0.3])
def test_no_false_alarm_for_chains_of_modes_and_modifiers(law: str, lrf: float) -> None:
    every = [wish for mode in MODES for wish in wishes(mode)]
    start = base(12, law, lrf)
    checked = 0
    for first, second in product(every, every):
        for seam in (5, 12):
            try:
                plan = extend_plan(start, seam, first)
                plan = extend_plan(plan, plan.total_epochs - 3, second)
            except UserError as refusal:
                assert "would raise the rate" in str(refusal)  # noqa: PT017 -- of some chains only
                continue
            checked += 1
            check_past(plan, recorded(plan, plan.total_epochs, batches=30))
            check_future(plan, 0)
    assert checked > len(every) ** 2


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("trained", [2, 3, 30, 600])
@pytest.mark.parametrize("batches", [1, 40, 200])
def test_a_total_edited_from_5000_to_9000_is_caught_and_named(
    law: str, trained: int, batches: int
) -> None:
    plan = base(5000, law, 0.01)
    history = recorded(plan, trained, batches)
    text = json.dumps(plan.to_dict()).replace('"epochs": 5000', '"epochs": 9000')
    with pytest.raises(UserError) as caught:
        check_past(Plan.from_dict(json.loads(text)), history)
    message = str(caught.value)
    assert f"the checkpoint's plan, 9000 epochs ({law}, lr0 0.01, lrf 0.01), gives" in message
    assert (
        f"the recorded rates are those of 5000 epochs ({law}, lr0 0.01, lrf 0.01): "
        "the planned total was changed from 5000 to 9000 epochs" in message
    )


def test_a_total_edited_after_1712_epochs_is_told_in_one_sentence() -> None:
    data = base(5000, lrf=0.01).to_dict()
    history = recorded(Plan.from_dict(data), 1712, batches=150)
    data["segments"][0]["epochs"] = 9000
    with pytest.raises(UserError) as caught:
        check_past(Plan.from_dict(data), history)
    # epoch 1, the first one that differs: 0.01 (1 - 0.99 / 5000) and 0.01 (1 - 0.99 / 9000)
    assert str(caught.value) == (
        "epoch 1 was trained with a learning rate of 0.00999802 (weights), but the checkpoint's "
        "plan, 9000 epochs (linear, lr0 0.01, lrf 0.01), gives 0.0099989; the recorded rates are "
        "those of 5000 epochs (linear, lr0 0.01, lrf 0.01): the planned total was changed from "
        "5000 to 9000 epochs. Go on from a checkpoint as the run wrote it, such as "
        "weights/last_prev.pt; --extend-epochs adds epochs."
    )


def test_the_sentence_names_epoch_both_rates_and_the_remedy() -> None:
    with pytest.raises(UserError) as caught:
        check_past(base(8), recorded(base(4), 3, batches=200))
    assert str(caught.value) == (
        "epoch 1 was trained with a learning rate of 0.008 (weights), but the checkpoint's plan, "
        "8 epochs (linear, lr0 0.01, lrf 0.2), gives 0.009; the recorded rates are those of "
        "4 epochs (linear, lr0 0.01, lrf 0.2): the planned total was changed from 4 to 8 epochs. "
        "Go on from a checkpoint as the run wrote it, such as weights/last_prev.pt; "
        "--extend-epochs adds epochs."
    )


def test_a_straight_line_fits_two_explanations() -> None:
    # 1 - 0.8 e / 4 is 1 - 0.4 e / 2 is 1 - 1.6 e / 8, whose lrf would be -0.6: not offered above
    with pytest.raises(
        UserError,
        match=r"those of 8 epochs \(linear, lr0 0\.01, lrf 0\.2\): the planned total was changed "
        r"from 8 to 4 epochs, or of 4 epochs \(linear, lr0 0\.01, lrf 0\.6\): lrf was changed from "
        r"0\.6 to 0\.2\. Go on",
    ):
        check_past(base(4), recorded(base(8), 3, batches=200))


def test_an_edited_lrf_is_named() -> None:
    with pytest.raises(UserError, match=r"lrf 0\.1\): lrf was changed from 0\.1 to 0\.2\."):
        check_past(base(20, "cosine", 0.2), recorded(base(20, "cosine", 0.1), 9))


@pytest.mark.parametrize("trained", [1, 9, 20])
def test_an_edited_lr0_is_named(trained: int) -> None:
    plan = base(20)
    with pytest.raises(UserError, match=r"lr0 was changed from 0\.01 to 0\.02"):
        check_past(dataclasses.replace(plan, lr0=0.02), recorded(plan, trained))


@pytest.mark.parametrize(
    "edit", [{"epochs": 500}, {"epochs": 40}], ids=["longer", "shorter than trained"]
)
def test_an_edited_extension_is_named(edit: dict[str, int]) -> None:
    plan = extend_plan(base(30), 30, Extension(60))
    stop = 30 + edit["epochs"]
    message = f"the planned total of the extension at epoch 30 was changed from 90 to {stop} epochs"
    with pytest.raises(UserError, match=message):
        check_past(edited(plan, 1, **edit), recorded(plan, 80))


def test_a_base_segment_edited_after_an_extension_is_named() -> None:
    plan = extend_plan(base(30), 20, Extension(60, "hold"))
    with pytest.raises(UserError, match="the planned total was changed from 30 to 50 epochs"):
        check_past(edited(plan, 0, epochs=50), recorded(plan, 40))


def test_more_epochs_than_planned() -> None:
    with pytest.raises(
        UserError,
        match=r"epoch 20 was trained .* but the checkpoint's plan, 20 epochs .*, ends before it; "
        r"the recorded rates are those of 30 epochs .* total was changed from 30 to 20 epochs",
    ):
        check_past(edited(base(30), epochs=20), recorded(base(30), 25)[20:])


def test_a_level_that_was_edited() -> None:
    plan = extend_plan(base(30), 30, Extension(60, "hold"))
    with pytest.raises(
        UserError,
        match=r"90 epochs \(linear over 30, lr0 0\.01, lrf 0\.2; hold from 30\), gives 0\.005; "
        "the 30 before it follow that plan, and the checkpoint's plan was edited, or the history",
    ):
        check_past(edited(plan, 1, level=0.5), recorded(plan, 40))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (300, r"from epoch 200 on the recorded rates are those of 600 epochs .* amid the run\."),
        (600, r"up to epoch 199 the recorded rates are those of 300 epochs .* amid the run\."),
    ],
)
def test_a_total_changed_amid_the_run_is_named(kept: int, message: str) -> None:
    # 300 epochs that are made 600 by force: the rate jumps from one law to the other.
    history = [*recorded(base(300), 200), *recorded(base(600), 260)[200:]]
    with pytest.raises(UserError, match=message):
        check_past(base(kept), history)


def test_a_warm_up_that_was_entered_again_is_named() -> None:
    history = recorded(base(60), 30)
    history[20] |= {"x/lr0": 0.09, "x/lr1": 0.001, "x/lr2": 0.001}
    with pytest.raises(UserError, match=r"epoch 20 .*biases.* the warm-up was entered again"):
        check_past(base(60), history)


def test_a_single_epoch_at_the_full_initial_rate_is_named() -> None:
    history = recorded(base(60), 30)
    history[20] |= dict.fromkeys(RATES, 0.01)
    with pytest.raises(
        UserError, match=r"epoch 20 .*that is lr0 itself \(0\.01\), as after a loss"
    ):
        check_past(base(60), history)


@pytest.mark.parametrize("name", RATES)
def test_each_group_is_checked(name: str) -> None:
    history = recorded(base(60), 30)
    history[3][name] *= 1 + 1e-8
    with pytest.raises(UserError, match="epoch 3 was trained"):
        check_past(base(60), history)


def test_converted_rows_are_checked_behind_the_warm_up_only() -> None:
    plan = base(60)
    history = converted(recorded(plan, 30))  # the warm-up ends within epoch 14
    check_past(edited(plan, epochs=600), history[:14])
    # epoch 28: 0.0062666… was rounded up, which 61 epochs would exceed by far more
    with pytest.raises(UserError, match=r"epoch 14 .* changed from about 60 to 600"):
        check_past(edited(plan, epochs=600), history[:29])


def test_a_converted_row_at_the_very_end_of_the_warm_up_is_not_judged() -> None:
    plan = base(60)
    history = converted(recorded(plan, 1, batches=100))
    assert history[0] == {"epoch": 0.0, "x/lr0": 0.0109, "x/lr1": 0.0099, "x/lr2": 0.0099}
    check_past(plan, history)


def test_converted_rows_of_upstream_are_checked_too() -> None:
    plan = base(300, "cosine", 0.2)
    history = upstream(plan, 200)
    check_past(plan, history)
    with pytest.raises(UserError, match=r"epoch 14 .* gives"):
        check_past(edited(plan, epochs=600), history)


def test_an_unknown_iteration_is_behind_the_warm_up_after_as_many_epochs() -> None:
    plan = base(300)
    plan = dataclasses.replace(plan, warmup=dataclasses.replace(plan.warmup, bias_lr=0.0))
    history = converted(recorded(plan, 120))
    check_past(edited(plan, epochs=900), history[:101])  # all groups warm up alike: cannot tell
    with pytest.raises(UserError, match="epoch 101 was trained"):
        check_past(edited(plan, epochs=900), history)


def test_rows_without_rates_are_passed() -> None:
    check_past(base(9), [{"epoch": 0.0}, {"epoch": 1.0} | dict.fromkeys(RATES, float("nan"))])
    check_past(base(9), [])


def test_a_declared_restart_may_rise_and_an_undeclared_one_not() -> None:
    plan = extend_plan(base(30), 30, Extension(30, "restart"))
    check_future(plan, 30)
    with pytest.raises(UserError) as caught:
        check_future(edited(plan, 1, mode="hold", level=0.6), 30)
    assert str(caught.value) == (
        "the learning rate would rise from 0.00226667 in epoch 29 to 0.006 in epoch 30 "
        "(2.647 times), and nothing declares this: until then the plan is 30 epochs (linear, lr0 "
        "0.01, lrf 0.2), from then on 60 epochs (linear over 30, lr0 0.01, lrf 0.2; hold from 30), "
        "and the level of its hold was edited to 0.6 of lr0. Go on from a checkpoint as the run "
        "wrote it, such as weights/last_prev.pt, or ask for a rise with --extend-epochs and "
        f"{' or '.join(JUMPING)} or --peak."
    )


def test_a_base_segment_shortened_under_an_extension_is_named() -> None:
    plan = edited(extend_plan(base(300), 100, Extension(30, "hold")), 0, epochs=100)
    with pytest.raises(
        UserError,
        match=r"until then the plan is 100 epochs .* it was extended at 0\.736 of lr0, where the "
        r"earlier plan now has 0\.208, so that one's total or lrf was edited",
    ):
        check_future(plan, 100)


def test_what_lies_behind_is_not_the_future() -> None:
    plan = edited(extend_plan(base(30), 20, Extension(30, "hold")), 1, level=0.9)
    with pytest.raises(UserError, match="in epoch 20"):
        check_future(plan, 20)
    check_future(plan, 21)


def test_a_ramp_is_declared_and_so_is_the_epoch_after_it() -> None:
    # 0.0133 -> 0.3 in three epochs: 0.0133 0.1089 0.2044 0.3
    plan = extend_plan(base(300, lrf=0.01), 300, Extension(30, peak=0.3, rewarm_epochs=3))
    check_future(plan, 300)
    one = extend_plan(base(300, lrf=0.01), 300, Extension(30, peak=0.3, rewarm_epochs=1))
    assert one.factors()[300:302] == pytest.approx([0.0133, 0.3])
    check_future(one, 300)


def test_a_rise_of_exactly_one_and_a_half_is_let_pass() -> None:
    held = [
        Segment(mode="hold", start=start, epochs=3, law="linear", lrf=0.2, level=level)
        for start, level in ((1, 0.25), (2, 0.375), (3, 0.75))
    ]
    plan = plan_of(base_segment(1, "linear", 0.2), *held)
    with pytest.raises(UserError, match=r"in epoch 2 to 0\.0075 in epoch 3 \(2 times\)"):
        check_future(plan, 1)


def test_a_rise_from_nothing() -> None:
    plan = extend_plan(base(4, "linear-v5.0", 0.0), 4, Extension(4, "hold"))
    check_future(plan, 4)
    with pytest.raises(UserError, match=r"from 0 in epoch 3 to 1e-05 in epoch 4 \(from nothing\)"):
        check_future(edited(plan, 1, level=0.001), 4)


@pytest.mark.parametrize(
    ("number", "edit"),
    [(1, {"lrf": 0.9, "cooldown": 1}), (1, {"slope": -0.3}), (0, {"lrf": 99.0})],
    ids=["cooldown", "slope", "final fraction"],
)
def test_a_segment_edited_to_rise_is_caught(number: int, edit: dict[str, float]) -> None:
    plan = edited(extend_plan(base(30), 20, Extension(300, "slope-match")), number, **edit)
    with pytest.raises(
        UserError, match=r"no (base|slope-match) of this program rises like that, so the checkpoint"
    ):
        check_future(plan, 1)


def test_applied_rates() -> None:
    plan = base(60)
    warming = plan.settings(3, 27).rates
    check_applied(plan, 3, 28, warming)
    check_applied(plan, 30, 31 * BATCHES, (0.01 * plan.factor(30),) * 3)
    with pytest.raises(UserError) as caught:
        check_applied(plan, 30, 31 * BATCHES, (0.006, 0.006, 0.007))
    assert str(caught.value) == (
        "epoch 30 was trained with a learning rate of 0.007 (norm weights), but the run's "
        "plan, 60 epochs (linear, lr0 0.01, lrf 0.2), gives 0.006; something other than the plan "
        "sets the optimizer's rates, so training stops here; resume from the last checkpoint."
    )
