"""What looks on while a run trains: validation, and pictures of what it trains on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.detector import Detector
from utils.background import Background
from utils.datasets.dataset import Batch
from utils.errors import RunInterruptedError
from utils.evaluation.evaluate import Evaluation, Observer
from utils.evaluation.judge import Judge, Judgement
from utils.evaluation.miss_rate import MissRate, log_miss_rates
from utils.evaluation.report import log_table
from utils.interrupts import Interrupts
from utils.options import TrainOptions
from utils.plots.images import save_batch_grid
from utils.processes import Processes
from utils.solver.schedule import BASE, Plan
from utils.training_state import TrainingState

log = logging.getLogger("yolo")

PICTURED_BATCHES = 3


class Figures(NamedTuple):
    """What was measured of a state; None what was not."""

    ema: Evaluation | None
    """Of the averaged weights, which are the run's result."""
    raw: Evaluation | None
    """Of the weights themselves, which show what the learning rate does before the average does."""
    miss_rates: tuple[MissRate, ...] = ()
    """Of the averaged weights, where the data set has a ground truth for them."""


@dataclass(frozen=True)
class Validator:
    """Validates a state: the averaged weights, and around seams the raw ones too.

    The first process does it, and tells the others what it found.
    """

    judge: Judge
    plan: Plan
    options: TrainOptions
    """When to validate what: `noval`, `seam_epochs`."""
    processes: Processes
    interrupts: Interrupts

    def after_epoch(self, state: TrainingState) -> Figures:
        """Measure the epoch that was just trained and is about to be counted.

        Raises:
            RunInterruptedError: a signal came meanwhile; the epoch is to be measured anew.
        """
        return self._agreed(self._figures, state)

    def _agreed(self, measure: Callable[[TrainingState], Figures], state: TrainingState) -> Figures:
        """What the first process finds, told to all, be it that it was asked to stop."""
        found: Figures | RunInterruptedError | None = None
        if self.processes.first:
            try:
                found = measure(state)
            except RunInterruptedError as stop:
                found = stop
        found = self.processes.from_first(found)
        if isinstance(found, Figures):
            return found
        raise found or AssertionError("the first process found nothing")

    def _figures(self, state: TrainingState) -> Figures:
        if self.options.noval and state.epoch + 1 < self.plan.total_epochs:
            return Figures(None, None)
        ema, miss_rates = self.judged(state.ema.model)
        log_table(ema)
        if miss_rates:
            log_miss_rates(miss_rates)
        if not self._near_a_seam(state.epoch):
            return Figures(ema, None, miss_rates)
        raw = self.judged(state.model).evaluation
        log_table(raw, label="raw weights")
        return Figures(ema, raw, miss_rates)

    def judged(self, model: Detector, observers: Sequence[Observer] = ()) -> Judgement:
        """What is found of a model, by this process.

        Raises:
            RunInterruptedError: a signal came meanwhile.
        """
        return self.judge(model, [*observers, self.interrupts.check_own])

    def _near_a_seam(self, epoch: int) -> bool:
        """Whether an epoch is the last before a seam, or one of the first after it."""
        return any(
            -1 <= epoch - segment.start < self.options.seam_epochs
            for segment in self.plan.segments
            if segment.mode != BASE
        )

    def before_first_step(self, state: TrainingState) -> Figures:
        """Measure a restored state, so that it can be compared with what was saved.

        Raises:
            RunInterruptedError: a signal came meanwhile.
        """
        return self._agreed(self._figures_of_both, state)

    def _figures_of_both(self, state: TrainingState) -> Figures:
        if self.options.noval:
            return Figures(None, None)
        ema, miss_rates = self.judged(state.ema.model)
        raw = self.judged(state.model).evaluation
        return Figures(ema, raw, miss_rates)


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


class LabelsPicture:
    """Draws the labels of the training data, once: when a step is made, which need not wait for it.

    Args:
        folder: receives labels.jpg.
        boxes: [n, 5] class, centre x and y, width, height; shares of the image.
        names: class names by index.
        background: draws it.
        wanted: whether to draw at all.
    """

    def __init__(
        self,
        folder: Path,
        boxes: np.ndarray,
        names: Sequence[str],
        background: Background,
        *,
        wanted: bool,
    ) -> None:
        self._folder = folder
        self._boxes = boxes
        self._names = names
        self._background = background
        self._wanted = wanted

    def __call__(self, _: TrainingState) -> None:
        """Draw it in the background at the first call."""
        if self._wanted:
            self._wanted = False
            self._background.do(self._draw)

    def _draw(self) -> None:
        from utils.plots.label_statistics import save_labels_plot  # and matplotlib

        try:
            save_labels_plot(self._boxes, self._names, self._folder / "labels.jpg")
        except OSError as error:  # which must not be told to whoever saves a checkpoint next
            log.warning("labels.jpg is not drawn: %s", error)
