"""Detections in the result format of the COCO benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from utils.datasets.dataset import Batch
from utils.datasets.description import load_description
from utils.evaluation.evaluate import to_original

ImageId = int | str

COCO_DATA = "coco.yaml"
# COCO numbers its 80 classes from 1 to 90 and leaves these out.
COCO_GAPS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
COCO_CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in COCO_GAPS)
BOX_DIGITS, SCORE_DIGITS = 3, 5  # after the point, in pixels and of 1


def category_ids(names: Sequence[str]) -> tuple[int, ...]:
    """The COCO benchmark's numbers if these are its 80 classes, else 0, 1, 2 and so on."""
    coco = load_description(COCO_DATA).names
    return COCO_CATEGORY_IDS if tuple(names) == coco else tuple(range(len(names)))


def image_ids(images: Sequence[str]) -> dict[str, ImageId]:
    """The id of each image, by its path: all of one type, and all different.

    COCO's names are numbers, which are the ids. Where not all names are, the name without its
    suffix is the id; where names come twice, in several folders, the position counted from 1.
    """
    stems = [Path(image).stem for image in images]
    ids: Sequence[ImageId] = stems
    if all(stem.isdecimal() for stem in stems):
        ids = [int(stem) for stem in stems]
    if len(set(ids)) < len(ids):
        ids = range(1, len(ids) + 1)
    return dict(zip(images, ids, strict=True))


class CocoResults:
    """Observer: collects detections in the result format of the COCO benchmark.

    Args:
        category_ids: The benchmark's number of each class.
        image_ids: The benchmark's id of each image, by its path.
    """

    def __init__(self, category_ids: Sequence[int], image_ids: Mapping[str, ImageId]) -> None:
        self._category_ids = category_ids
        self._image_ids = image_ids
        self._found: dict[str, np.ndarray] = {}
        """By path: [n, 6] left, top, width, height in pixels of the image, score, class."""

    def __call__(self, batch: Batch, detections: list[Tensor]) -> None:
        """Collect the detections of a batch."""
        for frame, found in zip(batch.frames, detections, strict=True):
            columns = to_original(found, frame).double().numpy()
            columns[:, 2:4] -= columns[:, :2]
            self._found[frame.path] = columns

    def save(self, path: Path) -> None:
        """Write what was collected, a list of one object per detection."""
        with path.open("w", encoding="utf-8") as file:
            file.write("[")
            file.writelines(self._entries())
            file.write("]\n")

    def _entries(self) -> Iterator[str]:
        separator = ""
        for path, rows in self._found.items():
            for *box, score, label in rows.tolist():
                entry = {
                    "image_id": self._image_ids[path],
                    "category_id": self._category_ids[int(label)],
                    "bbox": [round(value, BOX_DIGITS) for value in box],
                    "score": round(score, SCORE_DIGITS),
                }
                yield separator + json.dumps(entry)
                separator = ", "
