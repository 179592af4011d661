"""The history of a run as a table, its best epoch, and smoothing; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from utils.history import COLUMNS, METRIC_COLUMNS, RAW_MAP_COLUMN, fitness

Row = Mapping[str, float]
Floats = NDArray[np.float64]

MAP50, MAP50_95 = METRIC_COLUMNS[2:]
SIGMA_DIVISOR = 30  # sigma is the run's length divided by this, within the limits
SIGMA_LIMITS = (1.0, 3.0)  # epochs
MIN_DETERMINANT = 1e-12


def history_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return a history as a table; missing and infinite values are NaN."""
    table = pd.DataFrame(rows, columns=[*COLUMNS, RAW_MAP_COLUMN], dtype=float)
    return table.where(np.isfinite(table))


def best_epoch(table: pd.DataFrame) -> pd.Series | None:
    """Return the row of the last validated epoch of highest fitness; None if there is none."""
    newest_first = table[::-1]
    scores: pd.Series = fitness(newest_first[MAP50], newest_first[MAP50_95])
    return table.loc[scores.idxmax()] if scores.notna().any() else None


def smoothed(epochs: Floats, values: Floats) -> Floats:
    """Smooth a series by local linear regression with Gaussian weights (Cleveland 1979).

    Unlike a moving average, it does not flatten the steep start of a training curve.

    Args:
        epochs: Epochs of the values, [n].
        values: [n].

    Returns:
        The fitted values, [n].
    """
    fitted = np.empty_like(values)
    sigma = np.clip(np.ptp(epochs) / SIGMA_DIVISOR, *SIGMA_LIMITS) if len(epochs) else 0
    for i, epoch in enumerate(epochs):
        distance = epochs - epoch
        weight = np.exp(-0.5 * (distance / sigma) ** 2)
        s0, s1, s2 = weight.sum(), weight @ distance, weight @ distance**2
        t0, t1 = weight @ values, weight @ (distance * values)
        determinant = s0 * s2 - s1**2  # 0 if a point has no neighbors to fit a line to
        fitted[i] = (s2 * t0 - s1 * t1) / determinant if determinant > MIN_DETERMINANT else t0 / s0
    return fitted
