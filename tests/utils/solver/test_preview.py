import pytest

from tests.utils.solver.test_schedule import plan_of
from utils.errors import UserError
from utils.solver.continuation import Extension, extend_plan
from utils.solver.preview import (
    PlanPreview,
    modifier_warnings,
    plan_previews,
    preview_extension,
    preview_warnings,
)
from utils.solver.schedule import Plan, base_segment

MODES = ("rebase", "slope-match", "hold", "restart")

pytestmark = pytest.mark.usefixtures("four_modes")


def base(epochs: int, lrf: float = 0.2, law: str = "linear") -> Plan:
    return plan_of(base_segment(epochs, law, lrf))


def by_label(choices: list[PlanPreview]) -> dict[str, PlanPreview]:
    return {preview.label: preview for preview in choices}


def test_four_epochs_extended_by_four() -> None:
    choices = by_label(plan_previews(base(4), 4, Extension(4, "hold")))
    assert tuple(choices) == MODES
    # so far 1.0 0.8 0.6 0.4, with a sum of 2.8; lr0 is 0.01
    rebase, restart = choices["rebase"], choices["restart"]
    assert (rebase.rate_before, rebase.rate_after) == pytest.approx((0.004, 0.004))
    assert rebase.ratio == 1.0
    assert rebase.final_rate == pytest.approx(0.0016)
    assert rebase.lr_sum_percent == pytest.approx(100 * 1.12 / 2.8)  # 0.4 0.32 0.24 0.16
    assert restart.ratio == pytest.approx(1.5)  # 0.4 -> 0.6
    assert restart.lr_sum_percent == pytest.approx(100 * 1.8 / 2.8)  # 0.6 0.5 0.4 0.3
    assert [preview.requested for preview in choices.values()] == [False, False, True, False]


@pytest.mark.parametrize(
    ("mode", "lr_sum_percent", "small_from"),
    [
        # 300 epochs down to a = 0.0133 have the sum 300 - 0.99 * 299 / 2 = 151.995
        ("rebase", 100 * 0.0133 * 151.995 / 151.995, 376),
        ("slope-match", 100 * 0.0133 * 150.5 / 151.995, 375),
        ("hold", 100 * 0.0133 * 300 / 151.995, None),
        # the second half of the law over 600 epochs: 0.505 … 0.01165
        ("restart", 100 * 300 * (0.505 + 0.01165) / 2 / 151.995, None),
    ],
)
def test_finished_run_of_300_epochs_extended_by_300(
    mode: str, lr_sum_percent: float, small_from: int | None
) -> None:
    preview = by_label(plan_previews(base(300, 0.01), 300, Extension(300)))[mode]
    assert preview.lr_sum_percent == pytest.approx(lr_sum_percent)
    assert preview.small_from == small_from


def test_small_from_is_the_first_epoch_below_one_percent() -> None:
    plan = base(300, 0.01)
    rebase = plan_previews(plan, 300, Extension(300))[0]
    assert rebase.small_from is not None
    assert rebase.plan.factor(rebase.small_from - 1) >= 0.01 > rebase.plan.factor(376)


def test_mode_that_starts_below_one_percent_is_small_from_the_seam() -> None:
    assert plan_previews(base(300, 0.001), 300, Extension(9, "hold"))[2].small_from == 300


def test_modifiers_are_applied_to_every_mode_that_supports_them() -> None:
    extension = Extension(8, "rebase", peak=0.6, rewarm_epochs=2)
    choices = plan_previews(base(8), 8, extension)
    assert [preview.label for preview in choices] == [
        *MODES,
        "rebase --peak 0.6 --rewarm-epochs 2",
        "slope-match --peak 0.6 --rewarm-epochs 2",
        "hold --peak 0.6 --rewarm-epochs 2",
        "restart --rewarm-epochs 2",  # restart has no peak
    ]
    assert [preview.label for preview in choices if preview.requested] == [
        "rebase --peak 0.6 --rewarm-epochs 2"
    ]
    for preview in choices[4:]:
        assert preview.ratio == 1.0  # the ramp starts at the rate of the seam


def test_extension_with_an_ineffective_modifier_is_not_listed() -> None:
    choices = plan_previews(base(8), 8, Extension(8, "rebase", lrf=0.5))
    labels = [preview.label for preview in choices]
    # The final fraction has no effect on hold, nor on slope-match after a finished run.
    assert labels == [*MODES, "rebase --lrf 0.5", "restart --lrf 0.5"]


def test_requested_extension_is_listed_even_if_its_modifier_is_ineffective() -> None:
    choices = plan_previews(base(8), 8, Extension(8, "hold", lrf=0.5))
    assert [preview.label for preview in choices if preview.requested] == ["hold --lrf 0.5"]


