"""Compare runs, mainly branches of one run: print a table, write compare.csv and compare.png.

Usage: python -m utils.tools.compare runs/train/exp-rebase runs/train/exp-hold
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.files.atomic_write import atomic_write
from utils.options.arguments import add_options, parse_options
from utils.options.option import REQUIRED, option
from utils.options.script import OptionParser, run_script
from utils.solver.seam import SeamMetrics
from utils.tools.compare.recorded_run import RecordedRun, read_run

# Slow modules are imported where they are used, so that --help is fast.
if TYPE_CHECKING:
    import pandas as pd

    from utils.tools.compare.plot import RunCurves

log = logging.getLogger("yolo")

# Logged tables: heading, column of compare.csv, and format of each column.
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
    import pandas as pd

    from utils.tools.compare.plot import save_comparison

    runs = [read_run(target) for target in targets]
    labels = shortest_unique_names([run.path for run in runs])
    folder = out or common_folder([run.path for run in runs])
    if len({run.names for run in runs if run.names}) > 1:
        log.warning("The runs have different classes, so their mAP values are not comparable.")
    curves = [curves_of(run, label) for run, label in zip(runs, labels, strict=True)]
    rows = [row for run, curve in zip(runs, curves, strict=True) for row in csv_rows(run, curve)]
    cells = pd.DataFrame(rows, dtype=object)  # else whole numbers beside empty cells get decimals
    log_tables(cells)
    table, plot = folder / "compare.csv", folder / "compare.png"
    try:
        atomic_write(table, lambda part: cells.to_csv(part, index=False, lineterminator="\r\n"))
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


def curves_of(run: RecordedRun, label: str) -> RunCurves:
    """Return the curves of a run."""
    from utils.plots.run_curves import SeamMark
    from utils.tools.compare.plot import run_curves

    if run.plan is None:
        return run_curves(label, run.history)
    rates = [run.plan.lr0 * factor for factor in run.plan.factors()]
    seams = [SeamMark(segment.start, segment.mode) for segment in run.plan.seams]
    return run_curves(label, run.history, rates, seams)


def csv_rows(run: RecordedRun, curves: RunCurves) -> list[dict[str, object]]:
    """Return one row of compare.csv for each seam of a run; a single row if there is no seam."""
    from utils.plots.series import MAP50, MAP50_95, best_epoch

    best = best_epoch(curves.table)
    run_cells = {
        "run": curves.label,
        "epochs": len(curves.table),
        "planned_epochs": run.plan.total_epochs if run.plan else None,
        "best_epoch": None if best is None else int(best["epoch"]),
        "best_map50_95": None if best is None else best[MAP50_95],
        "best_map50": None if best is None else best[MAP50],
        "last_map50_95": curves.table[MAP50_95].iloc[-1],
    }
    return [run_cells | seam_cells(seam) for seam in run.seams] or [run_cells]


def seam_cells(seam: SeamMetrics) -> dict[str, object]:
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


def log_tables(cells: pd.DataFrame) -> None:
    """Log one line per run and one line per seam."""
    log.info("\n%s", format_table(RUN_TABLE, cells.drop_duplicates("run")))
    if "mode" in cells:
        log.info("\n%s", format_table(SEAM_TABLE, cells.dropna(subset="mode")))


def format_table(columns: Sequence[tuple[str, str, str]], cells: pd.DataFrame) -> str:
    """Return a table as text, with "-" for a missing value.

    Args:
        columns: heading, column of the table and format of each printed column; the first one is
            left-aligned.
        cells: the table.
    """
    import pandas as pd

    printed = pd.DataFrame(
        {
            heading: ["-" if pd.isna(cell) else format(cell, form) for cell in cells[name]]
            for heading, name, form in columns
        }
    )
    name = columns[0][0]
    shown = printed.set_index(name).rename_axis(index=None, columns=name)
    # Two spaces between headings, which contain single spaces themselves.
    return str(shown.to_string(col_space=[len(heading) + 1 for heading in shown]))


if __name__ == "__main__":
    run_script(main)
