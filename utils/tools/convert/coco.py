"""COCO: a JSON file of images, annotations and categories; boxes are left, top, width, height, px.

Tools write this format in many ways. Where the meaning is clear, a file is read: ids may be
numbers or text, sizes may be missing, and polygons or masks replace missing boxes.
"""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from utils.errors import UserError
from utils.tools.convert.annotated import (
    AnnotatedImage,
    Annotation,
    Conversion,
    Problems,
    Split,
    chosen_names,
    image_place,
    labelled,
    shown,
)
from utils.tools.convert.coco_values import Entry, Id, is_crowd, read_box, read_id, read_side
from utils.tools.convert.finder import FileFinder, find_images, require_same
from utils.tools.convert.sizes import are_fractions, scale_fractions
from utils.tools.convert.splitting import role_of, shorten_places, with_unlisted

log = logging.getLogger("yolo")

PREFIX = "instances_"
FOLDER = "annotations"
LISTS = ("images", "annotations", "categories")
CROWD = "{} (crowd)"
Instances = Mapping[str, list[Entry]]
"""The three `LISTS` of a file; their entries are not validated yet."""


class _JsonFile(NamedTuple):
    file: Path
    split: str
    """Name of the split; empty if it is still to be divided."""
    role: str


class _Content(NamedTuple):
    """What a file contains; labels are not given yet."""

    categories: Mapping[Id, Entry]
    images: Sequence[AnnotatedImage]
    notes: Counter[str]
    """What differs from the format of the published files, and how often."""


def read_coco(source: Path, images: Path | None = None, classes: str = "") -> Conversion:
    """Read a JSON file, or all JSON files of a folder that belong to a split.

    Class indices number the categories in the order of their ids: COCO's 80 used ids between 1 and
    90 become the usual 0 to 79. Crowds, which are boxes around many objects, become ignore regions.

    Args:
        source: a JSON file, whose images are one split without a role; unlisted images are
            background. Or a folder that contains annotations/instances_SPLIT.json,
            SPLIT/_annotations.coco.json, or other JSON files.
        images: folder of the images, in any subfolders; None: that of the source.
        classes: as in `read_voc`.

    Raises:
        UserError: there is no such file, or an entry is missing or invalid.
    """
    files = [_JsonFile(source, "", "")] if source.is_file() else _json_files(source)
    folder = source.parent if source.is_file() else source
    finder = find_images(images or (folder.parent if folder.name == FOLDER else folder))
    problems, splits, contents = Problems(), list[Split](), list[_Content]()
    for file, name, role in files:
        with problems.collected():
            content = _read_file(file, finder, name)
            contents.append(content)
            splits.append(Split(name, role, content.images, None if name else ""))
    problems.raise_if_any()
    splits = with_unlisted(splits, source, finder)
    of_pixels = not any(map(are_fractions, splits))
    kinds = _names(contents, splits)
    names = chosen_names(classes, kinds)
    exact = of_pixels and not classes and not any(content.notes for content in contents)
    published = [one for one in files if one.file.name.startswith(PREFIX) and one.role and exact]
    truth = next((one.file.name for one in published if one.role == "val"), None)
    return Conversion(
        source_format="coco",
        settings={FOLDER: [str(one.file) for one in files], "classes": list(names)},
        kinds=(*kinds, *map(CROWD.format, kinds)),
        names=names,
        splits=labelled([shorten_places(split) for split in scale_fractions(splits)], names),
        entries={FOLDER: f"{FOLDER}/{truth}"} if truth else {},
        linked_files={f"{FOLDER}/{one.file.name}": one.file for one in published},
        lists=True,  # data/coco.yaml names them
        missing_images_remedy="put them there, or give their folder with --images",
    )


def _json_files(source: Path) -> list[_JsonFile]:
    """Return the JSON files of a folder that belong to splits; log those that are not used.

    The split is in the name of the file, or in that of its folder.
    """
    inner = (source / FOLDER, source, *sorted(p for p in source.glob("*") if p.is_dir()))
    found = {f.resolve(): f for folder in inner for f in sorted(folder.glob("*.json"))}.values()
    files = [file for file in found if file.name.startswith(PREFIX)] or [
        file for file in found if file.name not in ("conversion.json", "notes.json")
    ]
    if not files:
        raise UserError(
            f"{source} has no JSON files, neither in {FOLDER}/ nor in a folder per split; give a "
            "JSON file in COCO's format, or its folder."
        )
    named = [_with_role(file, source) for file in files]
    used = [one for one in named if one.role] or named
    if not used[0].role and len(used) > 1:
        raise UserError(
            f"{source} has {shown([one.file.name for one in used])}, but no name says whether it "
            "is for train, val or test; rename them, or give one of the files."
        )
    unused = [file for file in found if file not in {one.file for one in used}]
    if unused:
        log.warning("JSON files that are not used: %s.", shown(unused))
    names = [one.split for one in used]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise UserError(
            f"{source} has several files for {shown(sorted(repeated))}: "
            f"{shown([o.file.name for o in used if o.split in repeated])}; move the others away."
        )
    return used


def _with_role(file: Path, source: Path) -> _JsonFile:
    name = file.stem.removeprefix(PREFIX)
    role = role_of(name)
    if role:
        return _JsonFile(file, name if file.name.startswith(PREFIX) else role, role)
    folder = file.parent.name if file.parent != source else ""
    role = role_of(folder)
    return _JsonFile(file, role, role)


