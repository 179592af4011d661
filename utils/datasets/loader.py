"""Loaders: which images form a batch, in which order, and the processes that prepare them."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from utils.datasets.augment_params import MOSAIC_TILES, AugmentRanges
from utils.datasets.dataset import Batch, BatchRequest, EvalSet, Failure, TrainSet
from utils.datasets.image_cache import CHANNELS, CacheKind, FileImages, RecentImages, open_images
from utils.datasets.index import Index
from utils.datasets.rect_batches import rectangular_batches, square_batches
from utils.datasets.workers import signals_held, start_worker, usable_workers
from utils.errors import UserError
from utils.hyp import Hyp

log = logging.getLogger("yolo")

ORDER_TAG = 1 << 31
"""Stands where samples have their index, and no data set has that many: another stream of dice."""
NEIGHBOURHOOD = 64
"""Images of an epoch's order, at least, among which mosaics find their partners."""
RECENT_BYTES = 256_000_000
"""Of images that each process keeps for the mosaics that show them next: 208 of 640 px."""
NICENESS = 5
"""Of training's workers where the processors that they run on also train: training goes first."""


class Shard(NamedTuple):
    """Which images of every batch are this process's: number `rank` and every `of`-th after."""

    rank: int = 0
    of: int = 1


WHOLE_SHARD = Shard()


