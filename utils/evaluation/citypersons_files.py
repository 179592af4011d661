"""The files of the CityPersons benchmark: ground truth and detections, as packed arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.evaluation.metrics import Bools, Floats, Ints
from utils.files.json_file import JsonObject, number_column, read_json

PEDESTRIAN = 1
"""The only category that the benchmark judges; its files put all others under it, as ignored."""
BOX_COLUMNS = 4


@dataclass(frozen=True, eq=False)
class PedestrianTruth:
    """What there is to be found: `i` images with `g` boxes."""

    path: Path
    """The file."""
    image_ids: Ints
    """The benchmark's numbers, ascending, [i]; elsewhere an image is its position herein."""
    image_names: tuple[str, ...]
    """File names of the images, in the order of `image_ids`."""
    image: Ints
    """Position of each box's image, [g]."""
    boxes: Floats
    """Left, top, width, height in pixels of the image, [g, 4]."""
    height: Floats
    """Height of the whole person, pixels, [g]."""
    visibility: Floats
    """Share of the person that is not hidden, [g]."""
    ignore: Bools
    """Neither to be found nor wrong to find, [g]."""


class PedestrianDetections(NamedTuple):
    """What a detector says is there: `d` boxes."""

    image: Ints
    """Position of each box's image in `PedestrianTruth.image_ids`, [d]."""
    boxes: Floats
    """Left, top, width, height in pixels of the image, [d, 4]."""
    score: Floats
    """Confidence, [d]; higher is surer."""


def read_truth(path: Path) -> PedestrianTruth:
    """Read ground truth in the benchmark's format, as val_gt.json.

    Raises:
        UserError: it cannot be read or is something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        content = {}
    images, everything = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not images or not isinstance(everything, list):
        raise UserError(f"{path} has no `images` and `annotations`; give the benchmark's file.")
    origin = f"{path}: annotations"
    image_ids = number_column(images, "id", f"{path}: images").astype(np.int64)
    order = np.argsort(image_ids, kind="stable")
    names = [str(images[i].get("im_name") or images[i].get("file_name", "")) for i in order]
    if len(np.unique(image_ids)) < len(image_ids):
        raise UserError(f"{path} has images with the same id; number them anew.")
    annotations = _pedestrians(everything, origin)
    return PedestrianTruth(
        path=path,
        image_ids=image_ids[order],
        image_names=tuple(names),
        image=_positions(annotations, origin, image_ids[order], path),
        boxes=number_column(annotations, "bbox", origin, BOX_COLUMNS),
        height=number_column(annotations, "height", origin),
        visibility=number_column(annotations, "vis_ratio", origin),
        ignore=np.array([bool(row.get("ignore", 0)) for row in annotations], dtype=bool),
    )


def read_detections(path: Path, truth: PedestrianTruth) -> PedestrianDetections:
    """Read detections, a list of image_id, category_id, bbox and score, as COCO has them.

    Raises:
        UserError: it cannot be read, is something else, or is of other images than the truth.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(
            f"{path} is no list of detections; give image_id, category_id, bbox, score."
        )
    pedestrians = _pedestrians(rows, str(path))
    if rows and not pedestrians:
        raise UserError(f"{path} has no detection of category_id {PEDESTRIAN}, the pedestrians'.")
    return PedestrianDetections(
        image=_positions(pedestrians, str(path), truth.image_ids, truth.path),
        boxes=number_column(pedestrians, "bbox", str(path), BOX_COLUMNS),
        score=number_column(pedestrians, "score", str(path)),
    )


def _pedestrians(rows: list[JsonObject], origin: str) -> list[JsonObject]:
    category = number_column(rows, "category_id", origin)
    return [rows[i] for i in np.flatnonzero(category == PEDESTRIAN)]


def _positions(rows: list[JsonObject], origin: str, image_ids: Ints, truth: Path) -> Ints:
    """Where each row's image stands among ascending image ids, [rows]."""
    wanted = number_column(rows, "image_id", origin)
    positions = np.searchsorted(image_ids, wanted).clip(max=len(image_ids) - 1)
    unknown = np.flatnonzero(image_ids[positions] != wanted)
    if len(unknown):
        raise UserError(
            f"{origin} names image_id {wanted[unknown[0]]:g}, which is none of the "
            f"{len(image_ids)} images of {truth}; give files that belong together."
        )
    return positions
