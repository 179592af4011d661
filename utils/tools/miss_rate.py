"""Log-average miss rate of any detector's results on CityPersons.

Usage:
    python -m utils.tools.miss_rate --gt val_gt.json --dt detections.json --plot curves.png
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from utils.evaluation.citypersons_files import read_detections, read_truth
from utils.evaluation.miss_rate import log_miss_rates, miss_rates, percentages
from utils.options.arguments import add_options, parse_options
from utils.options.option import REQUIRED, option
from utils.options.script import OptionParser, run_script

log = logging.getLogger("yolo")


@dataclass(frozen=True)
class MissRateOptions:
    """Whose results to evaluate against what, and how to report."""

    gt: Path = option(REQUIRED, "ground truth, val_gt.json", metavar="FILE")
    dt: Path = option(REQUIRED, "detections: image_id, category_id, bbox, score", metavar="FILE")
    json: bool = option(False, "print JSON instead of a table")
    plot: str = option("", "draw the curves, e.g. curves.png", metavar="PICTURE")


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python -m utils.tools.miss_rate",
        description="Log-average miss rate of a detector's results on CityPersons.",
    )
    add_options(parser, MissRateOptions)
    return parser


def main() -> None:
    """Read the command line, evaluate, report."""
    options = parse_options(build_parser(), MissRateOptions)
    truth = read_truth(options.gt)
    found = read_detections(options.dt, truth)
    rates = miss_rates(truth, found)
    if options.json:
        record = {
            "images": len(truth.image_ids),
            "detections": len(found.score),
            "log_average_miss_rate_percent": percentages(rates),
        }
        log.info("%s", json.dumps(record, indent=2))
    else:
        log_miss_rates(rates)
    if options.plot:
        from utils.evaluation.curves import save_miss_rate_curves  # and matplotlib

        save_miss_rate_curves(rates, Path(options.plot))


if __name__ == "__main__":
    run_script(main)
