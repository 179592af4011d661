"""Test-time augmentation: detects in the image, in a mirrored and in a reduced copy of it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.errors import UserError
from utils.inference.backend import Backend, Ensemble, TorchBackend

PASSES = ((1.0, False, -1), (0.83, True, None), (0.67, False, 0))
"""Scale, whether to mirror, and the level whose boxes do not count: the coarsest of the whole image
and the finest of the smallest copy. These are the passes of YOLOv5."""
PADDING = 0.447
"""The mean of ImageNet, as YOLOv5 pads the copies."""


def augmented(backend: Backend) -> Backend:
    """Return a backend that uses test-time augmentation; of an ensemble, every model does.

    Raises:
        UserError: it is an exported model, whose graph has only one pass.
    """
    if isinstance(backend, Ensemble):
        return Ensemble([augmented(member) for member in backend.members])
    if not isinstance(backend, TorchBackend):
        raise UserError(
            f"{backend.origin} is an exported model, which has no test-time augmentation; "
            "use the .pt file, or no augmentation."
        )
    return AugmentedBackend(backend.model, backend.names, backend.origin)


class AugmentedBackend(TorchBackend):
    """Runs a PyTorch detector three times; boxes of the passes follow one another."""

    def __call__(self, images: Tensor, threshold: float) -> list[Tensor]:
        """Return the boxes above a threshold; see `Backend`."""
        images = images.to(self.device, self.dtype)
        found = [
            self._pass(images, threshold, scale, unused, mirror=mirror)
            for scale, mirror, unused in PASSES
        ]
        return [torch.cat(of_image) for of_image in zip(*found, strict=True)]

    def _pass(
        self, images: Tensor, threshold: float, scale: float, unused: int | None, *, mirror: bool
    ) -> list[Tensor]:
        copies = resize_and_pad(images.flip(3) if mirror else images, scale, self.max_stride)
        raw = self.model(copies)
        if unused is not None:
            raw[unused] = raw[unused][:, :, :0]  # no cells
        found = self.model.decode_confident(raw, threshold)
        for boxes in found:
            boxes[:, :4] /= scale
            if mirror:
                boxes[:, 0] = images.shape[3] - boxes[:, 0]
        return found


def resize_and_pad(images: Tensor, scale: float, stride: int) -> Tensor:
    """Resize images ``[B, 3, H, W]``; pad them right and below to a multiple of the stride."""
    if scale == 1:
        return images
    sides = images.shape[2:]
    height, width = (int(side * scale) for side in sides)
    # Of the exact side: at 96 x 0.67 = 64.32 the original pads 64 pixels to 96.
    padded_height, padded_width = (math.ceil(side * scale / stride) * stride for side in sides)
    resized = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
    return F.pad(resized, (0, padded_width - width, 0, padded_height - height), value=PADDING)
