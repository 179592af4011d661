"""The detection loss: box, objectness and class loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
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
from utils.runtime.device import to_device

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


class LossMeans(NamedTuple):
    """Losses of a batch or a part of it as means, without gains."""

    means: Tensor
    """``[3, levels]``: box, class (over the positive cells) and objectness (over all cells)."""
    counts: Tensor
    """``[levels + 1]``: number of positive cells of each level, number of images."""


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
    return DetectionLoss(assigner, gains, model.classes, balance, model.head.anchors.device)


class DetectionLoss:
    """YOLOv5's loss, computed in float32 for raw maps of any dtype.

    Args:
        assigner: assigns targets to cells.
        gains: weights of the three losses.
        classes: number of classes; with one class there is no class loss.
        level_balance: weight of each level's objectness, fine to coarse.
        device: device of the raw maps.
    """

    def __init__(
        self,
        assigner: ShapeRatioAssigner,
        gains: LossGains,
        classes: int,
        level_balance: Sequence[float],
        device: torch.device | None = None,
    ) -> None:
        self.assigner = assigner
        self.gains = gains
        self.classes = classes
        self.level_balance = tuple(level_balance)
        self._total: Callable[[Tensor], Tensor] | None = None
        self._obj_weight = torch.tensor(gains.obj_pw).to(device)
        self._cls_weight = torch.tensor(gains.cls_pw).to(device)
        self._balance = torch.tensor(level_balance).to(device)

    def for_partial_batches(self, total: Callable[[Tensor], Tensor]) -> DetectionLoss:
        """Return a copy for a batch that is computed in parts, for example by several processes.

        The sum of the losses of all parts is the loss of the whole batch; so are the gradients.

        Args:
            total: sums `LossMeans.counts` over all parts; called once per loss.
        """
        shared = copy.copy(self)
        shared._total = total
        return shared

    def __call__(
        self,
        raw: Sequence[Tensor],
        targets: Tensor,
        images: int | None = None,
        ignored: Tensor | None = None,
    ) -> DetectionLosses:
        """Return the losses of a batch; the arguments are those of `means`."""
        means, counts = self.means(raw, targets, images, ignored)
        whole = counts if self._total is None else self._total(counts)
        box, obj, cls = self.weighted(shares(means, counts, whole))
        total = (box + obj + cls) * whole[-1].clamp(min=1)
        return DetectionLosses(total, box.detach(), obj.detach(), cls.detach())

    def weighted(self, means: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the box, objectness and class loss with their gains, from means ``[3, L]``."""
        box, cls, obj = means
        balanced = obj * self._balance.to(obj.device)
        return (
            box.sum() * self.gains.box,
            balanced.sum() * self.gains.obj,
            cls.sum() * self.gains.cls,
        )

    def means(
        self,
        raw: Sequence[Tensor],
        targets: Tensor,
        images: int | None = None,
        ignored: Tensor | None = None,
    ) -> LossMeans:
        """Return the means of the losses, which `weighted` makes the losses from.

        Args:
            raw: for each level ``[B, A, h, w, 5 + classes]``, logits.
            targets: ``[n, 6]`` on the CPU: image index, class, centre and size as fractions of the
                network input; n may be 0.
            images: number of images that count, the others being padding without targets; all if
                None.
            ignored: ignore regions ``[m, 5]``: image index, centre and size; see
                `assigner.objectness_weight`.
        """
        device, batch = raw[0].device, len(raw[0])
        shapes = [(batch, *level.shape[1:4]) for level in raw]
        assigned = self.assigner(targets, batch, [(shape[2], shape[3]) for shape in shapes])
        numbers = torch.tensor([*assigned.counts, batch if images is None else images])
        counts = to_device(numbers.float(), device)
        assigned = assigned.to(device)

        objectness, picked = gather(raw, assigned)
        iou = complete_iou(decoded_boxes(picked, assigned.anchor_sizes), assigned.boxes)
        gamma = self.gains.fl_gamma
        box = _level_means(1 - iou, assigned.counts)
        cls = torch.zeros_like(box)
        if self.classes > 1:
            cls_target = self._class_target(assigned.classes)
            cls_losses = binary_loss(picked[:, BOX_FIELDS:], cls_target, self._cls_weight, gamma)
            cls = _level_means(cls_losses, assigned.counts)
        obj_target = objectness_target(iou.detach().clamp(min=0), assigned, len(objectness))
        weight = None
        if ignored is not None and len(ignored):
            weight = objectness_weight(to_device(ignored, device), assigned, shapes)
        obj_losses = binary_loss(objectness, obj_target, self._obj_weight, gamma, weight)
        obj = _level_means(obj_losses, [prod(shape) for shape in shapes])
        return LossMeans(torch.stack((box, cls, obj)), counts)

    def _class_target(self, classes: Tensor) -> Tensor:
        """Return smoothed class targets ``[n, classes]`` for class indices ``[n]``."""
        absent = self.gains.label_smoothing / 2
        target = torch.full((len(classes), self.classes), absent, device=classes.device)
        return target.scatter_(1, classes[:, None], 1 - absent)


