"""The detection loss: box, objectness and class loss."""

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
"""Weight of positives versus negatives (Lin et al., "Focal Loss", 2017, table 1b)."""
THREE_LEVEL_BALANCE = (4.0, 1.0, 0.4)
DEEP_BALANCE = (4.0, 1.0, 0.25, 0.06, 0.02)
"""Objectness weight of each level, fine to coarse; fine levels have most cells and few objects."""
NOMINAL_CLASSES = 80
NOMINAL_LEVELS = 3
NOMINAL_IMAGE_SIZE = 640
"""Gains in hyp files are tuned for COCO's classes, three levels and this image size."""


class DetectionLosses(NamedTuple):
    """Scalar losses of one batch."""

    total: Tensor
    """Sum of the three losses, multiplied by the batch size; call `backward` on it."""
    box: Tensor
    """Box loss with its gain; detached."""
    obj: Tensor
    """Objectness loss with its gain; detached."""
    cls: Tensor
    """Class loss with its gain; detached."""


class LevelLosses(NamedTuple):
    """Scalar losses of one level, without gains."""

    box: Tensor
    obj: Tensor
    cls: Tensor


@dataclass(frozen=True)
class LossGains:
    """Loss gains, scaled to the model and the image size."""

    box: float
    obj: float
    cls: float
    cls_pw: float = 1.0
    """Weight of positives in the class loss."""
    obj_pw: float = 1.0
    """Weight of positives in the objectness loss."""
    fl_gamma: float = 0.0
    """Focal-loss gamma; 0 gives plain cross-entropy."""
    label_smoothing: float = 0.0
    """Label-smoothing epsilon of the class targets."""


def build_loss(
    model: Detector, hyp: Hyp, *, image_size: int, label_smoothing: float
) -> DetectionLoss:
    """Build the loss for a model, on the model's device and with its current anchors.

    The gains of the hyp file are scaled from COCO at 640 pixels and three levels.

    Args:
        model: model with the anchors, classes and levels; no reference is kept.
        hyp: hyper-parameters.
        image_size: side of the training images, pixels.
        label_smoothing: epsilon; targets become ``1 - eps / 2`` and ``eps / 2``.
    """
    levels = len(model.strides)
    per_level = NOMINAL_LEVELS / levels
    gains = LossGains(
        box=hyp.box * per_level,
        obj=hyp.obj * (image_size / NOMINAL_IMAGE_SIZE) ** 2 * per_level,
        cls=hyp.cls * model.classes / NOMINAL_CLASSES * per_level,
        cls_pw=hyp.cls_pw,
        obj_pw=hyp.obj_pw,
        fl_gamma=hyp.fl_gamma,
        label_smoothing=label_smoothing,
    )
    balance = THREE_LEVEL_BALANCE if levels == len(THREE_LEVEL_BALANCE) else DEEP_BALANCE[:levels]
    assigner = ShapeRatioAssigner(model.head.anchors, hyp.anchor_t)
    return DetectionLoss(assigner, gains, model.classes, balance)


class DetectionLoss:
    """YOLOv5's loss, computed in float32 for raw maps of any dtype.

    Args:
        assigner: assigns targets to cells; the loss is on its device.
        gains: weights of the three losses.
        classes: number of classes; with one class there is no class loss.
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

    def for_partial_batches(self, total: Callable[[Tensor], Tensor]) -> DetectionLoss:
        """Return a copy for a batch that is computed in parts, for example by several processes.

        The sum of the losses of all parts is the loss of the whole batch; so are the gradients.

        Args:
            total: sums the result of `counts` over all parts; called once per loss.
        """
        shared = copy.copy(self)
        shared._total = total
        return shared

    def counts(self, raw: Sequence[Tensor], targets: Tensor, images: int) -> Tensor:
        """Return the counts that the means of the loss divide by.

        Args:
            raw: maps of the right sizes, of any number of images.
            targets: ``[n, 6]``; see `__call__`.
            images: number of images.

        Returns:
            ``[levels + 1]``: number of positives of each level, number of images.
        """
        return _counts(self._assigned(raw, targets), targets, images)

    def __call__(
        self,
        raw: Sequence[Tensor],
        targets: Tensor,
        images: int | None = None,
        ignored: Tensor | None = None,
    ) -> DetectionLosses:
        """Return the losses of a batch.

        Args:
            raw: for each level ``[B, A, h, w, 5 + classes]``, logits.
            targets: ``[n, 6]``: image index, class, centre and size as fractions of the
                network input; n may be 0.
            images: number of images that count, the others being padding without targets; all if
                None.
            ignored: ignore regions ``[m, 5]``: image index, centre and size; see
                `assigner.objectness_weight`.
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
        """Return the losses of one level ``[B, A, h, w, 5 + classes]``."""
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
        """Return smoothed class targets ``[n, classes]`` for class indices ``[n]``."""
        absent = self.gains.label_smoothing / 2
        target = torch.full((len(classes), self.classes), absent, device=classes.device)
        return target.scatter_(1, classes[:, None], 1 - absent)


def _counts(assignments: Sequence[Assignment], targets: Tensor, images: int) -> Tensor:
    """Return the counts; see `DetectionLoss.counts`."""
    return targets.new_tensor([*(positive.image.numel() for positive in assignments), images])


def _shares(levels: Sequence[LevelLosses], share: Tensor) -> list[LevelLosses]:
    """Scale the means over a part of a batch to its contribution to the means over the batch.

    Args:
        levels: means over positives (box, class) and over the cells of all images (objectness).
        share: fractions ``[levels + 1]`` of each level's positives, and of the images, in the part.
    """
    return [
        LevelLosses(level.box * positives, level.obj * share[-1], level.cls * positives)
        for level, positives in zip(levels, share[:-1], strict=True)
    ]


def decoded_boxes(picked: Tensor, anchor_sizes: Tensor) -> Tensor:
    """Decode logits ``[n, >= 4]`` with anchors ``[n, 2]`` to boxes ``[n, 4]``.

    Anchors and boxes are in cells; boxes have the convention of `Assignment.boxes`.
    """
    scores = picked[:, :4].sigmoid() * 2
    return torch.cat((scores[:, :2] - 0.5, scores[:, 2:].square() * anchor_sizes), 1)


def objectness_target(iou: Tensor, assignment: Assignment, shape: Sequence[int]) -> Tensor:
    """Return the objectness target ``[B, A, h, w]``: the IoU of positive cells, zero elsewhere.

    If several targets share a cell, the last one counts. All duplicates get its value before they
    are written, so that the result does not depend on the order of parallel writes.

    Args:
        iou: ``[n]``, 0 to 1.
        assignment: the n positive cells.
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
    """Return the mean binary cross-entropy, or the focal loss (Lin et al., 2017) if gamma > 0.

    Args:
        logits: any shape, float32.
        target: same shape, 0 to 1; for values in between, the focal factors are interpolated.
        positive_weight: scalar weight of positives (`pos_weight` of torch).
        gamma: focal exponent, which reduces the loss of well-classified elements.
        weight: weight of each element, same shape; the mean still divides by their number.
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
