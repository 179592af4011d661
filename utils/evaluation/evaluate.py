"""The validation loop: evaluates a detector on labelled batches."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from models.detector import Detector
from models.loss import DetectionLoss
from models.nms import non_max_suppression
from utils.boxes import box_iou, xywh_to_xyxy
from utils.datasets.dataset import Batch, Frame
from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.letterbox import boxes_to_original
from utils.evaluation.forward import Forward, Stopwatch
from utils.evaluation.metrics import (
    IOU_THRESHOLDS,
    Bools,
    ClassMetrics,
    Floats,
    Ints,
    MetricCurves,
    ap_per_class,
    count_confusion,
    fraction_inside,
    match_detections,
)

MILLISECONDS = 1000.0
SINGLE_CLASS_NAME = "item"
TABLE_HEADER = ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95")
MIN_IGNORED_FRACTION = 0.5
"""A detection lies in an ignore region if more than this fraction of its area does."""
BAR = "{l_bar}{bar:10}{r_bar}"

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
    accumulator = _Accumulator(evaluated_names(names, single_class=settings.single_class), settings)
    losses = torch.zeros(3, device=device)
    forward = Forward(
        model,
        device,
        settings.precision,
        threshold=settings.conf_thres,
        loss=loss,
        images_per_pass=settings.images_per_pass,
    )
    suppression = Stopwatch(device)
    was_training = model.training
    model.eval()
    try:
        for batch in tqdm(batches, table_row(*TABLE_HEADER), bar_format=BAR):
            forwarded = forward(batch)
            losses += forwarded.losses
            with suppression:
                detections = _detect(forwarded.boxes, settings)
            accumulator.add(batch, detections)
            for observer in observers:
                observer(batch, detections)
    finally:
        model.train(was_training)
    return accumulator.result(losses, (forward.preprocessing, forward.inference, suppression))


def evaluated_names(names: Sequence[str], *, single_class: bool) -> tuple[str, ...]:
    """Return the names of the evaluated classes: all, or one name for `single_class`."""
    return (SINGLE_CLASS_NAME,) if single_class and len(names) != 1 else tuple(names)


def table_row(name: str, *cells: str) -> str:
    """Format one row of the results table, with the columns of `TABLE_HEADER`."""
    return f"{name:>22}" + "".join(f"{cell:>11}" for cell in cells)


def to_original(detections: Tensor, frame: Frame) -> Tensor:
    """Convert detections [n, 6] from network-input pixels to original pixels, and clip them."""
    boxes = boxes_to_original(
        detections[:, :4], ratio=frame.ratio, pad=frame.pad, original=frame.original
    )
    return torch.cat((boxes, detections[:, 4:]), 1)


def _detect(prediction: Sequence[Tensor], settings: EvalSettings) -> list[Tensor]:
    """Return the detections [n, 6] of each image from its decoded predictions [n, 5 + classes]."""
    detections = non_max_suppression(
        prediction,
        conf_thres=settings.conf_thres,
        iou_thres=settings.iou_thres,
        agnostic=settings.single_class,
        multi_label=True,
        max_det=settings.max_det,
    )
    detections = [found.cpu() for found in detections]
    if settings.single_class:
        for found in detections:
            found[:, 5] = 0
    return detections


class _Matches(NamedTuple):
    """Matching result of n detections with m labels."""

    tp: Bools
    """True positives at the ten IoU thresholds, [n, 10]."""
    confidence: Floats
    """Confidence of the detections, [n]."""
    predicted: Ints
    """Classes of the detections, [n]."""
    labels: Ints
    """Classes of the labels, [m]."""


class _Accumulator:
    """Matches detections with labels image by image, and accumulates the results."""

    def __init__(self, names: tuple[str, ...], settings: EvalSettings) -> None:
        self.names = names
        self.settings = settings
        self.confusion = np.zeros((len(names) + 1, len(names) + 1), dtype=np.int64)
        self.matches: list[_Matches] = []
        self.batches = 0

    def add(self, batch: Batch, detections: Sequence[Tensor]) -> None:
        """Match the detections [n, 6] of every image of a batch with its labels."""
        self.batches += 1
        height, width = batch.images.shape[2:]
        corners = xywh_to_xyxy(batch.targets[:, 2:]) * torch.tensor([width, height, width, height])
        for position, (frame, found) in enumerate(zip(batch.frames, detections, strict=True)):
            in_image = batch.targets[:, 0] == position
            classes = batch.targets[in_image, 1].int().numpy()
            if self.settings.single_class:
                classes = np.zeros_like(classes)
            boxes = boxes_to_original(
                corners[in_image], ratio=frame.ratio, pad=frame.pad, original=frame.original
            )
            found_boxes = to_original(found, frame)[:, :4]
            iou = box_iou(boxes, found_boxes).numpy()
            confidence, predicted = found[:, 4].numpy(), found[:, 5].int().numpy()
            tp = match_detections(iou, classes, predicted)
            if self.settings.ignore is not None:
                regions = self.settings.ignore.of(int(batch.indices[position]))
                kept = tp.any(1) | ~_in_regions(found_boxes, regions, frame)
                tp, iou = tp[kept], iou[:, kept]
                confidence, predicted = confidence[kept], predicted[kept]
            count_confusion(self.confusion, iou, classes, predicted, confidence)
            self.matches.append(_Matches(tp, confidence, predicted, classes))

    def result(self, losses: Tensor, watches: Sequence[Stopwatch]) -> Evaluation:
        """Return the metrics of all images, and the means of the summed losses [3] and times."""
        empty = _Matches(np.zeros((0, len(IOU_THRESHOLDS)), bool), *[np.zeros(0, int)] * 3)
        all_matches = _Matches(*map(np.concatenate, zip(empty, *self.matches, strict=True)))
        metrics = ap_per_class(*all_matches, names=self.names)
        images = len(self.matches)
        box, obj, cls = (losses / max(self.batches, 1)).tolist()
        pre, inference, nms = (w.seconds * MILLISECONDS / max(images, 1) for w in watches)
        return Evaluation(
            precision=_mean(metrics.precision),
            recall=_mean(metrics.recall),
            map50=_mean(metrics.ap[:, 0]),
            map50_95=_mean(metrics.ap),
            losses=(box, obj, cls),
            images=images,
            instances=len(all_matches.labels),
            classes=_class_results(metrics, self.names, images),
            names=self.names,
            curves=metrics.curves,
            confusion=self.confusion,
            speed_ms=(pre, inference, nms),
        )


def _in_regions(boxes: Tensor, regions: Floats, frame: Frame) -> Bools:
    """Return which boxes (corners, pixels of the original, [n, 4]) lie in ignore regions.

    The regions are normalised centres and sizes, [k, 4].
    """
    height, width = frame.original
    centres, half = regions[:, :2], regions[:, 2:] / 2
    corners = np.concatenate([centres - half, centres + half], 1) * (width, height, width, height)
    return fraction_inside(boxes.numpy(), corners) > MIN_IGNORED_FRACTION


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
