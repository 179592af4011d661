"""The optimizers, one record each; imports no torch.

To add an optimizer, add a record to `OPTIMIZER_KINDS`; no other file changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from utils.errors import UserError

ADAM_BETA2 = 0.999

Settings = Callable[[float], dict[str, Any]]  # keyword arguments of the torch class


def _betas(momentum: float) -> dict[str, object]:
    return {"betas": (momentum, ADAM_BETA2)}


@dataclass(frozen=True)
class OptimizerKind:
    """Definition of one optimizer."""

    name: str
    """Name on the command line, in checkpoints and in torch.optim."""
    momentum: Settings
    """Returns the parameter-group entries for a momentum; they are updated before every step."""
    extra: Settings = lambda _momentum: {}
    """Returns further arguments of the torch class for the momentum after the warm-up."""
    buffer: str | None = None
    """Buffer that identifies this optimizer in a YOLOv5 checkpoint whose options do not name it."""
    flag: str | None = None
    """YOLOv5's option for this optimizer before YOLOv5 had `--optimizer`."""


OPTIMIZER_KINDS = (
    OptimizerKind(
        "SGD",
        momentum=lambda momentum: {"momentum": momentum},
        extra=lambda momentum: {"nesterov": momentum > 0},
    ),
    OptimizerKind("Adam", momentum=_betas, buffer="exp_avg", flag="adam"),
    OptimizerKind("AdamW", momentum=_betas, buffer="exp_avg"),
)
"""In display order; the first is the default."""

OPTIMIZERS = tuple(kind.name for kind in OPTIMIZER_KINDS)
DEFAULT_OPTIMIZER = OPTIMIZERS[0]


def optimizer_kind(name: str) -> OptimizerKind:
    """Return the optimizer of that name.

    Raises:
        UserError: unknown optimizer.
    """
    for kind in OPTIMIZER_KINDS:
        if kind.name == name:
            return kind
    raise UserError(f"--optimizer {name}: choose one of {', '.join(OPTIMIZERS)}.")


def optimizer_from_buffers(buffers: Collection[str], named: object = None) -> str | None:
    """Return the optimizer that YOLOv5's buffers belong to; None if they identify none.

    Args:
        buffers: names of the buffers.
        named: optimizer in the run's options; it decides between optimizers with equal buffers.
    """
    found = [kind.name for kind in OPTIMIZER_KINDS if kind.buffer in buffers]
    return next((name for name in found if name == named), next(iter(found), None))


def optimizer_from_flags(options: Mapping[str, object]) -> str | None:
    """Return the optimizer that a flag in YOLOv5's options selects; None if no flag is set."""
    return next((k.name for k in OPTIMIZER_KINDS if k.flag and options.get(k.flag)), None)
