"""Log-average miss rate of any detector's results on CityPersons.

Usage:
    python -m utils.tools.miss_rate --gt val_gt.json --dt detections.json --plot curves.png
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from utils.evaluation.citypersons_files import read_detections, read_truth
from utils.evaluation.miss_rate import log_miss_rates, miss_rates, percentages
from utils.options.script import OptionParser, run_script

log = logging.getLogger("yolo")


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python -m utils.tools.miss_rate",
        description="Log-average miss rate of a detector's results on CityPersons.",
    )
    parser.add_argument("--gt", required=True, metavar="FILE", help="ground truth, val_gt.json")
    parser.add_argument(
        "--dt", required=True, metavar="FILE", help="detections: image_id, category_id, bbox, score"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", metavar="PICTURE", help="draw the curves, e.g. curves.png")
    return parser


def main() -> None:
    """Read the command line, evaluate, report."""
    args = build_parser().parse_args()
    truth = read_truth(Path(args.gt))
    found = read_detections(Path(args.dt), truth)
    rates = miss_rates(truth, found)
    if args.json:
        record = {
            "images": len(truth.image_ids),
            "detections": len(found.score),
            "log_average_miss_rate_percent": percentages(rates),
        }
        log.info("%s", json.dumps(record, indent=2))
    else:
        log_miss_rates(rates)
    if args.plot:
        from utils.evaluation.curves import save_miss_rate_curves  # and matplotlib

        save_miss_rate_curves(rates, Path(args.plot))


if __name__ == "__main__":
    run_script(main)
