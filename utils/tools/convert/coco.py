"""COCO: one JSON file of instances per split; boxes are left, top, width, height, in px."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
    require_distinct,
)

log = logging.getLogger("yolo")

PREFIX = "instances_"
BOX_COLUMNS = 4
ROLES = ("train", "val", "test")

Entry = dict[str, object]
"""A JSON object that is not validated yet."""


class _Instances(NamedTuple):
    """The content of an instances file; the entries of the lists are not validated yet."""

    file: Path
    images: list[Entry]
    annotations: list[Entry]
    categories: dict[int, str]
    """Names by the category ids of the file, ascending, possibly with gaps."""


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
        if splits and instances.categories != categories:
            raise UserError(
                f"{file} has different categories from {files[0]}; correct one of them."
            )
        categories = instances.categories
        splits.append(_split(instances, images))
    val = next((split.name for split in splits if split.role == "val"), None)
    return Conversion(
        source_format="coco",
        settings={"annotations": [str(file) for file in files]},
        kinds=(*categories.values(), *(_crowd(name) for name in categories.values())),
        names=tuple(categories.values()),
        splits=tuple(splits),
        entries={"annotations": f"annotations/{PREFIX}{val}.json"} if val else {},
        linked_files={f"annotations/{file.name}": file for file in files},
        lists=True,  # data/coco.yaml names them
    )


def _crowd(name: str) -> str:
    return f"{name} (crowd)"


def _read_instances(file: Path) -> _Instances:
    log.info("Reading %s", file)
    try:
        content = json.loads(file.read_bytes(), object_hook=_without_outline)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; give a JSON file.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); get it again.") from error
    keys = ("images", "annotations", "categories")
    lists: list[Any] = [content.get(key) if isinstance(content, dict) else None for key in keys]
    if not all(
        isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
        for entries in lists
    ):
        raise UserError(
            f"{file} has no lists of objects `images`, `annotations` and `categories`; correct it."
        )
    images, annotations, categories = lists
    if not images or not categories:
        raise UserError(f"{file} has no images or no categories; add them.")
    names = {
        _integer(entry, "id", f"{file}: a category"): _text(entry, "name", f"{file}: a category")
        for entry in categories
    }
    if len(names) < len(categories):
        raise UserError(f"{file} has two categories with the same id; change one of the ids.")
    return _Instances(file, images, annotations, dict(sorted(names.items())))


def _without_outline(entry: Entry) -> Entry:
    """Drop outlines while parsing: they are nine tenths of the file, and only boxes are used."""
    entry.pop("segmentation", None)
    return entry


def _split(instances: _Instances, images: Path) -> Split:
    file = instances.file
    name = file.stem.removeprefix(PREFIX)
    role = next((role for role in ROLES if name.startswith(role)), None)
    if role is None:
        raise UserError(
            f"{file} has the unknown split {name!r}; "
            "rename the file so that the split begins with train, val or test."
        )
    by_image = _annotations(instances)
    places = [(entry, _text(entry, "file_name", f"{file}: an image")) for entry in instances.images]
    for _, place in places:
        image_place(place, str(file))
    folder = _image_folder(images, name, places[0][1])
    found = []
    for entry, text in places:
        origin = f"{file}: image {text}"
        found.append(
            AnnotatedImage(
                place=image_place(text, str(file)),
                file=folder / text,
                width=_side(entry, "width", origin),
                height=_side(entry, "height", origin),
                annotations=tuple(by_image[_integer(entry, "id", origin)]),
            )
        )
    require_distinct(tuple(found), str(file))
    return Split(name, role, tuple(found))


def _image_folder(images: Path, split: str, first: str) -> Path:
    """Return the folder that contains the first image of a split, else the one named like it."""
    candidates = [images / split, images / "images" / split, images]
    return next((folder for folder in candidates if (folder / first).is_file()), candidates[0])


def _annotations(instances: _Instances) -> Mapping[int, list[Annotation]]:
    """Return the annotations of each image, by image id."""
    file = instances.file
    labels = {number: label for label, number in enumerate(instances.categories)}
    ids = [_integer(entry, "id", f"{file}: an image") for entry in instances.images]
    known = set(ids)
    if len(known) < len(ids):
        raise UserError(f"{file} has two images with the same id; change one of the ids.")
    by_image: defaultdict[int, list[Annotation]] = defaultdict(list)
    for i, entry in enumerate(_progress(instances.annotations, f"Reading {file.name}")):
        origin = f"{file}: annotation {entry.get('id', f'number {i}')}"
        image = _integer(entry, "image_id", origin)
        if image not in known:
            raise UserError(f"{origin} has unknown image_id {image}; add the image or correct it.")
        category = _integer(entry, "category_id", origin)
        if category not in labels:
            raise UserError(
                f"{origin} has unknown category_id {category}; add the category or correct it."
            )
        name, box = instances.categories[category], _box(entry, origin)
        if entry.get("iscrowd", 0):
            by_image[image].append(Annotation(_crowd(name), box, None, "a crowd"))
        else:
            by_image[image].append(Annotation(name, box, labels[category]))
    return by_image


def _progress(entries: list[Entry], title: str) -> Iterable[Entry]:
    return tqdm(entries, desc=title, unit="box", disable=None)


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


def _integer(entry: Entry, key: str, origin: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int):
        raise UserError(f"{origin} has {key} {value!r:.80}; it must be an integer.")
    return value


def _side(entry: Entry, key: str, origin: str) -> int:
    value = _integer(entry, key, origin)
    if not 0 < value <= MAX_PIXELS:
        raise UserError(f"{origin} has {key} {value!r:.20}; it must be 1 to {MAX_PIXELS}.")
    return value


def _text(entry: Entry, key: str, origin: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(f"{origin} has {key} {value!r:.80}; it must be a non-empty string.")
    return value
