"""Data loaders: how images are grouped into batches, their order, and the worker processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from torch.utils.data import Sampler

from utils.datasets.augment_params import MOSAIC_TILES
from utils.datasets.batch_loader import (
    WHOLE_BATCH,
    BatchShape,
    batch_loader,
    largest_batch,
    require_shared_memory,
)
from utils.datasets.dataset import Batch, BatchRequest, TrainDataset
from utils.datasets.image_cache import (
    CHANNELS,
    CacheKind,
    FileImages,
    RecentImages,
    Share,
    open_image_store,
)
from utils.datasets.index import Index, read_threads
from utils.datasets.loading_times import SampleTimes, TimedDataset, TimedImages, WaitTimes
from utils.datasets.rect_batches import plan_batches
from utils.datasets.workers import usable_workers
from utils.hyp import MOSAIC_BATCHES, Hyp

log = logging.getLogger("yolo")

ORDER_STREAM = 1 << 31
"""Seed for the order of an epoch, in the place of a sample's index. It is larger than any index, so
this random stream differs from those of the samples."""
MIN_NEIGHBOURHOOD = 64
"""Minimum number of consecutive images of an epoch from which mosaics sample their images."""
MAX_RECENT_BYTES = 256_000_000
"""Size limit of the image cache that each process keeps for mosaics: 208 images of 640 px. At least
the images of one mosaic are kept."""
WORKER_NICENESS = 5
"""Niceness of the workers when training runs on the same CPUs, so that training has priority."""


@dataclass(eq=False)
class EpochSampler(Sampler[BatchRequest]):
    """Yields the batches of an epoch, shuffled differently in every epoch.

    The shuffled order is divided into neighbourhoods of equal size, the pools of images for
    mosaics; the last one overlaps the one before it if the images do not divide evenly. Each batch
    lies within one neighbourhood, and its mosaics sample their other images from there. An image
    that was decoded for its own sample is therefore soon used again. Measured with neighbourhoods
    of 64 images and batches of 16, 0.99 images are decoded per sample with zero or one worker, 1.7
    with two, and 2.4 with four or more, because then each worker makes only one batch of a
    neighbourhood. Sampling from the whole data set would decode 3.6. The trade-off: such a batch
    contains parts of 39 different images instead of 56, and the mosaics of a neighbourhood combine
    the same images.
    """

    batches: Sequence[np.ndarray]
    """Data-set indices of each batch, before shuffling; all but the last of equal size."""
    seed: int
    shuffle_batches: bool
    """Shuffle whole batches instead of images, because batches differ in shape."""
    neighbourhood: int
    """Size of a neighbourhood, a multiple of the batch size; 0 without mosaics."""
    shard: slice
    """The images of every batch that belong to this process: `slice(rank, None, processes)` of
    several. If a batch has fewer images than there are processes, each process without an image
    gets the batch's first image as a placeholder."""
    epoch: int = 0
    start: int = 0
    """First batch of the next iteration."""
    mosaic: bool = True
    """Whether samples may be mosaics, if the hyper-parameters say so."""

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[BatchRequest]:
        batches = self._epoch_batches()
        images = np.concatenate(batches)
        for number, batch in enumerate(batches[self.start :], self.start):
            own = batch[self.shard].tolist()
            neighbours = self._neighbours(images, number * len(batches[0]))
            indices = own or [int(batch[0])]
            yield BatchRequest(self.epoch, indices, neighbours, not own, self.mosaic)

    def _epoch_batches(self) -> list[np.ndarray]:
        """Return the data-set indices of the epoch's batches, of all processes together."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, self.epoch, ORDER_STREAM]))
        if self.shuffle_batches:
            return [self.batches[i] for i in rng.permutation(len(self.batches))]
        ends = np.cumsum([len(batch) for batch in self.batches])[:-1]
        return np.split(rng.permutation(np.concatenate(self.batches)), ends)

    def _neighbours(self, images: np.ndarray, position: int) -> np.ndarray:
        """Return the neighbourhood of a position in the epoch's order of images."""
        size = self.neighbourhood
        first = min(position // size * size, max(len(images) - size, 0)) if size else 0
        return images[first : first + size]


class TrainLoader:
    """Yields the batches of any epoch, from any batch on; its workers persist between epochs.

    Args:
        dataset: makes the batches.
        sampler: chooses the images of each batch.
        workers: number of worker processes of this process.
        for_gpu: see `build_train_loader`.
        times: of the samples.
    """

    def __init__(
        self,
        dataset: TrainDataset,
        sampler: EpochSampler,
        *,
        workers: int,
        for_gpu: bool,
        times: SampleTimes,
    ) -> None:
        self._sampler = sampler
        self._dataset = dataset
        self.workers = workers
        self.sample_times = times
        self.waiting = WaitTimes()
        """Of the epoch that is read now, or was read last."""
        niceness = 0 if for_gpu else WORKER_NICENESS
        timed = TimedDataset(dataset, times)
        self._loader = batch_loader(timed, sampler, workers, niceness, pin_memory=for_gpu)

    def __len__(self) -> int:
        """Return the number of batches per epoch; the last batch may be smaller."""
        return len(self._sampler)

    @property
    def largest_batch(self) -> BatchShape:
        """The largest batch of this process."""
        return largest_batch(self._sampler.batches, self._dataset.shapes, self._sampler.shard)

    def batches(self, epoch: int, start: int = 0, *, mosaic: bool = True) -> Iterator[Batch]:
        """Yield the batches of `epoch`, starting with batch `start`.

        With `mosaic`, samples are mosaics with the probability in the hyper-parameters.

        A batch is the same for any `start`. Only one iteration can be active: starting another one
        invalidates it.
        """
        self._sampler.epoch, self._sampler.start, self._sampler.mosaic = epoch, start, mosaic
        return self.waiting.measure(iter(self._loader))


def build_train_loader(  # noqa: PLR0913 -- one argument per option of the command line
    index: Index,
    *,
    image_size: int,
    batch_size: int,
    hyp: Hyp,
    seed: int,
    workers: int | None,
    cache: CacheKind | None,
    mosaic_batches: int | None = MOSAIC_BATCHES,
    rect: bool = False,
    stride: int = 32,
    shard: slice = WHOLE_BATCH,
    share: Share | None = None,
    local_processes: int = 1,
    for_gpu: bool = False,
) -> TrainLoader:
    """Build the loader for training.

    Args:
        index: index of the data set.
        image_size: side of the samples, px.
        batch_size: images per batch, of all processes together.
        hyp: hyper-parameters with the ranges of the augmentation.
        seed: random seed of the run.
        workers: number of worker processes of this machine, see `usable_workers`; 0 loads in the
            main process.
        cache: decode and resize all images now, into memory (`ram`) or a file (`disk`); None: each
            image when it is needed.
        mosaic_batches: mosaics combine the images of so many consecutive batches, at least 64; None
            for exactly 64, as in earlier versions. Memory decides only how many of the decoded
            images are kept.
        rect: rectangular batches of images with similar aspect ratios, without mosaics.
        stride: stride of the network, px, for rectangular shapes.
        shard: the images of every batch that belong to this process.
        share: shares the `ram` cache with the other processes of this machine.
        local_processes: processes of this machine that load batches at the same time.
        for_gpu: whether the batches are moved to a CUDA GPU; they are then in pinned memory, and
            the workers do not give way to this process.

    Raises:
        UserError: if there is too little shared memory for the batches of the workers.
    """
    if hyp.copy_paste > 0:
        log.warning("copy_paste has no effect: it needs segment labels, but only boxes are read.")
    if rect:
        hyp = replace(hyp, mosaic=0.0)
    plan = plan_batches(index.sizes, batch_size, image_size, rect=rect, stride=stride)
    images = open_image_store(
        index,
        image_size,
        shrink_interpolation=cv2.INTER_LINEAR,
        cache=cache,
        threads=read_threads(workers),
        share=share,
    )
    count = usable_workers(workers, len(plan.batches), processes=local_processes, for_gpu=for_gpu)
    largest = largest_batch(plan.batches, plan.shapes, shard)
    require_shared_memory(largest, count, local_processes)
    times = SampleTimes(count)
    is_cached = not isinstance(images, FileImages)
    images = images if is_cached else TimedImages(images, times)
    neighbourhood = 0
    if hyp.mosaic > 0:
        batches = max(mosaic_batches or 0, math.ceil(MIN_NEIGHBOURHOOD / batch_size))
        neighbourhood = batches * batch_size
        if not is_cached:
            room = MAX_RECENT_BYTES // (CHANNELS * image_size**2)
            images = RecentImages(images, min(neighbourhood, max(room, MOSAIC_TILES)))
    dataset = TrainDataset(index, images, plan.shapes, seed, hyp)
    sampler = EpochSampler(plan.batches, seed, rect, neighbourhood, shard)
    return TrainLoader(dataset, sampler, workers=count, for_gpu=for_gpu, times=times)
