"""Non-maximum suppression of decoded predictions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.head import BOX_FIELDS
from models.torchvision_operators import nms
from utils.boxes import xywh_to_xyxy

MAX_CANDIDATES = 30_000
"""Maximum number of boxes of an image that enter NMS, best first; the cost is quadratic."""
MAX_BATCHED_ON_CPU, MAX_BATCHED_ON_GPU = 1_000, 25_000
"""With more boxes, NMS per class is faster than one NMS for all; limits as in torchvision."""


def non_max_suppression(
    prediction: Tensor | Sequence[Tensor],
    *,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    max_det: int = 300,
) -> list[Tensor]:
    """Return the detections of a batch; a score is objectness times class score.

    Args:
        prediction: for each image ``[N, 5 + nc]``: centre and size in pixels, objectness, class
            scores.
        conf_thres: objectness and score must be above this.
        iou_thres: a box whose IoU with a better box is higher than this is dropped.
        classes: keep only these classes; all if None.
        agnostic: boxes of different classes suppress each other.
        multi_label: a box may yield a detection for each class above the threshold, not only for
            the best.
        max_det: keep at most this many per image, best first.

    Returns:
        For each image ``[n, 6]``: left, top, right, bottom in pixels, score, class; best first.
    """
    detections = []
    for boxes in prediction:
        found = _candidates(boxes[boxes[:, BOX_FIELDS - 1] > conf_thres], conf_thres, multi_label)
        if classes is not None:
            found = found[torch.isin(found[:, 5], found.new_tensor(classes))]
        kept = _suppress(found, iou_thres, agnostic)
        detections.append(found[kept[:max_det]])
    return detections


def _candidates(boxes: Tensor, conf_thres: float, multi_label: bool) -> Tensor:
    """Convert boxes ``[n, 5 + nc]`` of an image to candidates ``[m, 6]``: corners, score, class."""
    corners = xywh_to_xyxy(boxes[:, :4])
    scores = boxes[:, BOX_FIELDS:] * boxes[:, BOX_FIELDS - 1, None]  # [n, nc]
    if multi_label:
        box, label = (scores > conf_thres).nonzero(as_tuple=True)
        found = torch.cat((corners[box], scores[box, label, None], label[:, None]), 1)
    else:
        best, label = scores.max(1, keepdim=True)
        found = torch.cat((corners, best, label), 1)[best[:, 0] > conf_thres]
    if len(found) > MAX_CANDIDATES:
        found = found[found[:, 4].topk(MAX_CANDIDATES).indices]
    return found


def _suppress(found: Tensor, iou_thres: float, agnostic: bool) -> Tensor:
    """Return the indices into ``[m, 6]`` of the kept boxes, best first.

    Classes are separated as in torchvision's `batched_nms`: many boxes are processed class by
    class; a smaller number in one call, with an offset that separates the classes.
    """
    corners, scores, labels = found[:, :4], found[:, 4], found[:, 5]
    if agnostic or not len(found):
        return nms(corners, scores, iou_thres)
    corners = corners - corners.min()  # the offsets separate classes if no coordinate is negative
    if len(found) > (MAX_BATCHED_ON_CPU if found.device.type == "cpu" else MAX_BATCHED_ON_GPU):
        return _suppress_by_class(corners, scores, labels, iou_thres)
    offsets = labels * (corners.max() + 1)
    return nms(corners + offsets[:, None], scores, iou_thres)


def _suppress_by_class(corners: Tensor, scores: Tensor, labels: Tensor, iou_thres: float) -> Tensor:
    """Return the indices of the kept boxes ``[m, 4]``, best first; runs NMS class by class."""
    by_class = labels.argsort(stable=True)
    counts = labels[by_class].unique_consecutive(return_counts=True)[1].tolist()
    sorted_by_class = by_class, corners[by_class], scores[by_class]
    groups = zip(*(values.split(counts) for values in sorted_by_class), strict=True)
    kept = torch.cat([own[nms(boxes, ranks, iou_thres)] for own, boxes, ranks in groups])
    kept = kept.sort().values  # with equal scores, the earlier box comes first
    return kept[scores[kept].sort(descending=True).indices]
