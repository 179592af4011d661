"""A model to call from Python: images in, results out."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models.detector import Detector, fuse, transfer_weights
from models.spec import load_spec
from utils.datasets.letterbox import letterbox
from utils.errors import UserError
from utils.inference.augmented import augmented
from utils.inference.backend import Backend, Ensemble, TorchBackend, is_exported, open_backend
from utils.inference.inputs import ImageInput, common_shape, load_image
from utils.inference.predictor import DetectSettings, Predictor
from utils.inference.results import Results
from utils.inference.sources import SourceImage
from utils.weights import find_weights, read_weights
from utils.weights import load_model as load_detector

log = logging.getLogger("yolo")

RGB_CHANNELS = 3
BATCH_SIDES = 4
MS_PER_S = 1e3
PROFILE_ROWS = 20


class Model(nn.Module):
    """Detects objects in images of any size. Set the attributes before a call.

    Args:
        backend: the model; its modules become submodules, so that `.to(device)` moves them.
    """

    conf: float = 0.25
    """Minimum confidence, 0 to 1."""
    iou: float = 0.45
    """IoU threshold of NMS, 0 to 1."""
    agnostic: bool = False
    """Boxes of different classes suppress each other."""
    multi_label: bool = False
    """A box may yield a detection for each class above `conf`."""
    classes: int | Collection[int] | np.ndarray | np.generic | Tensor | None = None
    """Indices of the classes to detect; None for all."""
    max_det: int = 1000
    """Maximum number of detections per image."""
    amp: bool = False
    """Compute in mixed precision, on a GPU only."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.names = dict(enumerate(backend.names))
        self.nc = len(self.names)
        self.stride = backend.max_stride
        members = backend.members if isinstance(backend, Ensemble) else [backend]
        detectors = [one.model for one in members if isinstance(one, TorchBackend)]
        self.model = nn.ModuleList(detectors)
        self.yaml = detectors[0].spec.to_dict() if detectors else None
        """The model file of a plain `.pt` model; None for an exported one."""
        self._exported = [one for one in members if not isinstance(one, TorchBackend)]

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return self.backend.device

    def forward(
        self,
        ims: ImageInput | Sequence[ImageInput] | Tensor,
        size: int | Sequence[int] = 640,
        augment: bool = False,
        profile: bool = False,
    ) -> Results | tuple[Tensor, list[Tensor]]:
        """Detect objects.

        Args:
            ims: path, URL, PIL image or array of an image, or a list of these. An array is uint8
                RGB, [height, width, channels], [channels, height, width] or [height, width] grey.
                A tensor [B, 3, H, W], RGB, 0 to 1, is computed as it is, with gradients.
            size: longer side of the network input, px, or (height, width). An exported model with a
                fixed input size uses that one.
            augment: use test-time augmentation.
            profile: print the time of each operation.

        Returns:
            The results; of a tensor, the decoded predictions [B, n, 5 + classes] before suppression
            and the raw maps of the levels, which only a plain `.pt` model has.

        Raises:
            UserError: an image cannot be read, or an attribute or argument is invalid.
        """
        backend = augmented(self.backend) if augment else self.backend
        on_gpu = self.amp and backend.device.type == "cuda"
        with (
            torch.profiler.profile() if profile else nullcontext() as profiler,
            torch.autocast(backend.device.type, enabled=on_gpu),
        ):
            if isinstance(ims, Tensor):
                found: Results | tuple[Tensor, list[Tensor]] = _predict(backend, ims)
            else:
                found = self._detect(backend, ims, size)
        if profiler is not None:
            table = profiler.key_averages().table("cpu_time_total", row_limit=PROFILE_ROWS)
            sys.stdout.write(f"{table}\n")
        return found

    def _detect(
        self,
        backend: Backend,
        ims: ImageInput | Sequence[ImageInput],
        size: int | Sequence[int],
    ) -> Results:
        if any(member.channels != RGB_CHANNELS for member in self.model):
            raise UserError("the model has no RGB input; give a tensor of its number of channels.")
        predictor = Predictor(backend, self._settings())
        start = time.perf_counter()
        given = ims if isinstance(ims, list | tuple) else [ims]
        if not given:
            raise UserError("the list of images is empty; give at least one image.")
        loaded = [load_image(item, number) for number, item in enumerate(given)]
        sizes = [image.shape[:2] for _, image in loaded]
        shape = backend.input_size or common_shape(sizes, size, backend.max_stride)
        sources = [
            SourceImage(
                name, "image", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), *letterbox(image, shape)
            )
            for name, image in loaded
        ]
        reading = (time.perf_counter() - start) * MS_PER_S / len(sources)
        predictions = predictor(sources)
        speed = predictions[0].speed
        speed = speed._replace(preprocess=speed.preprocess + reading)
        found = [prediction.detections for prediction in predictions]
        return Results(sources, found, self.names, speed)

    def _settings(self) -> DetectSettings:
        """Return the attributes, checked."""
        classes = None if self.classes is None else self._listed_classes()
        limits = {"conf": (0, 1), "iou": (0, 1), "max_det": (1, math.inf)}
        values = {}
        for name, (low, high) in limits.items():
            given = getattr(self, name)
            try:
                values[name] = float(given)
            except (TypeError, ValueError):
                values[name] = math.nan
            if not low <= values[name] <= high:
                wanted = f"between {low} and {high}" if high == 1 else f"at least {low}"
                raise UserError(f"model.{name} {given}: must be {wanted}.")
        return DetectSettings(
            *(values["conf"], values["iou"], int(min(values["max_det"], sys.maxsize)), classes),
            *(self.agnostic, self.multi_label),
        )

    def _listed_classes(self) -> list[int]:
        given = self.classes
        plain: Any = (
            given.tolist() if isinstance(given, Tensor | np.ndarray | np.generic) else given
        )
        labels = (
            [*plain] if isinstance(plain, Collection) and not isinstance(plain, str) else [plain]
        )
        for label in labels:
            if not isinstance(label, Hashable) or label not in self.names:
                raise UserError(f"model.classes {label}: must be between 0 and {self.nc - 1}.")
        return sorted(int(label) for label in labels)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Model:
        """Move or convert the weights; called by `to`, `cuda`, `cpu`, `half` and `float`.

        Raises:
            UserError: the model is exported, and would have to move.
        """
        for one in self._exported:
            moved = fn(torch.zeros(0, device=one.device, dtype=one.dtype))
            if (moved.device, moved.dtype) != (one.device, one.dtype):
                raise UserError(
                    f"{one.origin} is an exported model, which stays on its device in its "
                    "precision; load it again with device=."
                )
        super()._apply(fn, recurse)
        return self


