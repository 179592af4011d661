"""What a training step and an epoch have come to, so far as the host has read it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from utils.errors import UserError
from utils.history import LOSS_NAMES
from utils.runtime.device import HostCopy

log = logging.getLogger("yolo")


@dataclass
class EpochProgress:
    """The progress within the current epoch; the defaults mean that none is under way."""

    batches: int = 0
    """Batches processed, including skipped ones."""
    counted: int = 0
    """Batches whose loss is in the sum."""
    losses: Tensor = field(default_factory=lambda: torch.zeros(len(LOSS_NAMES)))
    """Sum of box, objectness and class loss, [3]."""
    pending: int = 0
    """Batches whose gradients are accumulated but not yet applied; 0 at the end of an epoch."""
    skipped: int = 0
    """Batches skipped because their loss or gradient was not finite."""

    def add(self, losses: Tensor) -> None:
        """Add the losses [3] of a batch."""
        self.losses = self.losses + losses
        self.counted += 1

    def mean_losses(self) -> list[float]:
        """Mean box, objectness and class loss so far; NaN if no batch was counted."""
        means: list[float] = (self.losses / self.counted).tolist()
        return means


class StepSource(NamedTuple):
    """The batch of a step, for messages."""

    batch: int
    """Number in its epoch."""
    epoch: int
    files: tuple[str, ...]
    """The images of this process."""
    max_bad_steps: int
    """See `TrainContext`."""

    def report(self, consecutive: int, what: str) -> None:
        """Log a skipped step.

        Raises:
            UserError: after too many consecutive ones.
        """
        log.warning("Skipped batch %d of epoch %d: its %s is not finite.", *self[:2], what)
        if consecutive >= self.max_bad_steps:
            raise UserError(
                f"{consecutive} consecutive steps had a non-finite {what}, the last with "
                f"{', '.join(self.files)}; check these images and labels, or lower lr0 in the hyp "
                "file. No optimizer step used these batches."
            )


class StepOutcome(NamedTuple):
    """The outcome of an optimizer step, which the host reads one step later."""

    values: HostCopy
    """Box, objectness and class loss of the batch; 1 if losses and statistics are finite, else 0; 1
    if the gradient is; the loss scale; the votes of all processes to stop."""
    is_loss_new: bool
    """Whether the losses are still to be checked and added."""
    applied: int
    """Number of batches whose gradients the step applies."""
    source: StepSource
    """The last of these batches."""
