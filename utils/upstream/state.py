"""Converts weights, EMA counter and optimizer state of an upstream file to our format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.detector import Detector
from models.spec import ModelSpec
from utils.errors import UserError
from utils.upstream.optimizer import NamedGroup
from utils.upstream.reader import UpstreamCheckpoint
from utils.upstream.schedule import LastRate


def stripped_parts(content: UpstreamCheckpoint) -> list[str]:
    """Return the names of the parts of the state that the file was stripped of."""
    parts = {
        "optimizer": content.optimizer is None,
        "non-EMA weights": content.ema_state is None,
        "EMA counter": content.ema_updates is None,
        "epoch": content.epoch < 0,
    }
    return [name for name, gone in parts.items() if gone]


def ema_counter(content: UpstreamCheckpoint) -> int | None:
    """Return the number of EMA updates; None if the file has no EMA weights."""
    return content.ema_updates if content.ema_state is not None else None


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


def buffers_by_name(groups: Sequence[NamedGroup]) -> dict[str, dict[str, Tensor]]:
    """Return the optimizer buffers in fp32, by parameter name; frozen parameters have none."""
    return {
        name: {
            key: torch.as_tensor(value, dtype=torch.float32)
            for key, value in state.items()
            if value is not None
        }
        for group in groups
        for name, state in group.state.items()
        if any(value is not None for value in state.values())
    }


def last_rate(groups: Sequence[NamedGroup]) -> LastRate | None:
    """Return the learning rate in the optimizer; None if there is no optimizer."""
    if not groups:
        return None
    lr, initial_lr = groups[0].number("lr"), groups[0].number("initial_lr")
    return LastRate(lr, initial_lr) if lr is not None and initial_lr else None
