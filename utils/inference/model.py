"""A model to call from Python: images in, results out."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from models.detector import Detector, fuse, transfer_weights
from models.spec import load_spec
from utils.datasets.image_files import ImageError
from utils.datasets.letterbox import letterbox
from utils.datasets.rect_batches import round_up_to_stride
from utils.errors import UserError
from utils.files.download import is_url
from utils.inference.augmented import augmented
from utils.inference.backend import Backend, Ensemble, TorchBackend, open_backend
from utils.inference.predictor import DetectSettings, Predictor
from utils.inference.results import Results
from utils.inference.sources import SourceImage, load_rgb
from utils.weights import find_weights, read_weights
from utils.weights import load_model as load_detector

log = logging.getLogger("yolo")

RGB_CHANNELS, MAX_CHANNELS = 3, 4
"""An array whose first side is at most this is [channels, height, width], if its last is not."""
IMAGE_SIDES, BATCH_SIDES, MAX_SIZES = 3, 4, 2
MS_PER_S = 1e3
PROFILE_ROWS = 20

ImageInput = str | Path | Image.Image | np.ndarray


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
    classes: Sequence[int] | None = None
    """Indices of the classes to detect; None for all."""
    max_det: int = 1000
    """Maximum number of detections per image."""
    amp: bool = False
    """Compute in mixed precision, on a GPU only."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.names = dict(enumerate(backend.names))
        self.stride = backend.max_stride
        self.model = nn.ModuleList(_detectors(backend))

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
        if any(member.channels != RGB_CHANNELS for member in _detectors(backend)):
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
        classes = [self.classes] if isinstance(self.classes, int) else self.classes
        for name in ("conf", "iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"model.{name} {getattr(self, name)}: must be between 0 and 1.")
        if self.max_det < 1:
            raise UserError(f"model.max_det {self.max_det}: must be at least 1.")
        for label in classes or ():
            if label not in self.names:
                raise UserError(
                    f"model.classes {label}: must be between 0 and {len(self.names) - 1}."
                )
        return DetectSettings(
            *(self.conf, self.iou, self.max_det, classes, self.agnostic, self.multi_label)
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Model:
        """Move or convert the weights; called by `to`, `cuda`, `cpu`, `half` and `float`.

        Raises:
            UserError: the model is exported, and would have to move.
        """
        fixed = [one for one in _members(self.backend) if not isinstance(one, TorchBackend)]
        for one in fixed:
            moved = fn(torch.zeros(0, device=one.device, dtype=one.dtype))
            if (moved.device, moved.dtype) != (one.device, one.dtype):
                raise UserError(
                    f"{one.origin} is an exported model, which stays on its device in its "
                    "precision; load it again with device=."
                )
        super()._apply(fn, recurse)
        return self


def _members(backend: Backend) -> Sequence[Backend]:
    return backend.members if isinstance(backend, Ensemble) else [backend]


def _detectors(backend: Backend) -> list[Detector]:
    return [one.model for one in _members(backend) if isinstance(one, TorchBackend)]


def _predict(backend: Backend, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the decoded predictions of a tensor [B, 3, H, W], and the raw maps if there are."""
    stride = backend.max_stride
    height_width = tuple(images.shape[2:])
    if images.ndim != BATCH_SIDES or not images.is_floating_point():
        raise UserError(
            f"the tensor is {images.dtype} {list(images.shape)}; give floating-point numbers from "
            "0 to 1, [B, 3, H, W]."
        )
    if any(side % stride for side in height_width):
        raise UserError(
            f"the tensor has images of {height_width[0]} x {height_width[1]}; make both sides "
            f"multiples of {stride}."
        )
    if type(backend) is not TorchBackend:
        return torch.stack(backend(images, -1)), []
    raw = backend.model(images.to(backend.device, backend.dtype))
    return torch.stack(backend.model.decode_confident(raw, -1)), raw


def common_shape(
    sizes: Sequence[Sequence[int]], size: int | Sequence[int], stride: int
) -> tuple[int, int]:
    """Return (height, width) of the network input for images that are predicted together, px.

    Each image is scaled so that its longer side is `size`; the shape is the largest of the scaled
    heights and widths, rounded up to multiples of the stride.

    Args:
        sizes: (height, width) of the images, px.
        size: longer side, px; or (height, width) of the network input.
        stride: stride of the network, px.

    Raises:
        UserError: the size is not positive, or has more than two sides.
    """
    sides = np.atleast_1d(size).tolist()
    if min(sides) < 1 or len(sides) > MAX_SIZES:
        raise UserError(f"size {size}: give one side in pixels, at least 1, or (height, width).")
    if len(sides) == 1:
        # Rounded down: an error of rounding must not add a stride.
        scaled = [[int(side * sides[0] / max(one)) for side in one] for one in sizes]
        sides = [max(lengths) for lengths in zip(*scaled, strict=True)]
    height, width = (max(round_up_to_stride(side, stride), stride) for side in sides)
    return height, width


def load_image(item: Any, number: int) -> tuple[str, np.ndarray]:  # noqa: ANN401 -- checked
    """Return the name of an image, with the suffix .jpg, and its pixels, uint8 [h, w, 3] RGB.

    Args:
        item: path, URL, PIL image or array.
        number: index of the image in its list, for the name of an image without a file.

    Raises:
        UserError: it is neither, or cannot be read.
    """
    name = f"image{number}"
    if isinstance(item, str | Path):
        try:
            image = load_rgb(str(item))
        except ImageError as error:
            raise UserError(f"{item} cannot be used ({error}); give another image.") from error
        name = str(item)
    elif isinstance(item, Image.Image):
        name = str(getattr(item, "filename", "") or name)
        if item.mode[0] in "IF":
            raise UserError(f"a PIL image has the mode {item.mode}; convert it to RGB first.")
        image = np.asarray(ImageOps.exif_transpose(item).convert("RGB"))
    elif isinstance(item, np.ndarray):
        image = _rgb(item)
    else:
        raise UserError(
            f"an image is a {type(item).__name__}; give a path, a URL, a PIL image or an array."
        )
    stem = name.partition("?")[0] if is_url(name) else name
    return str(Path(stem).with_suffix(".jpg")), np.ascontiguousarray(image)


def _rgb(array: np.ndarray) -> np.ndarray:
    """Return an array of an image as [h, w, 3].

    Raises:
        UserError: it is not uint8, or has no pixels or another number of dimensions or channels.
    """
    image = array[..., None] if array.ndim == IMAGE_SIDES - 1 else array
    if image.ndim == IMAGE_SIDES and image.shape[0] <= MAX_CHANNELS < image.shape[2]:
        image = image.transpose(1, 2, 0)
    if image.dtype != np.uint8 or image.ndim != IMAGE_SIDES or not image.size:
        raise UserError(
            f"the array of an image is {array.dtype} {list(array.shape)}; give uint8 "
            "[height, width, 3] in RGB order."
        )
    if image.shape[2] in (1, 2):  # grey, grey and opacity
        return image[..., [0, 0, 0]]
    return image[..., :3]


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
    if not isinstance(weights, str | Path) or Path(weights).suffix != ".pt":
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
    """Build a published model with another number of channels or classes, or random weights.

    Args:
        name: name of the model, such as `yolov5s`.
        device: device to compute on.
        pretrained: copy the published weights that fit.
        channels: number of image channels.
        classes: number of classes.
        autoshape: as of `load_model`.

    Raises:
        UserError: the name is unknown, or the published weights cannot be downloaded.
    """
    detector = Detector(load_spec(f"{name}.yaml").with_classes(classes), channels)
    names = tuple(map(str, range(classes)))
    if pretrained:
        weights = read_weights(find_weights(f"{name}.pt"))
        transfer = transfer_weights(detector, weights.state)
        names = weights.names if len(weights.names) == classes else names
        log.info("Copied %d of %d tensors of %s", *transfer[:2], weights.origin)
    detector.to(device).eval()
    return Model(TorchBackend(fuse(detector), names, name)) if autoshape else detector
