"""COCO's side of a validation: the results file, the ground truth and the twelve figures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from utils.datasets.dataset import Batch
from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.index import Index
from utils.evaluation.coco_figures import coco_figures, installed_library, log_coco_figures
from utils.evaluation.coco_results import CocoResults
from utils.evaluation.coco_truth import own_numbers, published_numbers, save_truth
from utils.evaluation.evaluate import Evaluation

log = logging.getLogger("yolo")

TRUTH_FILE = "coco_ground_truth.json"


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
