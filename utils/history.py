"""The record of a run, a row per epoch, and results.csv in upstream's layout; no torch."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from utils.files.atomic_write import atomic_write_text

Row = dict[str, float]

LOSSES = ("box_loss", "obj_loss", "cls_loss")
METRICS = (
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
)
COLUMNS = (
    "epoch",
    *(f"train/{loss}" for loss in LOSSES),
    *METRICS,
    *(f"val/{loss}" for loss in LOSSES),
    "x/lr0",
    "x/lr1",
    "x/lr2",
)
"""Columns of results.csv; the rates are those of the epoch's last step, biases first."""
ITERATION = "iteration"
RAW_MAP = "raw/mAP_0.5:0.95"
SKIPPED = "skipped"
"""Kept in the checkpoint only: batches trained so far; mAP50-95 of the raw weights, where it was
measured, around seams; and how many bad batches were left out, where there were any."""
MISS_RATE = "miss_rate/"
"""Kept in the checkpoint only, before the name of a subset: log-average miss rate, percent."""
AT_SEAM = "seam/"
"""Kept in the checkpoint only, before the name of a figure in the last row before a seam: as it was
measured there, by the validation of the epochs that follow, which need not be that of the row."""
MAP50_SHARE, MAP50_95_SHARE = 0.1, 0.9


def new_row(
    epoch: int,
    *,
    train_losses: Sequence[float],
    metrics: Sequence[float],
    val_losses: Sequence[float],
    rates: Sequence[float],
    iteration: int,
) -> Row:
    """One epoch's record.

    Args:
        epoch: 0-based.
        train_losses: box, objectness and class loss.
        metrics: precision, recall, mAP50 and mAP50-95.
        val_losses: as the training losses.
        rates: of the epoch's last step: biases, weights, norm weights.
        iteration: batches trained since the start of the run.
    """
    values = (epoch, *train_losses, *metrics, *val_losses, *rates)
    row = {name: float(value) for name, value in zip(COLUMNS, values, strict=True)}
    return {**row, ITERATION: float(iteration)}


def write_results(rows: Iterable[Mapping[str, float]], path: Path) -> None:
    """Write results.csv whole, beside and renamed: no kill leaves a double or a missing row."""
    lines = [",".join(f"{name:>20s}" for name in COLUMNS)]
    lines += [",".join(f"{row[name]:20.5g}" for name in COLUMNS) for row in rows]
    atomic_write_text(path, "\n".join(lines) + "\n")


def read_results(path: Path) -> list[Row]:
    """Read a results.csv, ours or upstream's."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            {str(name).strip(): float(value) for name, value in row.items()}
            for row in csv.DictReader(stream)
        ]


def fitness(map50: float, map50_95: float) -> float:
    """0.1 mAP50 + 0.9 mAP50-95."""
    return MAP50_SHARE * map50 + MAP50_95_SHARE * map50_95
