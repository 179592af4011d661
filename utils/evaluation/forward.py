"""The forward passes of a validation: labelled images in, confident boxes and losses out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.detector import Detector
from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.runtime.device import Precision, images_to_device

PIXELS_AT_ONCE = 4 * 640 * 640
"""That a CPU takes at once: what a layer makes is then still in its caches for the next."""


class Forwarded(NamedTuple):
    """What a model says of a batch."""

    boxes: list[Tensor]
    """For each image ``[n, 5 + classes]``, see `DetectionHead.decode_confident`."""
    losses: Tensor
    """Box, objectness and class loss, ``[3]``; zeros when no loss was given."""


class Forward:
    """A model as a validation uses it, and the time that it takes.

    Args:
        model: on `device`, in evaluation mode.
        device: where to compute.
        precision: number format: fp32, bf16 or fp16.
        threshold: least score of a box.
        loss: also measure this training loss.
    """

    def __init__(
        self,
        model: Detector,
        device: torch.device,
        precision: str,
        *,
        threshold: float,
        loss: DetectionLoss | None = None,
    ) -> None:
        self._model = model
        self._device = device
        self._precision = Precision(precision, device.type)
        self._threshold = threshold
        self._loss = loss
        self.preprocessing = Stopwatch(device)
        self.inference = Stopwatch(device)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Forwarded:
        """Pass a batch, on a CPU some of its images at a time."""
        count = len(batch.images)
        at_once = count
        if self._device.type == "cpu":
            at_once = max(PIXELS_AT_ONCE // batch.images[0, 0].numel(), 1)
        boxes: list[Tensor] = []
        losses = torch.zeros(3, device=self._device)
        for start in range(0, count, at_once):
            part = range(start, min(start + at_once, count))
            with self.preprocessing:
                images = images_to_device(
                    batch.images[part.start : part.stop], self._device, self._precision.dtype
                )
            with self.inference:
                with self._precision.autocast():
                    raw = self._model(images)
                boxes += self._model.decode_confident(raw, self._threshold)
            if self._loss is not None:
                losses += self._losses(self._loss, raw, batch, part)
        return Forwarded(boxes, losses)

    def _losses(
        self, loss: DetectionLoss, raw: Sequence[Tensor], batch: Batch, part: range
    ) -> Tensor:
        """The share of some images in the losses of their batch, ``[3]``."""
        targets, ignored = batch.targets.to(self._device), batch.ignored.to(self._device)
        if len(part) < len(batch.images):
            whole = loss.counts(raw, targets, len(batch.images))
            loss = loss.of_parts(lambda own: whole)
            targets, ignored = _of_images(targets, part), _of_images(ignored, part)
        parts = loss(raw, targets, ignored=ignored)
        return torch.stack((parts.box, parts.obj, parts.cls))


def _of_images(rows: Tensor, part: range) -> Tensor:
    """The rows of some images, which their first column numbers, numbered anew from 0."""
    own = rows[(rows[:, 0] >= part.start) & (rows[:, 0] < part.stop)]
    return torch.cat((own[:, :1] - part.start, own[:, 1:]), 1)


class Stopwatch:
    """Sums up the seconds spent in its with-blocks, waiting for a GPU to finish."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._start = 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __enter__(self) -> None:
        self._start = self._now()

    def __exit__(self, *_: object) -> None:
        self.seconds += self._now() - self._start
