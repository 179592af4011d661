"""Forward passes of a validation: computes boxes above the threshold, and losses."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from models.detector import Detector
from models.loss import DetectionLoss, LossMeans
from models.nms import best_candidates
from utils.datasets.dataset import Batch
from utils.datasets.prefetch import prefetched
from utils.runtime.device import Precision, images_to_device

MILLISECONDS = 1000.0
CPU_CHUNK_PIXELS = 4 * 640 * 640
"""Pixels per forward pass on a CPU: activations then stay in its caches for the next layer."""


class ForwardResult(NamedTuple):
    """Output of a model for a batch."""

    candidates: list[Tensor]
    """For each image ``[m, 6]``, on the CPU; see `nms.best_candidates`."""
    losses: list[LossMeans]
    """Those of each part of the batch; empty if no loss was given."""


class _Launched(NamedTuple):
    """A forward pass over a part of a batch, which a GPU may still compute."""

    batch: Batch
    part: range
    raw: list[Tensor]


def images_in_pass(device: torch.device, limit: int, height: int, width: int) -> int:
    """Return how many images of a size in pixels are computed together, at most `limit` on a GPU.

    On a CPU the limit has no influence: the memory is small, and results are the same for any.
    """
    return max(CPU_CHUNK_PIXELS // (height * width), 1) if device.type == "cpu" else limit


class Forward:
    """Runs a model for validation, and measures the time.

    Args:
        model: a detector on `device`, in eval mode.
        device: device of the model.
        precision: fp32, bf16 or fp16.
        threshold: minimum score of a candidate.
        loss: also compute this training loss.
        images_per_pass: divide larger batches. Shapes of images and losses stay those of the batch.
        ahead: launch the next pass before the results of one are used, so that a GPU computes
            meanwhile.
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
        ahead: bool = False,
    ) -> None:
        self._images_per_pass = images_per_pass
        self._model = model
        self._device = device
        self._precision = Precision(precision, device.type)
        self._threshold = threshold
        self._loss = loss
        self._ahead = ahead
        self.preprocessing = Stopwatch(device)
        self.inference = Stopwatch(device)
        self.suppression = Stopwatch(torch.device("cpu"))  # begins when the device is done

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, ForwardResult]]:
        """Yield each batch with its results."""
        launches = self._launches(batches)
        result = ForwardResult([], [])
        following = next(launches, None)
        while (launched := following) is not None:
            batch, part, _ = launched
            self._finish(launched, result)
            if self._ahead:
                following = next(launches, None)
            if part.stop == len(batch.images):
                yield batch, result
                result = ForwardResult([], [])
            if not self._ahead:
                following = next(launches, None)

    @torch.no_grad()
    def _launches(self, batches: Iterable[Batch]) -> Iterator[_Launched]:
        for batch in prefetched(batches, self._device):
            count, _, height, width = batch.images.shape
            size = images_in_pass(self._device, self._images_per_pass, height, width)
            for start in range(0, count, size):
                part = range(start, min(start + size, count))
                with self.preprocessing:
                    images = images_to_device(
                        batch.images[part.start : part.stop], self._device, self._precision.dtype
                    )
                with self.inference, self._precision.autocast():
                    raw = self._model(images)
                yield _Launched(batch, part, raw)

    @torch.no_grad()
    def _finish(self, launched: _Launched, result: ForwardResult) -> None:
        """Add what a pass has computed to the result of its batch; waits for it."""
        batch, part, raw = launched
        if self._loss is not None:
            targets, ignored = batch.targets, batch.ignored
            if len(part) < len(batch.images):
                targets, ignored = _of_images(targets, part), _of_images(ignored, part)
            result.losses.append(self._loss.means(raw, targets, ignored=ignored))
        with self.inference:
            boxes = self._model.decode_confident(raw, self._threshold)
        with self.suppression:
            result.candidates.extend(best_candidates(boxes, self._threshold, multi_label=True))


def _of_images(rows: Tensor, part: range) -> Tensor:
    """Select the rows of a range of images (first column), and renumber the images from 0."""
    own = rows[(rows[:, 0] >= part.start) & (rows[:, 0] < part.stop)]
    return torch.cat((own[:, :1] - part.start, own[:, 1:]), 1)


class Stopwatch:
    """Sums the time spent in its with-blocks: of a GPU by events, which nothing waits for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._seconds = 0.0
        self._start = 0.0
        self._events: list[torch.cuda.Event] = []
        """Of a GPU: start and end of each block."""

    @property
    def seconds(self) -> float:
        """The time so far; waits for the GPU."""
        if not self._events:
            return self._seconds
        self._events[-1].synchronize()
        pairs = zip(self._events[::2], self._events[1::2], strict=True)
        return sum(start.elapsed_time(end) for start, end in pairs) / MILLISECONDS

    def _record(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append(event)

    def __enter__(self) -> None:
        if self.device.type == "cuda":
            self._record()
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self._record()
        self._seconds += time.perf_counter() - self._start
