"""Reports how long training waits for the loader, and what to do about it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from utils.datasets.image_cache import (
    GIB,
    MAX_USED_FRACTION,
    cache_room,
    cached_bytes,
    free_disk,
)
from utils.datasets.loader import TrainLoader
from utils.datasets.workers import processors
from utils.options.train_options import TrainOptions
from utils.training.data import TrainingData
from utils.training.state import TrainingState

log = logging.getLogger("yolo")

MIN_BATCHES, MIN_SECONDS = 20, 30.0
"""What an epoch must have had before there is advice; workers need seconds to start."""
MAX_WAITING = 20.0
"""Percent of the time that may be spent waiting without advice."""
MAX_DECODING = 40.0
"""Percent of the time of a sample above which the advice is to cache the images."""


@dataclass
class LoaderWatch:
    """Observer of the training steps; it only logs, so that time decides nothing.

    Args:
        loader: the loader that trains.
        data: its images, and those of the validation, which would be cached too.
        options: `cache` is used.
        processes: processes of this machine that load as many batches as this one.
    """

    loader: TrainLoader
    data: TrainingData
    options: TrainOptions
    processes: int
    advised: bool = False

    def __call__(self, _: TrainingState) -> None:
        """Advise, once, if training waits for the loader."""
        waiting = self.loader.waiting
        measured = waiting.batches >= MIN_BATCHES and waiting.total >= MIN_SECONDS
        if not self.advised and measured and waiting.percent > MAX_WAITING:
            self.advised = True
            log.warning(
                "Training waits for data %.0f %% of the time. %s",
                *(waiting.percent, self._advice()),
            )

    def _advice(self) -> str:
        """Return the options that make loading faster."""
        found, cores, workers = [], processors(), self.loader.workers * self.processes
        decoding = self.loader.sample_times.decoding_percent
        if self.options.cache is None and decoding > MAX_DECODING:
            found.append(f"decoding takes {decoding:.0f} % of a sample: {self._cache()}")
        if workers < cores:
            found.append(f"--workers {cores} uses all processors instead of {workers}")
        if not found:
            return "All processors load data already; train with smaller images or a faster CPU."
        text = "; ".join(found)
        return f"{text[0].upper()}{text[1:]}. Resume with this; the results stay the same."

    def _cache(self) -> str:
        """Return the cache option for which there is room; a cache on disk serves later runs."""
        batch = self.loader.largest_batch
        side = max(batch.height, batch.width)
        size = cached_bytes(self.data.train, side) + cached_bytes(self.data.val, side)
        needs = f"needs {size / GIB:.1f} GiB"
        if size < MAX_USED_FRACTION * free_disk(Path(self.data.train.paths[0]).parent):
            return f"--cache disk {needs}"
        if size < MAX_USED_FRACTION * cache_room():
            return f"--cache ram {needs}"
        return f"a cache {needs}, more than is free"
