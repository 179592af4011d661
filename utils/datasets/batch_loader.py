"""Loader of whole batches: worker processes, failures, and the shared memory it needs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.datasets.dataset import Batch, BatchRequest, LoadFailure
from utils.datasets.image_cache import CHANNELS, SHARED_MEMORY, free_disk
from utils.datasets.workers import WORKER_DEATHS, signals_blocked, start_worker
from utils.errors import LoadError, UserError

PREFETCHED_BATCHES = 2
"""Batches that each worker prepares in advance."""
MIB = 1 << 20
WHOLE_BATCH = slice(None)
MORE_SHARED_MEMORY = (
    "start the container with a larger --shm-size or with --ipc=host, or use fewer --workers "
    "(0 needs none)"
)
LESS_MEMORY = "use fewer --workers (0 for none), or a smaller --batch-size or --imgsz"
FAILURES = (
    ("shared memory", "the shared memory is full", MORE_SHARED_MEMORY),
    ("No space left", "the shared memory is full", MORE_SHARED_MEMORY),
    ("killed by signal", "usually because memory ran out", LESS_MEMORY),
    ("exited unexpectedly", "usually because memory ran out", LESS_MEMORY),
    ("allocate", "memory ran out", LESS_MEMORY),  # of torch, NumPy, OpenCV and the system
    ("MemoryError", "memory ran out", LESS_MEMORY),
    (
        "Too many open files",
        "the limit is too low",
        "raise it with ulimit -n, or use fewer --workers",
    ),
    ("ancillary data", "too many files are open", "raise ulimit -n, or use fewer --workers"),
    ("temporarily unavailable", "too many processes run", "use fewer --workers"),
    ("start new thread", "too many threads run", "use fewer --workers"),
)
"""Part of the last line of an error that a lack of resources causes, its meaning, and a remedy."""


class BatchShape(NamedTuple):
    """Size of the images of a batch."""

    images: int
    height: int
    """px"""
    width: int
    """px"""


class BatchLoader(DataLoader["Batch | LoadFailure"]):
    """A DataLoader of batches that raises the failures of its workers, between two batches.

    Raises:
        LoadError: while iterating, if an image file is no longer usable, a worker was killed, or
            there is too little memory, shared memory or another resource.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # no failures
        with _as_load_errors(), signals_blocked():  # workers inherit the block: `start_worker`
            batches = super().__iter__()
        while True:
            with _as_load_errors(), WORKER_DEATHS.raised():
                batch = next(batches, None)
            if isinstance(batch, LoadFailure):
                raise LoadError(batch.message)
            if batch is None:
                return
            yield batch


@contextmanager
def _as_load_errors() -> Iterator[None]:
    """Convert errors that a lack of resources causes; others keep their type."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError, cv2.error) as error:
        # The errors of workers contain a traceback.
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        found = [line for line in FAILURES if line[0] in reason]
        if isinstance(error, MemoryError):
            found.append(("", "memory ran out", LESS_MEMORY))
        if not found:
            raise
        _, meaning, remedy = found[0]
        raise LoadError(f"batches cannot be loaded: {meaning} ({reason}); {remedy}.") from error


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
            f"workers need {needed / MIB:.0f} MiB; {MORE_SHARED_MEMORY}."
        )


def _identity(batch: Batch | LoadFailure) -> Batch | LoadFailure:
    return batch
