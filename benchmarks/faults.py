"""Kills a training run repeatedly, resumes it, and compares it with an uninterrupted run.

Usage: python benchmarks/faults.py --kills 30 [--seed 0] [--epochs 15] [--save-steps 3] [--json]
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # A script starts with its own folder on sys.path; imports need the repository root instead.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from utils.options.script import OptionParser, run_script

# Slow modules are imported inside the functions that use them: --help must be fast.
if TYPE_CHECKING:
    from benchmarks.kill_campaign import CampaignResult

log = logging.getLogger("yolo")

# Small enough to finish in minutes. A step accumulates the gradients of four batches, so that most
# saves happen between two steps.
TRAIN_OPTIONS = (
    "--data streets.yaml --hyp hyp.streets.yaml --weights '' --cfg yolov5n.yaml --optimizer AdamW "
    "--imgsz 96 --batch-size 16 --workers 2 --device cpu"
)
EXIT_FAILED = 1
MAX_DIFFERENCES = 10  # in the report

Value = int | str | bool | list[str] | dict[str, int]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this program's options."""
    parser = OptionParser(
        prog="python benchmarks/faults.py",
        description="Kill a training run at random moments, resume it until it finishes, compare "
        "it with an uninterrupted run. Trains on the synthetic data set streets.yaml.",
        epilog="exit code: 0 if the run survived every kill and is equal bit for bit, else 1",
    )
    parser.add_argument("--kills", type=int, default=30, help="number of kills (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kills (default: 0)")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of the run (default: 15)")
    parser.add_argument(
        "--save-steps", type=int, default=3, help="save after every N batches (default: 3)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads per run (default: 1)")
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON, and nothing else"
    )
    return parser


def main() -> None:
    """Parse the command line, run the campaign, report the result."""
    from benchmarks.kill_campaign import Campaign

    parser = build_parser()
    args = parser.parse_args()
    for name, minimum in (("kills", 1), ("threads", 1), ("seed", 0)):
        if (value := getattr(args, name)) < minimum:
            parser.error(f"--{name} {value}: must be at least {minimum}")
    if args.json:
        log.setLevel(logging.WARNING)
    arguments = [*shlex.split(TRAIN_OPTIONS), "--epochs", str(args.epochs)]
    arguments += ["--save-steps", str(args.save_steps)]
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    environment = {"OMP_NUM_THREADS": str(args.threads), "YOLO_DATASETS_DIR": str(folder / "data")}
    result = Campaign(arguments, folder, environment).run(args.kills, args.seed)

    report = {"threads": args.threads, **summary(result, args.kills)}
    log.info("\n%s", table(report))
    if args.json:
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    if not report["passed"]:
        sys.stderr.write(f"{result.failure}\nThe runs are in {folder}\n")
        raise SystemExit(EXIT_FAILED)
    shutil.rmtree(folder)


def summary(result: CampaignResult, requested: int) -> dict[str, Value]:
    """Return the values to report for a campaign.

    Args:
        result: result of the campaign.
        requested: number of kills that were requested.
    """
    lost = [kill.lost for kill in result.kills]
    survived = not result.failure and not result.fatal and len(result.kills) == requested
    return {
        "workers": result.settings.workers,
        "precision": result.settings.precision,
        "epochs": result.epochs,
        "batches per epoch": result.batches,
        "saved every so many batches": result.settings.save_steps,
        "kills": len(result.kills),
        "kills while": dict(Counter(kill.phase.value for kill in result.kills)),
        "resumes": result.resumes,
        "begun from scratch": result.fresh_starts,
        "batches lost": sum(lost),
        "batches lost at most at once": max(lost, default=0),
        "last.pt found damaged": len(result.damaged),
        "without a good last_prev.pt": len(result.fatal),
        **{f"{part} equal": not found for part, found in result.differences.items()},
        "first differences": list(chain(*result.differences.values()))[:MAX_DIFFERENCES],
        "passed": survived and result.equal,
    }


def table(report: dict[str, Value]) -> str:
    """Return a table with a line per value."""
    width = max(map(len, report))
    return "\n".join(f"{name:<{width}}  {_cell(value)}" for name, value in report.items())


def _cell(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return str(value)


if __name__ == "__main__":
    run_script(main)
