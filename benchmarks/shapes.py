"""Measures indexing, samples, training steps and validation on the shapes of real data sets.

Usage: python benchmarks/shapes.py --only shelf aerial --against ../other-clone
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import (
    Results,
    align_columns,
    describe_machine,
    load_per_core,
    table,
)
from benchmarks.shape_data import SHAPES, make_data
from benchmarks.timing import Measurements, measure_interleaved
from utils.errors import UserError
from utils.files.atomic_write import atomic_write_text
from utils.options.script import OptionParser, run_script

log = logging.getLogger("yolo")

ROOT = Path(__file__).resolve().parents[1]
HUGE = "2m"
"""A row that takes many minutes and 4 million inodes, measured only if it is named."""
MAX_QUOTED = 2000  # characters of the output of a process that failed


def main() -> None:
    """Measure the rows of the command line; write the results after each."""
    args = build_parser().parse_args()
    if args.rounds < 1:
        raise UserError(f"--rounds {args.rounds}: must be at least 1.")
    roots = {"A": ROOT} | ({} if args.against is None else {"B": args.against.resolve()})
    load, results = load_per_core(), dict[str, Results]()
    for name in args.only or [name for name in SHAPES if name != HUGE]:
        with tempfile.TemporaryDirectory(prefix="shape-", dir=args.folder) as text:
            make_data(SHAPES[name].quick() if args.quick else SHAPES[name], Path(text))
            runs = {
                letter: partial(measure_row, name, root, Path(text), args)
                for letter, root in roots.items()
            }
            results[name] = measure_interleaved(runs, args.rounds, warm_up=0)
        log.info("%s\n%s", name, table(results[name]))
        if args.json:
            content = {"machine": describe_machine(), "load per core before": round(load, 2)}
            content |= {"options": vars(args), "figures": as_plain_data(results)}
            atomic_write_text(args.json, json.dumps(content, indent=1, default=str) + "\n")
    log.info("\n%s", overview(results))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options."""
    parser = OptionParser(
        prog="python benchmarks/shapes.py",
        description="Measure indexing, samples, training steps and validation on data in the "
        "shapes of real data sets, made for the measurement.",
    )
    add, names = parser.add_argument, ", ".join(SHAPES)
    text = f"rows to measure, of {names} (default: all but {HUGE})"
    add("--only", nargs="+", choices=SHAPES, metavar="NAME", help=text)
    text = "also measure the code of this clone, in turns with this one"
    add("--against", type=Path, metavar="PATH", help=text)
    text = "wall time, or on a busy machine the CPU time of a single thread (default: wall)"
    add("--clock", choices=("wall", "cpu"), default="wall", help=text)
    add("--quick", action="store_true", help="small data, to check that everything works")
    add("--folder", type=Path, help="where to make the data (default: the temporary folder)")
    text = "rounds per variant (default: 3)"
    add("--rounds", type=int, default=3, help=text)
    add("--json", type=Path, metavar="PATH", help="also write the results to this file")
    return parser


def measure_row(name: str, root: Path, folder: Path, args: argparse.Namespace) -> Measurements:
    """Measure a row once, in a process of its own that runs the code of the clone `root`.

    Raises:
        UserError: the process failed.
    """
    out = folder / "results.json"
    options = [name, "--root", root, "--folder", folder, "--out", out, "--clock", args.clock]
    command = [sys.executable, ROOT / "benchmarks/shape_row.py", *options]
    command += ["--quick"] if args.quick else []
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{name} cannot be measured in {root}:\n{done.stderr[-MAX_QUOTED:]}")
    measured: Measurements = json.loads(out.read_text(encoding="utf-8"))
    return measured


def as_plain_data(results: dict[str, Results]) -> dict[str, object]:
    """Return the results for the JSON file: median, least and most by row, variant and metric."""
    return {
        name: {
            letter: {metric: spread._asdict() for metric, spread in found.items()}
            for letter, found in variants.items()
        }
        for name, variants in results.items()
    }


def overview(results: dict[str, Results]) -> str:
    """Return a table of this clone's medians, with a line per metric and a column per row."""
    rows = {name: variants["A"] for name, variants in results.items()}
    metrics = dict.fromkeys(metric for found in rows.values() for metric in found)
    lines = [["", *rows]]
    for metric in metrics:
        found = (row.get(metric) for row in rows.values())
        lines.append([metric, *("-" if cell is None else f"{cell.median:.3g}" for cell in found)])
    return align_columns(lines)


if __name__ == "__main__":
    run_script(main)
