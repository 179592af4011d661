"""The twelve figures of the COCO benchmark, computed by a library of its format.

They differ from ours in documented ways. The library takes the precision at 101 recalls from the
staircase of the curve, which is 0 beyond the highest recall, and averages; we take the area under
straight lines between its corners, the last of which leads to precision 0 at recall 1 and counts
where few detections are kept. It judges the 100 surest detections of an image and class, we all
that validation keeps. A detection whose best object is taken may have the next best there, not
here. And it leaves out what lies in a crowd, we what lies in an ignore region, if there are any.
Of COCO128 with yolov5n at 640 px, AP is 0.3654 as we compute it; its interpolation adds 0.0011, its
matching 0.0004, its limit of detections takes less than 0.0001, and that is its 0.3670.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.evaluation.coco_results import ImageId
from utils.evaluation.json_files import read_json

log = logging.getLogger("yolo")

FIGURES = (
    ("AP", "average precision, IoU 0.50 to 0.95"),
    ("AP50", "average precision, IoU 0.50"),
    ("AP75", "average precision, IoU 0.75"),
    ("APs", "average precision, below 32x32 px"),
    ("APm", "average precision, 32x32 to 96x96 px"),
    ("APl", "average precision, above 96x96 px"),
    ("AR1", "average recall, 1 detection per image"),
    ("AR10", "average recall, 10 detections per image"),
    ("AR100", "average recall, 100 detections per image"),
    ("ARs", "average recall, below 32x32 px"),
    ("ARm", "average recall, 32x32 to 96x96 px"),
    ("ARl", "average recall, above 96x96 px"),
)
"""Short names and meanings, in the order of the libraries."""


class Library(NamedTuple):
    """A package that evaluates; both have the same classes under different names."""

    package: str
    data: tuple[str, str]
    """Module and class of data sets and results."""
    judge: tuple[str, str]
    """Module and class of the evaluation."""


LIBRARIES = (
    Library(
        "faster-coco-eval",
        ("faster_coco_eval", "COCO"),
        ("faster_coco_eval", "COCOeval_faster"),
    ),
    Library("pycocotools", ("pycocotools.coco", "COCO"), ("pycocotools.cocoeval", "COCOeval")),
)
"""The faster one first."""


@dataclass(frozen=True)
class CocoFigures:
    """What a library says of a results file."""

    library: str
    """Name and version."""
    values: dict[str, float | None]
    """By the short names of `FIGURES`; None where there is nothing of the kind."""


def installed_library() -> Library | None:
    """The first of `LIBRARIES` that is installed."""
    return next((lib for lib in LIBRARIES if find_spec(lib.data[0].partition(".")[0])), None)


def coco_figures(
    truth: Path, results: Path, images: Collection[ImageId], library: Library
) -> CocoFigures:
    """Evaluate a results file.

    Args:
        truth: ground truth in COCO's format.
        results: detections in COCO's format.
        images: the ids of the images that were validated; others of the truth do not count.
        library: what evaluates.

    Raises:
        UserError: the ground truth is something else.
    """
    try:
        content = _of_images(read_json(truth), images)
        # The libraries want numbers for ids, and ids in data sets of one's own may be names.
        found = [{**row, "image_id": content.ids[row["image_id"]]} for row in read_json(results)]
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            values = _run(library, content.dataset, found)
    except (KeyError, TypeError) as error:
        raise UserError(f"{truth} is no ground truth of COCO; give its instances file.") from error
    return CocoFigures(
        library=f"{library.package} {version(library.package)}",
        values={
            name: None if value < 0 else value
            for (name, _), value in zip(FIGURES, values, strict=True)
        },
    )


def log_coco_figures(figures: CocoFigures, *, map50: float, map50_95: float) -> None:
    """Log the twelve figures, and ours where there is the like."""
    ours = {"AP": f"{map50_95:.4f}", "AP50": f"{map50:.4f}"}
    log.info("\nCOCO's figures by %s%s", figures.library.ljust(28), "theirs    ours")
    for name, meaning in FIGURES:
        value = figures.values[name]
        theirs = "-" if value is None else f"{value:.4f}"
        log.info("%s", f"{name:>6}  {meaning:<42}{theirs:>7}{ours.get(name, ''):>8}")


class _Content(NamedTuple):
    dataset: dict[str, Any]
    ids: dict[ImageId, int]
    """New number of each image, by its id."""


def _of_images(content: dict[str, Any], images: Collection[ImageId]) -> _Content:
    """The ground truth of some images, which are numbered from 1."""
    ids = {image: number for number, image in enumerate(images, 1)}
    dataset = {
        "info": {},
        "categories": content["categories"],
        "images": [{**row, "id": ids[row["id"]]} for row in content["images"] if row["id"] in ids],
        "annotations": [
            {**row, "image_id": ids[row["image_id"]]}
            for row in content["annotations"]
            if row["image_id"] in ids
        ],
    }
    return _Content(dataset, ids)


def _run(library: Library, dataset: dict[str, Any], found: list[dict[str, Any]]) -> list[float]:
    """The twelve figures, -1 for what there is not; all zero without detections."""
    data_class, judge_class = (
        getattr(import_module(module), name) for module, name in (library.data, library.judge)
    )
    truth = data_class()
    truth.dataset = dataset
    truth.createIndex()
    if found:
        judged = truth.loadRes(found)
    else:  # pycocotools looks at the first result to see what kind they are
        judged = data_class()
        judged.dataset = {**dataset, "annotations": []}
        judged.createIndex()
    judge = judge_class(truth, judged, iouType="bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    return [float(value) for value in judge.stats[: len(FIGURES)]]
