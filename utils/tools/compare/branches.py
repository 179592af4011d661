"""Curves of the compared runs, and the rows that branches share; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.plots.run_curves import SeamMark
from utils.plots.series import MAP50, MAP50_95, Row, history_table

RATE = "rate"
# Branches of a run repeat its rows; those read from results.csv are rounded to five digits.
COMPARED_COLUMNS = ["epoch", "train/box_loss", "train/obj_loss", MAP50, MAP50_95]
FIVE_DIGITS_RTOL = 1e-4


class RunCurves(NamedTuple):
    """Curves of a run."""

    label: str
    table: pd.DataFrame
    """History, and in `RATE` the planned or else the recorded rate of the weights."""
    planned: bool
    """Whether the rates are the planned ones."""
    seams: Sequence[SeamMark]


def run_curves(
    label: str,
    rows: Sequence[Row],
    plan_rates: Sequence[float] = (),
    seams: Sequence[SeamMark] = (),
) -> RunCurves:
    """Return the curves of a run.

    Args:
        label: Its name.
        rows: History in the column names of results.csv; NaN or a missing value is not plotted.
        plan_rates: Planned rate of the weights for every epoch from 0; empty if unknown.
        seams: Seams of the run.
    """
    table = history_table(rows)
    planned = len(plan_rates) > 0
    epochs = table["epoch"].astype(int)
    table[RATE] = np.take(plan_rates, epochs) if planned else table["x/lr1"]
    return RunCurves(label, table, planned, seams)


def shared_rows(ours: pd.DataFrame, theirs: pd.DataFrame) -> int:
    """Return the number of equal rows at the start of two histories."""
    length = min(len(ours), len(theirs))
    a, b = (table[COMPARED_COLUMNS][:length] for table in (ours, theirs))
    equal = np.isclose(a, b, rtol=FIVE_DIGITS_RTOL, atol=0, equal_nan=True).all(axis=1)
    return int(equal.cumprod().sum())
