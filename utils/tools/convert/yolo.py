"""YOLO labels as tools export them: a text file per image, in one of many arrangements of folders.

CVAT writes obj.data, obj.names, train.txt and data/obj_train_data/; Label Studio classes.txt,
notes.json, images/ and labels/; LabelImg classes.txt and text files beside the images; Roboflow
data.yaml, train/, valid/ and test/; Darknet's own data sets have lists and a file of names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from utils.datasets.class_names import class_names
from utils.datasets.labels import LabelError, read_labels
from utils.errors import UserError
from utils.files.json_file import read_json
from utils.files.yaml_file import read_yaml
from utils.tools.convert.annotated import (
    AnnotatedImage,
    Annotation,
    Conversion,
    Corners,
    Problems,
    chosen_names,
    labelled,
    shown,
)
from utils.tools.convert.finder import find_files, find_images
from utils.tools.convert.made_files import made_below
from utils.tools.convert.sizes import FRACTIONS
from utils.tools.convert.splitting import (
    ROLE_WORDS,
    read_lines,
    role_of,
    shorten_places,
    split_by_folders,
    split_by_lists,
)

log = logging.getLogger("yolo")

NOT_LABELS = ("classes", "readme", "labels", "requirements", "license")
"""Beginnings of names of text files that contain no labels, if there is no image of this name."""


def read_yolo(source: Path, images: Path | None = None, classes: str = "") -> Conversion:
    """Read a folder of images and text files.

    Images are split by lists (train.txt, valid.txt, test.txt, or those that obj.data names), or by
    folders called so, or are one split without a role. Images without a text file are background.

    Args:
        source: folder of the export.
        images: folder of the images, in any subfolders; None: that of the source.
        classes: as in `read_voc`, from the class names of the export, in their order.

    Raises:
        UserError: there are no class names or no images, or files are damaged.
    """
    made = made_below(source)
    kinds = _class_names(source, made)
    names = chosen_names(classes, kinds)
    finder, files = find_images(images or source), find_files(source, ".txt")
    if not any(finder):
        raise UserError(f"{images or source} has no images; give their folder with --images.")
    lists = {file: role for file, role in _list_files(source).items() if file not in made}
    found: dict[Path, AnnotatedImage] = {
        image: AnnotatedImage(finder.place(image), image, *FRACTIONS, ()) for image in finder
    }
    labels = {file for file in files if file not in lists}
    problems, described, unused = Problems(), dict[Path, Path](), list[PurePosixPath]()
    for file in tqdm(sorted(labels), "Reading labels", unit="file", disable=None):
        with problems.collected():
            image = finder.find(str(files.place(file).with_suffix("")))
            if image is None:
                unused.append(files.place(file))
                continue
            other = described.setdefault(image, file)
            if other != file:
                raise UserError(f"{file} and {other} are both labels of {image}; remove one.")
            found[image] = found[image]._replace(annotations=_annotations(file, kinds))
    problems.raise_if_any()
    missing = [p for p in unused if not p.name.lower().startswith(NOT_LABELS)]
    if missing:
        log.warning("Text files without an image, not used: %s.", shown(missing))
    if lists:
        splits = split_by_lists(lists, finder, found)
    else:
        splits = split_by_folders([*found.values()], source)
    return Conversion(
        source_format="yolo",
        settings={"labels": str(source), "classes": list(names)},
        kinds=kinds,
        names=names,
        splits=labelled([shorten_places(split) for split in splits], names),
    )


def _class_names(source: Path, made: Set[Path]) -> tuple[str, ...]:
    """Return the class names from the first file that has them and is not `made` by a conversion.

    Raises:
        UserError: no file has them.
    """
    readers: tuple[tuple[str, Callable[[Path], list[str]]], ...] = (
        ("*.names", _line_names),
        ("classes.txt", _line_names),
        ("*.y*ml", _yaml_names),
        ("notes.json", _json_names),
    )
    for pattern, read in readers:
        for depth in ("", "*/"):
            for file in sorted(source.glob(depth + pattern)):
                if file.resolve() in made:
                    continue
                names = read(file)
                if len(set(names)) < len(names):
                    raise UserError(f"{file} has a class name twice; change one of them.")
                if names:
                    log.info("Class names from %s: %s.", file, shown(names))
                    return tuple(names)
    raise UserError(
        f"{source} has no class names; add a file classes.txt with one name per line, in the order "
        "of the class numbers."
    )


def _line_names(file: Path) -> list[str]:
    names = read_lines(file)
    if "" in names:
        raise UserError(
            f"{file} has an empty line {names.index('') + 1}, so the numbers of the classes are "
            "not clear; remove it or add the name."
        )
    return names


def _yaml_names(file: Path) -> list[str]:
    content = read_yaml(file, texts="names")
    named = isinstance(content, dict) and content.get("names")
    return list(class_names(content, file)) if named and isinstance(content, dict) else []


def _json_names(file: Path) -> list[str]:
    """Return the names in Label Studio's notes.json, by ids."""
    content = read_json(file)
    try:
        entries = sorted((entry["id"], str(entry["name"])) for entry in content["categories"])
    except (KeyError, TypeError):
        return []
    return [name for number, name in entries if number in range(len(entries))]


def _list_files(source: Path) -> dict[Path, str]:
    """Return the lists of images, by what obj.data or their names say; file to role."""
    found: dict[Path, str] = {}
    root = source.resolve()
    for file in sorted([*root.glob("*.data"), *root.glob("*/*.data")]):
        for line in read_lines(file):
            key, _, value = line.partition("=")
            name = PurePosixPath(value.strip().replace("\\", "/"))
            # Paths begin at Darknet's own folder.
            places = [root / PurePosixPath(*name.parts[i:]) for i in range(len(name.parts))]
            existing = next((path for path in places if path.is_file()), None)
            if role_of(key.strip()) and existing:
                found.setdefault(existing, role_of(key.strip()))
    for file in sorted(root.glob("*")):
        stem = file.stem.lower()
        if file.suffix.lower() == ".txt" and stem in ROLE_WORDS:
            found.setdefault(file, role_of(stem))
    return found


def _annotations(file: Path, kinds: tuple[str, ...]) -> tuple[Annotation, ...]:
    try:
        rows, notes = read_labels(str(file))
    except LabelError as error:
        raise UserError(f"{file}: {error}.") from error
    for note in notes:
        log.warning("%s: %s.", file, note)
    annotations = []
    for label, x, y, width, height in rows.astype(float).tolist():
        if label >= len(kinds):
            raise UserError(
                f"{file}: class {label:g} is out of range (classes are 0 to {len(kinds) - 1}); "
                "correct the file or add class names."
            )
        box = Corners(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        annotations.append(Annotation(kinds[int(label)], box))
    return tuple(annotations)
