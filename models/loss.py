"""The detection loss: box overlap, objectness and classes of the assigned cells."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.assigner import Assignment, ShapeRatioAssigner, objectness_weight
from models.detector import Detector
from models.gather import gather
from models.head import BOX_FIELDS
from utils.boxes import complete_iou
from utils.hyp import Hyp

FOCAL_ALPHA = 0.25
"""Weight of positives against negatives (Lin et al., "Focal Loss", 2017, table 1b)."""
THREE_LEVEL_BALANCE = (4.0, 1.0, 0.4)
DEEP_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
"""Objectness weight per level, fine to coarse: fine levels have most cells and few objects."""
NOMINAL_CLASSES = 80
NOMINAL_LEVELS = 3
NOMINAL_IMAGE_SIZE = 640
"""The gains in hyp files are meant for COCO, three levels and this image size."""


class DetectionLosses(NamedTuple):
    """Scalars of one batch."""

    total: Tensor
    """Sum of the three, multiplied by the batch size; the one to differentiate."""
    box: Tensor
    """With its gain applied; detached."""
    obj: Tensor
    """With its gain applied; detached."""
    cls: Tensor
    """With its gain applied; detached."""


class LevelLosses(NamedTuple):
    """Scalars of one level, without gains."""

    box: Tensor
    obj: Tensor
    cls: Tensor


@dataclass(frozen=True)
class LossGains:
    """Gains as they are applied, already scaled to the model and the image size."""

    box: float
    obj: float
    cls: float
    cls_pw: float = 1.0
    """Weight of positives in the class loss."""
    obj_pw: float = 1.0
    """Weight of positives in the objectness loss."""
    fl_gamma: float = 0.0
    """Focal-loss gamma; 0 is plain cross-entropy."""
    label_smoothing: float = 0.0
    """Share of a class label that is spread evenly over present and absent."""


def scaled_gains(
    hyp: Hyp, *, classes: int, levels: int, image_size: int, label_smoothing: float
) -> LossGains:
    """The gains of a hyp file, scaled from COCO at 640 pixels and three levels.

    Args:
        hyp: hyper-parameters as in the file.
        classes: number of classes of the model.
        levels: number of detection levels of the model.
        image_size: side of the training images, pixels.
        label_smoothing: epsilon; targets become ``1 - eps / 2`` and ``eps / 2``.
    """
    per_level = NOMINAL_LEVELS / levels
    return LossGains(
        box=hyp.box * per_level,
        obj=hyp.obj * (image_size / NOMINAL_IMAGE_SIZE) ** 2 * per_level,
        cls=hyp.cls * classes / NOMINAL_CLASSES * per_level,
        cls_pw=hyp.cls_pw,
        obj_pw=hyp.obj_pw,
        fl_gamma=hyp.fl_gamma,
        label_smoothing=label_smoothing,
    )


def build_loss(
    model: Detector, hyp: Hyp, *, image_size: int, label_smoothing: float
) -> DetectionLoss:
    """The loss for a model, on the model's device and with the anchors it has now.

    Args:
        model: read for anchors, classes and levels; not kept.
        hyp: hyper-parameters as in the file.
        image_size: side of the training images, pixels.
        label_smoothing: see `scaled_gains`.
    """
    levels = len(model.strides)
    gains = scaled_gains(
        hyp,
        classes=model.classes,
        levels=levels,
        image_size=image_size,
        label_smoothing=label_smoothing,
    )
    balance = THREE_LEVEL_BALANCE if levels == len(THREE_LEVEL_BALANCE) else DEEP_BALANCE[:levels]
    assigner = ShapeRatioAssigner(model.head.anchors, hyp.anchor_t)
    return DetectionLoss(assigner, gains, model.classes, balance)


class DetectionLoss:
    """YOLOv5's loss; float32 inside whatever the precision of the raw maps.

    Args:
        assigner: says which cells are positive; its device is the loss's.
        gains: weights of the three parts.
        classes: number of classes; a single class has no class loss.
        level_balance: weight of each level's objectness, fine to coarse.
    """

    def __init__(
        self,
        assigner: ShapeRatioAssigner,
        gains: LossGains,
        classes: int,
        level_balance: Sequence[float],
    ) -> None:
        self.assigner = assigner
        self.gains = gains
        self.classes = classes
        self.level_balance = tuple(level_balance)
        self._total: Callable[[Tensor], Tensor] | None = None
        self._obj_weight = assigner.anchors.new_tensor(gains.obj_pw)
        self._cls_weight = assigner.anchors.new_tensor(gains.cls_pw)

    def of_parts(self, total: Callable[[Tensor], Tensor]) -> DetectionLoss:
        """The loss of a batch that is computed in parts, as by several processes.

        The sum of the parts, and of their gradients, is the loss of the whole batch.

        Args:
            total: sums a tensor of what `counts` returns over the parts; called once per loss.
        """
        shared = copy.copy(self)
        shared._total = total
        return shared

    def counts(self, raw: Sequence[Tensor], targets: Tensor, images: int) -> Tensor:
        """What the means of a loss are over, ``[levels + 1]``: each level's positives, the images.

        Args:
            raw: maps of the sizes in question, of any number of images.
            targets: ``[n, 6]``, as of `__call__`.
            images: how many of them.
        """
        return _counts(self._assigned(raw, targets), targets, images)

    def __call__(
        self,
        raw: Sequence[Tensor],
        targets: Tensor,
        images: int | None = None,
        ignored: Tensor | None = None,
    ) -> DetectionLosses:
        """Losses of a batch.

        Args:
            raw: per level ``[B, A, h, w, 5 + classes]``, logits.
            targets: ``[n, 6]``: image in the batch, class, centre and size as fractions of the
                network input; n may be 0.
            images: how many of the images count; None for all. Those that do not have no targets.
            ignored: ``[m, 5]``: image in the batch, centre and size of regions in which nothing is
                known of objects; see `assigner.objectness_weight`.
        """
        images = raw[0].shape[0] if images is None else images
        assignments = self._assigned(raw, targets)
        levels = [self._level(*pair, ignored) for pair in zip(raw, assignments, strict=True)]
        batch_size: int | Tensor = images
        if self._total is not None:
            own = _counts(assignments, targets, images)
            whole = self._total(own).clamp(min=1)
            levels = _shares(levels, own / whole)
            batch_size = whole[-1]

        balanced = zip(levels, self.level_balance, strict=True)
        box = torch.stack([level.box for level in levels]).sum() * self.gains.box
        obj = torch.stack([level.obj * weight for level, weight in balanced]).sum() * self.gains.obj
        cls = torch.stack([level.cls for level in levels]).sum() * self.gains.cls
        total = (box + obj + cls) * batch_size
        return DetectionLosses(total, box.detach(), obj.detach(), cls.detach())

    def _assigned(self, raw: Sequence[Tensor], targets: Tensor) -> list[Assignment]:
        return self.assigner(targets, [(level.shape[2], level.shape[3]) for level in raw])

    def _level(self, raw: Tensor, assignment: Assignment, ignored: Tensor | None) -> LevelLosses:
        """One level ``[B, A, h, w, 5 + classes]`` with its positives."""
        gamma = self.gains.fl_gamma
        objectness, picked = gather(raw, assignment)
        iou = objectness.new_zeros(0)
        box = cls = objectness.new_zeros(())
        if assignment.image.numel():
            iou = complete_iou(decoded_boxes(picked, assignment.anchor_sizes), assignment.boxes)
            box = (1 - iou).mean()
            if self.classes > 1:
                cls_target = self._class_target(assignment.classes)
                cls = binary_loss(picked[:, BOX_FIELDS:], cls_target, self._cls_weight, gamma)
        obj_target = objectness_target(iou.detach().clamp(min=0), assignment, objectness.shape)
        weight = objectness_weight(ignored, assignment, objectness.shape)
        obj = binary_loss(objectness, obj_target, self._obj_weight, gamma, weight)
        return LevelLosses(box, obj, cls)

    def _class_target(self, classes: Tensor) -> Tensor:
        """Class indices ``[n]`` to smoothed targets ``[n, classes]``."""
        absent = self.gains.label_smoothing / 2
        target = torch.full((len(classes), self.classes), absent, device=classes.device)
        return target.scatter_(1, classes[:, None], 1 - absent)


def _counts(assignments: Sequence[Assignment], targets: Tensor, images: int) -> Tensor:
    """See `DetectionLoss.counts`."""
    return targets.new_tensor([*(positive.image.numel() for positive in assignments), images])


def _shares(levels: Sequence[LevelLosses], share: Tensor) -> list[LevelLosses]:
    """Means over a part of a batch to its share in the means over the whole.

    Args:
        levels: means over positives (box, class) and over the cells of all images (objectness).
        share: ``[levels + 1]``: of every level's positives, and of the images, that are here.
    """
    return [
        LevelLosses(level.box * positives, level.obj * share[-1], level.cls * positives)
        for level, positives in zip(levels, share[:-1], strict=True)
    ]


def decoded_boxes(picked: Tensor, anchor_sizes: Tensor) -> Tensor:
    """Logits ``[n, >= 4]`` and anchors ``[n, 2]`` to boxes ``[n, 4]`` as `Assignment.boxes` are."""
    scores = picked[:, :4].sigmoid() * 2
    return torch.cat((scores[:, :2] - 0.5, scores[:, 2:].square() * anchor_sizes), 1)


def objectness_target(iou: Tensor, assignment: Assignment, shape: Sequence[int]) -> Tensor:
    """The map ``[B, A, h, w]`` that holds each positive cell's IoU and zero elsewhere.

    Where several targets share a cell the last one counts. Every duplicate is given that value
    before writing, so that the result does not depend on the order of parallel writes.

    Args:
        iou: ``[n]``, in 0..1.
        assignment: the positives, n of them.
        shape: B, A, h, w.
    """
    _, anchors, height, width = shape
    cell = (assignment.image * anchors + assignment.anchor) * height + assignment.row
    cell = cell * width + assignment.col  # [n]
    position = torch.arange(len(cell), device=cell.device)
    last = cell.new_zeros(math.prod(shape))
    last.scatter_reduce_(0, cell, position, "amax")
    return iou.new_zeros(len(last)).scatter_(0, cell, iou[last[cell]]).view(*shape)


def binary_loss(
    logits: Tensor,
    target: Tensor,
    positive_weight: Tensor,
    gamma: float,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean binary cross-entropy, focal if gamma is above 0 (Lin et al., "Focal Loss", 2017).

    Args:
        logits: any shape, float32.
        target: same shape, in 0..1; between them the focal factors are interpolated.
        positive_weight: scalar weight of the target's share.
        gamma: exponent that quietens what is already right.
        weight: of each element, same shape; the sum is divided by the number of all of them.
    """
    loss = F.binary_cross_entropy_with_logits(
        logits,
        target,
        weight=weight,
        pos_weight=positive_weight,
        reduction="none" if gamma > 0 else "mean",
    )
    if gamma <= 0:
        return loss
    score = logits.sigmoid()
    right = target * score + (1 - target) * (1 - score)
    alpha = target * FOCAL_ALPHA + (1 - target) * (1 - FOCAL_ALPHA)
    return (loss * alpha * (1 - right) ** gamma).mean()
