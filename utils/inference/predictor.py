"""Predicts the detections of images, in pixels of the original."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from models.nms import non_max_suppression
from utils.datasets.letterbox import boxes_to_original
from utils.inference.backend import Backend
from utils.inference.sources import SourceImage

MAX_PIXEL = 255
MS_PER_S = 1e3
MAX_BATCHES_WAITING = 4
"""Images of other shapes that wait for their batch to fill are at most these many batches."""


@dataclass(frozen=True)
class DetectSettings:
    """Thresholds and filters of detections."""

    conf_thres: float = 0.25
    iou_thres: float = 0.45
    max_det: int = 1000
    classes: Sequence[int] | None = None
    """Keep only these classes; all if None."""
    agnostic: bool = False
    """Class-agnostic NMS: boxes of different classes suppress each other."""
    multi_label: bool = False
    """A box may yield a detection for each class above the threshold, not only for the best."""


class Speed(NamedTuple):
    """Milliseconds per image, for one image or as a mean."""

    preprocess: float
    inference: float
    nms: float


class Prediction(NamedTuple):
    """Detections of one image."""

    detections: np.ndarray
    """float32 [n, 6]: corners x1, y1, x2, y2 in pixels of the original, confidence, class;
    best first."""
    speed: Speed


class Predictor:
    """Runs a model on images of any size.

    Args:
        backend: the model.
        settings: thresholds and filters of detections.
    """

    def __init__(self, backend: Backend, settings: DetectSettings) -> None:
        self._backend = backend
        self._device = backend.device
        self._settings = settings

    def in_batches(
        self, images: Iterable[SourceImage], batch_size: int
    ) -> Iterator[tuple[SourceImage, Prediction]]:
        """Yield images with their predictions, in order; images of equal network shape in batches.

        Other images may be between them, so their predictions wait. A frame of a video ends the
        waiting of all. Detections of a batch are those of its single images up to rounding.
        """
        order: deque[SourceImage] = deque()
        groups: dict[tuple[int, ...], list[SourceImage]] = {}
        predictions: dict[int, Prediction] = {}

        def predict(shapes: Iterable[tuple[int, ...]]) -> Iterator[tuple[SourceImage, Prediction]]:
            for shape in shapes:
                group = groups.pop(shape)
                predictions.update(zip(map(id, group), self(group), strict=True))
            while order and id(order[0]) in predictions:
                image = order.popleft()
                yield image, predictions.pop(id(image))

        for image in images:
            order.append(image)
            shape = image.network.shape
            groups.setdefault(shape, []).append(image)
            if image.kind == "video":
                yield from predict(list(groups))
            elif len(groups[shape]) == batch_size:
                yield from predict([shape])
            elif len(order) == MAX_BATCHES_WAITING * batch_size:
                yield from predict([order[0].network.shape])
        yield from predict(list(groups))

    @torch.inference_mode()
    def __call__(self, loaded: Sequence[SourceImage]) -> list[Prediction]:
        """Return the detections of images whose network inputs have the same shape."""
        marks = [self._now()]
        pixels = torch.from_numpy(np.stack([image.network for image in loaded])).to(self._device)
        images = pixels.permute(0, 3, 1, 2)  # channels_last, in which batches are faster
        if len(loaded) == 1:
            images = images.contiguous()  # keeps the results of earlier versions, bit for bit
        images = images.to(self._backend.dtype) / MAX_PIXEL
        marks.append(self._now())
        options = self._settings
        prediction = self._backend(images, options.conf_thres)
        marks.append(self._now())
        kept = non_max_suppression(
            prediction,
            conf_thres=options.conf_thres,
            iou_thres=options.iou_thres,
            classes=options.classes,
            agnostic=options.agnostic,
            multi_label=options.multi_label,
            max_det=options.max_det,
        )
        found = [detections.cpu().numpy() for detections in kept]
        marks.append(self._now())
        for image, detections in zip(loaded, found, strict=True):
            detections[:, :4] = boxes_to_original(
                detections[:, :4],
                ratio=image.ratio,
                pad=image.pad,
                original=(image.original.shape[0], image.original.shape[1]),
            )
        spent = np.diff(marks) * MS_PER_S / len(loaded)
        speed = Speed(*(float(ms) for ms in spent))
        return [Prediction(detections, speed) for detections in found]

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
