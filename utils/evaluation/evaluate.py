"""The validation loop: evaluates a detector on labelled batches."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterable, Sequence, Sized
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.detector import Detector
from models.loss import DetectionLoss, shares
from models.nms import suppress
from utils.datasets.dataset import Batch
from utils.datasets.ignore_regions import IgnoreRegions
from utils.evaluation.collected import Collected, Matches, OfBatch, in_order
from utils.evaluation.forward import MILLISECONDS, Forward
from utils.evaluation.metrics import (
    IOU_THRESHOLDS,
    ClassMetrics,
    Floats,
    MetricCurves,
    ap_per_class,
)
from utils.runtime.progress import Progress

SINGLE_CLASS_NAME = "item"
TABLE_HEADER = ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95")

Observer = Callable[[Batch, list[Tensor]], None]


@dataclass(frozen=True)
class EvalSettings:
    """Settings of detection and evaluation."""

    conf_thres: float = 0.001
    """Minimum confidence of a detection; low, because AP needs the whole curve."""
    iou_thres: float = 0.6
    """IoU threshold of non-maximum suppression."""
    max_det: int = 300
    """Maximum number of detections per image."""
    single_class: bool = False
    """Evaluate all labels and detections as one class."""
    precision: str = "fp32"
    """Precision of the forward pass: fp32, bf16 or fp16."""
    images_per_pass: int = sys.maxsize
    """Maximum number of images in a forward pass; a larger batch is divided."""
    ignore: IgnoreRegions | None = None
    """Ignore regions of the images. A detection in a region that is not a true positive at any
    threshold is ignored: it is not a false positive either."""


@dataclass(frozen=True)
class ClassResult:
    """Result for one class that has labels."""

    index: int
    name: str
    images: int
    """Number of evaluated images, with or without the class."""
    instances: int
    precision: float
    recall: float
    map50: float
    map50_95: float


@dataclass(frozen=True)
class Evaluation:
    """Result of a validation; metrics are means over the classes that have labels."""

    precision: float
    recall: float
    map50: float
    map50_95: float
    losses: tuple[float, float, float]
    """Mean box, objectness and class loss over the batches; zeros if no loss was given."""
    images: int
    instances: int
    classes: tuple[ClassResult, ...]
    names: tuple[str, ...]
    """Names of all evaluated classes, including those without labels."""
    curves: MetricCurves
    confusion: NDArray[np.int64]
    """Counts of (predicted, true), [classes + 1, classes + 1], background last."""
    speed_ms: tuple[float, float, float]
    """Milliseconds per image: preprocessing, inference, non-maximum suppression."""

    @property
    def false_positives_per_image(self) -> float:
        """Detections that match no label, per image, with at least `CONFUSION_CONFIDENCE`."""
        return float(self.confusion[:, -1].sum()) / max(self.images, 1)

    def map50_95_of(self, names: Collection[str]) -> float:
        """Return the mean over the classes with these names; NaN if none of them has labels."""
        found = [result.map50_95 for result in self.classes if result.name in names]
        return sum(found) / len(found) if found else math.nan


def evaluate(
    model: Detector,
    batches: Iterable[Batch],
    *,
    names: Sequence[str],
    device: torch.device,
    loss: DetectionLoss | None = None,
    settings: EvalSettings = EvalSettings(),
    observers: Sequence[Observer] = (),
) -> Evaluation:
    """Evaluate a model: detect on every batch and compare with the labels.

    Boxes are compared in pixels of the original images.

    Args:
        model: a detector on `device`; its train or eval mode is restored at the end.
        batches: labelled images, uint8.
        names: class names by index.
        device: device of the model.
        loss: also compute this training loss.
        settings: settings of detection and evaluation.
        observers: called with every batch and its detections: for each image [n, 6], corners in
            pixels of the network input, confidence, class; best first, on the CPU.
    """
    collected = collect(
        model,
        batches,
        names=names,
        device=device,
        loss=loss,
        settings=settings,
        observers=observers,
    )
    return summarize([collected], names=names, loss=loss, settings=settings)


def collect(  # noqa: PLR0913 -- one argument more than `evaluate`
    model: Detector,
    batches: Iterable[Batch],
    *,
    names: Sequence[str],
    device: torch.device,
    loss: DetectionLoss | None = None,
    settings: EvalSettings = EvalSettings(),
    observers: Sequence[Observer] = (),
    progress: bool = True,
) -> Collected:
    """Detect on batches, which may be a share of all, and match with the labels.

    The arguments are those of `evaluate`; `progress` shows a bar.
    """
    collected = Collected.for_classes(
        len(evaluated_names(names, single_class=settings.single_class))
    )
    forward = Forward(
        model,
        device,
        settings.precision,
        threshold=settings.conf_thres,
        loss=loss,
        images_per_pass=settings.images_per_pass,
        ahead=device.type != "cpu",
    )
    was_training = model.training
    model.eval()
    try:
        total = len(batches) if isinstance(batches, Sized) else None
        results = Progress(forward(batches), total, table_row(*TABLE_HEADER), enabled=progress)
        for batch, (candidates, losses) in results:
            with forward.suppression:
                detections = _detect(candidates, settings)
            collected.add(
                *(batch, detections, losses),
                single_class=settings.single_class,
                ignore=settings.ignore,
            )
            for observer in observers:
                observer(batch, detections)
    finally:
        model.train(was_training)
    watches = (forward.preprocessing, forward.inference, forward.suppression)
    return collected.finished([watch.seconds for watch in watches])


def evaluated_names(names: Sequence[str], *, single_class: bool) -> tuple[str, ...]:
    """Return the names of the evaluated classes: all, or one name for `single_class`."""
    return (SINGLE_CLASS_NAME,) if single_class and len(names) != 1 else tuple(names)


def table_row(name: str, *cells: str) -> str:
    """Format one row of the results table, with the columns of `TABLE_HEADER`."""
    return f"{name:>22}" + "".join(f"{cell:>11}" for cell in cells)


def _detect(candidates: Sequence[Tensor], settings: EvalSettings) -> list[Tensor]:
    """Return the detections [n, 6] of each image from its candidates [m, 6]."""
    detections = suppress(
        candidates,
        settings.iou_thres,
        agnostic=settings.single_class,
        max_det=settings.max_det,
    )
    if settings.single_class:
        for found in detections:
            found[:, 5] = 0
    return detections


def summarize(
    shares_of_processes: Sequence[Collected],
    batch_of: Sequence[int] | None = None,
    *,
    names: Sequence[str],
    loss: DetectionLoss | None,
    settings: EvalSettings,
) -> Evaluation:
    """Return the metrics of what one or several processes have collected.

    Args:
        shares_of_processes: of n processes; the first one has every n-th part, from the first on.
        batch_of: the number of the batch that each part belongs to; None: each is a batch.
        names: class names by index.
        loss: the loss that was computed, if any.
        settings: settings of the evaluation.
    """
    evaluated = evaluated_names(names, single_class=settings.single_class)
    parts = in_order([one.batches for one in shares_of_processes])
    empty = Matches(np.zeros((0, len(IOU_THRESHOLDS)), bool), *[np.zeros(0, int)] * 3)
    matches = [of_image for part in parts for of_image in part.matches]
    all_matches = Matches(*map(np.concatenate, zip(empty, *matches, strict=True)))
    metrics = ap_per_class(*all_matches, names=evaluated)
    spent = np.sum([one.seconds for one in shares_of_processes], 0) / max(len(matches), 1)
    pre, inference, nms = (float(seconds) * MILLISECONDS for seconds in spent)
    return Evaluation(
        precision=_mean(metrics.precision),
        recall=_mean(metrics.recall),
        map50=_mean(metrics.ap[:, 0]),
        map50_95=_mean(metrics.ap),
        losses=_mean_losses(loss, parts, range(len(parts)) if batch_of is None else batch_of),
        images=len(matches),
        instances=len(all_matches.labels),
        classes=_class_results(metrics, evaluated, len(matches)),
        names=evaluated,
        curves=metrics.curves,
        confusion=np.sum([one.confusion for one in shares_of_processes], 0),
        speed_ms=(pre, inference, nms),
    )


def _mean_losses(
    loss: DetectionLoss | None, parts: Sequence[OfBatch], batch_of: Sequence[int]
) -> tuple[float, float, float]:
    """Return the mean box, objectness and class loss over the batches."""
    summed, batches = torch.zeros(3), 0
    numbered = zip(batch_of, parts, strict=True)
    for _, of_batch in groupby(numbered, lambda pair: pair[0]):
        passes = [one for _, part in of_batch for one in part.losses]
        batches += 1
        for means, counts in passes:
            assert loss is not None  # for the type checker
            whole = torch.stack([one.counts for one in passes]).sum(0)
            summed += torch.stack(loss.weighted(shares(means, counts, whole)))
    box, obj, cls = (summed / max(batches, 1)).tolist()
    return box, obj, cls


def _mean(values: Floats) -> float:
    """Return the mean; 0 for an empty array."""
    return float(values.mean()) if values.size else 0.0


def _class_results(
    metrics: ClassMetrics, names: tuple[str, ...], images: int
) -> tuple[ClassResult, ...]:
    return tuple(
        ClassResult(
            index=int(index),
            name=names[index],
            images=images,
            instances=int(metrics.instances[row]),
            precision=float(metrics.precision[row]),
            recall=float(metrics.recall[row]),
            map50=float(metrics.ap[row, 0]),
            map50_95=float(metrics.ap[row].mean()),
        )
        for row, index in enumerate(metrics.classes)
    )
