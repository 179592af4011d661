"""The detection head: computes raw maps from features, and decodes them to boxes in pixels."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

BOX_FIELDS = 5
"""Fields before the class scores: x, y, w, h, objectness."""
EXPECTED_OBJECTS = 8
EXPECTED_IMAGE_SIZE = 640
"""Initial objectness: this number of objects is expected per image of this size, in pixels."""
EXPECTED_CLASS_MASS = 0.6
SINGLE_CLASS_GUARD = 0.99999
"""The initial class score is 0.6 / (classes - 1); the guard avoids a division by zero."""


def initial_class_bias(classes: int) -> float:
    """Return the bias with which a class score begins, in logits."""
    return math.log(EXPECTED_CLASS_MASS / (classes - SINGLE_CLASS_GUARD))


class DetectionHead(nn.Module):
    """One 1x1 convolution for each level, and the anchors of its predictions.

    Args:
        classes: number of classes.
        anchors: pixels of the network input; for each level a flat row w, h, w, h, ...
        channels: input channels of each level.
        strides: pixels of the network input per cell, for each level.
    """

    anchors: Tensor

    def __init__(
        self,
        classes: int,
        anchors: Sequence[Sequence[float]],
        channels: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        self.classes = classes
        self.strides = tuple(strides)
        self.anchors_per_level = len(anchors[0]) // 2
        fields = BOX_FIELDS + classes
        # Python numbers, because dividing tensors on the meta device, which `utils.weights` uses to
        # measure models, makes torch import its compiler; that takes nearly two seconds.
        cells = [
            [side / stride for side in level]
            for level, stride in zip(anchors, strides, strict=True)
        ]
        shape = (len(strides), self.anchors_per_level, 2)
        self.register_buffer("anchors", torch.tensor(cells, dtype=torch.float32).view(shape))
        self.m = nn.ModuleList(
            nn.Conv2d(inputs, self.anchors_per_level * fields, 1) for inputs in channels
        )
        self._initialise_biases()

    def forward(self, *features: Tensor) -> list[Tensor]:
        """Map ``[B, C, h, w]`` of each level to raw maps ``[B, A, h, w, 5 + classes]``.

        They are logits of x, y, w, h, objectness, classes.
        """
        return [
            conv(feature)
            .unflatten(1, (self.anchors_per_level, BOX_FIELDS + self.classes))
            .permute(0, 1, 3, 4, 2)
            for conv, feature in zip(self.m, features, strict=True)
        ]

    def decode_confident(self, raw: Sequence[Tensor], threshold: float) -> list[Tensor]:
        """Decode the boxes whose best score, objectness times class score, is above a threshold.

        ``xy = (2 sigmoid - 0.5 + cell) * stride``, ``wh = (2 sigmoid)^2 * anchor``, in float32:
        fp16 is too coarse for pixels. Skipping the other boxes saves most of the work.

        Args:
            raw: for each level ``[B, A, h, w, 5 + classes]``.
            threshold: 0 to 1; -1 decodes every box.

        Returns:
            For each image ``[n, 5 + classes]``: centre and size in pixels of the network input,
            objectness and class scores, 0 to 1; ordered by level, anchor, row, column.
        """
        found: list[list[Tensor]] = [[] for _ in raw[0]]
        for level, anchors, stride in zip(raw, self.anchors, self.strides, strict=True):
            objectness = level[..., BOX_FIELDS - 1].float().sigmoid()
            cells = (objectness > threshold).nonzero()  # [n, 4]
            fields = level[cells.unbind(1)]
            best = fields[:, BOX_FIELDS:].amax(1).float().sigmoid()
            confident = best * objectness[cells.unbind(1)] > threshold
            image, anchor, row, col = cells[confident].unbind(1)
            scores = fields[confident].float().sigmoid()
            xy = (scores[:, :2] * 2 - 0.5 + torch.stack((col, row), 1)) * stride
            wh = (scores[:, 2:4] * 2).square() * (anchors.float()[anchor] * stride)
            boxes = torch.cat((xy, wh, scores[:, 4:]), 1)
            counts = image.bincount(minlength=len(level)).tolist()
            for of_image, part in zip(found, boxes.split(counts), strict=True):
                of_image.append(part)
        return [torch.cat(parts) for parts in found]

    @torch.no_grad()
    def _initialise_biases(self) -> None:
        """Initialise for rare objects (Lin et al., "Focal Loss", 2017, 3.3) and equal classes."""
        for conv, stride in zip(self.m, self.strides, strict=True):
            cells = (EXPECTED_IMAGE_SIZE / stride) ** 2
            bias = cast(nn.Conv2d, conv).bias
            assert bias is not None  # for the type checker
            fields = bias.view(self.anchors_per_level, -1)  # [A, 5 + classes]
            fields[:, BOX_FIELDS - 1] += math.log(EXPECTED_OBJECTS / cells)
            fields[:, BOX_FIELDS:] += initial_class_bias(self.classes)
