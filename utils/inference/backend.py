"""One interface to every model file that can detect: PyTorch weights and exported models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from models.detector import Detector, fuse
from utils.datasets.rect_batches import round_up_to_stride
from utils.errors import UserError
from utils.weights import load_model

log = logging.getLogger("yolo")

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
    """Runs a PyTorch detector.

    Args:
        model: in eval mode, on any device and in any floating-point dtype; `fuse` makes it faster.
        names: class names by index.
        origin: the file of the model, for messages.
    """

    input_size = None
    batch = None

    def __init__(self, model: Detector, names: tuple[str, ...], origin: str) -> None:
        self.model = model
        self.names = names
        self.origin = origin
        self.max_stride = model.max_stride

    @property
    def device(self) -> torch.device:
        """The device of the weights; it changes with them."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.model.parameters()).dtype

    def __call__(self, images: Tensor, threshold: float) -> list[Tensor]:
        """Return the boxes above a threshold; see `Backend`."""
        raw = self.model(images.to(self.device, self.dtype))
        return self.model.decode_confident(raw, threshold)


class Ensemble:
    """Runs several models on the same images and returns the boxes of all, one model after another.

    Args:
        members: at least one.

    Raises:
        UserError: the models differ in their classes or their input sizes.
    """

    batch = None

    def __init__(self, members: Sequence[Backend]) -> None:
        first = members[0]
        for other in members[1:]:
            if other.names != first.names:
                raise UserError(
                    f"{other.origin} does not detect the classes of {first.origin} in the same "
                    "order; give models that were trained on the same classes."
                )
        self.members = tuple(members)
        self.names = first.names
        self.origin = ", ".join(member.origin for member in members)
        self.max_stride = max(member.max_stride for member in members)
        sizes = {member.input_size for member in members if member.input_size}
        self.input_size = min(sizes, default=None)
        wrong = self.input_size and any(side % self.max_stride for side in self.input_size)
        if wrong or len(sizes) > 1:
            raise UserError(
                f"the models {self.origin} accept no common image size; export them again with "
                f"the same --imgsz, a multiple of {self.max_stride}."
            )

    @property
    def device(self) -> torch.device:
        """The device of the first model."""
        return self.members[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first model."""
        return self.members[0].dtype

    def __call__(self, images: Tensor, threshold: float) -> list[Tensor]:
        """Return the boxes of all models; see `Backend`."""
        found = [member(images, threshold) for member in self.members]
        return [torch.cat(of_image) for of_image in zip(*found, strict=True)]


class _AsDetector(nn.Module):
    """Has the two steps of a `Detector`; the second one does all the work."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]

    def decode_confident(self, raw: Sequence[Tensor], threshold: float) -> list[Tensor]:
        return self._backend(raw[0], threshold)


def as_detector(backend: Backend) -> Detector:
    """Return a backend as a model for the validation loop, which cannot compute losses with it."""
    return backend.model if type(backend) is TorchBackend else cast(Detector, _AsDetector(backend))


def open_backend(
    weights: str | Path | Sequence[str | Path],
    device: torch.device,
    *,
    half: bool = False,
    augment: bool = False,
) -> Backend:
    """Open model files; the name of a file decides what runs it.

    Args:
        weights: `.onnx`; `.torchscript`; a folder `*_openvino_model`; any other name is a `.pt`
            file of this project or of YOLOv5, or a published model. Several are an ensemble.
        device: device to compute on.
        half: compute in fp16, which is fast on GPUs only.
        augment: use test-time augmentation.

    Raises:
        UserError: a file does not exist, is invalid, cannot be augmented, or needs a package that
            is not installed; or the models of an ensemble do not match.
    """
    paths = [weights] if isinstance(weights, str | Path) else weights
    if not isinstance(paths, Sequence) or not paths:
        raise UserError(f"the weights are {weights}; give a model file, or a list of them.")
    members = [_open(path, device, half=half) for path in paths]
    backend = Ensemble(members) if len(members) > 1 else members[0]
    if augment:
        from utils.inference.augmented import augmented

        return augmented(backend)
    return backend


def is_exported(weights: str | Path) -> bool:
    """Return whether a file or folder is an exported model by its name; all others are weights."""
    path = Path(weights)
    return path.suffix.lower() in EXPORTED_SUFFIXES or path.name.endswith(OPENVINO_FOLDER)


def _open(weights: str | Path, device: torch.device, *, half: bool) -> Backend:
    path = Path(weights)
    if is_exported(path):
        from utils.inference.exported import open_exported

        return open_exported(path, device, half=half)
    loaded = load_model(weights, device)
    model = fuse(loaded.model)
    if half:
        anchors = model.head.anchors
        model.half()
        model.head.anchors = anchors  # fp16 is too coarse for sizes in pixels
    return TorchBackend(model, loaded.names, loaded.origin)


def network_size(sizes: Sequence[int], backend: Backend) -> tuple[int, int]:
    """Return (height, width) of the images for a model, px.

    It is the size that the model accepts, or `--imgsz` rounded up to the stride. Logs a warning
    unless it is `--imgsz`.

    Args:
        sizes: `--imgsz`: one side, or height and width.
        backend: the model.
    """
    wanted, stride = (sizes[0], sizes[-1]), backend.max_stride
    height, width = backend.input_size or [round_up_to_stride(side, stride) for side in wanted]
    if (height, width) != wanted:
        reason = f"--imgsz {' '.join(map(str, sizes))} is not a multiple of the stride {stride}"
        if backend.input_size:
            reason = f"{backend.origin} accepts only one image size"
        log.warning("%s; using %d x %d.", reason, height, width)
    return height, width
