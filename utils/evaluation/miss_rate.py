"""Log-average miss rate of pedestrian detectors, as defined by the CityPersons benchmark.

The curve is that of Dollár et al., "Pedestrian Detection: An Evaluation of the State of the Art"
(PAMI 2012), section 4: the fraction of missed pedestrians over the false positives per image, and
its geometric mean at nine points from 0.01 to 1. The subsets are those of Zhang et al.,
"CityPersons" (CVPR 2017).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from utils.evaluation.citypersons_files import PedestrianDetections, PedestrianGroundTruth
from utils.evaluation.metrics import Floats, Ints, greedy_pairs

log = logging.getLogger("yolo")

FPPI = np.array([0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0])
"""False positives per image at which the miss rate is averaged, rounded as in the benchmark."""
MIN_OVERLAP = 0.5
HEIGHT_TOLERANCE = 1.25
"""Detections whose height is outside the subset's limits by more than this factor are ignored."""
MAX_PER_IMAGE = 1000
PERCENT = 100
NAME_WIDTH = 20


class Subset(NamedTuple):
    """Limits of the pedestrians that count; all others are ignored. Limits are inclusive."""

    name: str
    heights: tuple[float, float]
    """Minimum and maximum height, pixels."""
    visibilities: tuple[float, float]
    """Minimum and maximum visible fraction."""


SUBSETS = (
    Subset("Reasonable", (50, np.inf), (0.65, np.inf)),
    Subset("Reasonable_small", (50, 75), (0.65, np.inf)),
    Subset("Reasonable_occ=heavy", (50, np.inf), (0.2, 0.65)),
    Subset("All", (20, np.inf), (0.2, np.inf)),
)


@dataclass(frozen=True, eq=False)
class MissRate:
    """Result for one subset, and its curve with `n` corners."""

    subset: str
    pedestrians: int
    """Number of pedestrians in the subset."""
    log_average: float
    """Log-average miss rate, 0 to 1; NaN if there are no pedestrians."""
    fppi: Floats
    """False positives per image at the steps of the curve, ascending from 0, [n]."""
    missed: Floats
    """Fraction of the pedestrians missed from each step on, [n]."""


class _Overlaps(NamedTuple):
    """Pairs in which at least half of the detection lies in the true box, [p] each."""

    detections: Ints
    truths: Ints
    iou: Floats


def miss_rates(
    truth: PedestrianGroundTruth, found: PedestrianDetections, subsets: Sequence[Subset] = SUBSETS
) -> tuple[MissRate, ...]:
    """Evaluate detections on every subset."""
    found = _ranked(found)
    images = len(truth.image_ids)
    boxes = zip(_by_image(found.image, images), _by_image(truth.image, images), strict=True)
    parts = [_overlaps(found.boxes, truth.boxes, rows, columns) for rows, columns in boxes]
    overlaps = _Overlaps(*map(np.concatenate, zip(*parts, strict=True)))
    return tuple(_miss_rate(subset, truth, found, overlaps) for subset in subsets)


def percentages(rates: Sequence[MissRate]) -> dict[str, float | None]:
    """Return the log-average miss rate of each subset in percent; None without pedestrians."""
    return {
        rate.subset: None if np.isnan(rate.log_average) else rate.log_average * PERCENT
        for rate in rates
    }


def log_miss_rates(rates: Sequence[MissRate]) -> None:
    """Log a table with one row for each subset."""
    log.info("%s %12s %12s", "Subset".rjust(NAME_WIDTH), "Pedestrians", "MR^-2 %")
    for rate in rates:
        percent = f"{rate.log_average * PERCENT:.2f}" if rate.pedestrians else "-"
        log.info("%s %12d %12s", rate.subset.rjust(NAME_WIDTH), rate.pedestrians, percent)


def _ranked(found: PedestrianDetections) -> PedestrianDetections:
    """Return the 1000 most confident detections of each image, all by descending confidence."""
    order = np.lexsort((-found.score, found.image))  # stable: ties keep the order of the file
    image = found.image[order]
    rank = np.arange(len(image)) - np.searchsorted(image, image)  # within the image
    order = order[rank < MAX_PER_IMAGE]
    order = order[np.argsort(-found.score[order], kind="stable")]
    return PedestrianDetections(found.image[order], found.boxes[order], found.score[order])


def _by_image(image: Ints, images: int) -> list[Ints]:
    """Return the positions of each image's boxes, from the position of each box's image."""
    ends = np.bincount(image, minlength=images).cumsum()
    return np.split(np.argsort(image, kind="stable"), ends[:-1])


def _overlaps(found: Floats, truth: Floats, rows: Ints, columns: Ints) -> _Overlaps:
    """Return the overlapping pairs of detections and true boxes (left, top, width, height)."""
    a, b = found[rows][:, None], truth[columns][None]  # [d, 1, 4], [1, g, 4]
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    shared = (high - low).clip(0).prod(-1)  # [d, g]
    area = a[..., 2:].prod(-1)  # [d, 1]
    row, column = np.nonzero((shared > 0) & (shared >= MIN_OVERLAP * area))
    union = (area + b[..., 2:].prod(-1) - shared)[row, column]
    return _Overlaps(rows[row], columns[column], shared[row, column] / union)


def _miss_rate(
    subset: Subset, truth: PedestrianGroundTruth, found: PedestrianDetections, overlaps: _Overlaps
) -> MissRate:
    """Match detections, most confident first, with the unmatched pedestrian of highest IoU."""
    low, high = subset.heights
    ignored = truth.ignore | _outside(truth.height, subset.heights)
    ignored |= _outside(truth.visibility, subset.visibilities)
    height = found.boxes[:, 3]
    of_size = (height >= low / HEIGHT_TOLERANCE) & (height < high * HEIGHT_TOLERANCE)
    detections, truths, iou = overlaps
    in_ignored = of_size[detections] & ignored[truths]
    matching = of_size[detections] & ~ignored[truths] & (iou >= MIN_OVERLAP)
    detections, truths, iou = detections[matching], truths[matching], iou[matching]
    order = np.lexsort((-truths, -iou, detections))
    hit = np.zeros(len(height), dtype=bool)
    detections, truths = detections[order], truths[order]
    hit[detections[greedy_pairs(detections, truths)]] = True
    neutral = ~of_size  # neither a true nor a false positive
    neutral[overlaps.detections[in_ignored]] = True
    hit = hit[hit | ~neutral]
    pedestrians = int((~ignored).sum())
    fppi = np.concatenate([[0.0], (~hit).cumsum()[hit] / len(truth.image_ids)])
    missed = 1 - np.arange(len(fppi)) / max(pedestrians, 1)
    # Below the smallest number of false positives that the detector reaches, the miss rate is 1.
    at_points = missed[np.searchsorted(fppi, FPPI, side="right") - 1]
    # A miss rate of 0 gives an average of 0, as in the benchmark.
    with np.errstate(divide="ignore"):
        log_average = float(np.exp(np.log(at_points).mean())) if pedestrians else float("nan")
    end = (~hit).sum() / len(truth.image_ids)
    return MissRate(
        subset=subset.name,
        pedestrians=pedestrians,
        log_average=log_average,
        fppi=np.append(fppi, end),
        missed=np.append(missed, missed[-1]),
    )


def _outside(values: Floats, limits: tuple[float, float]) -> np.ndarray:
    return (values < limits[0]) | (values > limits[1])
