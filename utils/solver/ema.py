"""Exponential moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

FINAL_DECAY = 0.9999
RAMP_UPDATES = 2000  # updates in which the decay reaches 63 % of its final value


def ema_decay(updates: int) -> float:
    """Weight of the old average in the n-th update: `0.9999 (1 - exp(-n / 2000))`."""
    return FINAL_DECAY * (1 - math.exp(-updates / RAMP_UPDATES))


Model = TypeVar("Model", bound=nn.Module)


class ModelEma(Generic[Model]):
    """The averaged model, fp32, and the number of updates made, which decides the decay."""

    def __init__(self, model: Model, updates: int = 0) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.updates = updates

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Take in the weights after one optimizer step; counters (integers) are copied."""
        self.updates += 1
        new_weight = 1 - ema_decay(self.updates)
        averages, values = [], []
        current = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                values.append(current[name])
            else:
                average.copy_(current[name])
        torch._foreach_lerp_(averages, values, new_weight)

    def restore(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Take up an average that was saved."""
        self.model.load_state_dict(dict(weights))
        self.updates = updates
