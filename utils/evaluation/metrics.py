"""Detection metrics on numpy arrays: matching, average precision, confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

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
CONFUSION_CONFIDENCE, CONFUSION_IOU = 0.25, 0.45


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
    """Precision at the confidence where the smoothed mean F1 has its maximum, [c]."""
    recall: Floats
    """Recall at that confidence, [c]."""
    curves: MetricCurves


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


def greedy_pairs(rows: Ints, columns: Ints) -> Bools:
    """Select candidate pairs greedily in the given order, each row and column at most once.

    Args:
        rows: rows of the candidate pairs, best pair first, [p].
        columns: columns of the candidate pairs, [p].

    Returns:
        Which pairs are selected, [p].
    """
    selected = np.zeros(len(rows), dtype=bool)
    used_rows, used_columns = set(), set()
    for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        if row not in used_rows and column not in used_columns:
            selected[i] = True
            used_rows.add(row)
            used_columns.add(column)
    return selected


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
    axis = np.linspace(0, 1, CURVE_POINTS)
    ap = np.zeros((len(classes), len(IOU_THRESHOLDS)))
    precision, recall, envelope = np.zeros((3, len(classes), CURVE_POINTS))
    for row in np.flatnonzero(np.isin(classes, predicted_classes)):
        of_class = predicted_classes == classes[row]
        true_positives = tp[of_class].cumsum(0, dtype=float)  # [n, 10]
        recalls = true_positives / instances[row]
        precisions = true_positives / np.arange(1, len(true_positives) + 1)[:, None]
        # np.interp needs an ascending axis. Above the highest confidence there are no detections:
        # recall is 0 and precision 1.
        precision[row] = np.interp(-axis, -confidence[of_class], precisions[:, 0], left=1.0)
        recall[row] = np.interp(-axis, -confidence[of_class], recalls[:, 0], left=0.0)
        envelopes = [_envelope(*pair) for pair in zip(recalls.T, precisions.T, strict=True)]
        envelope[row] = np.interp(axis, *envelopes[0])
        ap[row] = [average_precision(*pair) for pair in envelopes]
    f1 = 2 * precision * recall / (precision + recall + EPS)
    best = int(smooth(f1.mean(0)).argmax()) if len(classes) else 0
    return ClassMetrics(
        classes=classes,
        instances=instances,
        ap=ap,
        precision=precision[:, best],
        recall=recall[:, best],
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


def _envelope(recall: Floats, precision: Floats) -> tuple[Floats, Floats]:
    """Add the end points (0, 1) and (1, 0), and make the precision decrease monotonically."""
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[1.0], precision, [0.0]])
    return recall, np.maximum.accumulate(precision[::-1])[::-1]


def average_precision(recall: Floats, precision: Floats) -> float:
    """Return the area under a precision envelope (trapezoids between COCO's 101 recall points)."""
    return float(np.trapezoid(np.interp(RECALL_GRID, recall, precision), RECALL_GRID))


def smooth(curve: Floats) -> Floats:
    """Return the moving average of a curve [1000] over a tenth of its axis, with edge padding."""
    padded = np.pad(curve, SMOOTHING_WIDTH // 2, mode="edge")
    return np.convolve(padded, np.full(SMOOTHING_WIDTH, 1 / SMOOTHING_WIDTH), mode="valid")


def count_confusion(
    counts: NDArray[np.int64],
    iou: Floats,
    label_classes: Ints,
    detection_classes: Ints,
    confidence: Floats,
) -> None:
    """Add one image to a confusion matrix.

    A label and a detection with an IoU above 0.45 match, even if their classes differ. Detections
    with a confidence of 0.25 or less are ignored.

    Args:
        counts: counts of (predicted class, true class), [c + 1, c + 1], background last.
        iou: IoU of every label with every detection, [m, n].
        label_classes: classes of the labels, [m].
        detection_classes: classes of the detections, [n].
        confidence: confidence of the detections, [n].
    """
    background = len(counts) - 1
    kept = confidence > CONFUSION_CONFIDENCE
    iou, detection_classes = iou[:, kept], detection_classes[kept]
    labels, detections = np.nonzero(iou > np.float64(CONFUSION_IOU))
    order = np.argsort(-iou[labels, detections], kind="stable")
    labels, detections = labels[order], detections[order]
    matched = greedy_pairs(labels, detections)
    predicted = np.full(len(label_classes), background)
    predicted[labels[matched]] = detection_classes[detections[matched]]
    np.add.at(counts, (predicted, label_classes.astype(int)), 1)
    false_positives = np.delete(detection_classes, detections[matched]).astype(int)
    np.add.at(counts[:, background], false_positives, 1)
