"""Ground truth in COCO's format: the published file, or one made from the labels."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from utils.datasets.dataset import Batch
from utils.datasets.description import load_description
from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.index import Index
from utils.datasets.labels import to_pixels
from utils.errors import UserError
from utils.evaluation.evaluate import to_original
from utils.files.json_file import JsonObject, read_json

log = logging.getLogger("yolo")
ImageId = int | str
COCO_DATA = "coco.yaml"
# COCO numbers its 80 classes from 1 to 90 and leaves these out.
COCO_GAPS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
COCO_CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in COCO_GAPS)
BOX_DIGITS, SCORE_DIGITS = 3, 5  # after the point, in pixels and of 1


class CocoNumbers(NamedTuple):
    """What a ground truth calls classes and images."""

    categories: tuple[int, ...]
    """By class index."""
    images: Mapping[str, ImageId]
    """By path."""


def own_numbers(names: Sequence[str], images: Sequence[str]) -> CocoNumbers:
    """The numbers of ground truth that is made from the labels."""
    return CocoNumbers(category_ids(names), image_ids(images))


def published_numbers(
    file: Path | None, names: Sequence[str], images: Sequence[str]
) -> CocoNumbers | None:
    """The numbers in a published file of ground truth; None if there is none for these images.

    Args:
        file: in COCO's format, such as instances_val2017.json; need not exist.
        names: the classes that are told apart.
        images: the files to be validated.

    Raises:
        UserError: the file is something else.
    """
    if file is None or not file.exists():
        return None
    content = read_json(file)
    try:
        by_stem = {Path(image["file_name"]).stem: image["id"] for image in content["images"]}
        by_name = {category["name"]: category["id"] for category in content["categories"]}
        _ = [row["image_id"] for row in content["annotations"]]
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is no ground truth of COCO; give its instances file.") from error
    numbers = {image: by_stem.get(Path(image).stem) for image in images}
    strange = [image for image, number in numbers.items() if number is None]
    strange += [name for name in names if name not in by_name]
    if strange:
        log.warning("%s knows nothing of %s: the labels are the ground truth.", file, strange[0])
        return None
    return CocoNumbers(
        tuple(by_name[name] for name in names),
        {image: number for image, number in numbers.items() if number is not None},
    )


def save_truth(
    index: Index,
    names: Sequence[str],
    numbers: CocoNumbers,
    regions: IgnoreRegions | None,
    path: Path,
) -> None:
    """Write ground truth made from labels, which COCO's own tools read.

    The area is that of the box, where COCO itself takes that of the object's outline, and an ignore
    region, which is for all classes, is a crowd of every class that has labels.
    """
    labelled = np.unique(index.boxes[:, 0]).astype(int).tolist()
    images: list[JsonObject] = []
    annotations: list[JsonObject] = []
    for i, image in enumerate(index.paths):
        height, width = size = index.sizes[i].tolist()
        place = {"id": numbers.images[image], "file_name": Path(image).name}
        images.append({**place, "width": width, "height": height})
        rows = [(row, int(row[0]), 0) for row in index.labels(i)]
        for region in regions.of(i) if regions is not None else ():
            rows += [(np.append(label, region), label, 1) for label in labelled]
        for row, label, crowd in rows:
            x1, y1, x2, y2 = to_pixels(row[None], size)[0].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,  # COCO's tools take 0 for none
                    "image_id": place["id"],
                    "category_id": numbers.categories[label],
                    "bbox": [round(value, BOX_DIGITS) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "area": round((x2 - x1) * (y2 - y1), BOX_DIGITS),
                    "iscrowd": crowd,
                }
            )
    categories = [
        {"id": number, "name": name} for number, name in zip(numbers.categories, names, strict=True)
    ]
    content = {
        "info": {"description": "made from label files"},
        "images": images,
        "categories": categories,
        "annotations": annotations,
    }
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


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
