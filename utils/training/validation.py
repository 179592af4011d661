"""Validation during training, and plots of the training data."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.detector import Detector, fuse
from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.datasets.ignore_regions import IgnoreRegions
from utils.evaluation.citypersons import MissRateEvaluator, PedestrianTarget
from utils.evaluation.evaluate import EvalSettings, Evaluation, Observer, evaluate
from utils.evaluation.miss_rate import MissRate, log_miss_rates
from utils.evaluation.report import log_table
from utils.history import COMMON_PREFIX, RAW_MAP_COLUMN, Row
from utils.options.train_options import TrainOptions
from utils.plots.images import save_batch_grid
from utils.runtime.background import BackgroundWorker
from utils.runtime.distributed import Distributed
from utils.runtime.signals import SignalHandler
from utils.solver.schedule import Plan
from utils.solver.seam import EMA_MAP_COLUMN
from utils.training.state import TrainingState

log = logging.getLogger("yolo")

PLOTTED_BATCHES = 3


class ValidationResult(NamedTuple):
    """The validation of a state; None for weights that were not evaluated."""

    ema: Evaluation | None
    """Results of the EMA weights, which are the result of the run."""
    raw: Evaluation | None
    """Results of the non-EMA weights, which react to the learning rate before the EMA does."""
    miss_rates: tuple[MissRate, ...] = ()
    """Miss rates of the EMA weights; empty if the data set has no ground truth for them."""


def common_maps(result: ValidationResult, classes: Collection[str]) -> Row:
    """The mAP50-95 over some classes, by column, of the weights that were evaluated.

    Empty if there are no such classes.
    """
    found = {EMA_MAP_COLUMN: result.ema, RAW_MAP_COLUMN: result.raw}
    return {
        COMMON_PREFIX + name: evaluation.map50_95_of(classes)
        for name, evaluation in found.items()
        if evaluation is not None and classes
    }


NOT_VALIDATED = ValidationResult(None, None)


@dataclass(frozen=True)
class Validator:
    """Validates a state: the EMA weights; at a resume and around seams also the non-EMA weights.

    The main process validates and broadcasts the result. With `--noval` only the last epoch is
    validated.
    """

    evaluator: Evaluator
    plan: Plan
    options: TrainOptions
    """`noval` and `seam_epochs` are used."""
    distributed: Distributed
    interrupts: SignalHandler

    def evaluate_epoch(self, state: TrainingState) -> ValidationResult:
        """Validate after the last step of an epoch, before `state.history` gets its row.

        Raises:
            RunInterruptedError: if a signal arrives; a resumed run repeats the validation.
        """
        if self.options.noval and state.epoch + 1 < self.plan.total_epochs:
            return NOT_VALIDATED
        raw = self._is_near_seam(state.epoch)
        return self.distributed.on_main(lambda: self._evaluate(state, raw=raw, tables=True))

    def evaluate_resumed(self, state: TrainingState) -> ValidationResult:
        """Validate a restored state, to compare it with the saved metrics.

        Raises:
            RunInterruptedError: if a signal arrives.
        """
        if self.options.noval:
            return NOT_VALIDATED
        return self.distributed.on_main(lambda: self._evaluate(state, raw=True, tables=False))

    def _evaluate(self, state: TrainingState, *, raw: bool, tables: bool) -> ValidationResult:
        ema, miss_rates = self.evaluate_model(state.ema.model)
        if tables:
            log_table(ema)
            if miss_rates:
                log_miss_rates(miss_rates)
        if not raw:
            return ValidationResult(ema, None, miss_rates)
        evaluation = self.evaluate_model(state.model).evaluation
        if tables:
            log_table(evaluation, label="non-EMA weights")
        return ValidationResult(ema, evaluation, miss_rates)

    def evaluate_model(self, model: Detector, observers: Sequence[Observer] = ()) -> EvalResult:
        """Evaluate a model in this process.

        Raises:
            RunInterruptedError: if a signal arrives.
        """
        return self.evaluator(model, [*observers, self.interrupts.check_own])

    def _is_near_seam(self, epoch: int) -> bool:
        """Whether an epoch is the last before a seam or one of `seam_epochs` after it."""
        return any(-1 <= epoch - seam.start < self.options.seam_epochs for seam in self.plan.seams)


@dataclass(frozen=True)
class FirstBatchPlots:
    """Plots the first training batches with their boxes, to inspect them before a long training."""

    folder: Path
    names: Sequence[str]
    enabled: bool

    def __call__(self, iteration: int, batch: Batch) -> None:
        """Save train_batch<iteration>.jpg for the first iterations of a run."""
        if self.enabled and iteration < PLOTTED_BATCHES:
            save_batch_grid(batch, self.folder / f"train_batch{iteration}.jpg", self.names)


@dataclass
class LabelsPlot:
    """Plots the labels of the training data once, in the background, after the first step."""

    folder: Path
    boxes: np.ndarray
    """[n, 5] class, centre x, centre y, width, height; normalized by the image size."""
    names: Sequence[str]
    background: BackgroundWorker
    pending: bool
    """Whether labels.jpg and labels_correlogram.jpg are still to be saved."""

    def __call__(self, _: TrainingState) -> None:
        """Start the job at the first call."""
        if self.pending:
            self.pending = False
            self.background.submit(self._save)

    def _save(self) -> None:
        from utils.plots.label_statistics import (  # imports seaborn
            save_labels_correlogram,
            save_labels_plot,
        )

        try:
            save_labels_plot(self.boxes, self.names, self.folder / "labels.jpg")
            save_labels_correlogram(self.boxes, self.folder / "labels_correlogram.jpg")
        except OSError as error:  # raised to the next job otherwise, which writes a checkpoint
            log.warning(
                "Cannot write the plots of the labels: %s; the run continues without them.", error
            )


class EvalResult(NamedTuple):
    """The evaluation of a model."""

    evaluation: Evaluation
    miss_rates: tuple[MissRate, ...]
    """One per subset; empty if the data set has no ground truth for them."""


@dataclass(frozen=True)
class Evaluator:
    """Evaluates models on the validation data of a run, with the same settings each time."""

    batches: Iterable[Batch]
    names: Sequence[str]
    loss: DetectionLoss
    precision: str
    """Precision of the forward pass: fp32, bf16 or fp16."""
    ignore: IgnoreRegions | None = None
    """Ignore regions of the validation images."""
    pedestrians: PedestrianTarget | None = None
    """Ground truth of the miss rate, if the data set has one."""
    images_per_pass: int = sys.maxsize
    """Maximum number of images in a forward pass."""

    def __call__(self, model: Detector, observers: Sequence[Observer] = ()) -> EvalResult:
        """Evaluate a model without changing it.

        Args:
            model: on the device to compute on; a copy with fused batch norms is evaluated.
            observers: called with each batch and its detections.
        """
        evaluators = [] if self.pedestrians is None else [MissRateEvaluator(self.pedestrians)]
        evaluation = evaluate(
            fuse(model),
            self.batches,
            names=self.names,
            device=next(model.parameters()).device,
            loss=self.loss,
            settings=EvalSettings(
                precision=self.precision,
                images_per_pass=self.images_per_pass,
                ignore=self.ignore,
            ),
            observers=[*observers, *evaluators],
        )
        rates = [rate for evaluator in evaluators for rate in evaluator.rates()]
        return EvalResult(evaluation, tuple(rates))
