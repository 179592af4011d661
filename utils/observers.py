"""What looks on while a run trains: validation after each epoch, pictures of the first batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.evaluation.evaluate import EvalSettings, Evaluation, evaluate
from utils.plots.images import save_batch_grid
from utils.training_state import TrainingState

PICTURED_BATCHES = 3


@dataclass(frozen=True)
class EpochValidator:
    """Validates the averaged weights after an epoch; with `--noval` only after the last one."""

    batches: Iterable[Batch]
    names: Sequence[str]
    loss: DetectionLoss
    device: torch.device
    total_epochs: int
    only_last: bool

    def __call__(self, state: TrainingState) -> Evaluation | None:
        """The figures of the epoch that was just trained, None if it is not validated."""
        if self.only_last and state.epoch + 1 < self.total_epochs:
            return None
        return evaluate(
            state.ema.model,
            self.batches,
            names=self.names,
            device=self.device,
            loss=self.loss,
            settings=EvalSettings(),
        )


@dataclass(frozen=True)
class FirstBatchPictures:
    """Draws the first training batches with their boxes, to be looked at before hours are spent."""

    folder: Path
    names: Sequence[str]
    wanted: bool

    def __call__(self, iteration: int, batch: Batch) -> None:
        """Write train_batch<iteration>.jpg for the first iterations of a run."""
        if self.wanted and iteration < PICTURED_BATCHES:
            save_batch_grid(batch, self.folder / f"train_batch{iteration}.jpg", self.names)
