"""Predicts the detections of one image, in pixels of the original."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from models.detector import Detector, fuse
from models.nms import non_max_suppression
from utils.datasets.letterbox import boxes_to_original
from utils.inference.sources import SourceImage

MAX_PIXEL = 255
MS_PER_S = 1e3


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
    """Runs a model on single images of any size.

    Args:
        model: any detector; it is copied and fused.
        device: device of the model and its inputs.
        settings: thresholds and filters of detections.
        half: compute in fp16, which is fast on GPUs only.
    """

    def __init__(
        self, model: Detector, device: torch.device, settings: DetectSettings, *, half: bool = False
    ) -> None:
        self._dtype = torch.float16 if half else torch.float32
        self._model = fuse(model).to(device, self._dtype)
        self._device = device
        self._settings = settings

    @torch.inference_mode()
    def __call__(self, loaded: SourceImage) -> Prediction:
        """Return the detections of one image."""
        marks = [self._now()]
        pixels = torch.from_numpy(loaded.network).to(self._device)  # [H, W, 3]
        images = pixels.permute(2, 0, 1)[None].to(self._dtype) / MAX_PIXEL
        marks.append(self._now())
        options = self._settings
        prediction = self._model.decode_confident(self._model(images), options.conf_thres)
        marks.append(self._now())
        found = non_max_suppression(
            prediction,
            conf_thres=options.conf_thres,
            iou_thres=options.iou_thres,
            classes=options.classes,
            agnostic=options.agnostic,
            max_det=options.max_det,
        )[0]
        detections = found.cpu().numpy()
        marks.append(self._now())
        detections[:, :4] = boxes_to_original(
            detections[:, :4],
            ratio=loaded.ratio,
            pad=loaded.pad,
            original=(loaded.original.shape[0], loaded.original.shape[1]),
        )
        spent = np.diff(marks) * MS_PER_S
        return Prediction(detections, Speed(*(float(ms) for ms in spent)))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
