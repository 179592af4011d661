"""Compare runs, mainly branches of one run: print a table, write compare.csv and compare.png.

Usage: python -m utils.tools.compare runs/train/exp-rebase runs/train/exp-hold
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.files.atomic_write import atomic_write
from utils.options.arguments import add_options, parse_options
from utils.options.option import REQUIRED, option
from utils.options.script import OptionParser, run_script
from utils.solver.seam import EMA_MAP_COLUMN, SeamMetrics
from utils.tools.compare.recorded_run import RecordedRun, read_run

# Slow modules are imported where they are used, so that --help is fast.
if TYPE_CHECKING:
    from utils.tools.compare.branches import RunCurves

log = logging.getLogger("yolo")

Cell = str | int | float | None

# Logged tables: title, column of compare.csv, and format of each column.
RUN_TABLE = (
    ("run", "run", ""),
    ("epochs", "epochs", ""),
    ("best epoch", "best_epoch", ""),
    ("mAP50-95", "best_map50_95", ".4f"),
    ("mAP50", "best_map50", ".4f"),
    ("last mAP50-95", "last_map50_95", ".4f"),
)
SEAM_TABLE = (
    ("run", "run", ""),
    ("seam", "seam_epoch", ""),
    ("mode", "mode", ""),
    ("rate", "rate_ratio", "#.3g"),
    ("mAP before", "map50_95_before", ".4f"),
    ("drop", "map50_95_drop", ".4f"),
    ("non-EMA drop", "raw_map50_95_drop", ".4f"),
    ("back after", "epochs_until_back", ""),
    ("best after", "best_map50_95_after", ".4f"),
    ("gain/100 epochs", "gain_per_100_epochs", "+.4f"),
)


@dataclass(frozen=True)
class CompareOptions:
    """Options of the compare program."""

    runs: list[Path] = option(
        REQUIRED, "run folder or training checkpoint", metavar="RUN", positional=True
    )
    out: str = option(
        "", "output folder (default: the common parent folder of the runs)", metavar="FOLDER"
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program."""
    parser = OptionParser(
        prog="python -m utils.tools.compare",
        description="Compare runs: print a table, and plot all their seams in compare.png.",
    )
    add_options(parser, CompareOptions)
    return parser


def main() -> None:
    """Parse the command line and compare the runs."""
    options = parse_options(build_parser(), CompareOptions)
    compare(options.runs, Path(options.out) if options.out else None)


def compare(targets: Sequence[Path], out: Path | None) -> None:
    """Log the tables and write compare.csv and compare.png.

    Args:
        targets: run folders or training checkpoints.
        out: output folder; the innermost common parent folder of the runs if None.

    Raises:
        UserError: a run cannot be read or is given twice, or the output cannot be written.
    """
    from utils.tools.compare.plot import save_comparison

    runs = [read_run(target) for target in targets]
    labels = shortest_unique_names([run.path for run in runs])
    folder = out or common_folder([run.path for run in runs])
    if len({run.names for run in runs if run.names}) > 1:
        log.warning("The runs have different classes, so their mAP values are not comparable.")
    rows = [row for run, label in zip(runs, labels, strict=True) for row in csv_rows(run, label)]
    log_tables(rows)
    curves = [run_curves(run, label) for run, label in zip(runs, labels, strict=True)]
    table, plot = folder / "compare.csv", folder / "compare.png"
    try:
        atomic_write(table, lambda part: write_csv(rows, part))
        atomic_write(plot, lambda part: save_comparison(curves, part))
    except OSError as error:
        raise UserError(
            f"cannot write into {folder}: {error.strerror}; use another folder with --out FOLDER."
        ) from error
    log.info("\nSaved %s and %s", table, plot)


