"""Check a data set before training: statistics, problems, and a page of plots.

Usage: python -m utils.tools.check data.yaml --imgsz 640
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from utils.options.arguments import add_options, parse_options
from utils.options.option import MAX_IMAGE_SIZE, REQUIRED, check, option
from utils.options.script import OptionParser, run_script
from utils.options.train_options import MIN_IMAGE_SIZE, TrainOptions

# Slow imports are in the functions that need them, so that --help is fast.
if TYPE_CHECKING:
    from utils.tools.check.report import AnchorGrid

log = logging.getLogger("yolo")

CANNOT_START = 1
EXIT_CODES = """\
exit codes:
  0  training can start; there may be warnings
  1  training cannot start or would skip files: a split has no images or no boxes, images or labels
     are unreadable, or classes are out of range
  2  invalid command line, data-set file or model

These are warnings only: duplicate images, within or across splits; boxes that extend beyond the
image or are too small; repaired label rows; labels without an image; classes of val that train does
not have; any problem of the test split, which training does not use.
"""


@dataclass(frozen=True)
class CheckOptions:
    """Options of this program."""

    data: str = option(REQUIRED, "data-set file, e.g. coco128.yaml", positional=True)
    imgsz: int = option(
        TrainOptions.imgsz,
        "training image size in pixels (default: {default})",
        flags=("--img", "--img-size"),
        minimum=MIN_IMAGE_SIZE,
        maximum=MAX_IMAGE_SIZE,
    )
    cfg: str = option(
        "yolov5s.yaml",
        "model file to read the anchors from (default: {default})",
        metavar="FILE",
        exclusive="model",
    )
    weights: str | None = option(
        None, "weights file to read the anchors from", metavar="FILE", exclusive="model"
    )
    out: Path | None = option(
        None,
        "output folder for check.png and check.json (default: runs/check/NAME, where NAME is the "
        "name of the data set's folder)",
        metavar="FOLDER",
    )
    json: Path | None = option(
        None, "output file instead of check.json in the output folder", metavar="FILE"
    )

    def __post_init__(self) -> None:
        check(self)


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser of this program."""
    parser = OptionParser(
        prog="python -m utils.tools.check",
        description="Check a data set before training: report its statistics and its problems.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, CheckOptions)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Check the data set; log the report, and write it as JSON and as a page of plots.

    There is no page if no split could be read.

    Raises:
        SystemExit: with code 1 if training cannot start.
        UserError: an option is invalid, or a file cannot be read or written.
    """
    options = parse_options(build_parser(), CheckOptions, argv)

    from utils.datasets.description import load_description
    from utils.datasets.index import READ_THREADS
    from utils.files.atomic_write import atomic_write, atomic_write_text
    from utils.tools.check.inspection import inspect_dataset
    from utils.tools.check.report import record, text_lines

    description = load_description(options.data)
    grid = read_anchor_grid(options.cfg, options.weights)
    report = inspect_dataset(description, grid, options.imgsz, READ_THREADS)
    folder = options.out or Path("runs", "check", description.root.name)
    record_file, plot_file = options.json or folder / "check.json", folder / "check.png"
    for line in text_lines(report):
        log.info("%s", line)
    text = json.dumps(record(report), indent=2, ensure_ascii=False)
    atomic_write_text(record_file, f"{text}\n")
    if report.splits:
        from utils.tools.check.page import save_dataset_page

        atomic_write(plot_file, lambda part: save_dataset_page(report, part))
        log.info("Results saved to %s and %s", record_file, plot_file)
    else:
        log.info("Results saved to %s", record_file)
    if not report.can_start:
        raise SystemExit(CANNOT_START)


def read_anchor_grid(cfg: str, weights: str | None) -> AnchorGrid:
    """Read the anchors and the grid of a model file or a weights file.

    Raises:
        UserError: the file does not exist or is invalid.
    """
    import numpy as np
    import torch

    from models.detector import Detector
    from models.spec import load_spec
    from utils.tools.check.report import AnchorGrid
    from utils.weights import find_weights, read_weights

    spec = read_weights(find_weights(weights)).spec if weights else load_spec(Path(cfg))
    with torch.device("meta"):  # needs neither time nor memory
        strides = Detector(spec).strides
    return AnchorGrid(np.array(spec.anchors, dtype=np.float64).reshape(-1, 2), min(strides))


if __name__ == "__main__":
    run_script(main)
