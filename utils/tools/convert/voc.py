"""Pascal VOC: an XML file per image, and lists of the images of each split.

Corners are pixels counted from 1, and both corners are inside the box (VOC2007 development kit):
columns 1 to 5 become 0 to 5 px. Boxes with equal corners would be a single pixel and are errors;
they count as boxes without area.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
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
    require_distinct,
)

log = logging.getLogger("yolo")

SPLITS = ("train", "val", "test")
KIT = "VOCdevkit"
LISTS = Path("ImageSets", "Main")
USUAL_SUFFIX = ".jpg"
DIFFICULT = "difficult"


class _Object(NamedTuple):
    """An object in an XML file."""

    name: str
    box: Corners
    difficult: bool


class _VocImage(NamedTuple):
    """The content of an XML file, and its image."""

    file: Path
    image: Path
    width: int
    height: int
    objects: tuple[_Object, ...]


class _Year(NamedTuple):
    """A folder with Annotations/, ImageSets/Main/ and JPEGImages/."""

    folder: Path
    suffix: str
    """Suffix of the names of its splits, such as 2007; empty without years."""


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
    read: list[tuple[str, str, list[_VocImage]]] = []
    for year in _years(source):
        images = _images_by_stem(year.folder / "JPEGImages")
        for list_file in _lists(year.folder):
            name = list_file.stem
            read.append((name + year.suffix, name, _read_list(year, list_file, images)))
    kinds = sorted({o.name for _, _, entries in read for e in entries for o in e.objects})
    unknown = [name for name in classes if name not in kinds]
    if unknown or not kinds:
        raise UserError(
            f"--classes {','.join(unknown)}: choose from {', '.join(kinds)}."
            if kinds
            else f"{source} has no objects; give a folder with annotated objects."
        )
    names = tuple(classes) or tuple(kinds)
    years = any(split != role for split, role, _ in read)
    tested = years and any(role == "test" for _, role, _ in read)
    published = {"train": "train", "val": "train", "test": "val"}
    return Conversion(
        source_format="voc",
        settings={"annotations": str(source), "classes": list(names)},
        kinds=tuple(kinds),
        names=names,
        splits=tuple(
            Split(split, published[role] if tested else role, _images(entries, names, split))
            for split, role, entries in read
        ),
    )


def _years(source: Path) -> list[_Year]:
    if (source / "Annotations").is_dir():
        return [_Year(source, "")]
    root = source / KIT if (source / KIT).is_dir() else source
    folders = sorted(path.parent for path in root.glob("VOC*/Annotations") if path.is_dir())
    if not folders:
        raise UserError(
            f"{source} has neither Annotations/ nor VOC2007/Annotations/; give a folder of "
            "Pascal VOC."
        )
    return [_Year(folder, folder.name.removeprefix("VOC")) for folder in folders]


def _lists(folder: Path) -> list[Path]:
    """Return the list files of the splits; `trainval` is the union of two and is not read."""
    files = [folder / LISTS / f"{split}.txt" for split in SPLITS]
    found = [file for file in files if file.is_file()]
    if not found:
        raise UserError(f"{folder / LISTS} has no train.txt, val.txt or test.txt; add one.")
    return found


def _images_by_stem(folder: Path) -> dict[str, Path]:
    """Return the image files by their name without suffix."""
    if not folder.is_dir():
        return {}
    return {file.stem: file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}


def _read_list(year: _Year, list_file: Path, images: dict[str, Path]) -> list[_VocImage]:
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{list_file} is damaged ({error}); save it as UTF-8 text with one name per line."
        ) from error
    stems = [line.split()[0] for line in lines if line.strip()]
    if not stems:
        raise UserError(f"{list_file} has no images; remove the file or add image names.")
    found = []
    for stem in _progress(stems, f"Reading {list_file.stem}{year.suffix}"):
        name = stem + USUAL_SUFFIX
        if image_place(name, str(list_file)).name != name:
            raise UserError(
                f"{list_file}: {stem!r} is not an image name without folders; correct it."
            )
        usual = year.folder / "JPEGImages" / name
        file = year.folder / "Annotations" / f"{stem}.xml"
        found.append(_read_xml_file(file, images.get(stem, usual)))
    return found


def _progress(stems: list[str], title: str) -> Iterable[str]:
    return tqdm(stems, desc=title, unit="file", disable=None)


def _images(
    entries: Sequence[_VocImage], names: tuple[str, ...], origin: str
) -> tuple[AnnotatedImage, ...]:
    found = tuple(
        AnnotatedImage(
            place=image_place(entry.image.name, str(entry.file)),
            file=entry.image,
            width=entry.width,
            height=entry.height,
            annotations=tuple(_annotation(item, names) for item in entry.objects),
        )
        for entry in entries
    )
    require_distinct(found, origin)
    return found


def _annotation(item: _Object, names: tuple[str, ...]) -> Annotation:
    if item.name not in names:
        return Annotation(item.name, item.box, None, f"of class {item.name}")
    if item.difficult:
        return Annotation(item.name, item.box, None, DIFFICULT)
    return Annotation(item.name, item.box, names.index(item.name))


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


def _read_xml_file(file: Path, image: Path) -> _VocImage:
    try:
        root = parse_xml(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; get it again.") from error
    width, height = _size(root, file, image)
    objects = tuple(_object(element, file) for element in root.findall("object"))
    return _VocImage(file, image, width, height, objects)


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


def _object(element: ET.Element, file: Path) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{file} has an object without a name; add it.")
    # The box of the object, not those of its parts (head, hand, foot).
    left, top, right, bottom = (
        _coordinate(element, side, f"{file}: {name}") for side in ("xmin", "ymin", "xmax", "ymax")
    )
    has_area = right > left and bottom > top
    box = Corners(left, top, right, bottom)
    if has_area:
        box = box._replace(left=left - 1, top=top - 1)
    return _Object(name, box, (element.findtext("difficult") or "").strip() == "1")


def _coordinate(element: ET.Element, side: str, origin: str) -> float:
    text = element.findtext(f"bndbox/{side}") or ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{origin} has {side} {text!r:.80}; it must be a number.")
    return value
