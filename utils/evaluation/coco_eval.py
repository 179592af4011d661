"""COCO benchmark of a validation: results file, ground truth and COCO's 12 metrics."""

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
    default_ids,
    published_ids,
    save_ground_truth,
)
from utils.evaluation.evaluate import Evaluation
from utils.files.json_file import JsonObject, read_json

log = logging.getLogger("yolo")

GROUND_TRUTH_FILE = "coco_ground_truth.json"
METRICS = (
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
"""Short names and descriptions of COCO's 12 metrics, in the order of the libraries."""


class CocoBenchmark:
    """Observer of one evaluation that collects detections and evaluates them with a COCO library.

    Args:
        index: index of the images.
        names: names of the evaluated classes.
        regions: ignore regions of the images, if there are any.
        published: ground-truth file in COCO's format. If it is None, does not exist, or is of other
            images or classes, the ground truth is built from the labels.

    Raises:
        UserError: the published file has another format.
    """

    def __init__(
        self,
        index: Index,
        names: Sequence[str],
        regions: IgnoreRegions | None,
        published: Path | None,
    ) -> None:
        self._index, self._names, self._regions = index, names, regions
        ids = published_ids(published, names, index.paths)
        self._published = published if ids else None
        self._ids = ids or default_ids(names, index.paths)
        self._results = CocoResults(self._ids.categories, self._ids.images)

    def __call__(self, batch: Batch, detections: list[Tensor]) -> None:
        """Collect the detections of a batch."""
        self._results(batch, detections)

    def report(self, evaluation: Evaluation, results: Path) -> dict[str, object]:
        """Write the results file, and next to it a ground truth built from labels; log metrics.

        Args:
            evaluation: our metrics, logged next to COCO's.
            results: the results file to write.

        Returns:
            Entry for metrics.json: library and metrics; {} if no library is installed.
        """
        self._results.save(results)
        truth = self._published
        if truth is None:
            truth = results.with_name(GROUND_TRUTH_FILE)
            save_ground_truth(self._index, self._names, self._ids, self._regions, truth)
        library = installed_library()
        if library is None:
            log.warning(
                "COCO metrics are skipped, no library is installed; "
                "run: pip install faster-coco-eval (or pycocotools)."
            )
            return {}
        metrics = coco_metrics(truth, results, self._ids.images.values(), library)
        log_coco_metrics(metrics, map50=evaluation.map50, map50_95=evaluation.map50_95)
        return {"coco": {"library": metrics.library, **metrics.values}}


class Library(NamedTuple):
    """A package that computes COCO metrics, and the names of its classes."""

    package: str
    data: tuple[str, str]
    """Module and class of data sets and results."""
    evaluator: tuple[str, str]
    """Module and class of the evaluator."""


LIBRARIES = (
    Library(
        "faster-coco-eval",
        ("faster_coco_eval", "COCO"),
        ("faster_coco_eval", "COCOeval_faster"),
    ),
    Library("pycocotools", ("pycocotools.coco", "COCO"), ("pycocotools.cocoeval", "COCOeval")),
)
"""In order of preference: the faster one first."""


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's 12 metrics of a results file."""

    library: str
    """Name and version of the library."""
    values: dict[str, float | None]
    """By the short names of `METRICS`; None if there are no labels of the kind."""


def installed_library() -> Library | None:
    """Return the first of `LIBRARIES` that is installed; None if there is none."""
    return next((lib for lib in LIBRARIES if find_spec(lib.data[0].partition(".")[0])), None)


def coco_metrics(
    truth: Path, results: Path, images: Collection[ImageId], library: Library
) -> CocoMetrics:
    """Evaluate a results file.

    Args:
        truth: file of the ground truth in COCO's format.
        results: file of the detections in COCO's format.
        images: ids of the evaluated images; other images of the ground truth are ignored.
        library: library that computes the metrics.

    Raises:
        UserError: the ground truth has another format.
    """
    try:
        content = _of_images(read_json(truth), images)
        # The libraries need integer ids, but the ids of custom data sets may be names.
        found = [{**row, "image_id": content.ids[row["image_id"]]} for row in read_json(results)]
        with contextlib.redirect_stdout(io.StringIO()):  # silences pycocotools
            values = _run(library, content.dataset, found)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{truth} is not a ground-truth file in COCO's format; give an instances file."
        ) from error
    return CocoMetrics(
        library=f"{library.package} {version(library.package)}",
        values={
            name: None if value < 0 else value
            for (name, _), value in zip(METRICS, values, strict=True)
        },
    )


def log_coco_metrics(metrics: CocoMetrics, *, map50: float, map50_95: float) -> None:
    """Log a table of COCO's 12 metrics, with our AP and AP50 next to COCO's."""
    ours = {"AP": f"{map50_95:.4f}", "AP50": f"{map50:.4f}"}
    log.info("\nCOCO metrics by %s%s", metrics.library.ljust(37), "COCO    ours")
    for name, meaning in METRICS:
        value = metrics.values[name]
        coco = "-" if value is None else f"{value:.4f}"
        log.info("%s", f"{name:>6}  {meaning:<42}{coco:>7}{ours.get(name, ''):>8}")


class _Content(NamedTuple):
    dataset: JsonObject
    ids: dict[ImageId, int]
    """New integer id of each image, by its original id."""


def _of_images(content: JsonObject, images: Collection[ImageId]) -> _Content:
    """Return the ground truth of some images, with new ids from 1."""
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
    """Return COCO's 12 metrics; -1 where there are no labels, zeros if there are no detections."""
    data_class, evaluator_class = (
        getattr(import_module(module), name) for module, name in (library.data, library.evaluator)
    )
    truth = data_class()
    truth.dataset = dataset
    truth.createIndex()
    if found:
        results = truth.loadRes(found)
    else:  # loadRes of pycocotools fails without a first result
        results = data_class()
        results.dataset = {**dataset, "annotations": []}
        results.createIndex()
    evaluator = evaluator_class(truth, results, iouType="bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(value) for value in evaluator.stats[: len(METRICS)]]
