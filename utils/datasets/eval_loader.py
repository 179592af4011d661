"""Loader for evaluation: every image once, in batches of similar shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
from torch.utils.data import Sampler

from utils.datasets.batch_loader import batch_loader, largest_batch, require_shared_memory
from utils.datasets.dataset import Batch, EvalDataset
from utils.datasets.image_cache import CacheKind, Share, open_image_store
from utils.datasets.index import Index, read_threads
from utils.datasets.rect_batches import plan_batches
from utils.datasets.workers import usable_workers


class EvalLoader:
    """Yields all batches, or the parts of them that belong to one of several processes.

    Only one iteration can be active.

    Args:
        dataset: makes the batches.
        batches: the data-set indices of each batch.
        workers: number of worker processes.
        for_gpu: see `build_eval_loader`.
    """

    def __init__(
        self, dataset: EvalDataset, batches: list[list[int]], workers: int, *, for_gpu: bool
    ) -> None:
        self._dataset = dataset
        self._batches = batches
        self._requests = _Requests(batches)
        self._loader = batch_loader(dataset, self._requests, workers, pin_memory=for_gpu)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        """Yield whole batches."""
        return self._iterate(self._batches)

    def _iterate(self, requests: list[list[int]]) -> Iterator[Batch]:
        self._requests.indices = requests
        yield from self._loader

    def share(
        self, rank: int, processes: int, images_in_part: Callable[[int, int], int]
    ) -> EvalShare:
        """Return the parts of the batches that belong to a process.

        The parts are numbered; the first process gets every n-th of them, from the first on.

        Args:
            rank: number of the process, from 0 on.
            processes: number of processes, n.
            images_in_part: largest number of images in a part, by height and width in pixels.
        """
        parts, batch_of = [], []
        for number, batch in enumerate(self._batches):
            height, width = self._dataset.shapes[batch[0]].tolist()
            size = images_in_part(height, width)
            found = [batch[start : start + size] for start in range(0, len(batch), size)]
            parts += found
            batch_of += [number] * len(found)
        return EvalShare(self, parts[rank::processes], batch_of)


@dataclass(frozen=True)
class EvalShare:
    """The parts of the batches that belong to one process."""

    _loader: EvalLoader
    _parts: list[list[int]]
    batch_of: Sequence[int]
    """The number of the batch of each part, for the parts of all processes."""

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Batch]:
        return self._loader._iterate(self._parts)


@dataclass(eq=False)
class _Requests(Sampler[list[int]]):
    """The requests of the next iteration; worker processes persist when they change."""

    indices: list[list[int]]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.indices)


def build_eval_loader(  # noqa: PLR0913 -- one argument per option of the command line
    index: Index,
    *,
    image_size: int,
    batch_size: int,
    workers: int | None,
    rect: bool = True,
    pad: float = 0.5,
    stride: int = 32,
    cache: CacheKind | None = None,
    every: int = 1,
    share: Share | None = None,
    local_processes: int = 1,
    for_gpu: bool = False,
) -> EvalLoader:
    """Build the loader for evaluation; it yields every image once, or every n-th with `every`.

    The longer side of the images becomes `image_size`, px. With `rect`, images are sorted by aspect
    ratio, and a batch is letterboxed to the smallest common shape, after adding `pad` strides;
    otherwise to squares. The other arguments are those of `loader.build_train_loader`.
    """
    sizes = index.sizes[::every]
    plan = plan_batches(sizes, batch_size, image_size, rect=rect, stride=stride, pad=pad)
    images = open_image_store(
        index,
        image_size,
        shrink_interpolation=cv2.INTER_AREA,
        cache=cache,
        threads=read_threads(workers),
        share=share,
    )
    count = usable_workers(workers, len(plan.batches), processes=local_processes, for_gpu=for_gpu)
    require_shared_memory(largest_batch(plan.batches, plan.shapes), count, local_processes)
    batches = [(batch * every).tolist() for batch in plan.batches]
    shapes = plan.shapes.repeat(every, axis=0)  # by data-set index
    return EvalLoader(EvalDataset(index, images, shapes), batches, count, for_gpu=for_gpu)