class EpochSampler(Sampler[BatchRequest]):
    """The batches of one epoch, in an order of that epoch's own.

    The order is cut into neighbourhoods of equally many images, the last of which reaches back;
    each batch lies in one, and its mosaics take their other images from there. So an image that
    was loaded for its own sample is soon used again. Measured with neighbourhoods of 64 images and
    batches of 16, 0.99 images are decoded for a sample with one worker or none, 1.7 with two and
    2.4 with four or more, as each worker then makes but one batch of a neighbourhood; from
    everywhere they would be 3.6. What it costs: such a batch shows 39 different images rather than
    56, and those that come together in mosaics do so for the whole neighbourhood.

    Args:
        batches: data-set indices of each batch, before shuffling; all but the last of equal size.
        seed: of the run.
        keep_together: shuffle whole batches instead of images, for they differ in shape.
        neighbourhood: images of one, a multiple of the batch size; 0 if nobody asks for neighbours.
        shard: of every batch. Of a batch with too few images for all processes, those without get
            its first one, so that they have something to do; `counts` tells them apart.
    """

    def __init__(
        self,
        batches: Sequence[np.ndarray],
        *,
        seed: int,
        keep_together: bool,
        neighbourhood: int = 0,
        shard: Shard = WHOLE_SHARD,
    ) -> None:
        self._batches = batches
        self._seed = seed
        self._keep_together = keep_together
        self._neighbourhood = neighbourhood
        self._part = shard
        self._epoch = 0
        self._start = 0

    def __len__(self) -> int:
        return len(self._batches)

    def seek(self, epoch: int, start: int) -> None:
        """Let the next iteration yield the batches of `epoch` from number `start` on."""
        self._epoch = epoch
        self._start = start

    def __iter__(self) -> Iterator[BatchRequest]:
        batches = self.order()
        images = np.concatenate(batches)
        for number, batch in enumerate(batches[self._start :], self._start):
            own = batch[self._part.rank :: self._part.of]
            indices = own if len(own) else batch[:1]
            neighbours = self._neighbours(images, number * len(batches[0]))
            yield BatchRequest(self._epoch, indices.tolist(), neighbours)

    def counts(self) -> list[bool]:
        """Of each batch that the next iteration yields, whether it has images of this process."""
        return [len(batch) > self._part.rank for batch in self.order()[self._start :]]

    def order(self) -> list[np.ndarray]:
        """The whole batches of the epoch, all processes' parts together: data-set indices."""
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, self._epoch, ORDER_TAG]))
        batches = self._batches
        if self._keep_together:
            return [batches[i] for i in rng.permutation(len(batches))]
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        return np.split(rng.permutation(np.concatenate(batches)), ends)

    def _neighbours(self, images: np.ndarray, position: int) -> np.ndarray:
        """The neighbourhood of a position among the images in the epoch's order."""
        size = self._neighbourhood
        first = min(position // size * size, max(len(images) - size, 0)) if size else 0
        return images[first : first + size]


class BatchLoader(DataLoader["Batch | Failure"]):
    """A DataLoader of batches that raises what its workers report in the user's words.

    Raises:
        UserError: while iterating, when an image has become unusable.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override] # no failures
        with signals_held():  # until a worker has made up its mind about them
            batches = super().__iter__()
        for batch in batches:
            if isinstance(batch, Failure):
                raise UserError(batch.sentence)
            yield batch


class TrainLoader:
    """The batches of every epoch, from any batch on; the workers live on between epochs."""

    def __init__(self, dataset: TrainSet, sampler: EpochSampler, *, workers: int) -> None:
        self.dataset = dataset
        self._sampler = sampler
        niceness = 0 if torch.cuda.is_available() else NICENESS
        self._loader = _batch_loader(dataset, sampler, workers, niceness)

    def __len__(self) -> int:
        """Batches of an epoch; the last may be smaller than the others."""
        return len(self._sampler)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on, as they would be without the ones before.

        One epoch is read at a time: asking for another ends the one before.
        """
        self._sampler.seek(epoch, start)
        for batch, counts in zip(self._loader, self._sampler.counts(), strict=True):
            if counts:
                yield batch
            else:
                yield batch._replace(
                    targets=batch.targets[:0],
                    indices=batch.indices[:0],
                    ignored=batch.ignored[:0],
                )


def build_train_loader(  # noqa: PLR0913 -- one argument per option of the command line
    index: Index,
    *,
    image_size: int,
    batch_size: int,
    hyp: Hyp,
    seed: int,
    workers: int,
    cache: CacheKind | None,
    augment: bool = True,
    rect: bool = False,
    stride: int = 32,
    shard: Shard = WHOLE_SHARD,
) -> TrainLoader:
    """The loader for training.

    Args:
        index: of the data set.
        image_size: side of the samples, px.
        batch_size: images per batch.
        hyp: the ranges of the augmentation.
        seed: of the run.
        workers: processes; 0 loads in this one. Never more than processors or batches.
        cache: decode and resize all images now, into memory (`ram`) or a file (`disk`).
        augment: False gives plain letterboxed images.
        rect: rectangular batches of similar images, without mosaics.
        stride: of the network, px, for rectangular shapes.
        shard: of every batch, where several processes share the work.
    """
    if hyp.copy_paste > 0:
        log.warning("copy_paste has no effect: it needs outlines of objects, and these are boxes.")
    if rect:
        plan = rectangular_batches(index.sizes, batch_size, image_size, stride=stride, pad=0.0)
    else:
        plan = square_batches(len(index), batch_size, image_size)
    ranges = augment_ranges(hyp) if augment else None
    if ranges is not None and rect:
        ranges = dataclasses.replace(ranges, mosaic=0.0)
    shrinking = cv2.INTER_LINEAR if augment else cv2.INTER_AREA
    workers = usable_workers(workers, len(plan.batches))
    images = open_images(index, image_size, shrinking=shrinking, cache=cache, threads=workers)
    neighbourhood = 0
    if ranges is not None and ranges.mosaic > 0:
        neighbourhood = math.ceil(NEIGHBOURHOOD / batch_size) * batch_size
        if isinstance(images, FileImages):
            room = RECENT_BYTES // (CHANNELS * image_size**2)
            images = RecentImages(images, min(neighbourhood, max(room, MOSAIC_TILES)))
    dataset = TrainSet(index, images, plan.shapes, seed=seed, ranges=ranges)
    sampler = EpochSampler(
        plan.batches, seed=seed, keep_together=rect, neighbourhood=neighbourhood, shard=shard
    )
    return TrainLoader(dataset, sampler, workers=workers)


def build_eval_loader(  # noqa: PLR0913 -- one argument per option of the command line
    index: Index,
    *,
    image_size: int,
    batch_size: int,
    workers: int,
    rect: bool = True,
    pad: float = 0.5,
    stride: int = 32,
    cache: CacheKind | None = None,
) -> BatchLoader:
    """The loader for evaluation: every image once, in rectangular batches unless `rect` is off.

    Args:
        index: of the data set.
        image_size: the longer side of the images, px.
        batch_size: images per batch.
        workers: processes; 0 loads in this one. Never more than processors or batches.
        rect: sort by proportions and letterbox to the least shape; else to squares.
        pad: strides to add to rectangular shapes before rounding up.
        stride: of the network, px.
        cache: decode and resize all images now, into memory (`ram`) or a file (`disk`).
    """
    if rect:
        plan = rectangular_batches(index.sizes, batch_size, image_size, stride=stride, pad=pad)
    else:
        plan = square_batches(len(index), batch_size, image_size)
    workers = usable_workers(workers, len(plan.batches))
    images = open_images(index, image_size, shrinking=cv2.INTER_AREA, cache=cache, threads=workers)
    batches = [batch.tolist() for batch in plan.batches]
    return _batch_loader(EvalSet(index, images, plan.shapes), batches, workers)


def augment_ranges(hyp: Hyp) -> AugmentRanges:
    """What a hyp file says about the augmentation."""
    return AugmentRanges(
        **{field.name: getattr(hyp, field.name) for field in fields(AugmentRanges)}
    )


def _batch_loader(
    dataset: TrainSet | EvalSet,
    batches: EpochSampler | list[list[int]],
    workers: int,
    niceness: int = 0,
) -> BatchLoader:
    """A loader of what the data set makes of each of `batches`."""
    return BatchLoader(
        dataset,
        sampler=batches,
        batch_size=None,  # the data set puts batches together
        collate_fn=_as_it_is,  # type: ignore[arg-type] # gets what the data set gives
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=partial(start_worker, niceness=niceness),
        persistent_workers=workers > 0,
    )


def _as_it_is(batch: Batch | Failure) -> Batch | Failure:
    return batch
