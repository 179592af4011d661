"""Copies batches to a GPU ahead of their use, while it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from utils.datasets.dataset import Batch

Item = TypeVar("Item")
Begun = TypeVar("Begun")


def prefetched(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches with their images on the device, if it is a GPU; otherwise as they are.

    The images of the next batch are copied in a stream of their own. For that they must be in
    pinned memory.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)

    def begin(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            moved = batch._replace(images=batch.images.to(device, non_blocking=True))
            done = torch.cuda.Event()
            done.record()
        return moved, done

    def finish(begun: tuple[Batch, torch.cuda.Event]) -> Batch:
        batch, done = begun
        current = torch.cuda.current_stream(device)
        current.wait_event(done)
        batch.images.record_stream(current)  # its memory is not reused before this stream is done
        return batch

    yield from one_ahead(batches, begin, finish)


def one_ahead(
    items: Iterable[Item], begin: Callable[[Item], Begun], finish: Callable[[Begun], Item]
) -> Iterator[Item]:
    """Yield finished items; each is begun before the one before it is yielded."""
    before: list[Begun] = []
    for item in items:
        before.append(begin(item))
        if len(before) > 1:
            yield finish(before.pop(0))
    yield from map(finish, before)
