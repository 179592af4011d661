"""Files in COCO's format: results, and ground truth (published, or built from the labels)."""

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
# COCO numbers its 80 classes from 1 to 90, without these ids.
COCO_GAPS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
COCO_CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in COCO_GAPS)
BOX_DIGITS, SCORE_DIGITS = 3, 5  # decimal places; boxes are in pixels


class CocoIds(NamedTuple):
    """Ids of classes and images in a ground-truth file."""

    categories: tuple[int, ...]
    """Category ids by class index."""
    images: Mapping[str, ImageId]
    """Image ids by path."""


def default_ids(names: Sequence[str], images: Sequence[str]) -> CocoIds:
    """Return the ids for ground truth that is built from the labels."""
    return CocoIds(category_ids(names), image_ids(images))


def published_ids(file: Path | None, names: Sequence[str], images: Sequence[str]) -> CocoIds | None:
    """Return the ids in a published ground-truth file; None if it does not exist or match.

    Args:
        file: a file in COCO's format, such as instances_val2017.json; may not exist.
        names: names of the evaluated classes.
        images: paths of the evaluated images.

    Raises:
        UserError: the file has another format.
    """
    if file is None or not file.exists():
        return None
    content = read_json(file)
    try:
        by_stem = {Path(image["file_name"]).stem: image["id"] for image in content["images"]}
        by_name = {category["name"]: category["id"] for category in content["categories"]}
        _ = [row["image_id"] for row in content["annotations"]]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{file} is not a ground-truth file in COCO's format; give an instances file."
        ) from error
    ids = {image: by_stem.get(Path(image).stem) for image in images}
    unknown = [image for image, image_id in ids.items() if image_id is None]
    unknown += [name for name in names if name not in by_name]
    if unknown:
        log.warning("%s does not have %s; using the labels as ground truth.", file, unknown[0])
        return None
    return CocoIds(
        tuple(by_name[name] for name in names),
        {image: image_id for image, image_id in ids.items() if image_id is not None},
    )


def save_ground_truth(
    index: Index,
    names: Sequence[str],
    ids: CocoIds,
    regions: IgnoreRegions | None,
    path: Path,
) -> None:
    """Write ground truth built from labels, in COCO's format.

    The area is that of the box; COCO's own files have the area of the object's mask. An ignore
    region applies to all classes: it becomes a crowd of every class that has labels.

    Args:
        index: index of the images and their labels.
        names: names of the classes.
        ids: ids of classes and images.
        regions: ignore regions of the images, if there are any.
        path: the file to write.
    """
    labelled = np.unique(index.boxes[:, 0]).astype(int).tolist()
    images: list[JsonObject] = []
    annotations: list[JsonObject] = []
    for i, image in enumerate(index.paths):
        height, width = size = index.sizes[i].tolist()
        place = {"id": ids.images[image], "file_name": Path(image).name}
        images.append({**place, "width": width, "height": height})
        rows = [(row, int(row[0]), 0) for row in index.labels(i)]
        for region in regions.of(i) if regions is not None else ():
            rows += [(np.append(label, region), label, 1) for label in labelled]
        for row, label, crowd in rows:
            x1, y1, x2, y2 = to_pixels(row[None], size)[0].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,  # COCO's libraries treat id 0 as no match
                    "image_id": place["id"],
                    "category_id": ids.categories[label],
                    "bbox": [round(value, BOX_DIGITS) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "area": round((x2 - x1) * (y2 - y1), BOX_DIGITS),
                    "iscrowd": crowd,
                }
            )
    categories = [
        {"id": category, "name": name} for category, name in zip(ids.categories, names, strict=True)
    ]
    content = {
        "info": {"description": "made from label files"},
        "images": images,
        "categories": categories,
        "annotations": annotations,
    }
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def category_ids(names: Sequence[str]) -> tuple[int, ...]:
    """Return COCO's category ids if these are its 80 classes, else 0, 1, 2 and so on."""
    coco = load_description(COCO_DATA).names
    return COCO_CATEGORY_IDS if tuple(names) == coco else tuple(range(len(names)))


def image_ids(images: Sequence[str]) -> dict[str, ImageId]:
    """Return a unique id for each image path; all ids have the same type.

    The id is the file name without suffix, as an integer if all names are numbers, as in COCO. If
    names repeat (in several folders), the id is the position, from 1.
    """
    stems = [Path(image).stem for image in images]
    ids: Sequence[ImageId] = stems
    if all(stem.isdecimal() for stem in stems):
        ids = [int(stem) for stem in stems]
    if len(set(ids)) < len(ids):
        ids = range(1, len(ids) + 1)
    return dict(zip(images, ids, strict=True))


class CocoResults:
    """Observer that collects detections and writes them in COCO's results format.

    Args:
        category_ids: category id of each class.
        image_ids: id of each image, by path.
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
        """Write the collected detections, a list with one object per detection."""
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
