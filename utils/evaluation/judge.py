"""How the states of a run are judged: on which images, and by what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from models.detector import Detector, fuse
from models.loss import DetectionLoss
from utils.datasets.dataset import Batch
from utils.datasets.ignore_regions import IgnoreRegions
from utils.evaluation.evaluate import EvalSettings, Evaluation, Observer, evaluate
from utils.evaluation.miss_rate import MissRate
from utils.evaluation.pedestrians import MissRateJudge, PedestrianTarget


class Judgement(NamedTuple):
    """What was found of a model."""

    evaluation: Evaluation
    miss_rates: tuple[MissRate, ...]
    """Of every subset; none if the data set names no ground truth for them."""


@dataclass(frozen=True)
class Judge:
    """The same measure for every epoch of a run, and for its best weights."""

    batches: Iterable[Batch]
    names: Sequence[str]
    loss: DetectionLoss
    precision: str
    """Number format of the forward pass: fp32, bf16 or fp16."""
    ignore: IgnoreRegions | None = None
    pedestrians: PedestrianTarget | None = None

    def __call__(self, model: Detector, observers: Sequence[Observer] = ()) -> Judgement:
        """Judge a model, which stays as it is.

        Args:
            model: on the device to compute on; its convolutions are fused with its norms here.
            observers: see every batch and its detections.
        """
        judges = [] if self.pedestrians is None else [MissRateJudge(self.pedestrians)]
        evaluation = evaluate(
            fuse(model),
            self.batches,
            names=self.names,
            device=next(model.parameters()).device,
            loss=self.loss,
            settings=EvalSettings(precision=self.precision, ignore=self.ignore),
            observers=[*observers, *judges],
        )
        rates = [rate for judge in judges for rate in judge.rates()]
        return Judgement(evaluation, tuple(rates))
