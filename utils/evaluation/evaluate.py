"""The validation loop: a detector and labelled batches in, metrics out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
    ClassMetrics,
    ConfusionMatrix,
    MetricCurves,
    ap_per_class,
    match_detections,
    share_inside,
)

MILLISECONDS = 1000.0
SINGLE_CLASS_NAME = "item"
TABLE_HEADER = ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95")
MIN_SHARE_IGNORED = 0.5
"""Detections count as lying in an ignore region if more of them does."""
BAR = "{l_bar}{bar:10}{r_bar}"

Observer = Callable[[Batch, list[Tensor]], None]


@dataclass(frozen=True)
class EvalSettings:
    """How detections are made and judged."""

    conf_thres: float = 0.001
    """Least confidence of a detection; low, since AP wants the whole curve."""
    iou_thres: float = 0.6
    """Non-maximum suppression drops boxes that overlap a better one by more."""
    max_det: int = 300
    """Most detections per image."""
    single_class: bool = False
    """Judge positions only: all labels and detections become one class."""
    precision: str = "fp32"
    """Number format of the forward pass: fp32, bf16 or fp16."""
    ignore: IgnoreRegions | None = None
    """Of the data set's images. A detection that lies in one and is no true positive at any
    threshold counts as neither right nor wrong."""


@dataclass(frozen=True)
class ClassResult:
    """The result for one class that has labels."""

    index: int
    name: str
    images: int
    """Images evaluated, whether or not they show the class."""
    instances: int
    precision: float
    recall: float
    map50: float
    map50_95: float


@dataclass(frozen=True)
class Evaluation:
    """The result of a validation; metrics are means over the classes that have labels."""

    precision: float
    recall: float
    map50: float
    map50_95: float
    losses: tuple[float, float, float]
    """Mean box, objectness and class loss over the batches; zeros when no loss was given."""
    images: int
    instances: int
    classes: tuple[ClassResult, ...]
    names: tuple[str, ...]
    """Names of all classes judged, those without labels included."""
    curves: MetricCurves
    confusion: NDArray[np.int64]
    """Counts of (predicted, true), [classes + 1, classes + 1], background last."""
    speed_ms: tuple[float, float, float]
    """Milliseconds per image: pre-processing, inference, non-maximum suppression."""


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
    """Detect on every batch and compare with the labels, in pixels of the original images.

    Args:
        model: On `device`; its train or eval mode is as before when this returns.
        batches: Labelled images, uint8.
        names: Class names by index.
        device: Where to compute.
        loss: Also measure this training loss.
        settings: How detections are made and judged.
        observers: Called with every batch and its detections: for each image [n, 6] corners in
            pixels of the network input, confidence, class; best first, on the CPU.
    """
    tally = _Tally(evaluated_names(names, single_class=settings.single_class), settings)
    losses = torch.zeros(3, device=device)
    forward = Forward(model, device, settings.precision, threshold=settings.conf_thres, loss=loss)
    suppression = Stopwatch(device)
    was_training = model.training
    model.eval()
    try:
        for batch in tqdm(batches, table_row(*TABLE_HEADER), bar_format=BAR):
            forwarded = forward(batch)
            losses += forwarded.losses
            with suppression:
                detections = _detect(forwarded.boxes, settings)
            tally.add(batch, detections)
            for observer in observers:
                observer(batch, detections)
    finally:
        model.train(was_training)
    return tally.result(losses, (forward.preprocessing, forward.inference, suppression))


def evaluated_names(names: Sequence[str], *, single_class: bool) -> tuple[str, ...]:
    """The names of the classes that are told apart: all, or a single one."""
    return (SINGLE_CLASS_NAME,) if single_class and len(names) != 1 else tuple(names)


def table_row(name: str, *cells: str) -> str:
    """One row of the results table, in the columns of `TABLE_HEADER`."""
    return f"{name:>22}" + "".join(f"{cell:>11}" for cell in cells)


def to_original(detections: Tensor, frame: Frame) -> Tensor:
    """Detections [n, 6] from pixels of the network input to pixels of the original, clipped."""
    boxes = boxes_to_original(
        detections[:, :4], ratio=frame.ratio, pad=frame.pad, original=frame.original
    )
    return torch.cat((boxes, detections[:, 4:]), 1)


def _detect(prediction: Sequence[Tensor], settings: EvalSettings) -> list[Tensor]:
    """Detections [n, 6] of each image from its decoded predictions [n, 5 + classes]."""
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


class _Judged(NamedTuple):
    """What one image contributes: n detections and m labels."""

    tp: NDArray[np.bool_]
    """[n, 10]."""
    confidence: NDArray[np.floating]
    """[n]."""
    predicted: NDArray[np.integer]
    """[n]."""
    labels: NDArray[np.integer]
    """Classes, [m]."""


class _Tally:
    """Judges image by image, and sums up.

    Args:
        names: Class names by index.
        settings: Whether to take all labels for class 0, and what to ignore.
    """

    def __init__(self, names: tuple[str, ...], settings: EvalSettings) -> None:
        self.names = names
        self.single_class = settings.single_class
        self.ignore = settings.ignore
        self.confusion = ConfusionMatrix(len(names))
        self.judged: list[_Judged] = []
        self.batches = 0

    def add(self, batch: Batch, detections: Sequence[Tensor]) -> None:
        """Judge the detections [n, 6] of every image of a batch."""
        self.batches += 1
        height, width = batch.images.shape[2:]
        corners = xywh_to_xyxy(batch.targets[:, 2:]) * torch.tensor([width, height, width, height])
        for position, (frame, found) in enumerate(zip(batch.frames, detections, strict=True)):
            mine = batch.targets[:, 0] == position
            classes = batch.targets[mine, 1].int().numpy()
            if self.single_class:
                classes = np.zeros_like(classes)
            boxes = boxes_to_original(
                corners[mine], ratio=frame.ratio, pad=frame.pad, original=frame.original
            )
            found_boxes = to_original(found, frame)[:, :4]
            iou = box_iou(boxes, found_boxes).numpy()
            confidence, predicted = found[:, 4].numpy(), found[:, 5].int().numpy()
            tp = match_detections(iou, classes, predicted)
            if self.ignore is not None:
                regions = self.ignore.of(int(batch.indices[position]))
                kept = tp.any(1) | ~_in_regions(found_boxes, regions, frame)
                tp, iou = tp[kept], iou[:, kept]
                confidence, predicted = confidence[kept], predicted[kept]
            self.confusion.update(iou, classes, predicted, confidence)
            self.judged.append(_Judged(tp, confidence, predicted, classes))

    def result(self, losses: Tensor, watches: Sequence[Stopwatch]) -> Evaluation:
        """The metrics of all images together, and the means of the summed losses [3] and times."""
        nothing = _Judged(np.zeros((0, len(IOU_THRESHOLDS)), bool), *[np.zeros(0, int)] * 3)
        everything = _Judged(*map(np.concatenate, zip(nothing, *self.judged, strict=True)))
        metrics = ap_per_class(*everything, names=self.names)
        images = len(self.judged)
        box, obj, cls = (losses / max(self.batches, 1)).tolist()
        pre, inference, nms = (w.seconds * MILLISECONDS / max(images, 1) for w in watches)
        return Evaluation(
            precision=_mean(metrics.precision),
            recall=_mean(metrics.recall),
            map50=_mean(metrics.ap[:, 0]),
            map50_95=_mean(metrics.ap),
            losses=(box, obj, cls),
            images=images,
            instances=len(everything.labels),
            classes=_class_results(metrics, self.names, images),
            names=self.names,
            curves=metrics.curves,
            confusion=self.confusion.matrix,
            speed_ms=(pre, inference, nms),
        )


def _in_regions(boxes: Tensor, regions: NDArray[np.floating], frame: Frame) -> NDArray[np.bool_]:
    """Which boxes lie in ignore regions.

    Args:
        boxes: Corners in pixels of the original, [n, 4].
        regions: Centre and size, normalised, [k, 4].
        frame: Where the image came from.
    """
    height, width = frame.original
    centres, half = regions[:, :2], regions[:, 2:] / 2
    corners = np.concatenate([centres - half, centres + half], 1) * (width, height, width, height)
    inside: NDArray[np.bool_] = share_inside(boxes.numpy(), corners) > MIN_SHARE_IGNORED
    return inside


def _mean(values: NDArray[np.floating]) -> float:
    """The mean, 0 of nothing."""
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
