"""Parameter groups, the optimizer over them, and its state by parameter name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.errors import UserError
from utils.solver.optimizers import optimizer_kind
from utils.solver.schedule import StepSettings

NORM_LAYERS = (nn.BatchNorm2d, nn.SyncBatchNorm)
HIDDEN_FROM_COMPILER = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


@dataclass(frozen=True)
class ParameterGroups:
    """Trainable parameters by name, in module order."""

    bias: dict[str, nn.Parameter]
    weight: dict[str, nn.Parameter]
    """The only group with weight decay."""
    norm: dict[str, nn.Parameter]

    @property
    def names(self) -> list[str]:
        """Names in the order in which the optimizer numbers its parameters."""
        return [*self.bias, *self.weight, *self.norm]


def parameter_groups(model: nn.Module) -> ParameterGroups:
    """Split the trainable parameters into biases, decayed weights and norm weights."""
    groups = ParameterGroups({}, {}, {})
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=prefix, recurse=False):
            if not parameter.requires_grad:
                continue
            if name.rpartition(".")[2] == "bias":  # not that of attention, as upstream
                groups.bias[name] = parameter
            elif isinstance(module, NORM_LAYERS):
                groups.norm[name] = parameter
            else:
                groups.weight[name] = parameter
    return groups


def build_optimizer(
    groups: ParameterGroups, name: str, *, lr: float, momentum: float, weight_decay: float
) -> Optimizer:
    """Build the optimizer of that name over the three groups; only the weights decay.

    Raises:
        UserError: all parameters are frozen, or the name is unknown.
    """
    if not groups.names:
        raise UserError("--freeze leaves no parameter to train; freeze fewer layers.")
    members: list[dict[str, Any]] = [  # as torch.optim takes them
        {"params": list(groups.bias.values()), "weight_decay": 0.0},
        {"params": list(groups.weight.values()), "weight_decay": weight_decay},
        {"params": list(groups.norm.values()), "weight_decay": 0.0},
    ]
    kind = optimizer_kind(name)
    build = without_compiler(getattr(torch.optim, kind.name))
    # A fused optimizer can skip a step without asking the host, except on Metal. It ignores the
    # memory layout: parameters, gradients and buffers must have the same.
    fused = next(p for member in members for p in member["params"]).device.type != "mps"
    options = {**kind.momentum(momentum), **kind.extra(momentum), "fused": fused}
    optimizer = build(members, lr=lr, **options)
    _add_momentum(optimizer)
    return optimizer


def _add_momentum(optimizer: Optimizer) -> None:
    """Give SGD the momentum buffers that it lacks; zeros have the effect of none.

    If a fused SGD skips its first step, it leaves them uninitialized otherwise.
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter].setdefault(
                    "momentum_buffer", torch.zeros_like(parameter)
                )


def without_compiler(kind: type[Optimizer]) -> Callable[..., Optimizer]:
    """Return a subclass of the same name without the wrappers that exclude it from torch.compile.

    Torch imports its compiler for these wrappers when the first optimizer is built, which takes two
    seconds. Here steps are never compiled, so the unwrapped methods are used.
    """
    hidden = {name: inspect.unwrap(getattr(kind, name)) for name in HIDDEN_FROM_COMPILER}
    step = torch.no_grad()(inspect.unwrap(kind.step))
    plain: Callable[..., Optimizer] = type(kind.__name__, (kind,), {**hidden, "step": step})
    return plain


def apply_settings(optimizer: Optimizer, settings: StepSettings) -> None:
    """Set the learning rates and the momentum of an optimizer; no other code sets them."""
    momentum = optimizer_kind(type(optimizer).__name__).momentum(settings.momentum)
    for group, rate in zip(optimizer.param_groups, settings.rates, strict=True):
        group.update(momentum, lr=rate)


def optimizer_buffers(optimizer: Optimizer, names: list[str]) -> dict[str, dict[str, Tensor]]:
    """Return the optimizer's state by parameter name, which is independent of the order."""
    state = optimizer.state_dict()["state"]
    return {
        names[index]: {key: value.cpu() for key, value in buffers.items()}
        for index, buffers in state.items()
    }


def restore_buffers(
    optimizer: Optimizer, names: list[str], buffers: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Inverse of `optimizer_buffers`; a parameter without saved buffers starts without state."""
    state = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state["state"] = {
        # New tensors, in which the optimizer writes in place, in the layout of the parameter.
        index: {
            key: torch.empty_like(parameter).copy_(value)
            if value.shape == parameter.shape
            else value.clone()
            for key, value in buffers[name].items()
        }
        for index, (name, parameter) in enumerate(zip(names, parameters, strict=True))
        if name in buffers
    }
    optimizer.load_state_dict(state)
    _add_momentum(optimizer)
