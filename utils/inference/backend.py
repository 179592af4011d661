"""One interface to every model file that can detect: PyTorch weights and exported models."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from models.detector import Detector, fuse
from utils.weights import LoadedModel, load_model

EXPORTED_SUFFIXES = frozenset({".onnx", ".torchscript"})
OPENVINO_FOLDER = "_openvino_model"
"""End of the name of a folder with an OpenVINO model."""


class Backend(Protocol):
    """A model that detects."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by index."""

    @property
    def origin(self) -> str:
        """The file or folder of the model, for messages."""

    @property
    def max_stride(self) -> int:
        """Height and width of the images must be multiples of this, px."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """The only (height, width) that the model accepts, px; None if it accepts any."""

    @property
    def batch(self) -> int | None:
        """The number of images that the model computes at a time; None if it is any.

        A call accepts any number of images: it divides them, and fills the last part.
        """

    @property
    def device(self) -> torch.device:
        """The device that the model computes on; images on it need no transfer."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the images that need no conversion: float32, or float16 for half."""

    def __call__(self, images: Tensor, threshold: float) -> list[Tensor]:
        """Return the boxes whose best score, objectness times class score, is above a threshold.

        Args:
            images: ``[B, 3, H, W]``, RGB, 0 to 1, floating-point, in any memory format; H and W are
                `input_size`, or multiples of `max_stride`.
            threshold: 0 to 1; -1 returns every box.

        Returns:
            For each image ``[n, 5 + classes]``, float32 on `device`: centre and size in pixels of
            the network input, objectness and class scores, 0 to 1.
        """


class TorchBackend:
    """Runs a PyTorch detector with fused batch norms.

    Args:
        loaded: any model; it is copied.
        device: device to compute on.
        half: compute in fp16, which is fast on GPUs only.
    """

    input_size = None
    batch = None

    def __init__(self, loaded: LoadedModel, device: torch.device, *, half: bool = False) -> None:
        self.names = loaded.names
        self.origin = loaded.origin
        self.max_stride = loaded.model.max_stride
        self.model: Detector = fuse(loaded.model).to(
            device, torch.float16 if half else torch.float32
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights, which `model.to(device)` changes."""
        return self.model.head.anchors.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.model.head.anchors.dtype

    def __call__(self, images: Tensor, threshold: float) -> list[Tensor]:
        """Return the boxes above a threshold; see `Backend`."""
        raw = self.model(images.to(self.device, self.dtype))
        return self.model.decode_confident(raw, threshold)


def open_backend(weights: str | Path, device: torch.device, *, half: bool = False) -> Backend:
    """Open a model file: the name decides which program runs it.

    Args:
        weights: `.pt` of this project or of YOLOv5, or the name of a published model; `.onnx`;
            `.torchscript`; a folder `*_openvino_model`.
        device: device to compute on.
        half: compute in fp16, which is fast on GPUs only.

    Raises:
        UserError: the file does not exist, is invalid, or needs a package that is not installed.
    """
    path = Path(weights)
    if path.suffix in EXPORTED_SUFFIXES or path.name.endswith(OPENVINO_FOLDER):
        from utils.inference.exported import open_exported

        return open_exported(path, device, half=half)
    return TorchBackend(load_model(weights, device), device, half=half)
