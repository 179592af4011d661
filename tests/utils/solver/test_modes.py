from typing import Any

import pytest

from tests.utils.solver.test_schedule import plan_of
from utils.plots.figure import BLUE, GREEN, ORANGE, PURPLE, VERMILION
from utils.solver.continuation import Extension, extend_plan
from utils.solver.guard import check_planned_rates
from utils.solver.modes import (
    BASE_MODE,
    CONTINUATIONS,
    DEFAULT_MODE,
    JUMPING_MODES,
    SLOPED_MODES,
    get_mode,
)
from utils.solver.preview import plan_previews
from utils.solver.schedule import BASE, MODES, Segment, base_segment

SLOPE = [0.4, 0.3, 0.25, 0.25]  # ends at the floor


def test_names_are_in_display_order() -> None:
    assert MODES[:4] == ("rebase", "slope-match", "hold", "restart")
    assert len(set(MODES)) == len(MODES)
    assert (BASE, DEFAULT_MODE) == ("base", "rebase")
    assert BASE not in MODES


def test_which_modes_may_jump_and_which_have_a_slope() -> None:
    assert set(JUMPING_MODES) & set(MODES[:4]) == {"restart"}
    assert set(SLOPED_MODES) & set(MODES[:4]) == {"slope-match"}


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (Segment("base", 0, 4, "linear", lrf=0.0), [1.0, 0.75, 0.5, 0.25]),
        (Segment("restart", 4, 4, "linear", lrf=0.0, level=0.1), [0.5, 0.375, 0.25, 0.125]),
        (Segment("rebase", 4, 4, "linear", lrf=0.0, level=0.4), [0.4, 0.3, 0.2, 0.1]),
        (Segment("slope-match", 4, 4, "linear", 0.0, 0.4, slope=0.1, floor=0.25), SLOPE),
        (Segment("hold", 4, 4, "linear", lrf=0.0, level=0.3), [0.3] * 4),
    ],
)
def test_rule_gives_the_factor_from_the_epochs_since_the_start_of_the_segment(
    segment: Segment, expected: list[float]
) -> None:
    rule = get_mode(segment.mode).rule
    assert [rule(segment, since) for since in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["leap", "", None, []])
def test_unknown_mode_is_rejected(name: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown continuation mode .*; known are rebase, slope-"):
        get_mode(name)


def test_colors_are_distinct_and_not_the_color_of_seams() -> None:
    colors = [mode.color for mode in (BASE_MODE, *CONTINUATIONS)]
    assert colors[1:5] == [BLUE, GREEN, ORANGE, PURPLE]
    assert VERMILION not in colors
    assert len(set(colors)) == len(colors)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_extends_a_run_as_defined(mode: str) -> None:
    plan = plan_of(base_segment(30, "linear", 0.1))
    extended = extend_plan(plan, 30, Extension(20, mode))
    seam = extended.factors()[29:31]
    assert (seam[0] == seam[1]) == (mode not in JUMPING_MODES)
    check_planned_rates(extended, 30)
    extension = Extension(20, mode, slope="original" if mode in SLOPED_MODES else "fit")
    requested = [preview for preview in plan_previews(plan, 30, extension) if preview.requested]
    assert [preview.mode for preview in requested] == [mode]


def test_summaries_are_distinct_phrases() -> None:
    summaries = [mode.summary for mode in (BASE_MODE, *CONTINUATIONS)]
    assert all(summaries)
    assert len(set(summaries)) == len(summaries)
    assert not any(summary.endswith(".") for summary in summaries)
