"""Compiling the forward pass of training; torch's compiler is imported only if it is asked for."""

from __future__ import annotations

import torch
from torch import nn

from utils.errors import UserError


def compile_forward(model: nn.Module, device: torch.device, *, any_shape: bool) -> None:
    """Let a model's forward pass be compiled when it is called next.

    Its parameters and their names stay, and a copy of it, such as the average of its weights or
    what is validated, is not compiled. What is computed differs from what it was by rounding.

    Args:
        model: its calls are compiled from now on.
        device: it is on.
        any_shape: make one version for images of any shape, the first that comes being its model,
            instead of one for each shape, which does not depend on those that came before it.

    Raises:
        UserError: this machine lacks what torch compiles with.
    """
    _try_to_compile(device)
    model.compile(dynamic=any_shape)


def _try_to_compile(device: torch.device) -> None:
    """Compile and call the smallest function, before anything is trained or written."""
    try:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.zeros(2, device=device))
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--compile does not work here ({reason}): install a C++ compiler such as g++, and "
            "triton where there is a GPU, or train without it."
        ) from error
