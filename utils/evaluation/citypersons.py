"""The miss rate of a detector that is being validated: images are known by their names."""

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
from utils.evaluation.citypersons_files import PedestrianDetections, PedestrianTruth, read_truth
from utils.evaluation.evaluate import to_original
from utils.evaluation.miss_rate import MissRate, log_miss_rates, miss_rates, percentages

log = logging.getLogger("yolo")

PEDESTRIAN_NAMES = ("pedestrian", "person")


class PedestrianTarget(NamedTuple):
    """What a detector is judged by."""

    truth: PedestrianTruth
    label: int
    """Index of the class whose detections count."""


def pedestrian_target(
    description: DatasetDescription, names: Sequence[str], images: Sequence[str]
) -> PedestrianTarget | None:
    """The ground truth that a data-set file names for its val images; None if it names none.

    Args:
        description: of the data set.
        names: the classes that are told apart.
        images: the files to be validated.

    Raises:
        UserError: the ground truth cannot be read, is of other images, or no class is pedestrians.
    """
    file = truth_file(description, MISS_RATE_KEY)
    if file is None:
        return None
    if not file.exists():
        raise UserError(
            f"{file}, which judges pedestrians, is not there; put it there, or remove "
            f"`{MISS_RATE_KEY}:` from {description.path}."
        )
    truth = read_truth(file)
    stems = {Path(name).stem for name in truth.image_names}
    if len(stems) < len(truth.image_names):
        raise UserError(f"{file} has images of the same name, or without; name them by `im_name`.")
    mine = {Path(image).stem: image for image in images}
    strange = next((image for stem, image in mine.items() if stem not in stems), None)
    if strange is not None:
        raise UserError(
            f"{file} has no image named as {strange}; judge the images it is for, or correct "
            f"`{MISS_RATE_KEY}:` in {description.path}."
        )
    if len(mine) < len(stems):
        log.warning(
            "%d images of %s are not among those validated; their pedestrians count as missed.",
            len(stems) - len(mine),
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
        f"the miss rate is that of pedestrians, but the classes are {', '.join(names):.80}; "
        f"call one of them {PEDESTRIAN_NAMES[0]}."
    )


class MissRateEvaluator:
    """Observer of one evaluation: collects the detections of pedestrians, then judges them.

    Args:
        target: what to judge by.
    """

    def __init__(self, target: PedestrianTarget) -> None:
        self._truth, self._label = target
        self._positions = {Path(name).stem: i for i, name in enumerate(self._truth.image_names)}
        self._found: list[PedestrianDetections] = []

    def __call__(self, batch: Batch, detections: list[Tensor]) -> None:
        """Collect the detections of a batch, in pixels of the original images."""
        for frame, found in zip(batch.frames, detections, strict=True):
            position = self._positions[Path(frame.path).stem]
            mine = to_original(found[found[:, 5] == self._label], frame).double().numpy()
            boxes = np.concatenate([mine[:, :2], mine[:, 2:4] - mine[:, :2]], axis=1)
            images = np.full(len(mine), position)
            self._found.append(PedestrianDetections(images, boxes, mine[:, 4]))

    def rates(self) -> tuple[MissRate, ...]:
        """The miss rates of all detections seen."""
        nothing = PedestrianDetections(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
        columns = zip(nothing, *self._found, strict=True)
        return miss_rates(self._truth, PedestrianDetections(*map(np.concatenate, columns)))

    def report(self, picture: Path | None) -> dict[str, object]:
        """Log the miss rates, and draw them unless there is no picture to be.

        Returns:
            For metrics.json: percent by subset.
        """
        rates = self.rates()
        log_miss_rates(rates)
        if picture is not None:
            from utils.evaluation.curves import save_miss_rate_curves  # and matplotlib

            save_miss_rate_curves(rates, picture)
        return {"miss_rate_percent": percentages(rates)}
