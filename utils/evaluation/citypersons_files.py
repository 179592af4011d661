"""Reads the files of the CityPersons benchmark, ground truth and detections, into arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.evaluation.metrics import Bools, Floats, Ints
from utils.files.json_file import JsonObject, number_column, read_json

PEDESTRIAN_ID = 1
"""The only category that the benchmark evaluates; its files mark all others as ignored."""
BOX_COLUMNS = 4


@dataclass(frozen=True, eq=False)
class PedestrianGroundTruth:
    """Ground truth of `i` images with `g` boxes."""

    path: Path
    """File of the ground truth."""
    image_ids: Ints
    """The benchmark's image ids, ascending, [i]; `image` holds positions in this array."""
    image_names: tuple[str, ...]
    """File names of the images, in the order of `image_ids`."""
    image: Ints
    """Position of each box's image, [g]."""
    boxes: Floats
    """Left, top, width, height in pixels of the image, [g, 4]."""
    height: Floats
    """Height of the whole person, pixels, [g]."""
    visibility: Floats
    """Visible fraction of the person, [g]."""
    ignore: Bools
    """Whether a box is ignored: neither a miss nor, if detected, a false positive, [g]."""


class PedestrianDetections(NamedTuple):
    """Detections: `d` boxes."""

    image: Ints
    """Position of each box's image in `PedestrianGroundTruth.image_ids`, [d]."""
    boxes: Floats
    """Left, top, width, height in pixels of the image, [d, 4]."""
    score: Floats
    """Confidence, [d]."""


def read_ground_truth(path: Path) -> PedestrianGroundTruth:
    """Read ground truth in the format of the benchmark's val_gt.json.

    Raises:
        UserError: the file cannot be read or has another format.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        content = {}
    images, rows = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not images or not isinstance(rows, list):
        raise UserError(
            f"{path} has no `images` and `annotations`; give the benchmark's val_gt.json."
        )
    origin = f"{path}: annotations"
    image_ids = number_column(images, "id", f"{path}: images").astype(np.int64)
    order = np.argsort(image_ids, kind="stable")
    names = [str(images[i].get("im_name") or images[i].get("file_name", "")) for i in order]
    if len(np.unique(image_ids)) < len(image_ids):
        raise UserError(f"{path} has images with the same id; give each image a unique id.")
    annotations = _pedestrians(rows, origin)
    return PedestrianGroundTruth(
        path=path,
        image_ids=image_ids[order],
        image_names=tuple(names),
        image=_positions(annotations, origin, image_ids[order], path),
        boxes=number_column(annotations, "bbox", origin, BOX_COLUMNS),
        height=number_column(annotations, "height", origin),
        visibility=number_column(annotations, "vis_ratio", origin),
        ignore=np.array([bool(row.get("ignore", 0)) for row in annotations], dtype=bool),
    )


def read_detections(path: Path, truth: PedestrianGroundTruth) -> PedestrianDetections:
    """Read detections in COCO's format, a list of image_id, category_id, bbox and score.

    Raises:
        UserError: the file cannot be read, has another format, or is of other images.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(
            f"{path} is not a list of detections; "
            "write image_id, category_id, bbox and score of each detection."
        )
    pedestrians = _pedestrians(rows, str(path))
    if rows and not pedestrians:
        raise UserError(
            f"{path} has no detection with category_id {PEDESTRIAN_ID}; "
            "use this id for pedestrians."
        )
    return PedestrianDetections(
        image=_positions(pedestrians, str(path), truth.image_ids, truth.path),
        boxes=number_column(pedestrians, "bbox", str(path), BOX_COLUMNS),
        score=number_column(pedestrians, "score", str(path)),
    )


def _pedestrians(rows: list[JsonObject], origin: str) -> list[JsonObject]:
    category = number_column(rows, "category_id", origin)
    return [rows[i] for i in np.flatnonzero(category == PEDESTRIAN_ID)]


def _positions(rows: list[JsonObject], origin: str, image_ids: Ints, truth: Path) -> Ints:
    """Return the position of each row's image in the ascending image ids, [rows]."""
    wanted = number_column(rows, "image_id", origin)
    positions = np.searchsorted(image_ids, wanted).clip(max=len(image_ids) - 1)
    unknown = np.flatnonzero(image_ids[positions] != wanted)
    if len(unknown):
        raise UserError(
            f"{origin} has image_id {wanted[unknown[0]]:g}, which is not one of the "
            f"{len(image_ids)} images of {truth}; give files of the same images."
        )
    return positions
