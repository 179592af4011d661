"""Matches detections with labels, image by image, and collects what the metrics need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.loss import LossMeans
from utils.boxes import box_iou, xywh_to_xyxy
from utils.datasets.dataset import Batch, Frame
from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.letterbox import boxes_to_original
from utils.evaluation.metrics import (
    Bools,
    Floats,
    Ints,
    count_confusion,
    fraction_inside,
    match_detections,
)

Item = TypeVar("Item")

MIN_IGNORED_FRACTION = 0.5
"""A detection lies in an ignore region if more than this fraction of its area does."""


class Matches(NamedTuple):
    """Matching result of n detections with m labels."""

    tp: Bools
    """True positives at the ten IoU thresholds, [n, 10]."""
    confidence: Floats
    """Confidence of the detections, [n]."""
    predicted: Ints
    """Classes of the detections, [n]."""
    labels: Ints
    """Classes of the labels, [m]."""


class OfBatch(NamedTuple):
    """What is collected of one batch, or of a part of one."""

    matches: list[Matches]
    """One per image."""
    losses: list[LossMeans]
    """Of each forward pass."""


@dataclass
class Collected:
    """What one process collects of its share of the batches; plain data at the end."""

    confusion: NDArray[np.int64]
    batches: list[OfBatch] = field(default_factory=list)
    seconds: Sequence[float] = (0.0, 0.0, 0.0)
    """Spent on preprocessing, inference and suppression."""

    @staticmethod
    def for_classes(count: int) -> Collected:
        """Begin with nothing."""
        return Collected(np.zeros((count + 1, count + 1), dtype=np.int64))

    def add(
        self,
        batch: Batch,
        detections: Sequence[Tensor],
        losses: list[LossMeans],
        *,
        single_class: bool,
        ignore: IgnoreRegions | None,
    ) -> None:
        """Match the detections [n, 6] of every image of a batch with its labels."""
        matches = []
        height, width = batch.images.shape[2:]
        corners = xywh_to_xyxy(batch.targets[:, 2:]) * torch.tensor([width, height, width, height])
        for position, (frame, found) in enumerate(zip(batch.frames, detections, strict=True)):
            in_image = batch.targets[:, 0] == position
            classes = batch.targets[in_image, 1].int().numpy()
            if single_class:
                classes = np.zeros_like(classes)
            boxes = boxes_to_original(
                corners[in_image], ratio=frame.ratio, pad=frame.pad, original=frame.original
            )
            found_boxes = to_original(found, frame)[:, :4]
            iou = box_iou(boxes, found_boxes).numpy()
            confidence, predicted = found[:, 4].numpy(), found[:, 5].int().numpy()
            tp = match_detections(iou, classes, predicted)
            if ignore is not None:
                regions = ignore.of(int(batch.indices[position]))
                kept = tp.any(1) | ~_in_regions(found_boxes, regions, frame)
                tp, iou = tp[kept], iou[:, kept]
                confidence, predicted = confidence[kept], predicted[kept]
            count_confusion(self.confusion, iou, classes, predicted, confidence)
            matches.append(Matches(tp, confidence, predicted, classes))
        self.batches.append(OfBatch(matches, losses))

    def finished(self, seconds: Sequence[float]) -> Collected:
        """Copy the losses from the device, and set the seconds."""
        for _, losses in self.batches:
            losses[:] = [LossMeans(means.cpu(), counts.cpu()) for means, counts in losses]
        self.seconds = seconds
        return self


def _in_regions(boxes: Tensor, regions: Floats, frame: Frame) -> Bools:
    """Return which boxes (corners, pixels of the original, [n, 4]) lie in ignore regions.

    The regions are normalised centres and sizes, [k, 4].
    """
    height, width = frame.original
    centres, half = regions[:, :2], regions[:, 2:] / 2
    corners = np.concatenate([centres - half, centres + half], 1) * (width, height, width, height)
    return fraction_inside(boxes.numpy(), corners) > MIN_IGNORED_FRACTION


def to_original(detections: Tensor, frame: Frame) -> Tensor:
    """Convert detections [n, 6] from network-input pixels to original pixels, and clip them."""
    boxes = boxes_to_original(
        detections[:, :4], ratio=frame.ratio, pad=frame.pad, original=frame.original
    )
    return torch.cat((boxes, detections[:, 4:]), 1)


def in_order(of_processes: Sequence[Sequence[Item]]) -> list[Item]:
    """Return the items of all processes in order; of n, the first has every n-th from 0 on."""
    count, processes = sum(map(len, of_processes)), len(of_processes)
    return [of_processes[i % processes][i // processes] for i in range(count)]
