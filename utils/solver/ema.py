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
        state = self.model.state_dict()
        self._averages = {n: tensor for n, tensor in state.items() if tensor.is_floating_point()}
        self._counters = {n: tensor for n, tensor in state.items() if n not in self._averages}

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Take in the weights after one optimizer step; counters (integers) are copied."""
        self.updates += 1
        new_weight = 1 - ema_decay(self.updates)
        current = model.state_dict()
        values = [current[name] for name in self._averages]
        torch._foreach_lerp_(list(self._averages.values()), values, new_weight)
        if self._counters:
            counts = [current[name] for name in self._counters]
            torch._foreach_copy_(list(self._counters.values()), counts)

    def restore(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Take up an average that was saved."""
        self.model.load_state_dict(dict(weights))
        self.updates = updates
