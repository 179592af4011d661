"""Non-maximum suppression: from decoded predictions to detections."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from models.head import BOX_FIELDS
from utils.boxes import xywh_to_xyxy

MAX_CANDIDATES = 30_000
"""Boxes of an image that enter suppression, best first; its cost is quadratic."""


def non_max_suppression(
    prediction: Tensor,
    *,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    max_det: int = 300,
) -> list[Tensor]:
    """Detections of a batch; a score is objectness times class score.

    Args:
        prediction: ``[B, N, 5 + nc]``: centre and size in pixels, objectness, class scores.
        conf_thres: objectness and score must be above this.
        iou_thres: a box that overlaps a better one by more is dropped.
        classes: keep these only; all if None.
        agnostic: let boxes of different classes suppress each other.
        multi_label: a box may be detected as every class above the threshold, not the best only.
        max_det: keep at most this many per image, best first.

    Returns:
        Per image ``[n, 6]``: left, top, right, bottom in pixels, score, class; best first.
    """
    wanted = None if classes is None else torch.tensor(classes, device=prediction.device)
    detections = []
    for boxes in prediction:
        found = _candidates(boxes[boxes[:, BOX_FIELDS - 1] > conf_thres], conf_thres, multi_label)
        if wanted is not None:
            found = found[torch.isin(found[:, 5], wanted)]
        kept = _suppress(found, iou_thres, agnostic)
        detections.append(found[kept[:max_det]])
    return detections


def _candidates(boxes: Tensor, conf_thres: float, multi_label: bool) -> Tensor:
    """Boxes ``[n, 5 + nc]`` of one image to ``[m, 6]``: corners, score, class."""
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
    """Indices into ``[m, 6]`` of the boxes that stay, best first."""
    corners, scores, labels = found[:, :4], found[:, 4], found[:, 5]
    if agnostic or not len(found):
        kept: Tensor = nms(corners, scores, iou_thres)
    else:
        # batched_nms keeps classes apart by offsets that are right for positive coordinates only.
        kept = batched_nms(corners - corners.min(), scores, labels, iou_thres)
    return kept
