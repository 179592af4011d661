"""Look at a data set before training on it: figures, faults, a page to look at.

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

# What is heavy is imported where it is used, so that --help answers at once.
if TYPE_CHECKING:
    import numpy as np

    from utils.datasets.description import DatasetDescription
    from utils.tools.check.findings import Finding
    from utils.tools.check.report import Survey
    from utils.tools.check.splits import Split

log = logging.getLogger("yolo")

CANNOT_START = 1
EXIT_CODES = """\
exit code:
  0  training can start; there may be warnings
  1  it cannot, or it would leave files out: no images or no boxes to train or validate on, images
     or labels that cannot be read, classes that the data set does not have
  2  the command line, the data-set file or the model is wrong

Only warned of: images more than once, in one split or in two; boxes out of their image or too small
to be seen; rows to be repaired; labels without an image; classes of val that train lacks; any fault
of the test split, which training does not use.
"""


class Grid(NamedTuple):
    """What boxes are laid on."""

    anchors: np.ndarray
    """float [k, 2]: width and height, px, of all levels."""
    cell: int
    """Px of the finest level's cells."""


@dataclass(frozen=True)
class CheckOptions:
    """Which data set to check, for which model, and where to write."""

    data: str = option(REQUIRED, "data-set file, e.g. coco128.yaml", positional=True)
    imgsz: int = option(
        TrainOptions.imgsz,
        "size to train at (default {default})",
        flags=("--img", "--img-size"),
        metavar="PX",
        minimum=MIN_IMAGE_SIZE,
    )
    cfg: str = option(
        "yolov5s.yaml",
        "model of the anchors (default {default})",
        metavar="FILE",
        exclusive="model",
    )
    weights: str | None = option(
        None, "take the anchors of a weights file", metavar="FILE", exclusive="model"
    )
    out: Path | None = option(
        None,
        "for check.png and check.json (default runs/check/NAME, NAME being its folder's)",
        metavar="FOLDER",
    )
    json: Path | None = option(None, "write check.json there instead", metavar="FILE")

    def __post_init__(self) -> None:
        check(self)


def build_parser() -> argparse.ArgumentParser:
    """The options of this program."""
    parser = OptionParser(
        prog="python -m utils.tools.check",
        description="Show what is in a data set and what is wrong with it, before training on it.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, CheckOptions)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, look, report.

    Raises:
        SystemExit: with 1 if training cannot start.
    """
    options = parse_options(build_parser(), CheckOptions, argv)

    from utils.datasets.description import load_description

    description = load_description(options.data)
    grid = read_grid(options.cfg, options.weights)
    survey = survey_dataset(description, grid, options.imgsz)
    folder = options.out or Path("runs", "check", description.root.name)
    write(survey, options.json or folder / "check.json", folder / "check.png")
    if not survey.can_start:
        raise SystemExit(CANNOT_START)


def read_grid(cfg: str, weights: str | None) -> Grid:
    """Anchors and cells of a model.

    Raises:
        UserError: the model or weights file is refused.
    """
    import numpy as np
    import torch

    from models.detector import Detector
    from models.spec import load_spec
    from utils.weights import find_weights, read_weights

    spec = read_weights(find_weights(weights)).spec if weights else load_spec(Path(cfg))
    with torch.device("meta"):  # takes neither time nor memory
        strides = Detector(spec).strides
    return Grid(np.array(spec.anchors, dtype=np.float64).reshape(-1, 2), min(strides))


def survey_dataset(description: DatasetDescription, grid: Grid, image_size: int) -> Survey:
    """Look at all splits of a data set; what is wrong with it is told, not raised."""
    from utils.tools.check.findings import by_weight
    from utils.tools.check.inspection import inspect
    from utils.tools.check.measures import measure
    from utils.tools.check.report import Survey
    from utils.tools.check.splits import read_splits

    threads = TrainOptions.workers
    splits, findings = read_splits(description, threads)
    measures = [
        measure(split.name, split.index, len(description.names), image_size) for split in splits
    ]
    recalls = best_recalls(splits, grid, image_size)
    inspected = inspect(splits, measures, description.names, grid.cell, threads)
    return Survey(
        file=description.path,
        root=description.root,
        names=description.names,
        measures=tuple(measures),
        findings=by_weight([*findings, *inspected, *about_anchors(recalls)]),
        recalls=recalls,
        anchors=grid.anchors,
        cell=grid.cell,
        image_size=image_size,
    )


def best_recalls(splits: Sequence[Split], grid: Grid, image_size: int) -> dict[str, float]:
    """The share of a split's boxes that an anchor fits, as AutoAnchor computes it; by split."""
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
    """What AutoAnchor will do about the recall on the training split."""
    from utils.autoanchor import GOOD_RECALL
    from utils.tools.check.findings import NOTE, Finding

    recall = recalls.get("train")
    if recall is None or recall > GOOD_RECALL:
        return []
    text = (
        f"best possible recall {recall:.4f} is not above {GOOD_RECALL:g}: a new run fits anchors "
        "to the data, unless --noautoanchor is given"
    )
    return [Finding(NOTE, "train", text)]


def write(survey: Survey, record_file: Path, picture: Path) -> None:
    """Log the report, and write it as JSON and, unless no split could be read, as a picture.

    Raises:
        UserError: a file cannot be written.
    """
    from utils.files.atomic_write import write_replacing, write_text_replacing
    from utils.tools.check.report import record, text_lines

    for line in text_lines(survey):
        log.info("%s", line)

    text = json.dumps(record(survey), indent=2, ensure_ascii=False)
    write_text_replacing(record_file, f"{text}\n")
    written = [str(record_file)]
    if survey.measures:
        from utils.tools.check.page import save_dataset_page

        write_replacing(picture, lambda part: save_dataset_page(survey, part))
        written.append(str(picture))
    log.info("Written: %s", " and ".join(written))


if __name__ == "__main__":
    run_script(main)
