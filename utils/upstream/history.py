"""Reads the results of a YOLOv5 run: results.csv (v6.0 and later), results.txt (v5.0); no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.history import COLUMNS, LOSS_NAMES, METRIC_COLUMNS, Row, fitness, read_results

TRAIN_LOSSES = tuple(f"train/{loss}" for loss in LOSS_NAMES)
VAL_LOSSES = tuple(f"val/{loss}" for loss in LOSS_NAMES)
TEXT_COLUMNS = (
    "epoch/last epoch",
    "GPU memory",
    *TRAIN_LOSSES,
    "sum of the losses",
    "boxes in the last batch",
    "image size",
    *METRIC_COLUMNS,
    *VAL_LOSSES,
)
"""Columns of results.txt, separated by whitespace."""


class ResultsFile(NamedTuple):
    """Content of a results file."""

    rows: list[Row]
    """Rows as written; an epoch may have two."""
    planned: int | None = None
    """Planned number of epochs; only results.txt has it, unless it is empty."""


def parse_text_results(text: str, origin: str) -> ResultsFile:
    """Parse the text of a results.txt, which has no learning rates.

    Args:
        text: the text.
        origin: name of the file, for messages.

    Raises:
        UserError: a line does not have the format of v5.0.
    """
    rows, planned = [], None
    for line in filter(str.strip, text.splitlines()):
        try:
            cells = dict(zip(TEXT_COLUMNS, line.split(), strict=True))
            epoch, _, last = cells["epoch/last epoch"].partition("/")
            planned = int(last) + 1
            values = {name: float(cells[name]) for name in COLUMNS if name in cells}
            rows.append(_complete_row({**values, "epoch": float(epoch)}))
        except ValueError as error:
            raise UserError(
                f"{origin} is damaged ({line.strip()[:60]!r} is not a line of YOLOv5 v5.0's "
                "results.txt); correct or remove the file."
            ) from error
    return ResultsFile(rows, planned)


def read_csv_results(path: Path, *, biases_last: bool) -> list[Row]:
    """Read upstream's results.csv and put the learning rates in our order: biases first.

    Args:
        path: the file.
        biases_last: whether the last column is the learning rate of the biases, as in v6.0 and
            v6.1, whose optimizer had its groups in that order.

    Raises:
        UserError: the file is not a complete table of numbers.
    """
    try:
        rows = [_complete_row(row) for row in read_results(path)]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); correct or remove the file.") from error
    if biases_last:
        return [{**row, "x/lr0": row["x/lr2"], "x/lr2": row["x/lr0"]} for row in rows]
    return rows


def _complete_row(row: Row) -> Row:
    """Return the row with all of our columns; missing values are NaN.

    Upstream writes zeros for an epoch that it did not validate; these become NaN too. A validated
    epoch never has losses of zero.
    """
    whole = {name: row.get(name, math.nan) for name in COLUMNS}
    whole["epoch"] = float(row["epoch"])
    if not any(whole[name] for name in (*METRIC_COLUMNS, *VAL_LOSSES)):
        whole |= dict.fromkeys((*METRIC_COLUMNS, *VAL_LOSSES), math.nan)
    return whole


def build_history(rows: Iterable[Row], completed: int) -> list[Row]:
    """Return exactly one row per completed epoch, with NaN for an epoch without a row.

    A run that was killed after it wrote a row and before it wrote the checkpoint repeats that epoch
    when it is resumed; the later row then belongs to the weights that were kept. A repeated row
    with the same training losses, however, is the second validation, of best.pt, at the end of a
    run on COCO; then the earlier row counts.
    """
    by_epoch: dict[int, Row] = {}
    for row in rows:
        before = by_epoch.get(int(row["epoch"]))
        if before is None or any(row[name] != before[name] for name in TRAIN_LOSSES):
            by_epoch[int(row["epoch"])] = row
    empty = dict.fromkeys(COLUMNS, math.nan)
    return [by_epoch.get(epoch, {**empty, "epoch": float(epoch)}) for epoch in range(completed)]


class BestEpoch(NamedTuple):
    """The epoch whose weights upstream keeps as best.pt."""

    epoch: int
    fitness: float


def best_recorded_epoch(rows: Sequence[Row]) -> BestEpoch | None:
    """Return the best of all recorded epochs, with one row per epoch; see `build_history`."""
    epochs = 1 + max((int(row["epoch"]) for row in rows), default=-1)
    return best_epoch(build_history(rows, epochs))


def best_epoch(rows: Sequence[Row]) -> BestEpoch | None:
    """Return the last validated epoch with the highest fitness; None if none was validated."""
    map50, map50_95 = METRIC_COLUMNS[2:]
    validated = [
        BestEpoch(int(row["epoch"]), fitness(row[map50], row[map50_95]))
        for row in rows
        if not math.isnan(row[map50_95])
    ]
    return max(validated, key=lambda best: (best.fitness, best.epoch), default=None)
