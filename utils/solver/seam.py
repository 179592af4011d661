"""What a seam cost and what the extension gained, read off the history; imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from utils.history import AT_SEAM_PREFIX, RAW_MAP_COLUMN
from utils.solver.schedule import Plan

EMA_MAP_COLUMN = "metrics/mAP_0.5:0.95"
PER = 100  # epochs that a gain is quoted for


@dataclass(frozen=True)
class SeamMetrics:
    """One seam: mAP50-95 before and after; None where it was not measured."""

    epoch: int
    """Epochs completed at the seam."""
    mode: str
    rate_before: float
    """Planned learning rate of the last epoch before the seam."""
    rate_after: float
    ema_before: float | None
    """As measured at the seam, where it was: by the validation of what comes after."""
    raw_before: float | None
    ema_lowest: float | None
    """Lowest after the seam, up to the next one."""
    raw_lowest: float | None
    back_after: int | None
    """Epochs until the average is back at the level before, past its lowest; 0 if it never fell."""
    best: float | None
    """Best average after the seam, up to the next one."""
    epochs: int
    """Epochs trained since the seam, up to the next one."""

    @property
    def ratio(self) -> float | None:
        """Rate after the seam over the rate before it; None if that was nothing."""
        return self.rate_after / self.rate_before if self.rate_before else None

    @property
    def ema_drop(self) -> float | None:
        """How far the average fell below its level before, at least 0."""
        return _drop(self.ema_before, self.ema_lowest)

    @property
    def raw_drop(self) -> float | None:
        """How far the weights themselves fell below their level before, at least 0."""
        return _drop(self.raw_before, self.raw_lowest)

    @property
    def gain_per_100(self) -> float | None:
        """What the average gained, per hundred epochs of the extension."""
        if self.best is None or self.ema_before is None or not self.epochs:
            return None
        return (self.best - self.ema_before) / self.epochs * PER

    def to_dict(self) -> dict[str, Any]:
        """Plain data for seams.json."""
        derived = {
            "ratio": self.ratio,
            "ema_drop": self.ema_drop,
            "raw_drop": self.raw_drop,
            "gain_per_100_epochs": self.gain_per_100,
        }
        return {**dataclasses.asdict(self), **derived}


def seam_metrics(plan: Plan, history: Sequence[Mapping[str, float]]) -> list[SeamMetrics]:
    """The figures of every seam of a run, oldest first.

    Args:
        plan: the run's plan.
        history: one row per completed epoch; those of the first epochs may be unknown.
    """
    rows = {int(row["epoch"]): row for row in history}
    edges = [*(segment.start for segment in plan.seams), plan.total_epochs]
    figures = []
    for segment, (seam, end) in zip(plan.seams, pairwise(edges), strict=True):
        before = rows.get(seam - 1, {})
        after = [rows[epoch] for epoch in range(seam, end) if epoch in rows]
        ema_before = _level_before(before, EMA_MAP_COLUMN)
        ema = [_value(row, EMA_MAP_COLUMN) for row in after]
        figures.append(
            SeamMetrics(
                epoch=seam,
                mode=segment.mode,
                rate_before=plan.lr0 * plan.factor(seam - 1),
                rate_after=plan.lr0 * plan.factor(seam),
                ema_before=ema_before,
                raw_before=_level_before(before, RAW_MAP_COLUMN),
                ema_lowest=min(_known(ema), default=None),
                raw_lowest=min(
                    _known([_value(row, RAW_MAP_COLUMN) for row in after]), default=None
                ),
                back_after=_back_after(ema_before, ema),
                best=max(_known(ema), default=None),
                epochs=len(after),
            )
        )
    return figures


def _level_before(row: Mapping[str, float], name: str) -> float | None:
    """What was measured at the seam, else what the epoch before it recorded."""
    measured = _value(row, AT_SEAM_PREFIX + name)
    return _value(row, name) if measured is None else measured


def _value(row: Mapping[str, float], name: str) -> float | None:
    value = row.get(name, math.nan)
    return None if math.isnan(value) else value


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _drop(before: float | None, lowest: float | None) -> float | None:
    return None if before is None or lowest is None else max(before - lowest, 0.0)


def _back_after(before: float | None, after: Sequence[float | None]) -> int | None:
    """Epochs from the seam to the first one at the level before, of those past the lowest."""
    known = [(value, number) for number, value in enumerate(after, start=1) if value is not None]
    if before is None or not known:
        return None
    lowest, when = min(known)
    if lowest >= before:
        return 0
    return next((number for value, number in known if number > when and value >= before), None)
