"""Curves of the compared runs, and the rows that branches share; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.history import fitness
from utils.plots.run_curves import SeamMark
from utils.plots.series import Floats, Row, column

MAP50_COLUMN = "metrics/mAP_0.5"
MAP50_95_COLUMN = "metrics/mAP_0.5:0.95"
# Branches of a run repeat its rows; those read from results.csv are rounded to five digits.
COMPARED_COLUMNS = ("epoch", "train/box_loss", "train/obj_loss", MAP50_COLUMN, MAP50_95_COLUMN)
FIVE_DIGITS_RTOL = 1e-4


class RunCurves(NamedTuple):
    """Curves of a run."""

    label: str
    rows: Sequence[Row]
    """History in the column names of results.csv; NaN or a missing value is not plotted."""
    plan_rates: Sequence[float] = ()
    """Planned rate of the weights for every epoch from 0; if empty, recorded rates are plotted."""
    seams: Sequence[SeamMark] = ()

    @property
    def epochs(self) -> Floats:
        """Return the epochs, 0-based, [rows]."""
        return column(self.rows, "epoch")

    @property
    def rates(self) -> Floats:
        """Return the planned or else the recorded rate of the weights by trained epoch, [rows]."""
        if not self.plan_rates:
            return column(self.rows, "x/lr1")
        return np.array([self.plan_rates[int(epoch)] for epoch in self.epochs])


class BestEpoch(NamedTuple):
    """The best validated epoch of a run."""

    row: int
    """Index in the history."""
    epoch: int
    map50: float
    map50_95: float


def best_epoch(rows: Sequence[Row]) -> BestEpoch | None:
    """Return the validated epoch of highest fitness; None if there is none.

    Args:
        rows: History in the column names of results.csv.
    """
    columns = (column(rows, name).tolist() for name in ("epoch", MAP50_COLUMN, MAP50_95_COLUMN))
    validated = [
        BestEpoch(number, int(epoch), map50, map50_95)
        for number, (epoch, map50, map50_95) in enumerate(zip(*columns, strict=True))
        if np.isfinite(map50) and np.isfinite(map50_95)
    ]
    return max(validated, key=lambda row: fitness(row.map50, row.map50_95), default=None)


def shared_rows(ours: Sequence[Row], theirs: Sequence[Row]) -> int:
    """Return the number of equal rows at the start of two histories.

    Args:
        ours: History in the column names of results.csv.
        theirs: Another one.
    """
    length = min(len(ours), len(theirs))
    a, b = (
        np.column_stack([column(rows[:length], name) for name in COMPARED_COLUMNS])
        for rows in (ours, theirs)
    )
    different = ~np.isclose(a, b, rtol=FIVE_DIGITS_RTOL, atol=0, equal_nan=True).all(axis=1)
    return int(different.argmax()) if different.any() else length
