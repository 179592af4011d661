"""The history of a run, one row per epoch, and results.csv in YOLOv5's layout; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from utils.files.atomic_write import atomic_write, atomic_write_text

Row = dict[str, float]

LOSS_NAMES = ("box_loss", "obj_loss", "cls_loss")
METRIC_COLUMNS = (
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
)
COLUMNS = (
    "epoch",
    *(f"train/{loss}" for loss in LOSS_NAMES),
    *METRIC_COLUMNS,
    *(f"val/{loss}" for loss in LOSS_NAMES),
    "x/lr0",
    "x/lr1",
    "x/lr2",
)
"""Columns of results.csv. Learning rates of the epoch's last step: biases, weights, norms."""
ITERATION_COLUMN = "iteration"
RAW_MAP_COLUMN = "raw/mAP_0.5:0.95"
SKIPPED_COLUMN = "skipped"
"""Columns in checkpoints only: batches trained so far; mAP50-95 of the non-EMA weights, which is
measured around seams; and the number of skipped non-finite batches, if there were any."""
MISS_RATE_PREFIX = "miss_rate/"
"""Prefix of columns in checkpoints only, before the name of a subset: log-average miss rate in
percent."""
AT_SEAM_PREFIX = "seam/"
"""Prefix of columns in checkpoints only, before a metric column of the last row before a seam: the
metric measured again at the seam, with the validation settings of the epochs after it."""
COMMON_PREFIX = "common/"
"""Prefix of columns in checkpoints only, before a mAP column, if the last seam changed the classes:
mean over the classes from before the seam that are still there."""
MAP50_WEIGHT, MAP50_95_WEIGHT = 0.1, 0.9


def new_row(
    epoch: int,
    *,
    train_losses: Sequence[float],
    metrics: Sequence[float],
    val_losses: Sequence[float],
    rates: Sequence[float],
    iteration: int,
) -> Row:
    """The row of one epoch.

    Args:
        epoch: 0-based.
        train_losses: box, objectness and class loss.
        metrics: precision, recall, mAP50 and mAP50-95.
        val_losses: box, objectness and class loss.
        rates: learning rates of the epoch's last step: biases, weights, norm weights.
        iteration: batches trained since the start of the run.
    """
    values = (epoch, *train_losses, *metrics, *val_losses, *rates)
    row = {name: float(value) for name, value in zip(COLUMNS, values, strict=True)}
    return {**row, ITERATION_COLUMN: float(iteration)}


def write_results(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write results.csv atomically, so that a killed run leaves no duplicate or missing row."""
    header = [f"{name:>20s}" for name in COLUMNS]
    if not rows:  # a new run, whose first step must not wait for the import of pandas
        atomic_write_text(path, ",".join(header) + "\n")
        return
    import pandas as pd

    table = pd.DataFrame(rows, columns=COLUMNS, dtype=float)
    layout = {"header": header, "float_format": "%20.5g", "na_rep": f"{math.nan:20.5g}"}
    atomic_write(path, lambda part: table.to_csv(part, index=False, **layout))


def read_results(path: Path) -> list[Row]:
    """Read a results.csv of this project or of YOLOv5; an empty file has no rows.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a complete table of numbers.
    """
    import pandas as pd

    try:
        # Text, because pandas before 3.0 does not read numbers to the last digit.
        table = pd.read_csv(path, dtype=str, skipinitialspace=True, na_filter=False)
    except pd.errors.EmptyDataError:
        return []
    except pd.errors.ParserError as error:
        raise ValueError(str(error).strip()) from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus cells for an index
        raise ValueError("a row has more cells than the header")
    return cast(list[Row], table.rename(columns=str.strip).astype(float).to_dict("records"))


def best_epoch_since(history: Sequence[Row], start: int) -> int:
    """Return the epoch with the highest fitness from an epoch on; -1 if none was validated."""
    scores = {
        int(row["epoch"]): fitness(row[METRIC_COLUMNS[2]], row[METRIC_COLUMNS[3]])
        for row in history
        if row["epoch"] >= start
    }
    measured = [epoch for epoch, score in scores.items() if not math.isnan(score)]
    return max(measured, key=scores.__getitem__, default=-1)


def first_epoch_with(score: float, history: Sequence[Row], start: int) -> int:
    """Return the first epoch with a fitness, from an epoch on; -1 if there is none."""
    map50, map50_95 = METRIC_COLUMNS[2:]
    return next(
        (
            int(row["epoch"])
            for row in history
            if row["epoch"] >= start and fitness(row[map50], row[map50_95]) == score
        ),
        -1,
    )


def fitness(map50: float, map50_95: float) -> float:
    """0.1 mAP50 + 0.9 mAP50-95."""
    return MAP50_WEIGHT * map50 + MAP50_95_WEIGHT * map50_95
