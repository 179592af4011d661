"""The modes of a plan's segments, one record each; imports no torch.

A new mode is a new record in `CONTINUATIONS` and touches no other file: command line, plan,
preview, guard and pictures read the records. A checkpoint holds nothing of a mode but its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.solver.schedule import Segment

Rule = Callable[["Segment", int], float]
Shaping = Callable[["Segment", "Segment", bool], "Segment"]


def _unchanged(segment: Segment, _before: Segment, _keep_slope: bool) -> Segment:
    return segment


@dataclass(frozen=True)
class Mode:
    """What the program knows about one mode."""

    name: str
    """As on the command line and in checkpoints."""
    summary: str
    """What the rate does after the seam, as in the README's table."""
    rule: Rule
    """The factor of a segment, so many epochs after its start; without ramp and cooldown."""
    color: str
    """In plots; from the palette of Okabe and Ito, see `utils.plots.figure`."""
    shape: Shaping = _unchanged
    """Completes a new segment, given the one before the seam and whether to keep its slope."""
    seamless: bool = True
    """Goes on from the rate at the seam, or from a peak that a ramp leads up to. Else the mode sets
    a rate of its own: it may jump at the seam, a ramp may lead up to it, and it takes no peak."""
    sloped: bool = False
    """Falls by `slope` per epoch and goes flat at `floor`; only such a mode takes `--slope`."""


def _law_of_run(segment: Segment, since: int) -> float:
    """The law over the whole run, from its first epoch to the segment's end."""
    return segment.law_at(segment.start + since, segment.stop)


def _law_of_segment(segment: Segment, since: int) -> float:
    """`L` times the law over the segment alone, counted from the end of its ramp."""
    return segment.level * segment.law_at(since - segment.ramp, segment.epochs - segment.ramp)


def _linear_for_v5(segment: Segment, _before: Segment, _keep_slope: bool) -> Segment:
    """v5.0's linear law becomes the later one: a new law has no old run to match."""
    return dataclasses.replace(segment, law="linear") if segment.law == "linear-v5.0" else segment


def _line(segment: Segment, since: int) -> float:
    """A straight line from `L` down to the floor."""
    return max(segment.level - segment.slope * (since - segment.ramp), segment.floor)


def _with_slope(segment: Segment, before: Segment, keep_slope: bool) -> Segment:
    """The line of slope-match.

    The old slope, or the steepest one that still comes down all the way to the last epoch,
    `min(S0, (L - floor) / N)`. If the old slope is to be kept: as it is, flat from `L * lrf` on.
    Never negative: an extension of this mode must not rise.
    """
    observed = _mean_decline(before, segment.start)
    if keep_slope:
        floor = segment.level * segment.lrf
        return dataclasses.replace(segment, slope=max(observed, 0.0), floor=floor)
    floor = 0.0 if segment.start >= before.stop else segment.lrf
    room = (segment.level - floor) / (segment.epochs - segment.ramp)
    return dataclasses.replace(segment, slope=max(min(observed, room), 0.0))


def _mean_decline(before: Segment, seam: int) -> float:
    """`S0`: decline per epoch of the segment before a seam, 0 if that is a single epoch."""
    last = seam - 1
    if last == before.start:
        return 0.0
    return (before.factor(before.start) - before.factor(last)) / (last - before.start)


def _level(segment: Segment, _since: int) -> float:
    """`L`, all the time."""
    return segment.level


RUN = Mode(
    name="base",
    summary="follows the law of the run",
    rule=_law_of_run,
    color="#9a9a9a",
)
"""Of the first segment of a run; no continuation."""

CONTINUATIONS = (
    Mode(
        name="rebase",
        summary="falls from its last value along the run's own law, linear or cosine, over the "
        "added epochs",
        rule=_law_of_segment,
        color="#0072B2",
        shape=_linear_for_v5,
    ),
    Mode(
        name="slope-match",
        summary="goes on in the same straight line, or in the steepest one that lasts to the end",
        rule=_line,
        color="#009E73",
        shape=_with_slope,
        sloped=True,
    ),
    Mode(
        name="hold",
        summary="stays where it was",
        rule=_level,
        color="#E69F00",
    ),
    Mode(
        name="restart",
        summary="is what it would have been, had the longer run been planned from the start",
        rule=_law_of_run,
        color="#CC79A7",
        seamless=False,
    ),
)
"""In the order in which they are shown; the first is the default."""

DEFAULT_MODE = CONTINUATIONS[0].name
JUMPING = tuple(mode.name for mode in CONTINUATIONS if not mode.seamless)
SLOPED = tuple(mode.name for mode in CONTINUATIONS if mode.sloped)


def mode_named(name: str) -> Mode:
    """The record of a segment's mode.

    Raises:
        ValueError: unknown mode.
    """
    for mode in (RUN, *CONTINUATIONS):
        if mode.name == name:
            return mode
    known = ", ".join(mode.name for mode in CONTINUATIONS)
    raise ValueError(f"unknown continuation mode {name!r}; known are {known}")
