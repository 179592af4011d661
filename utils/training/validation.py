"""Validation during training, and plots of the training data."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.detector import Detector, fuse
from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.datasets.eval_loader import EvalLoader, EvalShare
from utils.datasets.ignore_regions import IgnoreRegions
from utils.errors import RunInterruptedError
from utils.evaluation.citypersons import MissRateEvaluator, PedestrianTarget
from utils.evaluation.citypersons_files import PedestrianDetections
from utils.evaluation.collected import Collected, in_order
from utils.evaluation.evaluate import EvalSettings, Evaluation, Observer, collect, summarize
from utils.evaluation.forward import images_in_pass
from utils.evaluation.miss_rate import MissRate, log_miss_rates
from utils.evaluation.report import log_table
from utils.history import COMMON_PREFIX, RAW_MAP_COLUMN, Row
from utils.options.train_options import TrainOptions
from utils.plots.images import save_batch_grid
from utils.runtime.background import BackgroundWorker
from utils.runtime.distributed import SINGLE_PROCESS, Distributed
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

    Each process evaluates its share of the images; the main process computes the metrics, and all
    get the result. With `--noval` only the last epoch is validated.
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
        return self._evaluate(state, raw=self._is_near_seam(state.epoch), tables=True)

    def evaluate_resumed(self, state: TrainingState) -> ValidationResult:
        """Validate a restored state, to compare it with the saved metrics.

        Raises:
            RunInterruptedError: if a signal arrives.
        """
        if self.options.noval:
            return NOT_VALIDATED
        return self._evaluate(state, raw=True, tables=False)

    def _evaluate(self, state: TrainingState, *, raw: bool, tables: bool) -> ValidationResult:
        ema, miss_rates = self._evaluate_together(state.ema.model)
        if tables:
            log_table(ema)
            if miss_rates:
                log_miss_rates(miss_rates)
        if not raw:
            return ValidationResult(ema, None, miss_rates)
        evaluation = self._evaluate_together(state.model).evaluation
        if tables:
            log_table(evaluation, label="non-EMA weights")
        return ValidationResult(ema, evaluation, miss_rates)

    def _evaluate_together(self, model: Detector) -> EvalResult:
        """Evaluate a model in all processes.

        Raises:
            RunInterruptedError: in all, if a signal arrives in one of them.
        """
        own: EvalShares | RunInterruptedError
        try:
            own = self.evaluator.collect(model, [self.interrupts.check_own], self.distributed)
        except RunInterruptedError as stop:
            own = stop
        found = self.distributed.gather(own)

        def result() -> EvalResult:
            for one in found:
                if isinstance(one, RunInterruptedError):
                    raise one
            return self.evaluator.result([one for one in found if isinstance(one, EvalShares)])

        return self.distributed.on_main(result)

    def evaluate_model(self, model: Detector, observers: Sequence[Observer] = ()) -> EvalResult:
        """Evaluate a model in this process alone.

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


class EvalShares(NamedTuple):
    """What one process has found in its share of the validation images."""

    collected: Collected
    pedestrians: list[PedestrianDetections]
    """Of each part, if the data set has ground truth of the miss rate."""
    batch_of: Sequence[int] | None
    """See `evaluate.summarize`."""


@dataclass(frozen=True)
class Evaluator:
    """Evaluates models on the validation data of a run, with the same settings each time."""

    batches: EvalLoader
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
        return self.result([self.collect(model, observers)])

    def collect(
        self,
        model: Detector,
        observers: Sequence[Observer] = (),
        distributed: Distributed = SINGLE_PROCESS,
    ) -> EvalShares:
        """Detect on this process's share of the images, and match with the labels."""
        device = next(model.parameters()).device
        batches: EvalLoader | EvalShare = self.batches
        batch_of = None
        if distributed.world_size > 1:
            size = partial(images_in_pass, device, self.images_per_pass)
            batches = self.batches.share(distributed.rank, distributed.world_size, size)
            batch_of = batches.batch_of
        evaluators = [] if self.pedestrians is None else [MissRateEvaluator(self.pedestrians)]
        collected = collect(
            fuse(model),
            batches,
            names=self.names,
            device=device,
            loss=self.loss,
            settings=self.settings,
            observers=[*observers, *evaluators],
            progress=distributed.is_main,
        )
        found = [found for evaluator in evaluators for found in evaluator.found]
        return EvalShares(collected, found, batch_of)

    def result(self, found: Sequence[EvalShares]) -> EvalResult:
        """Return the metrics of what all processes have found, in the order of their ranks."""
        evaluation = summarize(
            [one.collected for one in found],
            found[0].batch_of,
            names=self.names,
            loss=self.loss,
            settings=self.settings,
        )
        if self.pedestrians is None:
            return EvalResult(evaluation, ())
        pedestrians = MissRateEvaluator(self.pedestrians)
        pedestrians.found = in_order([one.pedestrians for one in found])
        return EvalResult(evaluation, pedestrians.rates())

    @property
    def settings(self) -> EvalSettings:
        """The settings of every evaluation."""
        return EvalSettings(
            precision=self.precision, images_per_pass=self.images_per_pass, ignore=self.ignore
        )