def shortest_unique_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path that no other path ends in.

    Raises:
        UserError: a path is given twice.
    """
    names = []
    for number, path in enumerate(paths):
        others = [*paths[:number], *paths[number + 1 :]]
        if path in others:
            raise UserError(f"{path} is given twice; name each run once.")
        tails = (path.parts[-length:] for length in range(1, len(path.parts) + 1))
        tail = next(t for t in tails if all(other.parts[-len(t) :] != t for other in others))
        names.append(PurePath(*tail).as_posix())
    return names


def common_folder(paths: Sequence[Path]) -> Path:
    """Return the innermost common parent folder of all runs.

    Raises:
        UserError: it is the root, or there is none.
    """
    try:
        folder = Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError:  # on different drives
        folder = Path(paths[0].anchor)
    if folder == folder.parent:
        raise UserError(
            "the runs have no common parent folder; set the output folder with --out FOLDER."
        )
    return folder


def run_curves(run: RecordedRun, label: str) -> RunCurves:
    """Return the curves of a run."""
    from utils.plots.run_curves import SeamMark
    from utils.tools.compare.branches import RunCurves

    if run.plan is None:
        return RunCurves(label, run.history)
    rates = [run.plan.lr0 * factor for factor in run.plan.factors()]
    seams = [SeamMark(segment.start, segment.mode) for segment in run.plan.seams]
    return RunCurves(label, run.history, rates, seams)


def csv_rows(run: RecordedRun, label: str) -> list[dict[str, Cell]]:
    """Return one row of compare.csv for each seam of a run; a single row if there is no seam."""
    from utils.tools.compare.branches import best_epoch

    best = best_epoch(run.history)
    last = run.history[-1].get(EMA_MAP_COLUMN, math.nan)
    run_cells: dict[str, Cell] = {
        "run": label,
        "epochs": len(run.history),
        "planned_epochs": run.plan.total_epochs if run.plan else None,
        "best_epoch": best.epoch if best else None,
        "best_map50_95": best.map50_95 if best else None,
        "best_map50": best.map50 if best else None,
        "last_map50_95": None if math.isnan(last) else last,
    }
    return [run_cells | seam_cells(seam) for seam in run.seams] or [run_cells]


def seam_cells(seam: SeamMetrics) -> dict[str, Cell]:
    """Return the metrics of a seam, by column of compare.csv."""
    return {
        "seam_epoch": seam.epoch,
        "mode": seam.mode,
        "rate_before": seam.rate_before,
        "rate_after": seam.rate_after,
        "rate_ratio": seam.ratio,
        "map50_95_before": seam.ema_before,
        "map50_95_lowest": seam.ema_lowest,
        "map50_95_drop": seam.ema_drop,
        "raw_map50_95_before": seam.raw_before,
        "raw_map50_95_lowest": seam.raw_lowest,
        "raw_map50_95_drop": seam.raw_drop,
        "epochs_until_back": seam.back_after,
        "best_map50_95_after": seam.best,
        "epochs_after": seam.epochs,
        "gain_per_100_epochs": seam.gain_per_100_epochs,
    }


def write_csv(rows: Sequence[Mapping[str, Cell]], path: Path) -> None:
    """Write compare.csv; the seam columns of a run without seams are empty."""
    columns = max(rows, key=len)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def log_tables(rows: Sequence[Mapping[str, Cell]]) -> None:
    """Log one line per run and one line per seam."""
    once = list({row["run"]: row for row in rows}.values())
    log.info("\n%s", format_table(RUN_TABLE, once))
    seams = [row for row in rows if "mode" in row]
    if seams:
        log.info("\n%s", format_table(SEAM_TABLE, seams))


def format_table(
    columns: Sequence[tuple[str, str, str]], rows: Sequence[Mapping[str, Cell]]
) -> str:
    """Return a table as text: strings left-aligned, numbers right-aligned, "-" for None.

    Args:
        columns: title, key and format of each column.
        rows: one mapping per line.
    """
    printed = []
    for title, key, form in columns:
        known = [row.get(key) for row in rows]
        cells = [title, *("-" if value is None else format(value, form) for value in known)]
        width = max(map(len, cells))
        text = any(isinstance(value, str) for value in known)
        printed.append([cell.ljust(width) if text else cell.rjust(width) for cell in cells])
    return "\n".join("  ".join(line).rstrip() for line in zip(*printed, strict=True))


if __name__ == "__main__":
    run_script(main)
