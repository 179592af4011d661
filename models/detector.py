"""The detector: a network made from a specification, its fused copy, and what it weighs."""

import copy
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from models.builders import build_layers
from models.head import DetectionHead
from models.layers import Conv
from models.spec import ModelSpec


class Detector(nn.Module):
    """A YOLOv5 network; the names in its state dict are upstream's, ``model.<layer>.<...>``.

    Args:
        spec: layers, multiples, anchors and number of classes.
        channels: channels of the image.

    Raises:
        UserError: the specification cannot be built.
    """

    def __init__(self, spec: ModelSpec, channels: int = 3) -> None:
        super().__init__()
        built = build_layers(spec, channels)
        self.spec = spec
        self.channels = channels
        self.model = nn.ModuleList(built.layers)
        self.sources = tuple(built.sources)
        self.layer_strides = tuple(built.strides)
        self._kept = frozenset(
            source
            for index, sources in enumerate(built.sources)
            for source in sources
            if source != index - 1
        )

    @property
    def head(self) -> DetectionHead:
        """The last layer."""
        return cast(DetectionHead, self.model[-1])

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the network input per cell, per level."""
        return self.head.strides

    @property
    def max_stride(self) -> int:
        """Height and width of an input must be multiples of this."""
        return max(self.strides)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.head.classes

    def forward(self, images: Tensor) -> list[Tensor]:
        """Raw maps, in training and evaluation alike.

        Args:
            images: ``[B, channels, H, W]``, RGB in 0..1; H and W are multiples of `max_stride`.

        Returns:
            Per level ``[B, A, H / stride, W / stride, 5 + classes]``, logits.
        """
        kept = {-1: images}
        output = images
        for index, (layer, sources) in enumerate(zip(self.model, self.sources, strict=True)):
            inputs = [output if source == index - 1 else kept[source] for source in sources]
            output = layer(*inputs)
            if index in self._kept:
                kept[index] = output
        return cast(list[Tensor], output)

    def decode(self, raw: Sequence[Tensor]) -> Tensor:
        """Boxes and scores ``[B, N, 5 + classes]`` from raw maps; see `DetectionHead.decode`."""
        return self.head.decode(raw)

    def decode_confident(self, raw: Sequence[Tensor], threshold: float) -> list[Tensor]:
        """Boxes whose best score is above a threshold; see `DetectionHead.decode_confident`."""
        return self.head.decode_confident(raw, threshold)

    def predict(self, images: Tensor) -> Tensor:
        """Boxes and scores ``[B, N, 5 + classes]`` of images ``[B, channels, H, W]`` in 0..1."""
        return self.decode(self(images))


def fuse(model: Detector) -> Detector:
    """A copy for inference: batch norms folded into their convolutions, no gradients."""
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(fused.modules()):
        if isinstance(module, Conv):
            module.fold_batch_norm()
    return fused


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values; buffers, such as anchors and running statistics, do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


class Transfer(NamedTuple):
    """What became of a model's tensors when weights were transferred into it."""

    matched: int
    total: int
    missing: list[str]
    """Names in the model that kept their own values."""


@torch.no_grad()
def transfer_weights(
    model: Detector, state: Mapping[str, Tensor], exclude: Sequence[str] = ()
) -> Transfer:
    """Copy, in place, every tensor whose name and shape the model has too; ignore the others.

    Args:
        model: receives the values, in its own precision and on its own device.
        state: tensors by name.
        exclude: a name that contains any of these is left alone.
    """
    missing = []
    own = model.state_dict()
    for name, tensor in own.items():
        given = None if any(part in name for part in exclude) else state.get(name)
        if given is None or given.shape != tensor.shape:
            missing.append(name)
        else:
            tensor.copy_(given)
    return Transfer(len(own) - len(missing), len(own), missing)
