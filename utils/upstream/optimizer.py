"""Assigns parameter names to the numbered optimizer state of an upstream file.

Upstream's optimizer has three groups, filled in the order of the modules: biases, weights of other
layers (the only ones with weight decay) and weights of normalization layers. v6.2 and later use
this order; v5.0 to v6.1 use norm weights, weights, biases. torch numbers the parameters
consecutively across the groups.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from utils.checkpoint.pickle_records import DAMAGE_ERRORS, require_type
from utils.errors import UserError
from utils.upstream.reader import UpstreamCheckpoint

GROUP_ORDERS = (("bias", "weight", "norm"), ("norm", "weight", "bias"))


class NamedGroup(NamedTuple):
    """One parameter group of an upstream optimizer."""

    kind: str
    """`bias`, `weight` or `norm`."""
    settings: dict[str, object]
    """lr, initial_lr, momentum, weight_decay and so on; without the parameter numbers."""
    state: dict[str, dict[str, object]]
    """State such as {"momentum_buffer": Tensor}, by parameter name; {} before the first step."""

    def number(self, setting: str) -> float | None:
        """Return a setting as a number; None if the group does not have it.

        Raises:
            UserError: it is not a number.
        """
        value = self.settings.get(setting)
        if value is None or isinstance(value, int | float):
            return value
        raise UserError(
            f"the checkpoint is damaged (optimizer setting {setting} is {value!r}, not a number); "
            "use another checkpoint."
        )


def name_optimizer_state(checkpoint: UpstreamCheckpoint) -> tuple[NamedGroup, ...]:
    """Return the optimizer's groups in the order of the file, with their state by parameter name.

    Raises:
        UserError: the file has no optimizer, or its groups do not match the model.
    """
    optimizer = checkpoint.optimizer
    if optimizer is None:
        raise UserError(
            "the checkpoint was stripped of its optimizer; use an unstripped checkpoint."
        )
    kinds = checkpoint.parameter_kinds
    members = {kind: [name for name in kinds if kinds[name] == kind] for kind in GROUP_ORDERS[0]}
    try:
        for order in GROUP_ORDERS:
            named = _name_groups(optimizer, members, order)
            if named and _fits(named, checkpoint):
                return named
    except DAMAGE_ERRORS as error:
        raise UserError(
            f"the checkpoint is damaged (unreadable optimizer state: {error}); "
            "use another checkpoint."
        ) from error
    raise UserError(
        "the checkpoint is damaged (its optimizer does not match its model); "
        "use another checkpoint."
    )


def _name_groups(
    optimizer: dict[str, object], members: dict[str, list[str]], order: tuple[str, ...]
) -> tuple[NamedGroup, ...]:
    """Return the groups for an assumed order; () if their sizes do not match."""
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


def _fits(groups: tuple[NamedGroup, ...], checkpoint: UpstreamCheckpoint) -> bool:
    """Return whether every buffer, except scalar counters, has the shape of its parameter."""
    return all(
        buffer.shape == checkpoint.model_state[name].shape
        for group in groups
        for name, state in group.state.items()
        for buffer in state.values()
        if isinstance(buffer, Tensor) and buffer.dim() > 0
    )
