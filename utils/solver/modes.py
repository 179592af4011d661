"""The modes of a plan's segments, one record each; imports no torch.

To add a mode, add a record to `CONTINUATIONS`; no other file changes. Command line, plan, preview,
guard and plots read the records. A checkpoint stores only the name of a mode.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.solver.schedule import Segment

COOLDOWN_SHAPES = ("linear", "1-sqrt")
"""Shapes of a descent. `1-sqrt` falls fast at first (Hägele et al. 2024, arXiv 2405.18392)."""

Rule = Callable[["Segment", int], float]
SegmentCompletion = Callable[["Segment", "Segment", bool], "Segment"]


@dataclass(frozen=True)
class Mode:
    """Definition of one mode."""

    name: str
    """Name on the command line and in checkpoints."""
    summary: str
    """What the learning rate does after the seam, in one line of help without a final full stop."""
    rule: Rule
    """Returns the factor for a segment and epochs since its start, without ramp and cooldown."""
    color: str
    """Color in plots, from the palette of Okabe and Ito (see `utils.plots.figure`)."""
    complete: SegmentCompletion = lambda segment, _before, _keep_slope: segment
    """Sets the fields of a new segment that depend on the one before the seam. Arguments: the new
    segment, the segment before the seam, and whether to keep the slope of the latter."""
    seamless: bool = True
    """Whether the mode continues at the rate of the seam, or at a peak reached by a ramp. Otherwise
    the mode sets its own rate: it may jump at the seam, may have a ramp, and accepts no peak."""
    sloped: bool = False
    """Whether the factor declines by `slope` per epoch down to `floor`; `--slope` needs this."""


def descend(top: float, end: float, done: int, epochs: int, shape: str) -> float:
    """Return the factor in epoch `done`, from 1, of a descent from `top` to `end` over `epochs`."""
    if shape == "1-sqrt":
        return top + (end - top) * math.sqrt(done / epochs)
    return top + (end - top) * done / epochs


def _law_of_run(segment: Segment, since: int) -> float:
    """Return the law over the whole run, from its first epoch to the end of the segment."""
    return segment.law_at(segment.start + since, segment.stop)


def _law_of_segment(segment: Segment, since: int) -> float:
    """Return `L` times the law over the segment alone, counted from the end of its ramp."""
    return segment.level * segment.law_at(since - segment.ramp, segment.epochs - segment.ramp)


def _linear_for_v5(segment: Segment, _before: Segment, _keep_slope: bool) -> Segment:
    """Replace the linear law of v5.0 by the later one: a new segment need not match an old run."""
    return dataclasses.replace(segment, law="linear") if segment.law == "linear-v5.0" else segment


def _line(segment: Segment, since: int) -> float:
    """Return the value of a straight line from `L` down to the floor."""
    return max(segment.level - segment.slope * (since - segment.ramp), segment.floor)


def _with_slope(segment: Segment, before: Segment, keep_slope: bool) -> Segment:
    """Set slope and floor of slope-match.

    The slope is the old one, or the steepest one that lasts to the last epoch:
    `min(S0, (L - floor) / N)`. With `keep_slope` it is always the old one, and the line is flat
    once it reaches `L * lrf`. It is never negative: an extension in this mode must not rise.
    """
    observed = _mean_decline(before, segment.start)
    if keep_slope:
        floor = segment.level * segment.lrf
        return dataclasses.replace(segment, slope=max(observed, 0.0), floor=floor)
    floor = 0.0 if segment.start >= before.stop else segment.lrf
    room = (segment.level - floor) / (segment.epochs - segment.ramp)
    return dataclasses.replace(segment, slope=max(min(observed, room), 0.0))


def _mean_decline(before: Segment, seam: int) -> float:
    """Return `S0`, the decline per epoch of the segment before a seam; 0 for a single epoch."""
    last = seam - 1
    if last == before.start:
        return 0.0
    return (before.factor(before.start) - before.factor(last)) / (last - before.start)


def _level(segment: Segment, _since: int) -> float:
    """Return `L` for every epoch."""
    return segment.level


def _descent(segment: Segment, since: int) -> float:
    """Return the descent from the seam to the final fraction of lr0, over the whole segment."""
    return descend(segment.level, segment.lrf, since + 1, segment.epochs, segment.shape)


BASE_MODE = Mode("base", "follows the schedule of the run", rule=_law_of_run, color="#9a9a9a")
"""Mode of the first segment of a run; not a continuation."""

FINISH_MODE = Mode("finish", "descends to the final rate at once", rule=_descent, color="#D55E00")
"""Mode of `--finish-epochs`, which ends a run before its planned total."""

CONTINUATIONS = (
    Mode(
        "rebase",
        "decays from its last value along the run's own schedule (linear or cosine) over "
        "the added epochs",
        rule=_law_of_segment,
        color="#0072B2",
        complete=_linear_for_v5,
    ),
    Mode(
        "slope-match",
        "continues the same straight line, or the steepest line that lasts to the last epoch",
        rule=_line,
        color="#009E73",
        complete=_with_slope,
        sloped=True,
    ),
    Mode("hold", "stays constant at its last value", rule=_level, color="#E69F00"),
    Mode(
        "restart",
        "follows the schedule of a run planned for the longer total from the start, and "
        "jumps at the seam",
        rule=_law_of_run,
        color="#CC79A7",
        seamless=False,
    ),
)
"""In display order; the first is the default."""

DEFAULT_MODE = CONTINUATIONS[0].name
JUMPING_MODES = tuple(mode.name for mode in CONTINUATIONS if not mode.seamless)
SLOPED_MODES = tuple(mode.name for mode in CONTINUATIONS if mode.sloped)


def get_mode(name: str) -> Mode:
    """Return the mode of that name.

    Raises:
        ValueError: unknown mode.
    """
    for mode in (BASE_MODE, FINISH_MODE, *CONTINUATIONS):
        if mode.name == name:
            return mode
    known = ", ".join(mode.name for mode in CONTINUATIONS)
    raise ValueError(f"unknown continuation mode {name!r}; known are {known}")
