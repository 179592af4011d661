"""The optimizers, one record each; imports torch only where one is built.

A new optimizer is a new record in `OPTIMIZER_KINDS` and touches no other file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.errors import UserError

if TYPE_CHECKING:
    from torch.optim import Optimizer

ADAM_BETA2 = 0.999

Settings = Callable[[float], dict[str, Any]]


def _nothing(_momentum: float) -> dict[str, Any]:
    return {}


def _momentum(momentum: float) -> dict[str, Any]:
    return {"momentum": momentum}


def _nesterov(momentum: float) -> dict[str, Any]:
    return {"nesterov": momentum > 0}


def _betas(momentum: float) -> dict[str, Any]:
    return {"betas": (momentum, ADAM_BETA2)}


@dataclass(frozen=True)
class OptimizerKind:
    """What the program knows about one optimizer."""

    name: str
    """As on the command line, in checkpoints and in torch.optim."""
    momentum: Settings
    """How a parameter group holds a momentum; written there before every step."""
    extra: Settings = _nothing
    """Further arguments of the torch class, given the momentum after the warm-up."""
    buffer: str | None = None
    """A buffer that shows this optimizer in a checkpoint of YOLOv5 whose options do not name it."""
    flag: str | None = None
    """The option with which YOLOv5 chose it before it had `--optimizer`."""

    def torch_class(self) -> type[Optimizer]:
        """The class in torch.optim."""
        import torch.optim

        found: type[Optimizer] = getattr(torch.optim, self.name)
        return found


OPTIMIZER_KINDS = (
    OptimizerKind("SGD", momentum=_momentum, extra=_nesterov),
    OptimizerKind("Adam", momentum=_betas, buffer="exp_avg", flag="adam"),
    OptimizerKind("AdamW", momentum=_betas, buffer="exp_avg"),
)
"""In the order in which they are shown; the first is the default."""

OPTIMIZERS = tuple(kind.name for kind in OPTIMIZER_KINDS)
DEFAULT_OPTIMIZER = OPTIMIZERS[0]


def optimizer_kind(name: str) -> OptimizerKind:
    """The record of an optimizer.

    Raises:
        UserError: unknown optimizer.
    """
    for kind in OPTIMIZER_KINDS:
        if kind.name == name:
            return kind
    raise UserError(f"--optimizer {name}: choose one of {', '.join(OPTIMIZERS)}.")


def optimizer_of_buffers(buffers: Collection[str], named: object = None) -> str | None:
    """The optimizer that buffers of YOLOv5 belong to; None where none shows it.

    Args:
        buffers: their names.
        named: what the run's options say; it decides between optimizers with the same buffers.
    """
    found = [kind.name for kind in OPTIMIZER_KINDS if kind.buffer in buffers]
    return next((name for name in found if name == named), next(iter(found), None))


def optimizer_of_flags(options: Mapping[str, Any]) -> str | None:
    """The optimizer that YOLOv5's options chose by a flag; None where none did."""
    return next((k.name for k in OPTIMIZER_KINDS if k.flag and options.get(k.flag)), None)
