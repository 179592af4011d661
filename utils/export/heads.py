"""Detection heads of exported models, and the model that has one of them."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.detector import Detector, fuse
from models.head import BOX_FIELDS, DetectionHead
from models.torchvision_operators import nms
from utils.boxes import xywh_to_xyxy

CLASS_INDEX, BOX_INDEX = 1, 2
"""Columns of the operator NonMaxSuppression; column 0 is the image."""


class NmsSettings(NamedTuple):
    """Settings of the suppression in an exported model."""

    conf_thres: float
    iou_thres: float
    per_class: int
    """Maximum number of detections of an image and class."""


def with_export_head(
    model: Detector,
    heads: str,
    size: tuple[int, int] | None,
    settings: NmsSettings,
    *,
    half: bool = False,
) -> nn.Module:
    """Return a fused copy of a model whose last layer computes what an exported file returns.

    Args:
        model: the model in float32.
        heads: decoded: one tensor ``[B, N, 5 + classes]``, see `DecodedHead`; raw or sigmoid: for
            each level ``[B, A (5 + classes), h, w]``, before or after the sigmoid; nms: see
            `SuppressedHead`.
        size: the only (height, width) of the images, px; None if it is dynamic.
        settings: of the heads nms.
        half: compute in float16, except for boxes, which need more digits.
    """
    exported = fuse(model).to(torch.float16 if half else torch.float32)
    head: nn.Module = DecodedHead(exported.head.m, model.head, size)
    if heads in {"raw", "sigmoid"}:
        head = LevelHead(exported.head.m, sigmoid=heads == "sigmoid")
    exported.model[-1] = SuppressedHead(head, settings) if heads == "nms" else head
    return exported


class LevelHead(nn.Module):
    """Returns the output of each level's convolution, logits or with a sigmoid."""

    def __init__(self, convolutions: nn.ModuleList, *, sigmoid: bool) -> None:
        super().__init__()
        self.m = convolutions
        self.sigmoid = sigmoid

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Map ``[B, C, h, w]`` of each level to ``[B, A (5 + classes), h, w]``."""
        raw = [conv(feature) for conv, feature in zip(self.m, features, strict=True)]
        return tuple(level.sigmoid() if self.sigmoid else level for level in raw)


class DecodedHead(nn.Module):
    """Decodes all boxes; the formulas are those of `DetectionHead.decode_confident`.

    Args:
        convolutions: one for each level.
        head: strides and anchors, float32.
        size: the only (height, width) of the images, px, for which the cells are constants; None
            computes them for each input.
    """

    def __init__(
        self, convolutions: nn.ModuleList, head: DetectionHead, size: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.m = convolutions
        self.strides = head.strides
        self.fields = (head.anchors_per_level, BOX_FIELDS + head.classes)
        self.size = size
        for level, stride in enumerate(head.strides):
            sides = head.anchors[level][:, None, None] * stride  # [A, 1, 1, 2], px
            self.register_buffer(f"sides{level}", sides, persistent=False)
            if size is not None:
                shape = (size[0] // stride, size[1] // stride)
                self.register_buffer(f"cells{level}", _cells(shape, sides), persistent=False)

    def forward(self, *features: Tensor) -> Tensor:
        """Map ``[B, C, h, w]`` of each level to boxes ``[B, N, 5 + classes]``, float32.

        They are centre and size in pixels of the network input, objectness and class scores.
        """
        levels = map(self._decode, range(len(features)), features)
        return torch.cat(list(levels), 1)

    def _decode(self, level: int, feature: Tensor) -> Tensor:
        """Decode one level ``[B, C, h, w]`` to ``[B, A h w, 5 + classes]``."""
        stride, sides = self.strides[level], self.get_buffer(f"sides{level}")
        # A slice of the shape would not be traced, nor is `unflatten`, which DetectionHead uses.
        batch, height, width = feature.shape[0], feature.shape[2], feature.shape[3]
        if self.size is not None:
            height, width = (side // stride for side in self.size)
        raw = self.m[level](feature).reshape(batch, *self.fields, height, width)
        scores = raw.permute(0, 1, 3, 4, 2).float().sigmoid()
        if self.size is None:
            cells = _cells((height, width), scores)
        else:
            cells = self.get_buffer(f"cells{level}")
        xy = (scores[..., :2] * 2 - 0.5 + cells) * stride
        wh = (scores[..., 2:4] * 2).square() * sides
        boxes = torch.cat((xy, wh, scores[..., 4:]), 4)
        anchors, fields = self.fields
        return boxes.reshape(batch, anchors * height * width, fields)


def _cells(shape: tuple[int, int], like: Tensor) -> Tensor:
    """Return column and row of each cell ``[h, w, 2]``, on the device of a float32 tensor.

    A trace records `device=` as a constant, but `type_as` as an operator. So a TorchScript model
    runs on another device than the one that it was traced on.
    """
    height, width = shape
    rows, cols = torch.arange(height).type_as(like), torch.arange(width).type_as(like)
    return torch.stack((cols.expand(height, width), rows[:, None].expand(height, width)), 2)


class _Nms(torch.autograd.Function):
    """The ONNX operator NonMaxSuppression, which torch does not have."""

    @staticmethod
    def forward(ctx: object, boxes: Tensor, scores: Tensor, settings: NmsSettings) -> Tensor:
        """Return rows (image, class, box) ``[n, 3]`` for boxes and scores ``[B, classes, N]``."""
        if torch.onnx.is_in_onnx_export():  # the operator replaces what is computed here
            return torch.zeros((1, 3), dtype=torch.int64, device=boxes.device)
        found = []
        for image, label in product(range(len(boxes)), range(scores.shape[1])):
            own = scores[image, label]
            (rows,) = (own > settings.conf_thres).nonzero(as_tuple=True)
            corners = xywh_to_xyxy(boxes[image, rows])
            kept = nms(corners.cpu(), own[rows].cpu(), settings.iou_thres)[: settings.per_class]
            box = rows.cpu()[kept]
            place = (torch.full_like(box, image), torch.full_like(box, label), box)
            found.append(torch.stack(place, 1))
        return torch.cat(found).to(boxes.device)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, settings: NmsSettings) -> Any:  # noqa: ANN401
        """Return the operator; its boxes are centre and size."""
        numbers = (settings.per_class, settings.iou_thres, settings.conf_thres)
        constants = [g.op("Constant", value_t=torch.tensor([number])) for number in numbers]
        return g.op("NonMaxSuppression", boxes, scores, *constants, center_point_box_i=1)


class SuppressedHead(nn.Module):
    """Suppresses overlapping boxes of the same class; a box may have several classes."""

    def __init__(self, head: nn.Module, settings: NmsSettings) -> None:
        super().__init__()
        self.head = head
        self.settings = settings

    def forward(self, *features: Tensor) -> Tensor:
        """Return ``[n, 7]``: image, left, top, right, bottom in pixels, score, class."""
        boxes = self.head(*features)
        count, classes = boxes.shape[1], boxes.shape[2] - BOX_FIELDS
        centres, halves = boxes[..., :2], boxes[..., 2:4] / 2
        scores = boxes[..., BOX_FIELDS:] * boxes[..., BOX_FIELDS - 1 : BOX_FIELDS]  # [B, N, nc]
        found = _Nms.apply(boxes[..., :4], scores.transpose(1, 2), self.settings)
        image, label, box = found[:, 0], found[:, CLASS_INDEX], found[:, BOX_INDEX]
        row = image * count + box
        corners = torch.cat((centres - halves, centres + halves), 2).flatten(0, 1)[row]
        ranks = scores.flatten()[row * classes + label]
        return torch.cat(
            (image[:, None].float(), corners, ranks[:, None], label[:, None].float()), 1
        )
