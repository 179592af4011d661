"""Forward passes of a validation: computes boxes above the threshold, and losses."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.detector import Detector
from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.runtime.device import Precision, images_to_device

CPU_CHUNK_PIXELS = 4 * 640 * 640
"""Pixels per forward pass on a CPU: activations then stay in its caches for the next layer."""


class ForwardResult(NamedTuple):
    """Output of a model for a batch."""

    boxes: list[Tensor]
    """For each image ``[n, 5 + classes]``; see `DetectionHead.decode_confident`."""
    losses: Tensor
    """Box, objectness and class loss, ``[3]``; zeros if no loss was given."""


class Forward:
    """Runs a model for validation, and measures the time.

    Args:
        model: a detector on `device`, in eval mode.
        device: device of the model.
        precision: fp32, bf16 or fp16.
        threshold: minimum score of a box.
        loss: also compute this training loss.
        images_per_pass: divide larger batches. Shapes of images and losses stay those of the batch.
    """

    def __init__(
        self,
        model: Detector,
        device: torch.device,
        precision: str,
        *,
        threshold: float,
        loss: DetectionLoss | None = None,
        images_per_pass: int = sys.maxsize,
    ) -> None:
        self._images_per_pass = images_per_pass
        self._model = model
        self._device = device
        self._precision = Precision(precision, device.type)
        self._threshold = threshold
        self._loss = loss
        self.preprocessing = Stopwatch(device)
        self.inference = Stopwatch(device)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> ForwardResult:
        """Run a batch, in chunks of its images."""
        count = len(batch.images)
        chunk = self._images_per_pass
        if self._device.type == "cpu":
            chunk = min(chunk, max(CPU_CHUNK_PIXELS // batch.images[0, 0].numel(), 1))
        boxes: list[Tensor] = []
        losses = torch.zeros(3, device=self._device)
        for start in range(0, count, chunk):
            part = range(start, min(start + chunk, count))
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
        return ForwardResult(boxes, losses)

    def _losses(
        self, loss: DetectionLoss, raw: Sequence[Tensor], batch: Batch, part: range
    ) -> Tensor:
        """Return the contribution of a chunk of images to the losses of the batch, ``[3]``."""
        targets, ignored = batch.targets.to(self._device), batch.ignored.to(self._device)
        if len(part) < len(batch.images):
            whole = loss.counts(raw, targets, len(batch.images))
            loss = loss.for_partial_batches(lambda own: whole)
            targets, ignored = _of_images(targets, part), _of_images(ignored, part)
        parts = loss(raw, targets, ignored=ignored)
        return torch.stack((parts.box, parts.obj, parts.cls))


def _of_images(rows: Tensor, part: range) -> Tensor:
    """Select the rows of a range of images (first column), and renumber the images from 0."""
    own = rows[(rows[:, 0] >= part.start) & (rows[:, 0] < part.stop)]
    return torch.cat((own[:, :1] - part.start, own[:, 1:]), 1)


class Stopwatch:
    """Sums the seconds spent in its with-blocks; waits for the GPU to finish."""

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
