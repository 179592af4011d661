"""Kill a training over and over, resume it, and compare it with one that nobody disturbed.

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
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    # Python looks for modules beside this file; they are imported from the root, as everywhere.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from utils.options.script import OptionParser, run_script

# What is heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    from benchmarks.kill_campaign import Outcome

log = logging.getLogger("yolo")

# Small enough for minutes. The gradients of four batches are summed for a step, so that most saves
# are of half-made ones.
RUN = (
    "--data streets.yaml --hyp hyp.streets.yaml --weights '' --cfg yolov5n.yaml --optimizer AdamW "
    "--imgsz 96 --batch-size 16 --workers 2 --device cpu"
)
UNEQUAL = 1  # exit code
SHOWN = 10  # differences

Figure = int | str | bool | list[str] | dict[str, int]


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python benchmarks/faults.py",
        description="Kill a training at random moments, resume it until it is done, and compare it "
        "with one that nobody disturbed. Trains on the data set that the program draws itself.",
        epilog="exit code: 0 if every kill was survived and all is equal bit for bit, else 1",
    )
    parser.add_argument("--kills", type=int, default=30, help="how often (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--epochs", type=int, default=15, help="of the run (default: 15)")
    parser.add_argument(
        "--save-steps", type=int, default=3, help="save every so many batches (default: 3)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of both runs (default: 1)")
    parser.add_argument("--json", action="store_true", help="as JSON, and nothing else")
    return parser


def main() -> None:
    """Read the command line, let the campaign run, tell what came of it."""
    from benchmarks.kill_campaign import Campaign

    parser = build_parser()
    args = parser.parse_args()
    if min(args.kills, args.threads) < 1 or args.seed < 0:
        parser.error("--kills and --threads are at least 1, --seed at least 0")
    if args.json:
        log.setLevel(logging.WARNING)
    arguments = [*shlex.split(RUN), "--epochs", str(args.epochs)]
    arguments += ["--save-steps", str(args.save_steps)]
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    environment = {"OMP_NUM_THREADS": str(args.threads), "YOLO_DATASETS_DIR": str(folder / "data")}
    outcome = Campaign(arguments, folder, environment).run(args.kills, args.seed)

    result = {"threads": args.threads, **summary(outcome, args.kills)}
    log.info("\n%s", table(result))
    if args.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    if not result["passed"]:
        sys.stderr.write(f"{outcome.failure}\nThe runs are in {folder}\n")
        raise SystemExit(UNEQUAL)
    shutil.rmtree(folder)


def summary(outcome: Outcome, wanted: int) -> dict[str, Figure]:
    """The figures of a campaign.

    Args:
        outcome: what came of it.
        wanted: kills that were asked for.
    """
    lost = [kill.lost for kill in outcome.kills]
    survived = not outcome.failure and not outcome.fatal and len(outcome.kills) == wanted
    return {
        "workers": outcome.settings.workers,
        "precision": outcome.settings.precision,
        "epochs": outcome.epochs,
        "batches per epoch": outcome.batches,
        "saved every so many batches": outcome.settings.save_steps,
        "kills": len(outcome.kills),
        "kills while": dict(Counter(kill.hit.value for kill in outcome.kills)),
        "resumes": outcome.resumes,
        "begun anew": outcome.restarts,
        "batches lost": sum(lost),
        "batches lost at most at once": max(lost, default=0),
        "last.pt found damaged": len(outcome.damaged),
        "without a good last_prev.pt": len(outcome.fatal),
        **{f"{part} equal": not found for part, found in outcome.differences.items()},
        "first differences": [d for found in outcome.differences.values() for d in found][:SHOWN],
        "passed": survived and outcome.equal,
    }


def table(result: dict[str, Figure]) -> str:
    """A line for each figure."""
    width = max(map(len, result))
    return "\n".join(f"{name:<{width}}  {_cell(figure)}" for name, figure in result.items())


def _cell(figure: Figure) -> str:
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    if isinstance(figure, dict):
        return ", ".join(f"{name} {count}" for name, count in figure.items())
    if isinstance(figure, list):
        return ", ".join(figure) or "none"
    return str(figure)


if __name__ == "__main__":
    run_script(main)
