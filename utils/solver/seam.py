"""Drop in mAP at a seam and gain of the extension, from the history; imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from utils.history import AT_SEAM_PREFIX, RAW_MAP_COLUMN
from utils.solver.schedule import Plan

EMA_MAP_COLUMN = "metrics/mAP_0.5:0.95"
GAIN_EPOCHS = 100  # gains are reported per this many epochs


@dataclass(frozen=True)
class SeamMetrics:
    """mAP50-95 before and after one seam; None if it was not measured."""

    epoch: int
    """Epochs completed at the seam."""
    mode: str
    rate_before: float
    """Planned learning rate of the last epoch before the seam."""
    rate_after: float
    ema_before: float | None
    """mAP50-95 of the EMA weights before the seam: as evaluated at the seam like the epochs after
    it, otherwise as recorded in the epoch before."""
    raw_before: float | None
    """The same of the non-EMA weights."""
    ema_lowest: float | None
    """Lowest value of the EMA weights after the seam, up to the next seam."""
    raw_lowest: float | None
    """The same of the non-EMA weights."""
    back_after: int | None
    """Epochs until the EMA weights are back at `ema_before`, after their lowest value; 0 if they
    never fell below it; None if they are not back yet."""
    best: float | None
    """Best value of the EMA weights after the seam, up to the next seam."""
    epochs: int
    """Epochs trained since the seam, up to the next seam."""

    @property
    def ratio(self) -> float | None:
        """`rate_after / rate_before`; None if `rate_before` is 0."""
        return self.rate_after / self.rate_before if self.rate_before else None

    @property
    def ema_drop(self) -> float | None:
        """Drop of the EMA weights below `ema_before`, at least 0."""
        return _drop(self.ema_before, self.ema_lowest)

    @property
    def raw_drop(self) -> float | None:
        """Drop of the non-EMA weights below `raw_before`, at least 0."""
        return _drop(self.raw_before, self.raw_lowest)

    @property
    def gain_per_100(self) -> float | None:
        """Gain of the EMA weights, per hundred epochs of the extension."""
        if self.best is None or self.ema_before is None or not self.epochs:
            return None
        return (self.best - self.ema_before) / self.epochs * GAIN_EPOCHS

    def to_dict(self) -> dict[str, object]:
        """Return plain data for seams.json."""
        derived = {
            "ratio": self.ratio,
            "ema_drop": self.ema_drop,
            "raw_drop": self.raw_drop,
            "gain_per_100_epochs": self.gain_per_100,
        }
        return {**dataclasses.asdict(self), **derived}


def seam_metrics(plan: Plan, history: Sequence[Mapping[str, float]]) -> list[SeamMetrics]:
    """Return the metrics of every seam of a run, oldest first.

    Args:
        plan: the run's plan.
        history: one row per completed epoch; the rows of the first epochs may be missing.
    """
    rows = {int(row["epoch"]): row for row in history}
    edges = [*(segment.start for segment in plan.seams), plan.total_epochs]
    found = []
    for segment, (seam, end) in zip(plan.seams, pairwise(edges), strict=True):
        before = rows.get(seam - 1, {})
        after = [rows[epoch] for epoch in range(seam, end) if epoch in rows]
        ema, raw = _measured(after, EMA_MAP_COLUMN), _measured(after, RAW_MAP_COLUMN)
        ema_before = _level_before(before, EMA_MAP_COLUMN)
        found.append(
            SeamMetrics(
                epoch=seam,
                mode=segment.mode,
                rate_before=plan.lr0 * plan.factor(seam - 1),
                rate_after=plan.lr0 * plan.factor(seam),
                ema_before=ema_before,
                raw_before=_level_before(before, RAW_MAP_COLUMN),
                ema_lowest=min(ema.values(), default=None),
                raw_lowest=min(raw.values(), default=None),
                back_after=_back_after(ema_before, ema),
                best=max(ema.values(), default=None),
                epochs=len(after),
            )
        )
    return found


def _measured(rows: Sequence[Mapping[str, float]], name: str) -> dict[int, float]:
    """Return the values that were measured, by the number of their epoch, from 1."""
    values = {number: row.get(name, math.nan) for number, row in enumerate(rows, start=1)}
    return {number: value for number, value in values.items() if not math.isnan(value)}


def _level_before(row: Mapping[str, float], name: str) -> float | None:
    """Return the value measured at the seam, otherwise the one recorded in the epoch before."""
    values = (row.get(key, math.nan) for key in (AT_SEAM_PREFIX + name, name))
    return next((value for value in values if not math.isnan(value)), None)


def _drop(before: float | None, lowest: float | None) -> float | None:
    return None if before is None or lowest is None else max(before - lowest, 0.0)


def _back_after(before: float | None, after: Mapping[int, float]) -> int | None:
    """Return the epochs from the seam until a value after the lowest one is at least `before`."""
    if before is None or not after:
        return None
    lowest = min(after, key=after.__getitem__)
    if after[lowest] >= before:
        return 0
    return next((n for n, value in after.items() if n > lowest and value >= before), None)