def shares(means: Tensor, counts: Tensor, whole: Tensor) -> Tensor:
    """Scale the means over a part of a batch to its contribution to the means over the batch.

    Args:
        means: see `LossMeans`.
        counts: see `LossMeans`.
        whole: the counts of the whole batch.
    """
    positives, images = counts[:-1] / whole[:-1].clamp(min=1), counts[-1:] / whole[-1:].clamp(min=1)
    return means * torch.stack((positives, positives, images.expand_as(positives)))


def _level_means(losses: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the mean of each level's losses; 0 for a level that has none.

    Args:
        losses: ``[n]`` or ``[n, k]``, ordered by level.
        counts: how many of the n belong to each level.
    """
    # The sum of nothing, not a new zero, so that every level has a gradient.
    return torch.stack([p.mean() if len(p) else p.sum() for p in losses.split(list(counts))])


def decoded_boxes(picked: Tensor, anchor_sizes: Tensor) -> Tensor:
    """Decode logits ``[n, >= 4]`` with anchors ``[n, 2]`` to boxes ``[n, 4]``.

    Anchors and boxes are in cells; boxes have the convention of `Assignment.boxes`.
    """
    scores = picked[:, :4].sigmoid() * 2
    return torch.cat((scores[:, :2] - 0.5, scores[:, 2:].square() * anchor_sizes), 1)


def objectness_target(iou: Tensor, assignment: Assignment, cells: int) -> Tensor:
    """Return the objectness target ``[cells]``: the IoU of positive cells, zero elsewhere.

    If several targets share a cell, the last one counts. All duplicates write its value, so that
    the result does not depend on the order of parallel writes.

    Args:
        iou: ``[n]``, 0 to 1.
        assignment: the n positive cells.
        cells: number of cells of all levels.
    """
    return iou.new_zeros(cells).scatter_(0, assignment.cell, iou[assignment.last])


def binary_loss(
    logits: Tensor,
    target: Tensor,
    positive_weight: Tensor,
    gamma: float,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross-entropy, or the focal loss (Lin et al., 2017) if gamma > 0.

    Args:
        logits: any shape, float32.
        target: same shape, 0 to 1; for values in between, the focal factors are interpolated.
        positive_weight: scalar weight of positives (`pos_weight` of torch).
        gamma: focal exponent, which reduces the loss of well-classified elements.
        weight: weight of each element, same shape.

    Returns:
        The loss of each element.
    """
    loss = F.binary_cross_entropy_with_logits(
        logits, target, weight=weight, pos_weight=positive_weight, reduction="none"
    )
    if gamma <= 0:
        return loss
    score = logits.sigmoid()
    right = target * score + (1 - target) * (1 - score)
    alpha = target * FOCAL_ALPHA + (1 - target) * (1 - FOCAL_ALPHA)
    return loss * alpha * (1 - right) ** gamma