def _read_file(file: Path, finder: FileFinder, split: str) -> _Content:
    instances = _read_instances(file)
    notes, problems = Counter[str](), Problems()
    categories = _categories(instances, file, notes)
    images = _Images(file, finder, split, notes)
    for entry in instances["images"]:
        with problems.collected():
            images.add(entry)
    problems.raise_if_any()  # otherwise all annotations of these images are errors too
    crowds = [is_crowd(entry) for entry in instances["annotations"]]
    all_crowds = all(crowds) and len(crowds) > 1
    if all_crowds:
        notes["boxes are marked as crowds, as all others; they are used as objects"] = len(crowds)
    title = f"Reading {file.name}"
    for i, entry in enumerate(tqdm(instances["annotations"], title, unit="box", disable=None)):
        with problems.collected():
            origin = f"{file}: annotation {entry.get('id', f'number {i}')}"
            annotations = images.annotations_of(entry, origin)
            name = _category_name(entry, categories, origin)
            box = read_box(entry, origin, notes)
            if crowds[i] and not all_crowds:
                annotations.append(Annotation(CROWD.format(name), box, None, "a crowd"))
            else:
                annotations.append(Annotation(name, box))
    problems.raise_if_any()
    for note, count in notes.items():
        log.warning("%s: %d %s.", file, count, note)
    return _Content(categories, images.finished(), notes)


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
            f"{file} has no lists of objects `images`, `annotations` and `categories`; "
            "export the annotations in COCO's format."
        )
    if not content["images"] or not content["categories"]:
        raise UserError(f"{file} has no images or no categories; add them.")
    return {key: content[key] for key in LISTS}


def _without_outline(entry: Entry) -> Entry:
    """Drop outlines while parsing: they are nine tenths of the file, and boxes are enough."""
    if entry.get("bbox"):
        entry.pop("segmentation", None)
    return entry


def _categories(instances: Instances, file: Path, notes: Counter[str]) -> Mapping[Id, Entry]:
    """Return the entries by the category ids of the file, ascending, possibly with gaps."""
    found: dict[Id, Entry] = {}
    for entry in instances["categories"]:
        number = read_id(entry, "id", f"{file}: a category", notes)
        name = entry.get("name")
        if (
            isinstance(name, bool)
            or not isinstance(name, int | float | str)
            or not str(name).strip()
        ):
            raise UserError(f"{file}: a category has name {name!r:.80}; it must be text.")
        entry["name"] = " ".join(str(name).split())
        if found.setdefault(number, entry)["name"] != entry["name"]:
            raise UserError(f"{file} has two categories with the same id; change one of the ids.")
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _category_name(entry: Entry, categories: Mapping[Id, Entry], origin: str) -> str:
    number = read_id(entry, "category_id", origin)
    if number not in categories:
        raise UserError(
            f"{origin} has unknown category_id {number}; add the category or correct it."
        )
    return str(categories[number]["name"])


class _Images:
    """The images of a file while it is read."""

    def __init__(self, file: Path, finder: FileFinder, split: str, notes: Counter[str]) -> None:
        self._file, self._finder, self._split, self._notes = file, finder, split, notes
        self._by_id: dict[Id, PurePosixPath] = {}
        self._images: dict[PurePosixPath, AnnotatedImage] = {}
        self._names: dict[PurePosixPath, str] = {}
        self._annotations: defaultdict[PurePosixPath, list[Annotation]] = defaultdict(list)

    def add(self, entry: Entry) -> None:
        """Add an entry of `images`."""
        number = read_id(entry, "id", f"{self._file}: an image", self._notes)
        text = entry.get("file_name")
        if not isinstance(text, str) or not text:
            raise UserError(f"{self._file}: an image has file_name {text!r:.80}; it must be text.")
        file = self._finder.find(text, {self._split, self._file.parent.name})
        if file is None:
            place = image_place(text, str(self._file))
            file = self._finder.folder / self._split / place
        else:
            place = self._finder.place(file)
        if self._by_id.setdefault(number, place) != place:
            raise UserError(
                f"{self._file} has two images with the same id {number}, "
                f"{self._by_id[number]} and {place}; change one of the ids."
            )
        width, height = (read_side(entry.get(key)) for key in ("width", "height"))
        if not width or not height:
            self._notes["images have no size; it is read from the files"] += 1
            width = height = 0
        if place in self._images:
            require_same(self._names[place], text, place)
            self._notes["images are listed twice; their annotations are joined"] += 1
        self._names[place] = text
        self._images[place] = AnnotatedImage(place, file, width, height, ())

    def annotations_of(self, entry: Entry, origin: str) -> list[Annotation]:
        """Return the list of the annotations of the image that an entry of `annotations` names."""
        number = read_id(entry, "image_id", origin)
        if number not in self._by_id:
            raise UserError(f"{origin} has unknown image_id {number}; add the image or correct it.")
        return self._annotations[self._by_id[number]]

    def finished(self) -> list[AnnotatedImage]:
        """Return all images with their annotations."""
        return [
            image._replace(annotations=tuple(self._annotations[place]))
            for place, image in self._images.items()
        ]


def _names(contents: Sequence[_Content], splits: Sequence[Split]) -> tuple[str, ...]:
    """Return the class names: those of the first file, then what only others have.

    Roboflow adds a category that is the parent of all others and has no objects; it is left out.
    """
    used = {a.kind for split in splits for image in split.images for a in image.annotations}
    names: dict[str, None] = {}
    for content in contents:
        entries = content.categories.values()
        parents = {str(entry.get("supercategory")) for entry in entries}
        for entry in entries:
            name = str(entry["name"])
            is_root = name in parents and entry.get("supercategory") in (None, "", "none")
            if is_root and len(entries) > 1 and not {name, CROWD.format(name)} & used:
                log.info("Category %s has no objects and contains the others; left out.", name)
            else:
                names[name] = None
    if any(len(names) != len(content.categories) for content in contents):
        log.warning("The categories are matched by name: %s.", shown(list(names)))
    return tuple(names)
