"""Averages of the weights: exponential moving average (EMA), and mean."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

FINAL_DECAY = 0.9999
RAMP_UPDATES = 2000  # updates after which the decay is at 63 % of its final value


def ema_decay(updates: int) -> float:
    """Return the decay in the n-th update, `0.9999 (1 - exp(-n / 2000))`."""
    return FINAL_DECAY * (1 - math.exp(-updates / RAMP_UPDATES))


Model = TypeVar("Model", bound=nn.Module)


class ModelEma(Generic[Model]):
    """A model with EMA weights in fp32, and the number of updates, which sets the decay."""

    def __init__(self, model: Model, updates: int = 0) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.model.zero_grad()  # frees the copies of the gradients
        self.updates = updates
        state = self.model.state_dict()
        self._floats = {name: t for name, t in state.items() if t.is_floating_point()}
        self._integers = {name: t for name, t in state.items() if name not in self._floats}

    @torch.no_grad()
    def update(self, model: Model, replaced: Mapping[str, Tensor] | None = None) -> None:
        """Update the EMA weights after an optimizer step; integer tensors are copied.

        Args:
            model: the model after the step.
            replaced: tensors to use in the place of the model's, by name.
        """
        self.updates += 1
        new_weight = self._new_weight()
        current = model.state_dict() | dict(replaced or {})
        values = [current[name] for name in self._floats]
        torch._foreach_lerp_(list(self._floats.values()), values, new_weight)
        if self._integers:
            integers = [current[name] for name in self._integers]
            torch._foreach_copy_(list(self._integers.values()), integers)

    def _new_weight(self) -> float:
        """The weight of the current model in this update."""
        return 1 - ema_decay(self.updates)

    def restore(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Load saved EMA weights and the number of updates."""
        self.model.load_state_dict(dict(weights))
        self.updates = updates


class WeightAverage(ModelEma[Model]):
    """The mean of all models that it was updated with, in fp32, and their number.

    Stochastic weight averaging (Izmailov et al. 2018, arXiv 1803.05407) updates it at the end of
    epochs; the mean of only the latest ones also helps while the rate decays (Kaddour 2022, arXiv
    2209.14981).
    """

    def _new_weight(self) -> float:
        return 1 / self.updates
