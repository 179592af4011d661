"""Gives the numbered optimizer state of an upstream file its parameter names back.

Upstream's optimizer has three groups, filled in the order of the modules: biases, weights of the
other layers (the only ones with weight decay) and weights of normalisation layers. v6.2 and later
write them in this order, v5.0 to v6.1 as norm weights, weights, biases. torch numbers the
parameters through the groups.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from utils.checkpoint.pickle_records import DAMAGE, require_type
from utils.errors import UserError
from utils.upstream.reader import UpstreamCheckpoint

GROUP_ORDERS = (("bias", "weight", "norm"), ("norm", "weight", "bias"))


class NamedGroup(NamedTuple):
    """One parameter group of an upstream optimizer."""

    kind: str
    """bias, weight or norm."""
    settings: dict[str, object]
    """lr, initial_lr, momentum, weight_decay, …; without the parameter numbers."""
    state: dict[str, dict[str, object]]
    """Of each parameter by name, such as {"momentum_buffer": Tensor}; {} before a first step."""

    def number(self, setting: str) -> float | None:
        """A setting as a number; None if the group has none.

        Raises:
            UserError: it is something else.
        """
        value = self.settings.get(setting)
        if value is None or isinstance(value, int | float):
            return value
        raise UserError(f"the checkpoint's optimizer has the {setting} {value!r}, not a number.")


def name_optimizer_state(checkpoint: UpstreamCheckpoint) -> tuple[NamedGroup, ...]:
    """The groups of a checkpoint's optimizer in the file's order, with names for numbers.

    Raises:
        UserError: the file has no optimizer, or its groups are not those of the model.
    """
    optimizer = checkpoint.optimizer
    if optimizer is None:
        raise UserError(
            "the checkpoint was stripped of its optimizer; there is no state to go on from."
        )
    members = _members_by_kind(checkpoint)
    try:
        for order in GROUP_ORDERS:
            named = _name_groups(optimizer, members, order)
            if named and _fits(named, checkpoint):
                return named
    except DAMAGE as error:
        raise UserError(f"the checkpoint's optimizer state is not readable: {error}.") from error
    raise UserError(
        "the checkpoint's optimizer does not belong to its model; its state cannot be named."
    )


def _name_groups(
    optimizer: dict[str, object], members: dict[str, list[str]], order: tuple[str, ...]
) -> tuple[NamedGroup, ...]:
    """The groups, were they in the given order; () if there are not as many members in each."""
    groups = [require_type(group, dict) for group in require_type(optimizer["param_groups"], list)]
    numbers = [require_type(group["params"], list) for group in groups]
    state = require_type(optimizer["state"], dict)
    if [len(members[kind]) for kind in order] != [len(group) for group in numbers]:
        return ()
    return tuple(
        NamedGroup(
            kind=kind,
            settings={key: value for key, value in group.items() if key != "params"},
            state={
                name: require_type(state.get(number, {}), dict)
                for name, number in zip(members[kind], group["params"], strict=True)
            },
        )
        for kind, group in zip(order, groups, strict=True)
    )


def _members_by_kind(checkpoint: UpstreamCheckpoint) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {"bias": [], "weight": [], "norm": []}
    for name in checkpoint.parameter_names:
        if name.endswith(".bias"):
            members["bias"].append(name)
        else:
            members["norm" if name in checkpoint.norm_parameters else "weight"].append(name)
    return members


def _fits(groups: tuple[NamedGroup, ...], checkpoint: UpstreamCheckpoint) -> bool:
    """Every buffer that is not a counter has the shape of its parameter."""
    return all(
        buffer.shape == checkpoint.model_state[name].shape
        for group in groups
        for name, state in group.state.items()
        for buffer in state.values()
        if isinstance(buffer, Tensor) and buffer.dim() > 0
    )
