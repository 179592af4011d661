"""Miss rate of a detector during validation; images are identified by their names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from utils.datasets.dataset import Batch
from utils.datasets.description import MISS_RATE_KEY, DatasetDescription, truth_file
from utils.errors import UserError
from utils.evaluation.citypersons_files import (
    PedestrianDetections,
    PedestrianGroundTruth,
    read_ground_truth,
)
from utils.evaluation.collected import to_original
from utils.evaluation.miss_rate import MissRate, log_miss_rates, miss_rates, percentages

log = logging.getLogger("yolo")

PEDESTRIAN_NAMES = ("pedestrian", "person")


class PedestrianTarget(NamedTuple):
    """Ground truth that a detector is evaluated against."""

    truth: PedestrianGroundTruth
    label: int
    """Index of the pedestrian class."""


def pedestrian_target(
    description: DatasetDescription, names: Sequence[str], images: Sequence[str]
) -> PedestrianTarget | None:
    """Return the ground truth that a data-set file gives for its val images; None if it has none.

    Raises:
        UserError: the ground truth cannot be read, is of other images, or there is no pedestrian
            class.
    """
    file = truth_file(description, MISS_RATE_KEY)
    if file is None:
        return None
    if not file.exists():
        raise UserError(
            f"{file} does not exist; put the ground truth of the miss rate there, or remove "
            f"`{MISS_RATE_KEY}:` from {description.path}."
        )
    truth = read_ground_truth(file)
    stems = {Path(name).stem for name in truth.image_names}
    if len(stems) < len(truth.image_names):
        raise UserError(
            f"{file} has images with the same name or without a name; give each a unique `im_name`."
        )
    evaluated = {Path(image).stem: image for image in images}
    unknown = next((image for stem, image in evaluated.items() if stem not in stems), None)
    if unknown is not None:
        raise UserError(
            f"{file} has no image with the name of {unknown}; evaluate its own images, or correct "
            f"`{MISS_RATE_KEY}:` in {description.path}."
        )
    if len(evaluated) < len(stems):
        log.warning(
            "%d images of %s are not evaluated; their pedestrians count as missed.",
            len(stems) - len(evaluated),
            file,
        )
    return PedestrianTarget(truth, _pedestrian_label(names))


def _pedestrian_label(names: Sequence[str]) -> int:
    if len(names) == 1:
        return 0
    for name in PEDESTRIAN_NAMES:
        if name in names:
            return list(names).index(name)
    raise UserError(
        f"the miss rate needs a class for pedestrians, but the classes are {', '.join(names):.80}; "
        f"rename one of them to {PEDESTRIAN_NAMES[0]}."
    )


class MissRateEvaluator:
    """Observer of one evaluation that collects detections of pedestrians and evaluates them."""

    def __init__(self, target: PedestrianTarget) -> None:
        self._truth, self._label = target
        self._positions = {Path(name).stem: i for i, name in enumerate(self._truth.image_names)}
        self.found: list[PedestrianDetections] = []
        """Of each batch."""

    def __call__(self, batch: Batch, detections: list[Tensor]) -> None:
        """Collect the detections of a batch, in pixels of the original images."""
        of_images = []
        for frame, found in zip(batch.frames, detections, strict=True):
            position = self._positions[Path(frame.path).stem]
            rows = to_original(found[found[:, 5] == self._label], frame).double().numpy()
            rows[:, 2:4] -= rows[:, :2]
            images = np.full(len(rows), position)
            of_images.append(PedestrianDetections(images, rows[:, :4], rows[:, 4]))
        self.found.append(_joined(of_images))

    def rates(self) -> tuple[MissRate, ...]:
        """Return the miss rates of all collected detections."""
        return miss_rates(self._truth, _joined(self.found))

    def report(self, plot: Path | None) -> dict[str, object]:
        """Log the miss rates, and plot their curves to the image file `plot`, if there is one.

        Returns:
            Entry for metrics.json: miss rate of each subset in percent.
        """
        rates = self.rates()
        log_miss_rates(rates)
        if plot is not None:
            from utils.evaluation.curves import save_miss_rate_curves  # imports matplotlib

            save_miss_rate_curves(rates, plot)
        return {"miss_rate_percent": percentages(rates)}


def _joined(found: Sequence[PedestrianDetections]) -> PedestrianDetections:
    empty = PedestrianDetections(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    return PedestrianDetections(*map(np.concatenate, zip(empty, *found, strict=True)))
