"""Detection metrics on numpy arrays: matching, average precision, confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
CURVE_POINTS = 1000
RECALL_GRID = np.linspace(0, 1, 101)  # the 101 recall points of the COCO protocol
SMOOTHING_WIDTH = CURVE_POINTS // 10 + 1  # a tenth of the axis; odd, so that it is centred
EPS = 1e-16  # makes 0 / 0 equal 0


@dataclass(frozen=True)
class MetricCurves:
    """Curves for plotting at IoU 0.5; ``c`` classes that have labels, 1000 points each."""

    names: tuple[str, ...]
    """Names of the ``c`` classes."""
    confidence: Floats
    """Confidence axis from 0 to 1, [1000]."""
    precision: Floats
    """Precision over confidence, [c, 1000]."""
    recall: Floats
    """Recall over confidence, [c, 1000]."""
    f1: Floats
    """F1 over confidence, [c, 1000]."""
    envelope: Floats
    """Precision over recall from 0 to 1, [c, 1000]; the recall axis equals `confidence`."""
    ap50: Floats
    """Average precision at IoU 0.5, [c]."""


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of the ``c`` classes that have labels, by ascending class index."""

    classes: Ints
    """Class indices, [c]."""
    instances: Ints
    """Number of labels, [c]."""
    ap: Floats
    """Average precision at each of the ten IoU thresholds, [c, 10]."""
    precision: Floats
    """Precision at `confidence`, [c]."""
    recall: Floats
    """Recall at `confidence`, [c]."""
    f1: Floats
    """F1 at `confidence`, [c]."""
    tp: Floats
    """True positives at `confidence`, rounded, [c]."""
    fp: Floats
    """False positives at `confidence`, rounded, [c]."""
    confidence: float
    """Confidence at the maximum of the smoothed mean F1."""
    curves: MetricCurves


class _ClassCurves(NamedTuple):
    """AP [10] and three curves [1000] of one class."""

    ap: Floats
    precision: Floats
    recall: Floats
    envelope: Floats


def match_detections(iou: Floats, label_classes: Ints, detection_classes: Ints) -> Bools:
    """Return which detections of one image are true positives at each IoU threshold.

    A detection is matched to the label of its class with the highest IoU, if that reaches the
    threshold. If several detections match one label, the most confident one is the true positive,
    even if another one has a higher IoU, because AP ranks by confidence.

    Args:
        iou: IoU of every label with every detection, [m, n]; detections by descending confidence.
        label_classes: classes of the labels, [m].
        detection_classes: classes of the detections, [n].

    Returns:
        True positives, [n, 10], one column per entry of `IOU_THRESHOLDS`.
    """
    tp = np.zeros((len(detection_classes), len(IOU_THRESHOLDS)), dtype=bool)
    if not len(label_classes):
        return tp
    overlap = np.where(np.equal.outer(label_classes, detection_classes), iou, 0.0)  # [m, n]
    label = overlap.argmax(0)  # [n]
    detection, threshold = np.nonzero(overlap.max(0)[:, None] >= IOU_THRESHOLDS)
    claim = label[detection] * len(IOU_THRESHOLDS) + threshold  # unique per label and threshold
    first = np.unique(claim, return_index=True)[1]
    tp[detection[first], threshold[first]] = True
    return tp


def fraction_inside(boxes: Floats, regions: Floats) -> Floats:
    """Return the largest fraction of each box's area that lies inside a single region.

    Args:
        boxes: corners, [n, 4], any unit.
        regions: corners, [k, 4], same unit; k may be 0.

    Returns:
        Fractions from 0 to 1, [n].
    """
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])  # [n, k, 2]
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    fraction: Floats = shared.max(1, initial=0.0) / np.maximum(area, EPS)
    return fraction


class Pairs(NamedTuple):
    """Matched rows and columns, index arrays of equal length."""

    rows: Ints
    columns: Ints


def greedy_pairs(rows: Ints, columns: Ints) -> Pairs:
    """Select candidate pairs greedily in the given order, each row and column at most once.

    Args:
        rows: rows of the candidate pairs, best pair first, [p].
        columns: columns of the candidate pairs, [p].
    """
    taken_rows, taken_columns = [np.zeros(0, dtype=int)], [np.zeros(0, dtype=int)]
    while len(rows):
        # All pairs that are first both in their row and in their column can be selected at once.
        first_of_row = np.zeros(len(rows), dtype=bool)
        first_of_row[np.unique(rows, return_index=True)[1]] = True
        first_of_column = np.zeros(len(rows), dtype=bool)
        first_of_column[np.unique(columns, return_index=True)[1]] = True
        taken = first_of_row & first_of_column
        taken_rows.append(rows[taken])
        taken_columns.append(columns[taken])
        free = ~np.isin(rows, rows[taken]) & ~np.isin(columns, columns[taken])
        rows, columns = rows[free], columns[free]
    return Pairs(np.concatenate(taken_rows), np.concatenate(taken_columns))


