"""Converts weights and optimizer state of an upstream file to our format.

Upstream's optimizer has three groups, filled in the order of the modules: biases, weights of other
layers (the only ones with weight decay) and weights of normalization layers. v6.2 and later use
this order; v5.0 to v6.1 use norm weights, weights, biases. torch numbers the parameters
consecutively across the groups.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.detector import Detector
from models.spec import ModelSpec
from utils.checkpoint.pickle_records import DAMAGE_ERRORS, require_type
from utils.errors import UserError
from utils.upstream.reader import UpstreamCheckpoint, optional_number

GROUP_ORDERS = (("bias", "weight", "norm"), ("norm", "weight", "bias"))


def fp32_state(state: dict[str, Tensor], spec: ModelSpec, path: Path) -> dict[str, Tensor]:
    """Return the tensors of our model, in its order and dtypes; drop all others.

    Raises:
        UserError: a tensor of the model is missing or has another shape.
    """
    own = Detector(spec).state_dict()
    absent = [name for name in own if name not in state or state[name].shape != own[name].shape]
    if absent:
        raise UserError(
            f"{path} lacks {len(absent)} tensors of its model ({absent[0]}, …); "
            "use another checkpoint."
        )
    return {name: state[name].to(own[name].dtype) for name in own}


class OptimizerState(NamedTuple):
    """State of an upstream optimizer; None and {} if the file was stripped of it."""

    lr: float | None
    """Learning rate of the last epoch, without warm-up."""
    initial_lr: float | None
    momentum: float | None
    """None for Adam, too."""
    buffers: dict[str, dict[str, Tensor]]
    """Buffers such as `momentum_buffer`, fp32, by parameter name; frozen parameters have none."""


def optimizer_state(content: UpstreamCheckpoint) -> OptimizerState:
    """Return the settings of the optimizer's groups, and its buffers by parameter name.

    Raises:
        UserError: it is damaged, or its groups do not match the model.
    """
    if content.optimizer is None:
        return OptimizerState(None, None, None, {})
    try:
        for order in GROUP_ORDERS:
            buffers = _buffers_by_name(content, content.optimizer, order)
            if buffers is not None and _fit(buffers, content.model_state):
                first = content.optimizer["param_groups"][0]
                return OptimizerState(
                    lr=optional_number(first.get("lr")),
                    initial_lr=optional_number(first.get("initial_lr")),
                    momentum=optional_number(first.get("momentum")),
                    buffers=buffers,
                )
    except DAMAGE_ERRORS as error:
        raise UserError(
            f"the checkpoint is damaged (unreadable optimizer state: {error}); "
            "use another checkpoint."
        ) from error
    raise UserError(
        "the checkpoint is damaged (its optimizer does not match its model); "
        "use another checkpoint."
    )


def _buffers_by_name(
    content: UpstreamCheckpoint, optimizer: dict[str, Any], order: tuple[str, ...]
) -> dict[str, dict[str, Tensor]] | None:
    """Return the buffers for an assumed order of the groups; None if their sizes do not match."""
    kinds, states = content.parameter_kinds, require_type(optimizer["state"], dict)
    members = [[name for name in kinds if kinds[name] == kind] for kind in order]
    numbers = [require_type(group["params"], list) for group in optimizer["param_groups"]]
    if list(map(len, members)) != list(map(len, numbers)):
        return None
    found = {}
    for name, number in zip(chain(*members), chain(*numbers), strict=True):
        buffers = {
            key: value.float() if isinstance(value, Tensor) else torch.tensor(float(value))
            for key, value in require_type(states.get(number, {}), dict).items()
            if value is not None
        }
        if buffers:
            found[name] = buffers
    return found


def _fit(buffers: dict[str, dict[str, Tensor]], weights: dict[str, Tensor]) -> bool:
    """Return whether every buffer, except scalar counters, has the shape of its parameter."""
    return all(
        buffer.shape == weights[name].shape
        for name, state in buffers.items()
        for buffer in state.values()
        if buffer.dim() > 0
    )
