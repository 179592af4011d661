import re
from typing import Any

import pytest

from tests.paths import ROOT
from tests.utils.solver.test_schedule import plan_of
from utils.plots.figure import BLUE, GREEN, ORANGE, PURPLE, VERMILION
from utils.solver.continuation import Extension, extend_plan
from utils.solver.guard import check_future
from utils.solver.modes import CONTINUATIONS, DEFAULT_MODE, JUMPING, RUN, SLOPED, mode_named
from utils.solver.preview import plan_previews
from utils.solver.schedule import BASE, MODES, Segment, base_segment

SLOPE = [0.4, 0.3, 0.25, 0.25]  # down to the floor


def test_names_in_the_order_in_which_they_are_shown() -> None:
    assert MODES[:4] == ("rebase", "slope-match", "hold", "restart")
    assert len(set(MODES)) == len(MODES)
    assert (BASE, DEFAULT_MODE) == ("base", "rebase")
    assert BASE not in MODES


def test_what_the_modes_may_do() -> None:
    assert set(JUMPING) & set(MODES[:4]) == {"restart"}
    assert set(SLOPED) & set(MODES[:4]) == {"slope-match"}


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
def test_a_rule_is_a_function_of_the_segment_and_the_epochs_since_its_start(
    segment: Segment, expected: list[float]
) -> None:
    rule = mode_named(segment.mode).rule
    assert [rule(segment, since) for since in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["leap", "", None, []])
def test_an_unknown_mode_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"unknown continuation mode .*; known are rebase, slope-"):
        mode_named(name)


def test_colours_are_of_the_palette_and_not_that_of_seams() -> None:
    colors = [mode.color for mode in (RUN, *CONTINUATIONS)]
    assert colors[1:5] == [BLUE, GREEN, ORANGE, PURPLE]
    assert VERMILION not in colors
    assert len(set(colors)) == len(colors)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_extends_a_run_as_its_record_says(mode: str) -> None:
    plan = plan_of(base_segment(30, "linear", 0.1))
    extended = extend_plan(plan, 30, Extension(20, mode))
    seam = extended.factors()[29:31]
    assert (seam[0] == seam[1]) == (mode not in JUMPING)
    check_future(extended, 30)
    wish = Extension(20, mode, slope="original" if mode in SLOPED else "fit")
    asked = [preview for preview in plan_previews(plan, 30, wish) if preview.requested]
    assert [preview.mode for preview in asked] == [mode]


def test_the_readme_describes_the_modes_as_their_records_do() -> None:
    rows = re.findall(
        r"^\| `([a-z-]+)`( \(default\))? \| (.+) \| (meets exactly|jumps, on purpose) \|$",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert [name for name, *_ in rows] == list(MODES[: len(rows)])
    assert len(rows) >= 4
    for name, default, summary, seam in rows:
        assert summary == mode_named(name).summary
        assert bool(default) == (name == DEFAULT_MODE)
        assert (seam == "meets exactly") == (name not in JUMPING)
