"""The message about recorded rates that contradict the plan names what was edited."""

import dataclasses
import json

import pytest

from tests.utils.solver.test_guard import base, edited, recorded
from tests.utils.solver.test_schedule import LAWS
from utils.errors import UserError
from utils.solver.continuation import Extension, extend_plan
from utils.solver.guard import check_recorded_rates
from utils.solver.schedule import Plan


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("trained", [2, 3, 30, 600])
@pytest.mark.parametrize("batches", [1, 40, 200])
def test_total_edited_from_5000_to_9000_is_detected_and_named(
    law: str, trained: int, batches: int
) -> None:
    plan = base(5000, law, 0.01)
    history = recorded(plan, trained, batches)
    text = json.dumps(plan.to_dict()).replace('"epochs": 5000', '"epochs": 9000')
    with pytest.raises(UserError) as caught:
        check_recorded_rates(Plan.from_dict(json.loads(text)), history)
    message = str(caught.value)
    assert f"the checkpoint's plan, 9000 epochs ({law}, lr0 0.01, lrf 0.01), gives" in message
    assert (
        f"the recorded rates are those of 5000 epochs ({law}, lr0 0.01, lrf 0.01): "
        "the planned total was changed from 5000 to 9000 epochs" in message
    )


def test_whole_message_for_a_total_edited_after_1712_epochs() -> None:
    data = base(5000, lrf=0.01).to_dict()
    history = recorded(Plan.from_dict(data), 1712, batches=150)
    data["segments"][0]["epochs"] = 9000
    with pytest.raises(UserError) as caught:
        check_recorded_rates(Plan.from_dict(data), history)
    # epoch 1, the first one that differs: 0.01 (1 - 0.99 / 5000) and 0.01 (1 - 0.99 / 9000)
    assert str(caught.value) == (
        "epoch 1 was trained with a learning rate of 0.00999802 (weights), but the checkpoint's "
        "plan, 9000 epochs (linear, lr0 0.01, lrf 0.01), gives 0.0099989; the recorded rates are "
        "those of 5000 epochs (linear, lr0 0.01, lrf 0.01): the planned total was changed from "
        "5000 to 9000 epochs. Resume from an unedited checkpoint of the run, such as "
        "weights/last_prev.pt; to add epochs, use --extend-epochs."
    )


def test_message_names_epoch_both_rates_and_the_remedy() -> None:
    with pytest.raises(UserError) as caught:
        check_recorded_rates(base(8), recorded(base(4), 3, batches=200))
    assert str(caught.value) == (
        "epoch 1 was trained with a learning rate of 0.008 (weights), but the checkpoint's plan, "
        "8 epochs (linear, lr0 0.01, lrf 0.2), gives 0.009; the recorded rates are those of "
        "4 epochs (linear, lr0 0.01, lrf 0.2): the planned total was changed from 4 to 8 epochs. "
        "Resume from an unedited checkpoint of the run, such as weights/last_prev.pt; "
        "to add epochs, use --extend-epochs."
    )


def test_linear_law_has_two_explanations() -> None:
    # 1 - 0.8 e / 4 is 1 - 0.4 e / 2 is 1 - 1.6 e / 8, whose lrf would be -0.6: the test
    # above has one explanation only
    with pytest.raises(
        UserError,
        match=r"those of 8 epochs \(linear, lr0 0\.01, lrf 0\.2\): the planned total was changed "
        r"from 8 to 4 epochs, or of 4 epochs \(linear, lr0 0\.01, lrf 0\.6\): lrf was changed from "
        r"0\.6 to 0\.2\. Resume from",
    ):
        check_recorded_rates(base(4), recorded(base(8), 3, batches=200))


def test_edited_lrf_is_named() -> None:
    with pytest.raises(UserError, match=r"lrf 0\.1\): lrf was changed from 0\.1 to 0\.2\."):
        check_recorded_rates(base(20, "cosine", 0.2), recorded(base(20, "cosine", 0.1), 9))


@pytest.mark.parametrize("trained", [1, 9, 20])
def test_edited_lr0_is_named(trained: int) -> None:
    plan = base(20)
    with pytest.raises(UserError, match=r"lr0 was changed from 0\.01 to 0\.02"):
        check_recorded_rates(dataclasses.replace(plan, lr0=0.02), recorded(plan, trained))


@pytest.mark.parametrize(
    "edit", [{"epochs": 500}, {"epochs": 40}], ids=["longer", "shorter than trained"]
)
def test_edited_extension_is_named(edit: dict[str, int]) -> None:
    plan = extend_plan(base(30), 30, Extension(60))
    stop = 30 + edit["epochs"]
    message = f"the planned total of the extension at epoch 30 was changed from 90 to {stop} epochs"
    with pytest.raises(UserError, match=message):
        check_recorded_rates(edited(plan, 1, **edit), recorded(plan, 80))


def test_base_segment_edited_after_an_extension_is_named() -> None:
    plan = extend_plan(base(30), 20, Extension(60, "hold"))
    with pytest.raises(UserError, match="the planned total was changed from 30 to 50 epochs"):
        check_recorded_rates(edited(plan, 0, epochs=50), recorded(plan, 40))


def test_base_segment_shortened_until_its_law_is_negative_is_named() -> None:
    plan = extend_plan(base(30), 20, Extension(60, "hold"))
    with pytest.raises(UserError, match="the planned total was changed from 30 to 10 epochs"):
        check_recorded_rates(edited(plan, 0, epochs=10), recorded(plan, 40))


def test_more_trained_than_planned_epochs() -> None:
    with pytest.raises(
        UserError,
        match=r"epoch 20 was trained .* but the checkpoint's plan, 20 epochs .*, ends before this "
        r"epoch; the recorded rates are those of 30 epochs .* total was changed from 30 to 20 "
        r"epochs",
    ):
        check_recorded_rates(edited(base(30), epochs=20), recorded(base(30), 25)[20:])


def test_edited_level() -> None:
    plan = extend_plan(base(30), 30, Extension(60, "hold"))
    with pytest.raises(
        UserError,
        match=r"90 epochs \(linear over 30, lr0 0\.01, lrf 0\.2; hold from 30\), gives 0\.005; "
        r"the earlier epochs \(30\) match that plan, and the checkpoint's plan was edited, or the "
        "history",
    ):
        check_recorded_rates(edited(plan, 1, level=0.5), recorded(plan, 40))


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (300, r"from epoch 200 on the recorded rates are those of 600 epochs .* during the run\."),
        (600, r"up to epoch 199 the recorded rates are those of 300 epochs .* during the run\."),
    ],
)
def test_total_changed_during_the_run_is_named(kept: int, message: str) -> None:
    # The total was changed from 300 to 600 epochs: the rate jumps from one law to the other.
    history = [*recorded(base(300), 200), *recorded(base(600), 260)[200:]]
    with pytest.raises(UserError, match=message):
        check_recorded_rates(base(kept), history)
