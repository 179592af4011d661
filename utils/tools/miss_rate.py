"""Computes the log-average miss rate of any detector's results on CityPersons.

Usage:
    python -m utils.tools.miss_rate --gt val_gt.json --dt detections.json --plot curves.png
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from utils.evaluation.citypersons_files import read_detections, read_ground_truth
from utils.evaluation.miss_rate import log_miss_rates, miss_rates, percentages
from utils.options.arguments import add_options, parse_options
from utils.options.option import REQUIRED, option
from utils.options.script import OptionParser, run_script

log = logging.getLogger("yolo")


@dataclass(frozen=True)
class MissRateOptions:
    """Command-line options."""

    gt: Path = option(
        REQUIRED, "ground-truth file of the benchmark, e.g. val_gt.json", metavar="FILE"
    )
    dt: Path = option(
        REQUIRED, "JSON list of detections: image_id, category_id, bbox, score", metavar="FILE"
    )
    json: bool = option(False, "print JSON instead of a table")
    plot: str = option(
        "", "plot the curves to an image file, e.g. curves.png (default: no plot)", metavar="FILE"
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = OptionParser(
        prog="python -m utils.tools.miss_rate",
        description="Compute the log-average miss rate of a detector's results on CityPersons.",
    )
    add_options(parser, MissRateOptions)
    return parser


def main() -> None:
    """Parse the command line, evaluate the detections and print the miss rates."""
    options = parse_options(build_parser(), MissRateOptions)
    truth = read_ground_truth(options.gt)
    detections = read_detections(options.dt, truth)
    rates = miss_rates(truth, detections)
    if options.json:
        record = {
            "images": len(truth.image_ids),
            "detections": len(detections.score),
            "log_average_miss_rate_percent": percentages(rates),
        }
        log.info("%s", json.dumps(record, indent=2))
    else:
        log_miss_rates(rates)
    if options.plot:
        from utils.evaluation.curves import save_miss_rate_curves  # imports matplotlib

        save_miss_rate_curves(rates, Path(options.plot))


if __name__ == "__main__":
    run_script(main)
