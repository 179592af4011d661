"""Box conversions, pairwise IoU, and the complete IoU of the box loss."""

import math

import torch
from torch import Tensor

EPS = 1e-7
"""Prevents a division by zero for a box of zero area; far below one pixel in any unit used here."""


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert centre and size ``[..., 4]`` to corners left, top, right, bottom; any unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), -1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Convert corners left, top, right, bottom ``[..., 4]`` to centre and size; any unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of all pairs of boxes; the same values as `torchvision.ops.box_iou`.

    Args:
        a: boxes ``[n, 4]``, corners, any unit.
        b: boxes ``[m, 4]``, same unit.

    Returns:
        ``[n, m]``, 0 to 1; NaN for two boxes of zero area.
    """
    low = torch.maximum(a[:, None, :2], b[:, :2])  # [n, m, 2]
    high = torch.minimum(a[:, None, 2:], b[:, 2:])
    width, height = (high - low).clamp(min=0).unbind(-1)
    shared = width * height
    return shared / (_area(a)[:, None] + _area(b) - shared)


def _area(boxes: Tensor) -> Tensor:
    """Return the areas ``[n]`` of boxes ``[n, 4]``, corners."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the complete IoU of pairs (Zheng et al., "Distance-IoU Loss", AAAI 2020, section 3.2).

    It is the IoU, minus the squared centre distance relative to the squared diagonal of the
    enclosing box, minus the difference of the aspect angles weighted by alpha. No gradient flows
    through alpha, as in the paper.

    `torchvision.ops.complete_box_iou_loss` is not used: it returns NaN for a box of zero height and
    converts to corners, which loses digits of small boxes.

    Args:
        a: boxes ``[n, 4]``, centre and size, any unit; gradients flow through both arguments.
        b: boxes ``[n, 4]``, same convention and unit.

    Returns:
        ``[n]``, -1.5 to 1; 1 for equal boxes.
    """
    a_size, b_size = a[:, 2:], b[:, 2:]  # [n, 2]
    a_low, a_high = a[:, :2] - a_size / 2, a[:, :2] + a_size / 2
    b_low, b_high = b[:, :2] - b_size / 2, b[:, :2] + b_size / 2

    overlap = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0)
    # Products of columns: the gradient of `prod` reads how many factors are zero.
    shared, a_area, b_area = (sides[:, 0] * sides[:, 1] for sides in (overlap, a_size, b_size))
    iou = shared / (a_area + b_area - shared + EPS)

    enclosing = torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)
    distance = (a[:, :2] - b[:, :2]).square().sum(1) / (enclosing.square().sum(1) + EPS)

    a_angle = torch.atan(a_size[:, 0] / (a_size[:, 1] + EPS))
    b_angle = torch.atan(b_size[:, 0] / (b_size[:, 1] + EPS))
    aspect = (4 / math.pi**2) * (a_angle - b_angle).square()
    with torch.no_grad():
        alpha = aspect / (1 - iou + aspect + EPS)
    return iou - distance - alpha * aspect