def ap_per_class(
    tp: Bools,
    confidence: Floats,
    predicted_classes: Ints,
    target_classes: Ints,
    names: tuple[str, ...] | None = None,
) -> ClassMetrics:
    """Compute precision, recall, F1 and average precision of every class that has labels.

    Args:
        tp: true positives at the ten IoU thresholds, [n, 10].
        confidence: confidence of the detections, [n].
        predicted_classes: classes of the detections, [n].
        target_classes: classes of the labels, [m].
        names: class names by index, for the curves; the index itself if None.

    Returns:
        `ClassMetrics`; arrays of length 0 if there are no labels.
    """
    order = np.argsort(-confidence, kind="stable")
    tp, confidence, predicted_classes = tp[order], confidence[order], predicted_classes[order]
    classes, instances = np.unique(target_classes.astype(int), return_counts=True)
    parts = []
    for index, count in zip(classes, instances, strict=True):
        of_class = predicted_classes == index
        parts.append(_class_curves(tp[of_class], confidence[of_class], int(count)))
    precision, recall, envelope = (
        np.array([getattr(part, field) for part in parts]).reshape(-1, CURVE_POINTS)
        for field in ("precision", "recall", "envelope")
    )
    ap = np.array([part.ap for part in parts]).reshape(-1, len(IOU_THRESHOLDS))
    f1 = 2 * precision * recall / (precision + recall + EPS)
    axis = np.linspace(0, 1, CURVE_POINTS)
    best = int(smooth(f1.mean(0)).argmax()) if len(classes) else 0
    true_positives: Floats = np.round(recall[:, best] * instances)
    return ClassMetrics(
        classes=classes,
        instances=instances,
        ap=ap,
        precision=precision[:, best],
        recall=recall[:, best],
        f1=f1[:, best],
        tp=true_positives,
        fp=(true_positives / (precision[:, best] + EPS) - true_positives).round(),
        confidence=float(axis[best]),
        curves=MetricCurves(
            names=tuple(names[index] if names else str(index) for index in classes),
            confidence=axis,
            precision=precision,
            recall=recall,
            f1=f1,
            envelope=envelope,
            ap50=ap[:, 0],
        ),
    )


def _class_curves(tp: Bools, confidence: Floats, instances: int) -> _ClassCurves:
    """Compute the curves of one class from its detections, by descending confidence."""
    axis = np.linspace(0, 1, CURVE_POINTS)
    if not len(tp):
        zeros = np.zeros(CURVE_POINTS)
        return _ClassCurves(np.zeros(len(IOU_THRESHOLDS)), zeros, zeros, zeros)
    true_positives = tp.cumsum(0, dtype=float)  # [n, 10]
    recall = true_positives / instances
    precision = true_positives / np.arange(1, len(tp) + 1)[:, None]
    envelopes = [_envelope(recall[:, i], precision[:, i]) for i in range(tp.shape[1])]
    return _ClassCurves(
        ap=np.array([average_precision(*envelope) for envelope in envelopes]),
        # np.interp needs an ascending axis. Above the highest confidence there are no detections:
        # recall is 0 and precision 1.
        precision=np.interp(-axis, -confidence, precision[:, 0], left=1.0),
        recall=np.interp(-axis, -confidence, recall[:, 0], left=0.0),
        envelope=np.interp(axis, *envelopes[0]),
    )


class _Envelope(NamedTuple):
    """A precision-recall curve with sentinel points at both ends, two arrays [n + 2]."""

    recall: Floats
    precision: Floats


def _envelope(recall: Floats, precision: Floats) -> _Envelope:
    """Add the end points (0, 1) and (1, 0), and make the precision decrease monotonically."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[1.0], precision, [0.0]])
    return _Envelope(recall, np.maximum.accumulate(precision[::-1])[::-1])


def average_precision(recall: Floats, precision: Floats) -> float:
    """Return the area under a precision envelope (trapezoids between COCO's 101 recall points)."""
    return float(np.trapezoid(np.interp(RECALL_GRID, recall, precision), RECALL_GRID))


def smooth(curve: Floats) -> Floats:
    """Return the moving average of a curve [1000] over a tenth of its axis, with edge padding."""
    padded = np.pad(curve, SMOOTHING_WIDTH // 2, mode="edge")
    return np.convolve(padded, np.full(SMOOTHING_WIDTH, 1 / SMOOTHING_WIDTH), mode="valid")


class ConfusionMatrix:
    """Counts of (predicted class, true class); the last row and column are the background.

    Args:
        classes: number of classes ``c``; the matrix is [c + 1, c + 1].
        conf_thres: detections with this confidence or less are ignored.
        iou_thres: a label and a detection with a higher IoU match, even if their classes differ.
    """

    def __init__(self, classes: int, conf_thres: float = 0.25, iou_thres: float = 0.45) -> None:
        self.classes = classes
        self.conf_thres = conf_thres
        self.iou_thres = iou_thres
        self.matrix = np.zeros((classes + 1, classes + 1), dtype=np.int64)

    def update(
        self, iou: Floats, label_classes: Ints, detection_classes: Ints, confidence: Floats
    ) -> None:
        """Add one image.

        Args:
            iou: IoU of every label with every detection, [m, n].
            label_classes: classes of the labels, [m].
            detection_classes: classes of the detections, [n].
            confidence: confidence of the detections, [n].
        """
        kept = confidence > self.conf_thres
        iou, detection_classes = iou[:, kept], detection_classes[kept]
        labels, detections = np.nonzero(iou > np.float64(self.iou_thres))
        order = np.argsort(-iou[labels, detections], kind="stable")
        pairs = greedy_pairs(labels[order], detections[order])
        predicted = np.full(len(label_classes), self.classes)
        predicted[pairs.rows] = detection_classes[pairs.columns]
        np.add.at(self.matrix, (predicted, label_classes.astype(int)), 1)
        false_positives = np.delete(detection_classes, pairs.columns).astype(int)
        np.add.at(self.matrix[:, self.classes], false_positives, 1)
