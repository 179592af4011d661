"""Check a data set before training: statistics, problems, and a page of plots.

Usage: python -m utils.tools.check data.yaml --imgsz 640
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.options.arguments import add_options, parse_options
from utils.options.option import REQUIRED, check, option
from utils.options.script import OptionParser, run_script
from utils.options.train_options import MIN_IMAGE_SIZE, TrainOptions

# Slow imports are in the functions that need them, so that --help is fast.
if TYPE_CHECKING:
    import numpy as np

    from utils.datasets.description import DatasetDescription
    from utils.tools.check.findings import Finding
    from utils.tools.check.report import DatasetReport
    from utils.tools.check.splits import Split

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


class AnchorGrid(NamedTuple):
    """Anchors and grid of a model."""

    anchors: np.ndarray
    """float [k, 2]: width and height of the anchors of all levels, px."""
    cell: int
    """Size of a grid cell of the finest level, px."""


@dataclass(frozen=True)
class CheckOptions:
    """Options of this program."""

    data: str = option(REQUIRED, "data-set file, e.g. coco128.yaml", positional=True)
    imgsz: int = option(
        TrainOptions.imgsz,
        "training image size in pixels (default: {default})",
        flags=("--img", "--img-size"),
        minimum=MIN_IMAGE_SIZE,
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
    """Parse the command line, check the data set, report.

    Raises:
        SystemExit: with code 1 if training cannot start.
    """
    options = parse_options(build_parser(), CheckOptions, argv)

    from utils.datasets.description import load_description

    description = load_description(options.data)
    grid = read_anchor_grid(options.cfg, options.weights)
    report = inspect_dataset(description, grid, options.imgsz)
    folder = options.out or Path("runs", "check", description.root.name)
    write(report, options.json or folder / "check.json", folder / "check.png")
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
    from utils.weights import find_weights, read_weights

    spec = read_weights(find_weights(weights)).spec if weights else load_spec(Path(cfg))
    with torch.device("meta"):  # needs neither time nor memory
        strides = Detector(spec).strides
    return AnchorGrid(np.array(spec.anchors, dtype=np.float64).reshape(-1, 2), min(strides))


def inspect_dataset(
    description: DatasetDescription, grid: AnchorGrid, image_size: int
) -> DatasetReport:
    """Check all splits of a data set; problems are returned as findings, not raised."""
    from utils.tools.check.findings import by_severity
    from utils.tools.check.inspection import inspect
    from utils.tools.check.measures import measure
    from utils.tools.check.report import DatasetReport
    from utils.tools.check.splits import read_splits

    threads = TrainOptions.workers
    splits, findings = read_splits(description, threads)
    measures = [
        measure(split.name, split.index, len(description.names), image_size) for split in splits
    ]
    recalls = best_recalls(splits, grid, image_size)
    inspected = inspect(splits, measures, description.names, grid.cell, threads)
    return DatasetReport(
        file=description.path,
        root=description.root,
        names=description.names,
        measures=tuple(measures),
        findings=by_severity([*findings, *inspected, *about_anchors(recalls)]),
        recalls=recalls,
        anchors=grid.anchors,
        cell=grid.cell,
        image_size=image_size,
    )


def best_recalls(splits: Sequence[Split], grid: AnchorGrid, image_size: int) -> dict[str, float]:
    """Return the best possible recall of the anchors by split, computed as in AutoAnchor."""
    from models.anchors import best_possible_recall, is_learnable
    from utils.autoanchor import box_sizes
    from utils.hyp import Hyp

    sizes = {split.name: box_sizes(split.index, image_size) for split in splits}
    learnable = {name: boxes[is_learnable(boxes)] for name, boxes in sizes.items()}
    return {
        name: best_possible_recall(boxes, grid.anchors, Hyp().anchor_t).recall
        for name, boxes in learnable.items()
        if len(boxes)
    }


def about_anchors(recalls: Mapping[str, float]) -> list[Finding]:
    """Return a finding if AutoAnchor will replace the anchors in training."""
    from utils.autoanchor import GOOD_RECALL
    from utils.tools.check.findings import NOTE, Finding

    recall = recalls.get("train")
    if recall is None or recall > GOOD_RECALL:
        return []
    text = (
        f"best possible recall {recall:.4f} is not above {GOOD_RECALL:g}: a new run will fit "
        "anchors to the data; disable this with --noautoanchor"
    )
    return [Finding(NOTE, "train", text)]


def write(report: DatasetReport, record_file: Path, plot_file: Path) -> None:
    """Log the report, and write it as JSON and as a page of plots.

    There is no page if no split could be read.

    Raises:
        UserError: a file cannot be written.
    """
    from utils.files.atomic_write import atomic_write, atomic_write_text
    from utils.tools.check.report import record, text_lines

    for line in text_lines(report):
        log.info("%s", line)

    text = json.dumps(record(report), indent=2, ensure_ascii=False)
    atomic_write_text(record_file, f"{text}\n")
    written = [str(record_file)]
    if report.measures:
        from utils.tools.check.page import save_dataset_page

        atomic_write(plot_file, lambda part: save_dataset_page(report, part))
        written.append(str(plot_file))
    log.info("Results saved to %s", " and ".join(written))


if __name__ == "__main__":
    run_script(main)
