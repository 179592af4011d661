"""COCO's side of a validation: the results file, the ground truth and the twelve figures."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from utils.datasets.dataset import Batch
from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.index import Index
from utils.errors import UserError
from utils.evaluation.coco_json import (
    CocoResults,
    ImageId,
    own_numbers,
    published_numbers,
    save_truth,
)
from utils.evaluation.evaluate import Evaluation
from utils.files.json_file import JsonObject, read_json

log = logging.getLogger("yolo")

TRUTH_FILE = "coco_ground_truth.json"
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


class CocoBenchmark:
    """Observer of one evaluation: collects its detections, then lets COCO's tools judge them.

    Args:
        index: of the images.
        names: of the classes that are told apart.
        regions: ignore regions of the images, if there are any.
        published: ground truth in COCO's format; made from the labels if None, if there is no such
            file, or if it is of other images or classes.

    Raises:
        UserError: the published file is something else.
    """

    def __init__(
        self,
        index: Index,
        names: Sequence[str],
        regions: IgnoreRegions | None,
        published: Path | None,
    ) -> None:
        self._index, self._names, self._regions = index, names, regions
        numbers = published_numbers(published, names, index.paths)
        self._published = published if numbers else None
        self._numbers = numbers or own_numbers(names, index.paths)
        self._results = CocoResults(self._numbers.categories, self._numbers.images)

    def __call__(self, batch: Batch, detections: list[Tensor]) -> None:
        """Collect the detections of a batch."""
        self._results(batch, detections)

    def report(self, evaluation: Evaluation, results: Path) -> dict[str, object]:
        """Write the results file, and the ground truth beside it if it is made from the labels.

        Args:
            evaluation: our figures, to be logged beside COCO's.
            results: the file to write.

        Returns:
            For metrics.json: the library and its figures; nothing if no library is installed.
        """
        self._results.save(results)
        truth = self._published
        if truth is None:
            truth = results.with_name(TRUTH_FILE)
            save_truth(self._index, self._names, self._numbers, self._regions, truth)
        library = installed_library()
        if library is None:
            log.warning(
                "COCO's own figures are left out: pip install faster-coco-eval (or pycocotools)."
            )
            return {}
        figures = coco_figures(truth, results, self._numbers.images.values(), library)
        log_coco_figures(figures, map50=evaluation.map50, map50_95=evaluation.map50_95)
        return {"coco": {"library": figures.library, **figures.values}}


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
class CocoMetrics:
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
) -> CocoMetrics:
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
    return CocoMetrics(
        library=f"{library.package} {version(library.package)}",
        values={
            name: None if value < 0 else value
            for (name, _), value in zip(FIGURES, values, strict=True)
        },
    )


def log_coco_figures(figures: CocoMetrics, *, map50: float, map50_95: float) -> None:
    """Log the twelve figures, and ours where there is the like."""
    ours = {"AP": f"{map50_95:.4f}", "AP50": f"{map50:.4f}"}
    log.info("\nCOCO's figures by %s%s", figures.library.ljust(28), "theirs    ours")
    for name, meaning in FIGURES:
        value = figures.values[name]
        theirs = "-" if value is None else f"{value:.4f}"
        log.info("%s", f"{name:>6}  {meaning:<42}{theirs:>7}{ours.get(name, ''):>8}")


class _Content(NamedTuple):
    dataset: JsonObject
    ids: dict[ImageId, int]
    """New number of each image, by its id."""


def _of_images(content: JsonObject, images: Collection[ImageId]) -> _Content:
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


def _run(library: Library, dataset: JsonObject, found: list[JsonObject]) -> list[float]:
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
