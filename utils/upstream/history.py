"""Reads the results of an upstream run, and finds how far it was planned and trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.checkpoint.format import BEST
from utils.errors import UserError
from utils.history import COLUMNS, LOSS_NAMES, METRIC_COLUMNS, Row, fitness, read_results
from utils.upstream.options import find_run_file
from utils.upstream.reader import UpstreamCheckpoint

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


BIASES_LAST = frozenset({"v6.0", "v6.1"})
"""Versions whose results.csv has the learning rates in the order of the old parameter groups."""


class ResultsFile(NamedTuple):
    """Content of a results file."""

    rows: list[Row]
    """Rows as written; an epoch may have two."""
    planned: int | None = None
    """Planned number of epochs; only results.txt has it, unless it is empty."""


def parse_text_results(text: str, origin: str) -> ResultsFile:
    """Parse the text of a results.txt, which has no learning rates; `origin` names the file.

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


class RunProgress(NamedTuple):
    """Progress of a run."""

    completed: int
    planned: int
    history: list[Row]
    """One row per completed epoch."""
    rows_found: int
    """Number of rows found in the results file; the others are NaN."""
    stopped_early: bool
    notes: dict[str, str]
    """Missing values, and the replacement for each."""


def find_progress(
    path: Path,
    content: UpstreamCheckpoint,
    options: Mapping[str, object],
    completed_option: int | None,
) -> RunProgress:
    """Find completed epochs, planned epochs and history of a run, from its files and options.

    `options` are those of `raw_options`, `completed_option` is `--completed-epochs`, if given.

    Raises:
        UserError: a value is not recorded anywhere, or two sources contradict each other.
    """
    record = read_results_file(path, content)
    stripped, notes = content.epoch < 0, {}
    if stripped:
        completed, source = _stripped_epochs(path, record.rows, completed_option)
        notes["epoch"] = f"stripped; {completed} completed according to {source}"
    else:
        completed = content.epoch + 1
    if completed_option not in (None, completed):
        raise UserError(
            f"--completed-epochs {completed_option}: {path} records {completed} completed epochs; "
            "remove the option."
        )
    planned = _planned(options, record, path)
    if planned is None and stripped:
        planned = completed
        notes["planned total"] = f"not recorded; a stripped run has ended, so it is {completed}"
    if planned is None:
        raise UserError(
            f"neither {path} nor an opt.yaml in its run folder has the planned number of epochs; "
            "put the run's opt.yaml, or one with the line `epochs: N`, into its folder."
        )
    if completed > planned:
        raise UserError(
            f"{path}: {completed} epochs are completed, but the options plan only {planned}; "
            "correct --completed-epochs or `epochs` in opt.yaml."
        )
    found = len({row["epoch"] for row in record.rows if row["epoch"] in range(completed)})
    if found < completed:
        notes["history"] = (
            f"{completed - found} of {completed} epochs are missing from the results file"
        )
    early = stripped and path.name != BEST and completed < planned
    history = build_history(record.rows, completed)
    return RunProgress(completed, planned, history, found, early, notes)


def read_results_file(path: Path, content: UpstreamCheckpoint) -> ResultsFile:
    """Read the results of a run, from results.csv, the checkpoint (v5.0) or results.txt.

    Returns:
        Without rows if there are no results.

    Raises:
        UserError: the results file is damaged.
    """
    table = find_run_file(path, "results.csv")
    if table is not None:
        biases_last = content.version in BIASES_LAST
        return ResultsFile(read_csv_results(table, biases_last=biases_last))
    file = find_run_file(path, "results.txt")
    if content.training_results is not None:
        text, origin = content.training_results, path
    elif file is not None:
        text, origin = file.read_text(encoding="utf-8", errors="replace"), file
    else:
        return ResultsFile([])
    return parse_text_results(text, str(origin))


def _stripped_epochs(path: Path, rows: list[Row], completed_option: int | None) -> tuple[int, str]:
    """Return the completed epochs of a stripped file, and where the number is from."""
    if completed_option is not None:
        return completed_option, "--completed-epochs"
    if not rows:
        raise UserError(
            f"{path} was stripped of its epoch, and its run folder has no results file; "
            "add --completed-epochs N with the number of trained epochs."
        )
    best = best_recorded_epoch(rows)
    if path.name == BEST and best is not None:  # it holds the weights of the best epoch
        return 1 + best.epoch, "the best row of the results"
    return 1 + max(int(row["epoch"]) for row in rows), "the last row of the results"


def _planned(options: Mapping[str, object], record: ResultsFile, path: Path) -> int | None:
    epochs = options.get("epochs", record.planned)
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int)):
        raise UserError(
            f"{path}: option epochs of the run is {epochs!r}, which is of the wrong type; "
            "correct it in opt.yaml."
        )
    return epochs
