"""Non-maximum suppression of decoded predictions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.head import BOX_FIELDS
from models.torchvision_operators import nms
from utils.boxes import xywh_to_xyxy
from utils.runtime.device import to_device

MAX_CANDIDATES = 30_000
"""Maximum number of boxes of an image that enter suppression, best first."""
FIRST_BLOCK = 1_000
"""Boxes that are suppressed first; nearly always they yield all detections that are wanted."""


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

    The result is that of torchvision's `nms`, called for each class with the boxes as they are, on
    the 30,000 best candidates of an image. Where scores are equal, the earlier box is the better
    one, and of one box the lower class.

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
        For each image ``[n, 6]``: left, top, right, bottom in pixels, score, class; best first, on
        the CPU.
    """
    found = best_candidates(prediction, conf_thres, classes, multi_label=multi_label)
    return suppress(found, iou_thres, agnostic=agnostic, max_det=max_det)


def best_candidates(
    prediction: Tensor | Sequence[Tensor],
    conf_thres: float,
    classes: Sequence[int] | None = None,
    *,
    multi_label: bool = False,
) -> list[Tensor]:
    """Return the candidates for suppression: the first half of `non_max_suppression`.

    On a GPU all images are treated together, so that the host waits twice for a batch: for the
    number of candidates, and for a copy of them. On a CPU one after the other takes less memory.

    Returns:
        For each image ``[m, 6]`` as for `non_max_suppression`, at most 30,000, on the CPU.
    """
    images = list(prediction)
    together = [images] if images and images[0].device.type != "cpu" else [[i] for i in images]
    found = []
    for group in together:
        candidates = _candidates(group, conf_thres, classes, multi_label=multi_label)
        if len(candidates) > MAX_CANDIDATES * len(group):  # do not copy what is not needed
            single = [_candidates([i], conf_thres, classes, multi_label=multi_label) for i in group]
            found += [_best(one[:, :-1]).cpu() for one in single]
            continue
        on_cpu = candidates.cpu()
        counts = on_cpu[:, -1].int().bincount(minlength=len(group)).tolist()
        found += [_best(of_image) for of_image in on_cpu[:, :-1].split(counts)]
    return found


def suppress(
    candidates: Sequence[Tensor], iou_thres: float, *, agnostic: bool = False, max_det: int = 300
) -> list[Tensor]:
    """Return the detections of a batch: the second half of `non_max_suppression`, on the CPU."""
    return [_suppress(found, iou_thres, max_det, agnostic=agnostic) for found in candidates]


def _candidates(
    images: Sequence[Tensor], conf_thres: float, classes: Sequence[int] | None, *, multi_label: bool
) -> Tensor:
    """Return the candidates ``[m, 7]`` of boxes ``[n, 5 + nc]`` of each image, in this order.

    Columns are corners, score, class and position of the image.
    """
    boxes = torch.cat(list(images)) if len(images) > 1 else images[0]
    scores = boxes[:, BOX_FIELDS:] * boxes[:, BOX_FIELDS - 1, None]  # [n, nc]
    wanted = torch.ones(scores.shape[1], dtype=torch.bool)
    if classes is not None:
        wanted = torch.isin(torch.arange(len(wanted)), torch.tensor(classes, dtype=torch.int64))
    wanted = to_device(wanted, boxes.device)
    if multi_label:
        box, label = ((scores > conf_thres) & wanted).nonzero(as_tuple=True)
        score = scores[box, label]
    else:
        best, labels = scores.max(1)
        (box,) = ((best > conf_thres) & wanted[labels]).nonzero(as_tuple=True)
        score, label = best[box], labels[box]
    ends = torch.tensor([len(rows) for rows in images]).cumsum(0)
    image = torch.searchsorted(to_device(ends, boxes.device), box, right=True)
    columns = (xywh_to_xyxy(boxes[box, :4]), score[:, None], label[:, None], image[:, None])
    return torch.cat(columns, 1)


def _best(candidates: Tensor) -> Tensor:
    """Return the 30,000 best candidates ``[m, 6]``, best first."""
    return candidates[_best_first(candidates[:, 4], MAX_CANDIDATES)]


def _best_first(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` highest scores ``[n]``; ties keep their order."""
    if len(scores) <= count:
        return scores.argsort(descending=True, stable=True)
    (candidates,) = (scores >= scores.topk(count).values[-1]).nonzero(as_tuple=True)
    order = scores[candidates].argsort(descending=True, stable=True)
    return candidates[order[:count]]


def _suppress(found: Tensor, iou_thres: float, max_det: int, *, agnostic: bool) -> Tensor:
    """Return at most `max_det` survivors of the candidates ``[m, 6]``, which are best first.

    Whether a box survives depends only on better boxes. So blocks of candidates are taken until
    enough boxes have survived: the survivors so far, which do not suppress each other, come before
    each new block.

    Suppression runs on the CPU: on a GPU, each class would be a call that waits for the device.
    """
    corners, scores = found[:, :4].contiguous(), found[:, 4].contiguous()
    labels = torch.zeros_like(scores) if agnostic else found[:, 5]
    kept = torch.empty(0, dtype=torch.int64)
    start, size = 0, FIRST_BLOCK
    while start < len(found) and len(kept) < max_det:
        rows = torch.cat((kept, torch.arange(start, min(start + size, len(found)))))
        kept = rows[_survivors(corners[rows], scores[rows], labels[rows], iou_thres)]
        start, size = start + size, size * 2
    return found[kept[:max_det]]


def _survivors(corners: Tensor, scores: Tensor, labels: Tensor, iou_thres: float) -> Tensor:
    """Return the indices of the survivors among boxes ``[n, 4]`` that are best first, ascending."""
    by_class = labels.argsort(stable=True)
    counts = labels[by_class].unique_consecutive(return_counts=True)[1].tolist()
    groups = zip(
        by_class.split(counts),
        corners[by_class].split(counts),
        scores[by_class].split(counts),
        strict=True,
    )
    kept = [
        own[nms(boxes, ranks, iou_thres)] if len(own) > 1 else own for own, boxes, ranks in groups
    ]
    return torch.cat(kept).sort().values
