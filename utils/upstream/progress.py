"""How far an upstream run came and what it had reached: epochs done, planned total, history."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from utils.checkpoint.format import BEST
from utils.errors import UserError
from utils.history import Row
from utils.upstream.history import best_on_record, history_of, parse_text_results, read_csv_results
from utils.upstream.options import file_beside
from utils.upstream.reader import UpstreamCheckpoint

BIASES_LAST = frozenset({"v6.0", "v6.1"})
"""Versions with a results.csv whose rates are in the order of the old parameter groups."""


class RunProgress(NamedTuple):
    """Where a run stands."""

    completed: int
    planned: int
    history: list[Row]
    """A row per completed epoch."""
    rows_found: int
    """How many of them were on record; the others hold NaN."""
    stopped_early: bool
    notes: dict[str, str]
    """What was not to be found, and what stands in for it."""


class ResultsFile(NamedTuple):
    """What a results file tells."""

    rows: list[Row]
    """As they were written; an epoch may have two."""
    planned: int | None
    """As results.txt tells it."""


def find_progress(
    path: Path,
    content: UpstreamCheckpoint,
    options: Mapping[str, object],
    told: int | None,
) -> RunProgress:
    """Completed epochs, planned total and history of a run.

    Args:
        path: the checkpoint; results.csv or results.txt are looked for beside it.
        content: what is in it.
        options: as `upstream_options.raw_options` gives them.
        told: `--completed-epochs`.

    Raises:
        UserError: one of them is nowhere told, or what is told is contradictory.
    """
    record = read_results_file(path, content)
    notes = {}
    stripped = content.epoch < 0
    completed = _stripped_epochs(path, record.rows, told) if stripped else content.epoch + 1
    if told is not None and told != completed:
        raise UserError(
            f"--completed-epochs {told}: {path} itself says {completed}; leave the option out."
        )
    if stripped:
        notes["epoch"] = f"stripped; {_source(path, told)} says {completed} are completed"
    planned = _planned(options, record, path)
    if planned is None and stripped:
        planned = completed
        notes["planned total"] = f"not on record; a stripped run is at its end, {completed}"
    if planned is None:
        raise UserError(
            f"neither {path} nor an opt.yaml beside it says how many epochs were planned; "
            "put the run's opt.yaml, or one with the line `epochs: N`, into its folder."
        )
    if completed > planned:
        raise UserError(
            f"{path}: {completed} epochs are completed, but only {planned} planned by the options; "
            "correct --completed-epochs or `epochs` in opt.yaml."
        )
    history = history_of(record.rows, completed)
    if history.absent:
        notes["history"] = f"{history.absent} of {completed} epochs are in no results file"
    early = stripped and path.name != BEST and completed < planned
    found = completed - history.absent
    return RunProgress(completed, planned, history.rows, found, early, notes)


def read_results_file(path: Path, content: UpstreamCheckpoint) -> ResultsFile:
    """The results of a run: in the file itself (v5.0) or beside it; empty if there are none.

    Raises:
        UserError: the results file is not readable.
    """
    table = file_beside(path, "results.csv")
    if table is not None:
        biases_last = content.version in BIASES_LAST
        return ResultsFile(read_csv_results(table, biases_last=biases_last), None)
    file = file_beside(path, "results.txt")
    if content.training_results is not None:
        text, origin = content.training_results, path
    elif file is not None:
        text, origin = file.read_text(encoding="utf-8", errors="replace"), file
    else:
        return ResultsFile([], None)
    return ResultsFile(*parse_text_results(text, str(origin)))


def _stripped_epochs(path: Path, rows: list[Row], told: int | None) -> int:
    """All epochs on record; for best.pt those up to the best one, whose weights it holds."""
    if told is not None:
        return told
    if not rows:
        raise UserError(
            f"{path} was stripped of its epoch and no results file lies beside it; "
            "say how many epochs were trained: --completed-epochs N."
        )
    best = best_on_record(rows) if path.name == BEST else None
    return 1 + (best.epoch if best is not None else max(int(row["epoch"]) for row in rows))


def _source(path: Path, told: int | None) -> str:
    if told is not None:
        return "--completed-epochs"
    return "the best row of the results" if path.name == BEST else "the last row of the results"


def _planned(options: Mapping[str, object], record: ResultsFile, path: Path) -> int | None:
    epochs = options.get("epochs", record.planned)
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int)):
        raise UserError(f"{path}: the run's option epochs is {epochs!r}; correct opt.yaml.")
    return epochs
