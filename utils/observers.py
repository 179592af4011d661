"""What looks on while a run trains: validation, and pictures of the first batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from models.detector import Detector
from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.evaluation.evaluate import Evaluation, evaluate
from utils.evaluation.report import log_table
from utils.plots.images import save_batch_grid
from utils.solver.schedule import BASE, Plan
from utils.training_state import TrainingState

PICTURED_BATCHES = 3


class Figures(NamedTuple):
    """What was measured of a state; None what was not."""

    ema: Evaluation | None
    """Of the averaged weights, which are the run's result."""
    raw: Evaluation | None
    """Of the weights themselves, which show what the learning rate does before the average does."""


@dataclass(frozen=True)
class Validator:
    """Validates a state: the averaged weights, and around seams the raw ones too."""

    batches: Iterable[Batch]
    names: Sequence[str]
    loss: DetectionLoss
    device: torch.device
    plan: Plan
    seam_epochs: int
    """Epochs after a seam in which the raw weights are validated."""
    only_last: bool
    """Validate nothing but the last epoch."""

    def after_epoch(self, state: TrainingState) -> Figures:
        """Measure the epoch that was just trained and is about to be counted."""
        if self.only_last and state.epoch + 1 < self.plan.total_epochs:
            return Figures(None, None)
        segment = self.plan.segment_at(state.epoch)
        near = segment.mode != BASE and state.epoch - segment.start < self.seam_epochs
        ema = self._judge(state.ema.model)
        log_table(ema)
        if not near:
            return Figures(ema, None)
        raw = self._judge(state.model)
        log_table(raw, label="raw weights")
        return Figures(ema, raw)

    def before_first_step(self, state: TrainingState) -> Figures:
        """Measure a restored state, so that it can be compared with what was saved."""
        if self.only_last:
            return Figures(None, None)
        return Figures(self._judge(state.ema.model), self._judge(state.model))

    def _judge(self, model: Detector) -> Evaluation:
        return evaluate(model, self.batches, names=self.names, device=self.device, loss=self.loss)


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
