"""Ground truth in COCO's format: the published file, or one made from the labels."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.index import Index
from utils.datasets.labels import to_pixels
from utils.errors import UserError
from utils.evaluation.coco_results import BOX_DIGITS, ImageId, category_ids, image_ids
from utils.evaluation.json_files import read_json

log = logging.getLogger("yolo")


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
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
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