def test_label_names_every_modifier() -> None:
    extension = Extension(
        30,
        "slope-match",
        slope="original",
        lrf=0.05,
        peak=0.5,
        rewarm_epochs=3,
        cooldown_epochs=4,
    )
    requested = [preview for preview in plan_previews(base(8), 8, extension) if preview.requested]
    assert [preview.label for preview in requested] == [
        "slope-match --slope original --lrf 0.05 --peak 0.5 --rewarm-epochs 3 --cooldown-epochs 4"
    ]
    assert requested[0].mode == "slope-match"
    assert requested[0].plan == extend_plan(base(8), 8, extension)


def test_lr_sum_percent_refers_to_the_epochs_before_the_seam() -> None:
    # stopped after two of four epochs: 1.0 0.8 so far, N = 4, held at 0.8
    hold = by_label(plan_previews(base(4), 2, Extension(2)))["hold"]
    assert hold.lr_sum_percent == pytest.approx(100 * 3.2 / 1.8)


def test_run_that_ended_at_zero() -> None:
    choices = by_label(plan_previews(base(3, 0.0, "linear-v5.0"), 3, Extension(3)))
    assert choices["hold"].ratio == 1.0
    assert choices["restart"].ratio == float("inf")


def test_impossible_extension_is_rejected() -> None:
    with pytest.raises(
        UserError,
        match=r"--cooldown-epochs 2: must leave at least one of the 2 epochs after the seam",
    ):
        plan_previews(base(4), 4, Extension(2, "hold", cooldown_epochs=2))


def test_mode_with_a_rising_cooldown_is_omitted_unless_requested() -> None:
    extension = Extension(300, "hold", cooldown_epochs=1)
    labels = [preview.label for preview in plan_previews(base(300), 300, extension)]
    assert labels == [
        *MODES,
        "rebase --cooldown-epochs 1",
        "hold --cooldown-epochs 1",
        "restart --cooldown-epochs 1",
    ]
    with pytest.raises(UserError, match="--cooldown-epochs 1 would raise the learning rate"):
        plan_previews(base(300), 300, Extension(300, "slope-match", cooldown_epochs=1))


def test_untrained_extension_is_replaced() -> None:
    once = extend_plan(base(4), 4, Extension(40, "hold"))
    assert plan_previews(once, 4, Extension(2)) == plan_previews(base(4), 4, Extension(2))


def test_warning_names_the_epoch_in_which_the_original_slope_reaches_its_floor() -> None:
    warnings = preview_warnings(
        plan_previews(base(4), 4, Extension(4, "slope-match", slope="original"))
    )
    assert warnings == [
        "slope-match --slope original is constant at 0.0008 from epoch 6 on; use --slope fit to "
        "decay until the last epoch."
    ]


def test_warning_about_ineffective_modifiers() -> None:
    assert preview_warnings(plan_previews(base(4), 4, Extension(4, "hold", lrf=0.5)))[1:] == [
        "hold --lrf 0.5 has the same learning rates as plain hold; omit the modifiers."
    ]


@pytest.mark.parametrize(
    ("extension", "warnings"),
    [
        (
            Extension(4, "hold", lrf=0.5),
            ["hold --lrf 0.5 has the same learning rates as plain hold; omit the modifiers."],
        ),
        (Extension(4, "hold"), []),
        (Extension(4, "rebase", lrf=0.5), []),
        (Extension(4, "hold", lrf=0.1, cooldown_epochs=2), []),
    ],
)
def test_modifier_warnings(extension: Extension, warnings: list[str]) -> None:
    preview = preview_extension(base(4), 4, extension, requested=True)
    assert modifier_warnings(preview) == warnings


def test_warnings_name_the_modes_that_barely_train_and_the_jump() -> None:
    warnings = preview_warnings(plan_previews(base(300, 0.01), 300, Extension(300)))
    assert warnings == [
        "rebase (1.3 %), slope-match (1.3 %), hold (2.6 %): barely trains, because the sum of "
        "learning rates is below 3 % of the sum over the run so far; add more epochs with "
        "--extend-epochs, or start hold or rebase from a higher rate with --peak P "
        "--rewarm-epochs K.",
        "restart (×38): raises the learning rate at the seam, so expect mAP to drop before it "
        "improves; --rewarm-epochs K spreads the rise over K epochs.",
    ]


def test_warning_about_an_extension_that_is_too_short_for_every_mode() -> None:
    barely, _ = preview_warnings(plan_previews(base(300, 0.01), 300, Extension(5)))
    assert "restart (0.065 %): barely trains" in barely


def test_no_warnings() -> None:
    assert preview_warnings(plan_previews(base(4), 4, Extension(4))) == []
