"""Computational cost of a model."""

from collections.abc import Iterator

from torch import nn

from models.detector import Detector
from models.head import DetectionHead
from models.layers import Conv

ELEMENTWISE_FLOPS = 4
"""Batch norm: subtract, divide, multiply, add. SiLU: exp, add, divide, multiply."""


def gflops(model: Detector, size: int = 640) -> float:
    """Return the GFLOPs of a model for one square image; a multiply-add counts as two operations.

    Counts convolutions, batch norms and activations of the unfused model, as upstream does.

    Args:
        model: any detector.
        size: side of the image, pixels; a multiple of the model's largest stride.
    """
    parts = _parts_and_strides(model)
    return sum(_flops_per_cell(part) * (size // stride) ** 2 for part, stride in parts) / 1e9


def _parts_and_strides(model: Detector) -> Iterator[tuple[nn.Module, int]]:
    """Yield the layers, and the levels of the head, each with its stride."""
    for layer, stride in zip(model.model, model.layer_strides, strict=True):
        if isinstance(layer, DetectionHead):
            yield from zip(layer.m, layer.strides, strict=True)
        else:
            yield layer, stride


def _flops_per_cell(part: nn.Module) -> int:
    """Return the operations per output cell; all convolutions of a part have the same map size."""
    flops = 0
    for module in part.modules():
        if isinstance(module, nn.Conv2d) or type(module) is nn.Linear:  # not that of attention
            flops += 2 * module.weight.numel()
        elif isinstance(module, Conv):  # batch norm and activation
            flops += 2 * ELEMENTWISE_FLOPS * module.conv.out_channels
    return flops
