"""Validation while a run trains, and pictures of what it trains on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.detector import Detector, fuse
from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.datasets.ignore_regions import IgnoreRegions
from utils.errors import RunInterruptedError
from utils.evaluation.citypersons import MissRateEvaluator, PedestrianTarget
from utils.evaluation.evaluate import EvalSettings, Evaluation, Observer, evaluate
from utils.evaluation.miss_rate import MissRate, log_miss_rates
from utils.evaluation.report import log_table
from utils.options.train_options import TrainOptions
from utils.plots.images import save_batch_grid
from utils.runtime.background import BackgroundWorker
from utils.runtime.distributed import Distributed
from utils.runtime.signals import SignalHandler
from utils.solver.schedule import BASE, Plan
from utils.training.state import TrainingState

log = logging.getLogger("yolo")

PLOTTED_BATCHES = 3


class ValidationResult(NamedTuple):
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

    The main process does it, and sends its result to the others.
    """

    evaluator: Evaluator
    plan: Plan
    options: TrainOptions
    """When to validate what: `noval`, `seam_epochs`."""
    distributed: Distributed
    interrupts: SignalHandler

    def after_epoch(self, state: TrainingState) -> ValidationResult:
        """Measure the epoch that was just trained and is about to be counted.

        Raises:
            RunInterruptedError: a signal came meanwhile; the epoch is to be measured again.
        """
        return self._by_main(self._measure_epoch, state)

    def _by_main(
        self, measure: Callable[[TrainingState], ValidationResult], state: TrainingState
    ) -> ValidationResult:
        """What the main process finds, sent to all, be it that it was asked to stop."""
        found: ValidationResult | RunInterruptedError | None = None
        if self.distributed.is_main:
            try:
                found = measure(state)
            except RunInterruptedError as stop:
                found = stop
        found = self.distributed.broadcast(found)
        if isinstance(found, ValidationResult):
            return found
        raise found or AssertionError("the main process found nothing")

    def _measure_epoch(self, state: TrainingState) -> ValidationResult:
        if self.options.noval and state.epoch + 1 < self.plan.total_epochs:
            return ValidationResult(None, None)
        ema, miss_rates = self.evaluate_model(state.ema.model)
        log_table(ema)
        if miss_rates:
            log_miss_rates(miss_rates)
        if not self._near_a_seam(state.epoch):
            return ValidationResult(ema, None, miss_rates)
        raw = self.evaluate_model(state.model).evaluation
        log_table(raw, label="raw weights")
        return ValidationResult(ema, raw, miss_rates)

    def evaluate_model(self, model: Detector, observers: Sequence[Observer] = ()) -> EvalResult:
        """What is found of a model, by this process.

        Raises:
            RunInterruptedError: a signal came meanwhile.
        """
        return self.evaluator(model, [*observers, self.interrupts.check_own])

    def _near_a_seam(self, epoch: int) -> bool:
        """Whether an epoch is the last before a seam, or one of the first after it."""
        return any(
            -1 <= epoch - segment.start < self.options.seam_epochs
            for segment in self.plan.segments
            if segment.mode != BASE
        )

    def before_first_step(self, state: TrainingState) -> ValidationResult:
        """Measure a restored state, so that it can be compared with what was saved.

        Raises:
            RunInterruptedError: a signal came meanwhile.
        """
        return self._by_main(self._measure_both, state)

    def _measure_both(self, state: TrainingState) -> ValidationResult:
        if self.options.noval:
            return ValidationResult(None, None)
        ema, miss_rates = self.evaluate_model(state.ema.model)
        raw = self.evaluate_model(state.model).evaluation
        return ValidationResult(ema, raw, miss_rates)


@dataclass(frozen=True)
class FirstBatchPlots:
    """Draws the first training batches with their boxes, to be looked at before hours are spent."""

    folder: Path
    names: Sequence[str]
    wanted: bool

    def __call__(self, iteration: int, batch: Batch) -> None:
        """Write train_batch<iteration>.jpg for the first iterations of a run."""
        if self.wanted and iteration < PLOTTED_BATCHES:
            save_batch_grid(batch, self.folder / f"train_batch{iteration}.jpg", self.names)


class LabelsPlot:
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
        background: BackgroundWorker,
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
            self._background.submit(self._draw)

    def _draw(self) -> None:
        from utils.plots.label_statistics import save_labels_plot  # and matplotlib

        try:
            save_labels_plot(self._boxes, self._names, self._folder / "labels.jpg")
        except OSError as error:  # which must not reach the next job, a checkpoint
            log.warning("labels.jpg is not drawn: %s", error)


class EvalResult(NamedTuple):
    """What was found of a model."""

    evaluation: Evaluation
    miss_rates: tuple[MissRate, ...]
    """Of every subset; none if the data set names no ground truth for them."""


@dataclass(frozen=True)
class Evaluator:
    """The same measure for every epoch of a run, and for its best weights."""

    batches: Iterable[Batch]
    names: Sequence[str]
    loss: DetectionLoss
    precision: str
    """Number format of the forward pass: fp32, bf16 or fp16."""
    ignore: IgnoreRegions | None = None
    pedestrians: PedestrianTarget | None = None

    def __call__(self, model: Detector, observers: Sequence[Observer] = ()) -> EvalResult:
        """Evaluate a model, which stays as it is.

        Args:
            model: on the device to compute on; its convolutions are fused with its norms here.
            observers: see every batch and its detections.
        """
        evaluators = [] if self.pedestrians is None else [MissRateEvaluator(self.pedestrians)]
        evaluation = evaluate(
            fuse(model),
            self.batches,
            names=self.names,
            device=next(model.parameters()).device,
            loss=self.loss,
            settings=EvalSettings(precision=self.precision, ignore=self.ignore),
            observers=[*observers, *evaluators],
        )
        rates = [rate for evaluator in evaluators for rate in evaluator.rates()]
        return EvalResult(evaluation, tuple(rates))
