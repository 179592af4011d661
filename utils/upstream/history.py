"""The record of a run of YOLOv5: results.csv (v6.0 and later) or results.txt (v5.0); no torch."""

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
"""Columns of results.txt, separated by blanks."""


class TextResults(NamedTuple):
    """What a results.txt tells."""

    rows: list[Row]
    planned: int | None
    """The planned total; None if there is no line."""


def parse_text_results(text: str, origin: str) -> TextResults:
    """Read the text of a results.txt, which holds no learning rates.

    Raises:
        UserError: a line is not one of v5.0's; the message begins with `origin`.
    """
    rows, planned = [], None
    for line in filter(str.strip, text.splitlines()):
        try:
            cells = dict(zip(TEXT_COLUMNS, line.split(), strict=True))
            epoch, _, last = cells["epoch/last epoch"].partition("/")
            planned = int(last) + 1
            figures = {name: float(cells[name]) for name in COLUMNS if name in cells}
            rows.append(_whole_row({**figures, "epoch": float(epoch)}))
        except ValueError as error:
            raise UserError(
                f"{origin}: {line.strip()[:60]!r} is not a line of YOLOv5 v5.0's results.txt; "
                "repair the file or move it away."
            ) from error
    return TextResults(rows, planned)


def read_csv_results(path: Path, *, biases_last: bool) -> list[Row]:
    """Read a results.csv of upstream, with the rates in our order: biases first.

    Args:
        path: the file.
        biases_last: whether the file has the rate of the biases in its last column, as v6.0 and
            v6.1 wrote it, whose optimizer had the groups in that order.

    Raises:
        UserError: the file is not a whole table of numbers.
    """
    try:
        rows = [_whole_row(row) for row in read_results(path)]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{path} is not a readable results.csv ({error}); repair it or move it away."
        ) from error
    if biases_last:
        return [{**row, "x/lr0": row["x/lr2"], "x/lr2": row["x/lr0"]} for row in rows]
    return rows


def _whole_row(row: Row) -> Row:
    """The row with our columns, NaN where it has none or where nothing was validated.

    Upstream writes zeros for an epoch without validation; no validated epoch has losses of zero.
    """
    whole = {name: row.get(name, math.nan) for name in COLUMNS}
    whole["epoch"] = float(row["epoch"])
    if not any(whole[name] for name in (*METRIC_COLUMNS, *VAL_LOSSES)):
        whole |= dict.fromkeys((*METRIC_COLUMNS, *VAL_LOSSES), math.nan)
    return whole


class History(NamedTuple):
    """A row for each completed epoch, from epoch 0."""

    rows: list[Row]
    absent: int
    """How many of them were in no file and hold nothing but their number."""


def history_of(rows: Iterable[Row], completed: int) -> History:
    """Exactly one row per completed epoch.

    A run that was killed between writing the row and the checkpoint repeats an epoch: the later row
    is that of the weights that were kept. But a row with the losses of the one before it is a
    second validation, of best.pt at the end of a run on COCO: there the earlier one counts.
    """
    by_epoch: dict[int, Row] = {}
    for row in rows:
        before = by_epoch.get(int(row["epoch"]))
        if before is None or any(row[name] != before[name] for name in TRAIN_LOSSES):
            by_epoch[int(row["epoch"])] = row
    nothing = dict.fromkeys(COLUMNS, math.nan)
    kept = [by_epoch.get(epoch, {**nothing, "epoch": float(epoch)}) for epoch in range(completed)]
    return History(kept, sum(epoch not in by_epoch for epoch in range(completed)))


class BestEpoch(NamedTuple):
    """The epoch whose weights upstream keeps as best.pt."""

    epoch: int
    fitness: float


def best_on_record(rows: Sequence[Row]) -> BestEpoch | None:
    """The best epoch of everything that was written, an epoch with two rows counted once."""
    epochs = 1 + max((int(row["epoch"]) for row in rows), default=-1)
    return best_epoch(history_of(rows, epochs).rows)


def best_epoch(rows: Sequence[Row]) -> BestEpoch | None:
    """The validated epoch of highest fitness, the last one of equals; None if there is none."""
    map50, map50_95 = METRIC_COLUMNS[2:]
    judged = [
        BestEpoch(int(row["epoch"]), fitness(row[map50], row[map50_95]))
        for row in rows
        if not math.isnan(row[map50_95])
    ]
    return max(judged, key=lambda best: (best.fitness, best.epoch), default=None)
