"""Pascal VOC: an XML file per image, and lists of the images of each split.

Corners are pixels counted from 1, and both corners are inside the box (VOC2007 development kit):
columns 1 to 5 become 0 to 5 px. Boxes with equal corners would be a single pixel and are errors;
they count as boxes without area.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

from tqdm import tqdm

from utils.datasets.image_files import IMAGE_SUFFIXES, ImageError, probe_size
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

SPLITS = ("train", "val", "test")
PUBLISHED_ROLES = {"train": "train", "val": "train", "test": "val"}
KIT = "VOCdevkit"
LISTS = Path("ImageSets", "Main")
USUAL_SUFFIX = ".jpg"


def read_voc(source: Path, classes: Sequence[str] = ()) -> Conversion:
    """Read a folder of Pascal VOC, or a VOCdevkit with several years.

    If one of several years has a list `test`, as VOC2007 has, the lists `train` and `val` of all
    years become training data, and `test` becomes validation data. The published results use this
    split.

    Args:
        source: folder that contains Annotations/, or VOC2007/Annotations/ and the like.
        classes: classes to keep, in the order of their labels; others become ignore regions. If
            empty, all classes in alphabetical order, which is the order of Pascal VOC.

    Raises:
        UserError: a file is missing or damaged, or a class does not occur.
    """
    folders = _folders_by_year(source)
    splits = [split for year, folder in folders.items() for split in _read_year(folder, year)]
    kinds = sorted(
        {a.kind for split in splits for image in split.images for a in image.annotations}
    )
    if not kinds:
        raise UserError(f"{source} has no objects; give a folder with annotated objects.")
    unknown = [name for name in classes if name not in kinds]
    if unknown:
        raise UserError(f"--classes {','.join(unknown)}: choose from {', '.join(kinds)}.")
    names = tuple(classes or kinds)
    if "" not in folders and any(split.role == "test" for split in splits):
        splits = [split._replace(role=PUBLISHED_ROLES[split.role]) for split in splits]
    return Conversion(
        source_format="voc",
        settings={"annotations": str(source), "classes": list(names)},
        kinds=tuple(kinds),
        names=names,
        splits=tuple(_labelled(split, names) for split in splits),
    )


def _folders_by_year(source: Path) -> dict[str, Path]:
    """Return the folders that contain Annotations/, by year; the year of a single one is empty."""
    if (source / "Annotations").is_dir():
        return {"": source}
    root = source / KIT if (source / KIT).is_dir() else source
    folders = sorted(path.parent for path in root.glob("VOC*/Annotations") if path.is_dir())
    if not folders:
        raise UserError(
            f"{source} has neither Annotations/ nor VOC2007/Annotations/; give a folder of "
            "Pascal VOC."
        )
    return {folder.name.removeprefix("VOC"): folder for folder in folders}


def _read_year(folder: Path, year: str) -> list[Split]:
    """Read the splits of a folder; `trainval` is the union of two of them and is not read."""
    lists = {split: folder / LISTS / f"{split}.txt" for split in SPLITS}
    lists = {split: file for split, file in lists.items() if file.is_file()}
    if not lists:
        raise UserError(f"{folder / LISTS} has no train.txt, val.txt or test.txt; add one.")
    files = [path for path in folder.glob("JPEGImages/*") if path.suffix.lower() in IMAGE_SUFFIXES]
    by_stem = {path.stem: path for path in files}
    splits = []
    for split, list_file in lists.items():
        name = split + year
        stems = tqdm(_stems(list_file), f"Reading {name}", unit="file", disable=None)
        images = []
        for stem in stems:
            usual = folder / "JPEGImages" / (stem + USUAL_SUFFIX)
            file = folder / "Annotations" / f"{stem}.xml"
            images.append(_read_image(file, by_stem.get(stem, usual)))
        splits.append(Split(name, split, images))
    return splits


def _stems(list_file: Path) -> list[str]:
    """Return the names without suffix of the images that a file lists."""
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{list_file} is damaged ({error}); save it as UTF-8 text with one name per line."
        ) from error
    stems = [line.split()[0] for line in lines if line.strip()]
    if not stems:
        raise UserError(f"{list_file} has no images; remove the file or add image names.")
    for stem in stems:
        name = stem + USUAL_SUFFIX
        if image_place(name, str(list_file)).name != name:
            raise UserError(
                f"{list_file}: {stem!r} is not an image name without folders; correct it."
            )
    return stems


def _labelled(split: Split, names: tuple[str, ...]) -> Split:
    """Give the objects of the classes `names` a label, except difficult ones."""

    def labelled(annotation: Annotation) -> Annotation:
        if annotation.kind not in names:
            return annotation._replace(reason=f"of class {annotation.kind}")
        if annotation.reason:
            return annotation
        return annotation._replace(label=names.index(annotation.kind))

    images = [
        image._replace(annotations=tuple(map(labelled, image.annotations)))
        for image in split.images
    ]
    return split._replace(images=images)


def parse_xml(content: bytes, origin: Path) -> ET.Element:
    """Parse XML without entities, so that it can neither expand nor read other files.

    Entities can only be declared in a document type, which is rejected. Its declaration cannot be
    hidden: 8-bit encodings of XML write it in ASCII, and wider encodings contain zero bytes, which
    are rejected too.

    Raises:
        UserError: the file has a document type or is not XML.
    """
    if b"<!DOCTYPE" in content or b"\0" in content:
        raise UserError(
            f"{origin} is not safe: it has a document type or is not UTF-8; "
            "remove the document type and save it as UTF-8."
        )
    try:
        return ET.fromstring(content)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{origin} is damaged ({error}); get it again.") from error


def _read_image(file: Path, image: Path) -> AnnotatedImage:
    """Read an XML file; its objects have no label yet."""
    try:
        root = parse_xml(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; get it again.") from error
    width, height = _size(root, file, image)
    annotations = tuple(_annotation(element, file) for element in root.findall("object"))
    return AnnotatedImage(PurePosixPath(image.name), image, width, height, annotations)


def _size(root: ET.Element, file: Path, image: Path) -> tuple[int, int]:
    """Return width and height in px, from the image if they are not in the XML."""
    try:
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        width = height = 0
    if 0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS:
        return width, height
    try:
        height, width = probe_size(image)
    except (ImageError, OSError) as error:
        raise UserError(
            f"{file} has no image size, and it cannot be read from {image} ({error}); add it."
        ) from error
    return width, height


def _annotation(element: ET.Element, file: Path) -> Annotation:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{file} has an object without a name; add it.")
    # The box of the object, not those of its parts (head, hand, foot).
    left, top, right, bottom = (
        _coordinate(element, side, f"{file}: {name}") for side in ("xmin", "ymin", "xmax", "ymax")
    )
    if right > left and bottom > top:
        left, top = left - 1, top - 1
    difficult = (element.findtext("difficult") or "").strip() == "1"
    box = Corners(left, top, right, bottom)
    return Annotation(name, box, None, "difficult" if difficult else "")


def _coordinate(element: ET.Element, side: str, origin: str) -> float:
    text = element.findtext(f"bndbox/{side}") or ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{origin} has {side} {text!r:.80}; it must be a number.")
    return value
