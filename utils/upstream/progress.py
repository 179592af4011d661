"""Finds the progress of an upstream run: completed epochs, planned epochs, history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from utils.checkpoint.format import BEST
from utils.errors import UserError
from utils.history import Row
from utils.upstream.history import (
    ResultsFile,
    best_recorded_epoch,
    build_history,
    parse_text_results,
    read_csv_results,
)
from utils.upstream.options import find_run_file
from utils.upstream.reader import UpstreamCheckpoint

BIASES_LAST = frozenset({"v6.0", "v6.1"})
"""Versions whose results.csv has the learning rates in the order of the old parameter groups."""


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
    """Find completed epochs, planned epochs and history of a run.

    Args:
        path: the checkpoint; results.csv or results.txt is searched for in its run folder.
        content: content of the checkpoint.
        options: result of `raw_options`.
        completed_option: value of `--completed-epochs`; None if not given.

    Raises:
        UserError: a value is not recorded anywhere, or two sources contradict each other.
    """
    record = read_results_file(path, content)
    notes = {}
    stripped = content.epoch < 0
    completed = (
        _stripped_epochs(path, record.rows, completed_option) if stripped else content.epoch + 1
    )
    if completed_option is not None and completed_option != completed:
        raise UserError(
            f"--completed-epochs {completed_option}: {path} records {completed} completed epochs; "
            "remove the option."
        )
    if stripped:
        notes["epoch"] = (
            f"stripped; {completed} completed according to {_source(path, completed_option)}"
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
    found = len({int(row["epoch"]) for row in record.rows} & set(range(completed)))
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


def _stripped_epochs(path: Path, rows: list[Row], completed_option: int | None) -> int:
    """Return the completed epochs of a stripped file; a best.pt holds the best epoch's weights."""
    if completed_option is not None:
        return completed_option
    if not rows:
        raise UserError(
            f"{path} was stripped of its epoch, and its run folder has no results file; "
            "add --completed-epochs N with the number of trained epochs."
        )
    best = best_recorded_epoch(rows) if path.name == BEST else None
    return 1 + (best.epoch if best is not None else max(int(row["epoch"]) for row in rows))


def _source(path: Path, completed_option: int | None) -> str:
    if completed_option is not None:
        return "--completed-epochs"
    return "the best row of the results" if path.name == BEST else "the last row of the results"


def _planned(options: Mapping[str, object], record: ResultsFile, path: Path) -> int | None:
    epochs = options.get("epochs", record.planned)
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int)):
        raise UserError(
            f"{path}: option epochs of the run is {epochs!r}, which is of the wrong type; "
            "correct it in opt.yaml."
        )
    return epochs
