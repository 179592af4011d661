"""The detector: a network built from a specification; fusing, and transfer of weights."""

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
    """A YOLOv5 network. State-dict names are the same as upstream's: ``model.<layer>.<...>``.

    Args:
        spec: layers, multiples, anchors and number of classes.
        channels: number of image channels.

    Raises:
        UserError: the specification is invalid.
    """

    def __init__(self, spec: ModelSpec, channels: int = 3) -> None:
        super().__init__()
        built = build_layers(spec, channels)
        self.spec = spec
        self.channels = channels
        self.model = nn.ModuleList(built.layers)
        self.sources = tuple(built.sources)
        self.layer_strides = tuple(built.strides)
        self.held: tuple[int, ...] = ()
        """Layers that stay in eval mode, with the batch-norm statistics that they have."""
        self._kept = frozenset(
            source
            for index, sources in enumerate(built.sources)
            for source in sources
            if source != index - 1
        )

    def train(self, mode: bool = True) -> "Detector":  # noqa: FBT002 - as in torch
        """Set the mode of all layers, except for those that are held in eval mode."""
        super().train(mode)
        for layer in self.held:
            self.model[layer].eval()
        return self

    @property
    def head(self) -> DetectionHead:
        """The detection head, which is the last layer."""
        return cast(DetectionHead, self.model[-1])

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the network input per cell, for each level."""
        return self.head.strides

    @property
    def max_stride(self) -> int:
        """Largest stride of a layer; height and width of an input must be multiples of it."""
        return max(self.layer_strides)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.head.classes

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return raw maps, in train and eval mode.

        Args:
            images: ``[B, channels, H, W]``, RGB, 0 to 1; H and W are multiples of `max_stride`.

        Returns:
            For each level ``[B, A, H / stride, W / stride, 5 + classes]``, logits.
        """
        kept = {-1: images}
        output = images
        for index, (layer, sources) in enumerate(zip(self.model, self.sources, strict=True)):
            inputs = [output if source == index - 1 else kept[source] for source in sources]
            output = layer(*inputs)
            if index in self._kept:
                kept[index] = output
        return cast(list[Tensor], output)

    def decode_confident(self, raw: Sequence[Tensor], threshold: float) -> list[Tensor]:
        """Decode boxes with a score above a threshold; see `DetectionHead.decode_confident`."""
        return self.head.decode_confident(raw, threshold)


def fuse(model: Detector) -> Detector:
    """Return a copy for inference, with batch norms folded into convolutions, without gradients."""
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    fused.zero_grad()  # frees the copies of the gradients
    for module in list(fused.modules()):
        if isinstance(module, Conv):
            module.fold_batch_norm()
    return fused


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, without buffers such as anchors and running statistics."""
    return sum(parameter.numel() for parameter in model.parameters())


class Transfer(NamedTuple):
    """Result of a transfer of weights."""

    matched: int
    """Number of copied tensors."""
    total: int
    """Number of tensors of the model."""
    missing: list[str]
    """Names of the tensors that were not copied."""


@torch.no_grad()
def transfer_weights(
    model: Detector, state: Mapping[str, Tensor], exclude: Sequence[str] = ()
) -> Transfer:
    """Copy into the model, in place, every tensor that matches by name and shape.

    Names that contain any of the strings in `exclude` are skipped. The model keeps its dtypes and
    device.
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
