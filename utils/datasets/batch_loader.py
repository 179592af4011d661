"""Loader of whole batches: worker processes, failures, and the shared memory it needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.datasets.dataset import Batch, BatchRequest, LoadFailure
from utils.datasets.image_cache import CHANNELS, SHARED_MEMORY, free_disk
from utils.datasets.workers import signals_blocked, start_worker
from utils.errors import UserError

PREFETCHED_BATCHES = 2
"""Batches that each worker prepares in advance."""
MIB = 1 << 20
WHOLE_BATCH = slice(None)


class BatchShape(NamedTuple):
    """Size of the images of a batch."""

    images: int
    height: int
    """px"""
    width: int
    """px"""


class BatchLoader(DataLoader["Batch | LoadFailure"]):
    """A DataLoader of batches that raises the failures reported by its workers.

    Raises:
        UserError: while iterating, if an image file is no longer usable.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # no failures
        with signals_blocked():  # workers inherit the block, see `start_worker`
            batches = super().__iter__()
        for batch in batches:
            if isinstance(batch, LoadFailure):
                raise UserError(batch.message)
            yield batch


def batch_loader(
    dataset: Dataset[Batch | LoadFailure],
    batches: Sampler[BatchRequest] | Sampler[list[int]],
    workers: int,
    niceness: int = 0,
    *,
    pin_memory: bool,
) -> BatchLoader:
    """Build a loader that indexes the data set with each item of `batches`."""
    return BatchLoader(
        dataset,
        sampler=batches,
        batch_size=None,  # the data set returns whole batches
        collate_fn=_identity,  # type: ignore[arg-type] # takes a batch, not a list of samples
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=PREFETCHED_BATCHES if workers else None,
        worker_init_fn=partial(start_worker, niceness=niceness),
        persistent_workers=workers > 0,
    )


def largest_batch(
    batches: Sequence[np.ndarray], shapes: np.ndarray, shard: slice = WHOLE_BATCH
) -> BatchShape:
    """Return the shape of the batch with the most pixels, of one process."""
    found = (BatchShape(len(batch[shard]), *shapes[batch[0]].tolist()) for batch in batches)
    return max(found, key=math.prod)


def require_shared_memory(largest: BatchShape, workers: int, processes: int = 1) -> None:
    """Check that there is room for the batches that the workers prepare, and the one in use.

    A process that writes beyond the end of shared memory is killed, during an epoch.

    Raises:
        UserError: if there is too little.
    """
    if workers == 0 or not SHARED_MEMORY.is_dir():
        return
    needed = processes * (PREFETCHED_BATCHES * workers + 1) * math.prod(largest) * CHANNELS
    free = free_disk(SHARED_MEMORY)
    if needed > free:
        raise UserError(
            f"{SHARED_MEMORY} has {free / MIB:.0f} MiB of free shared memory, but the loader "
            f"workers need {needed / MIB:.0f} MiB; start the container with a larger --shm-size or "
            "with --ipc=host, or use fewer --workers (0 needs none)."
        )


def _identity(batch: Batch | LoadFailure) -> Batch | LoadFailure:
    return batch
