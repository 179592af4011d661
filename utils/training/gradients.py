"""The gradients of a model in one flat buffer, and their sums over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from utils.runtime.distributed import Distributed

BUCKET_BYTES = 25 << 20
MAX_BUCKETS = 3


@dataclass
class _Bucket:
    """Gradients of consecutive parameters, summed together."""

    parameters: list[nn.Parameter]
    gradients: Tensor
    """The part of the flat buffer, ``[n]``."""
    missing: int = 0
    """Gradients that the backward pass under way has not computed yet."""


class FlatGradients:
    """Makes the gradients of parameters views of one tensor, and keeps them there.

    So one operation zeroes, measures, scales or sums all of them.

    Args:
        parameters: those to train, in the order of the layers; float32, on one device.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        sizes = [parameter.numel() for parameter in parameters]
        device = parameters[0].device if parameters else None
        self.flat = torch.zeros(sum(sizes), device=device)
        """All gradients, ``[n]``."""
        for parameter, part in zip(parameters, self.flat.split(sizes), strict=True):
            # In the memory layout of the parameter, which fused optimizers rely on.
            parameter.grad = part.as_strided(parameter.size(), parameter.stride())
        self._buckets = _buckets(parameters, self.flat)

    @contextmanager
    def summed(self, distributed: Distributed) -> Iterator[None]:
        """Replace the gradients by their sums over all processes when the body is done.

        If there are several buckets, and the body is a backward pass, each is summed as soon as it
        is complete. The last one is the first, because the pass begins with the last layer. Order
        and division are the same in every process and in every step, so that a resumed run computes
        the same sums. (torch's DistributedDataParallel divides them again after its first step.)
        """
        if distributed.world_size == 1:
            yield
            return
        left = [*self._buckets]
        waits: list[Callable[[], None]] = []

        def start(bucket: _Bucket, _: Tensor) -> None:
            bucket.missing -= 1
            while left and left[-1].missing <= 0:
                waits.append(distributed.start_sum(left.pop().gradients))

        hooks = []
        for bucket in self._buckets if len(self._buckets) > 1 else ():
            bucket.missing = len(bucket.parameters)
            hook = partial(start, bucket)
            hooks += [p.register_post_accumulate_grad_hook(hook) for p in bucket.parameters]
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()
        waits += [distributed.start_sum(bucket.gradients) for bucket in reversed(left)]
        for wait in waits:
            wait()


def _buckets(parameters: Sequence[nn.Parameter], flat: Tensor) -> list[_Bucket]:
    """Divide parameters into one to three buckets of about equal size, of at least 25 MiB."""
    count = min(max(flat.nbytes // BUCKET_BYTES, 1), MAX_BUCKETS)
    buckets: list[list[nn.Parameter]] = [[] for _ in range(count)]
    position = 0
    for parameter in parameters:
        buckets[min(position * count // max(len(flat), 1), count - 1)].append(parameter)
        position += parameter.numel()
    sizes = [sum(parameter.numel() for parameter in bucket) for bucket in buckets]
    return [_Bucket(*pair) for pair in zip(buckets, flat.split(sizes), strict=True)]
