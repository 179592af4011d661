"""Timing of parts of a loop, on a GPU too."""

from __future__ import annotations

import time

import torch


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
