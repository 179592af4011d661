"""Drop in mAP at a seam and gain of the extension, from the history; imports no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from utils.history import AT_SEAM_PREFIX, COMMON_PREFIX, RAW_MAP_COLUMN
from utils.solver.schedule import Plan

EMA_MAP_COLUMN = "metrics/mAP_0.5:0.95"

COMMON_CLASSES = " over the classes that stay"
"""Which mAP is compared at a seam where classes are new or dropped; follows the word mAP50-95."""


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

    ratio: float | None
    """`rate_after / rate_before`; None if `rate_before` is 0."""
    ema_drop: float | None
    """Drop of the EMA weights below `ema_before`, at least 0."""
    raw_drop: float | None
    """The same of the non-EMA weights."""
    gain_per_100_epochs: float | None
    """Gain of the EMA weights, per hundred epochs of the extension."""

    common: bool = False
    """Whether all mAP values are means over the classes from before the seam that are still there,
    because the classes changed."""

    def to_dict(self) -> dict[str, object]:
        """Return plain data for seams.json."""
        return dataclasses.asdict(self)


def seam_metrics(plan: Plan, history: Sequence[Mapping[str, float]]) -> list[SeamMetrics]:
    """Return the metrics of every seam of a run, oldest first.

    The history has one row per completed epoch; the rows of the first epochs may be missing.
    """
    rows = {int(row["epoch"]): row for row in history}
    edges = [*(segment.start for segment in plan.seams), plan.total_epochs]
    found = []
    for segment, (seam, end) in zip(plan.seams, pairwise(edges), strict=True):
        before = rows.get(seam - 1, {})
        after = [rows[epoch] for epoch in range(seam, end) if epoch in rows]
        common = COMMON_PREFIX + EMA_MAP_COLUMN
        changed = AT_SEAM_PREFIX + common in before or any(common in row for row in after)
        names = [changed * COMMON_PREFIX + name for name in (EMA_MAP_COLUMN, RAW_MAP_COLUMN)]
        ema, raw = (_measured(after, name) for name in names)
        ema_before, raw_before = (_level_before(before, name) for name in names)
        rate_before, rate_after = (plan.lr0 * plan.factor(epoch) for epoch in (seam - 1, seam))
        best, gain = max(ema.values(), default=None), None
        if best is not None and ema_before is not None:
            gain = (best - ema_before) / len(after) * 100
        found.append(
            SeamMetrics(
                epoch=seam,
                mode=segment.mode,
                rate_before=rate_before,
                rate_after=rate_after,
                ema_before=ema_before,
                raw_before=raw_before,
                ema_lowest=min(ema.values(), default=None),
                raw_lowest=min(raw.values(), default=None),
                back_after=_back_after(ema_before, ema),
                best=best,
                epochs=len(after),
                ratio=rate_after / rate_before if rate_before else None,
                ema_drop=_drop(ema_before, ema),
                raw_drop=_drop(raw_before, raw),
                gain_per_100_epochs=gain,
                common=changed,
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


def _drop(before: float | None, after: Mapping[int, float]) -> float | None:
    return None if before is None or not after else max(before - min(after.values()), 0.0)


def _back_after(before: float | None, after: Mapping[int, float]) -> int | None:
    """Return the epochs from the seam until a value after the lowest one is at least `before`."""
    if before is None or not after:
        return None
    lowest = min(after, key=after.__getitem__)
    if after[lowest] >= before:
        return 0
    return next((n for n, value in after.items() if n > lowest and value >= before), None)
