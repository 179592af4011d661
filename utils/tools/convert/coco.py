"""COCO: one JSON file of instances per split; boxes are left, top, width, height, in px."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from utils.errors import UserError
from utils.tools.convert.annotated import (
    MAX_PIXELS,
    AnnotatedImage,
    Annotation,
    Conversion,
    Corners,
    Split,
    image_place,
)

log = logging.getLogger("yolo")

PREFIX = "instances_"
LISTS = ("images", "annotations", "categories")
BOX_COLUMNS = 4
CROWD = "{} (crowd)"
ROLES = ("train", "val", "test")
TYPE_NAMES = {int: "an integer", str: "a non-empty string"}

T = TypeVar("T", int, str)
Entry = dict[str, object]
"""A JSON object that is not validated yet."""
Instances = Mapping[str, list[Entry]]
"""The three `LISTS` of an instances file; their entries are not validated yet."""


def read_coco(source: Path, images: Path) -> Conversion:
    """Read every annotations/instances_SPLIT.json of a folder.

    Class indices number the categories in the order of their ids: COCO's 80 used ids between 1 and
    90 become the usual 0 to 79. Crowds, which are boxes around many objects, become ignore regions.

    Args:
        source: folder that contains annotations/.
        images: folder that contains SPLIT/ or images/SPLIT/.

    Raises:
        UserError: there is no such file, or an entry is missing or invalid.
    """
    files = sorted((source / "annotations").glob(f"{PREFIX}*.json"))
    if not files:
        raise UserError(
            f"{source / 'annotations'} has no {PREFIX}*.json; put COCO's files there, or your own "
            "with names like instances_train.json."
        )
    splits: list[Split] = []
    categories: dict[int, str] = {}
    for file in files:
        instances = _read_instances(file)
        found = _categories(instances, file)
        if splits and found != categories:
            raise UserError(
                f"{file} has different categories from {files[0]}; correct one of them."
            )
        categories = found
        splits.append(_split(instances, categories, file, images))
    names = tuple(categories.values())
    val = next((split.name for split in splits if split.role == "val"), None)
    return Conversion(
        source_format="coco",
        settings={"annotations": [str(file) for file in files]},
        kinds=(*names, *map(CROWD.format, names)),
        names=names,
        splits=tuple(splits),
        entries={"annotations": f"annotations/{PREFIX}{val}.json"} if val else {},
        linked_files={f"annotations/{file.name}": file for file in files},
        lists=True,  # data/coco.yaml names them
    )


def _read_instances(file: Path) -> Instances:
    log.info("Reading %s", file)
    try:
        content = json.loads(file.read_bytes(), object_hook=_without_outline)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; give a JSON file.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); get it again.") from error
    lists = [content.get(key) if isinstance(content, dict) else None for key in LISTS]
    if not all(
        isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        for entries in lists
    ):
        raise UserError(
            f"{file} has no lists of objects `images`, `annotations` and `categories`; correct it."
        )
    if not content["images"] or not content["categories"]:
        raise UserError(f"{file} has no images or no categories; add them.")
    return {key: content[key] for key in LISTS}


def _without_outline(entry: Entry) -> Entry:
    """Drop outlines while parsing: they are nine tenths of the file, and only boxes are used."""
    entry.pop("segmentation", None)
    return entry


def _categories(instances: Instances, file: Path) -> dict[int, str]:
    """Return the names by the category ids of the file, ascending, possibly with gaps."""
    origin = f"{file}: a category"
    entries = instances["categories"]
    names = {_field(e, "id", int, origin): _field(e, "name", str, origin) for e in entries}
    if len(names) < len(entries):
        raise UserError(f"{file} has two categories with the same id; change one of the ids.")
    return dict(sorted(names.items()))


def _split(instances: Instances, categories: Mapping[int, str], file: Path, images: Path) -> Split:
    name = file.stem.removeprefix(PREFIX)
    role = next((role for role in ROLES if name.startswith(role)), None)
    if role is None:
        raise UserError(
            f"{file} has the unknown split {name!r}; "
            "rename the file so that the split begins with train, val or test."
        )
    entries = instances["images"]
    ids = [_field(entry, "id", int, f"{file}: an image") for entry in entries]
    if len(set(ids)) < len(ids):
        raise UserError(f"{file} has two images with the same id; change one of the ids.")
    by_image = _annotations(instances["annotations"], set(ids), categories, file)
    texts = [_field(entry, "file_name", str, f"{file}: an image") for entry in entries]
    places = [image_place(text, str(file)) for text in texts]
    folder = _image_folder(images, name, texts[0])
    found = []
    for entry, number, text, place in zip(entries, ids, texts, places, strict=True):
        width, height = (_side(entry, key, f"{file}: image {text}") for key in ("width", "height"))
        found.append(AnnotatedImage(place, folder / text, width, height, tuple(by_image[number])))
    return Split(name, role, found)


def _image_folder(images: Path, split: str, first: str) -> Path:
    """Return the folder that contains the first image of a split, else the one named like it."""
    candidates = [images / split, images / "images" / split, images]
    return next((folder for folder in candidates if (folder / first).is_file()), candidates[0])


def _annotations(
    entries: list[Entry], images: set[int], categories: Mapping[int, str], file: Path
) -> Mapping[int, list[Annotation]]:
    """Return the annotations of each image, by image id."""
    labels = {category: label for label, category in enumerate(categories)}
    by_image: defaultdict[int, list[Annotation]] = defaultdict(list)
    for i, entry in enumerate(tqdm(entries, f"Reading {file.name}", unit="box", disable=None)):
        origin = f"{file}: annotation {entry.get('id', f'number {i}')}"
        image = _field(entry, "image_id", int, origin)
        if image not in images:
            raise UserError(f"{origin} has unknown image_id {image}; add the image or correct it.")
        category = _field(entry, "category_id", int, origin)
        if category not in labels:
            raise UserError(
                f"{origin} has unknown category_id {category}; add the category or correct it."
            )
        name, box = categories[category], _box(entry, origin)
        if entry.get("iscrowd", 0):
            by_image[image].append(Annotation(CROWD.format(name), box, None, "a crowd"))
        else:
            by_image[image].append(Annotation(name, box, labels[category]))
    return by_image


def _box(entry: Entry, origin: str) -> Corners:
    values = entry.get("bbox")
    if (
        not isinstance(values, list)
        or len(values) != BOX_COLUMNS
        or not all(_is_number(value) for value in values)
    ):
        raise UserError(
            f"{origin} has bbox {values!r:.80}; it must be four numbers of at most {MAX_PIXELS}."
        )
    left, top, width, height = values
    return Corners(left, top, left + width, top + height)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= MAX_PIXELS  # False for NaN


def _side(entry: Entry, key: str, origin: str) -> int:
    value = _field(entry, key, int, origin)
    if not 0 < value <= MAX_PIXELS:
        raise UserError(f"{origin} has {key} {value!r:.20}; it must be 1 to {MAX_PIXELS}.")
    return value


def _field(entry: Entry, key: str, kind: type[T], origin: str) -> T:
    value = entry.get(key)
    if not isinstance(value, kind) or value == "":
        raise UserError(f"{origin} has {key} {value!r:.80}; it must be {TYPE_NAMES[kind]}.")
    return value