def _predict(backend: Backend, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the decoded predictions of a tensor [B, 3, H, W], and the raw maps if there are."""
    if images.ndim != BATCH_SIDES or not images.is_floating_point():
        raise UserError(
            f"the tensor is {images.dtype} {list(images.shape)}; give floating-point numbers from "
            "0 to 1, [B, 3, H, W]."
        )
    height, width = images.shape[2:]
    if height % backend.max_stride or width % backend.max_stride:
        raise UserError(
            f"the tensor has images of {height} x {width}; make both sides multiples of "
            f"{backend.max_stride}."
        )
    if type(backend) is not TorchBackend:
        return torch.stack(backend(images, -1)), []
    raw = backend.model(images.to(backend.device, backend.dtype))
    return torch.stack(backend.model.decode_confident(raw, -1)), raw


def load_model(
    weights: str | Path | Sequence[str | Path], device: torch.device, *, autoshape: bool = True
) -> Model | Detector:
    """Load model files for Python.

    Args:
        weights: as of `open_backend`.
        device: device to compute on.
        autoshape: return a `Model`; otherwise the detector of a `.pt` file, in eval mode, whose
            parameters can be trained.

    Raises:
        UserError: a file is invalid, or is no `.pt` file and `autoshape` is False.
    """
    if autoshape:
        model = Model(open_backend(weights, device))
        log.info("Loaded %s: %d classes, on %s", model.backend.origin, len(model.names), device)
        return model
    if not isinstance(weights, str | Path) or is_exported(weights):
        raise UserError(f"autoshape=False needs one .pt file, but the weights are {weights}.")
    return load_detector(weights, device).model


def build_model(
    name: str,
    device: torch.device,
    *,
    pretrained: bool,
    channels: int,
    classes: int,
    autoshape: bool = True,
) -> Model | Detector:
    """Load a published model, if wanted with other channels or classes, or with random weights.

    Args:
        name: name of the model, such as `yolov5s`.
        device: device to compute on.
        pretrained: use the published weights, as far as they fit.
        channels: number of image channels.
        classes: number of classes.
        autoshape: as of `load_model`.

    Raises:
        UserError: the name is unknown, or the published weights cannot be downloaded.
    """
    weights = read_weights(find_weights(f"{name}.pt")) if pretrained else None
    spec = weights.spec if weights else load_spec(f"{name}.yaml")
    detector = Detector(spec.with_classes(classes), channels)
    names = tuple(map(str, range(classes)))
    if weights:
        transfer = transfer_weights(detector, weights.state)
        names = weights.names if len(weights.names) == classes else names
        log.info("Loaded %d of %d tensors of %s", *transfer[:2], weights.origin)
    detector.to(device).eval()
    return Model(TorchBackend(fuse(detector), names, name)) if autoshape else detector
