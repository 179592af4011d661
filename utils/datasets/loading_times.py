"""Where the time of a loader goes: waiting for batches, and decoding; only reported, never used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from utils.datasets.dataset import Batch, BatchRequest, LoadFailure, TrainDataset
from utils.datasets.image_cache import ImageStore

PERCENT = 100.0
SAMPLE, DECODING = 0, 1


class WaitTimes:
    """Seconds of an epoch, and those in which its reader waited for batches."""

    def __init__(self) -> None:
        self.total = self.waited = 0.0
        self.batches = 0

    def measure(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches of an epoch; measure from the first request to the last batch."""
        self.total, self.waited, self.batches = 0.0, 0.0, 0
        began = asked = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - asked
            self.batches += 1
            yield batch
            asked = time.perf_counter()
            self.total = asked - began

    @property
    def percent(self) -> float:
        """Percentage of the time spent waiting."""
        return PERCENT * self.waited / self.total if self.total else 0.0


class SampleTimes:
    """Seconds spent on samples, and on decoding for them, by all loading processes together.

    They are in shared memory, with a row per process, so that no process waits for another one.

    Args:
        workers: number of worker processes; 0 loads in the main process.
    """

    def __init__(self, workers: int) -> None:
        self._seconds = torch.zeros(max(workers, 1), 2, dtype=torch.float64)
        if workers:
            self._seconds.share_memory_()

    @contextmanager
    def measure(self, column: int) -> Iterator[None]:
        """Add the time in this context to a column: `SAMPLE` or `DECODING`."""
        began = time.perf_counter()
        yield
        info = get_worker_info()
        self._seconds[info.id if info else 0, column] += time.perf_counter() - began

    @property
    def decoding_percent(self) -> float:
        """Percentage of the time of samples that decoding takes."""
        samples, decoding = self._seconds.sum(0).tolist()
        return PERCENT * decoding / samples if samples else 0.0


@dataclass(frozen=True, eq=False)
class TimedImages:
    """Measures the time of loading from another image store."""

    images: ImageStore
    times: SampleTimes

    def size(self, i: int) -> tuple[int, int]:
        """See `ImageStore.size`."""
        return self.images.size(i)

    def load(self, i: int) -> np.ndarray:
        """See `ImageStore.load`."""
        with self.times.measure(DECODING):
            return self.images.load(i)


@dataclass(frozen=True, eq=False)
class TimedDataset(Dataset["Batch | LoadFailure"]):
    """Measures the time that a data set takes to make its batches."""

    dataset: TrainDataset
    times: SampleTimes

    def __getitem__(self, request: BatchRequest) -> Batch | LoadFailure:
        """See `TrainDataset.__getitem__`."""
        with self.times.measure(SAMPLE):
            return self.dataset[request]
