"""Pascal VOC: an XML file per image, and lists of the images of each split.

Corners are pixels counted from 1, and the last ones belong to the box, as the development kit of
VOC2007 tells: columns 1 to 5 are 0 to 5 px here. Boxes with equal corners, which would be a single
pixel, occur by mistake only; they count as without area.
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
    """An object of an XML file."""

    name: str
    box: Corners
    difficult: bool


class _Picture(NamedTuple):
    """An XML file, with the image that it is of."""

    file: Path
    image: Path
    width: int
    height: int
    objects: tuple[_Object, ...]


class _Year(NamedTuple):
    """A folder with Annotations/, ImageSets/Main/ and JPEGImages/."""

    folder: Path
    suffix: str
    """Of the names of its splits: 2007, or nothing where there are no years."""


def read_voc(source: Path, classes: Sequence[str] = ()) -> Conversion:
    """Read a folder of Pascal VOC, or a VOCdevkit with several years.

    If one of several years has a list `test`, as VOC2007 has, training takes the lists `train` and
    `val` of all of them, and validation takes `test`: so the published figures are made.

    Args:
        source: the folder that holds Annotations/, or VOC2007/Annotations/ and the like.
        classes: the classes to keep, in the order of their labels; others become ignore regions.
            All that are there if empty, in alphabetical order, which is the order of Pascal VOC.

    Raises:
        UserError: a file is missing or unreadable, or a class does not occur.
    """
    read: list[tuple[str, str, list[_Picture]]] = []
    for year in _years(source):
        images = _images_by_stem(year.folder / "JPEGImages")
        for list_file in _lists(year.folder):
            name = list_file.stem
            read.append((name + year.suffix, name, _pictures(year, list_file, images)))
    kinds = sorted({o.name for _, _, pictures in read for p in pictures for o in p.objects})
    unknown = [name for name in classes if name not in kinds]
    if unknown or not kinds:
        raise UserError(
            f"{source} has no object of class {', '.join(unknown) or 'any'}; "
            f"there are {', '.join(kinds) or 'none'}."
        )
    names = tuple(classes) or tuple(kinds)
    years = any(split != role for split, role, _ in read)
    tested = years and any(role == "test" for _, role, _ in read)
    published = {"train": "train", "val": "train", "test": "val"}
    return Conversion(
        form="voc",
        settings={"annotations": str(source), "classes": list(names)},
        kinds=tuple(kinds),
        names=names,
        splits=tuple(
            Split(split, published[role] if tested else role, _images(pictures, names, split))
            for split, role, pictures in read
        ),
    )


def _years(source: Path) -> list[_Year]:
    if (source / "Annotations").is_dir():
        return [_Year(source, "")]
    root = source / KIT if (source / KIT).is_dir() else source
    folders = sorted(path.parent for path in root.glob("VOC*/Annotations") if path.is_dir())
    if not folders:
        raise UserError(f"{source} holds neither Annotations/ nor VOC2007/Annotations/ …")
    return [_Year(folder, folder.name.removeprefix("VOC")) for folder in folders]


def _lists(folder: Path) -> list[Path]:
    """The lists of the splits; `trainval` is two of them at once and is not read."""
    files = [folder / LISTS / f"{split}.txt" for split in SPLITS]
    found = [file for file in files if file.is_file()]
    if not found:
        raise UserError(f"{folder / LISTS} holds no train.txt, val.txt or test.txt.")
    return found


def _images_by_stem(folder: Path) -> dict[str, Path]:
    """Image files by their name without suffix."""
    if not folder.is_dir():
        return {}
    return {file.stem: file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}


def _pictures(year: _Year, list_file: Path, images: dict[str, Path]) -> list[_Picture]:
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{list_file} is not a readable list ({error}).") from error
    stems = [line.split()[0] for line in lines if line.strip()]
    if not stems:
        raise UserError(f"{list_file} names no images; remove it or fill it.")
    found = []
    for stem in _progress(stems, f"Reading {list_file.stem}{year.suffix}"):
        name = stem + USUAL_SUFFIX
        if image_place(name, str(list_file)).name != name:
            raise UserError(f"{list_file}: {stem!r} is no name of an image without folders.")
        usual = year.folder / "JPEGImages" / name
        file = year.folder / "Annotations" / f"{stem}.xml"
        found.append(_read_picture(file, images.get(stem, usual)))
    return found


def _progress(stems: list[str], title: str) -> Iterable[str]:
    return tqdm(stems, desc=title, unit="file", disable=None)


def _images(
    pictures: Sequence[_Picture], names: tuple[str, ...], origin: str
) -> tuple[AnnotatedImage, ...]:
    found = tuple(
        AnnotatedImage(
            place=image_place(picture.image.name, str(picture.file)),
            file=picture.image,
            width=picture.width,
            height=picture.height,
            annotations=tuple(_annotation(item, names) for item in picture.objects),
        )
        for picture in pictures
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
    """Parse XML that declares no entities, so that it can neither grow nor read other files.

    Entities are declared in a document type and nowhere else. Its declaration cannot hide: XML's
    eight-bit encodings write it in ASCII, and those of more bits have zero bytes, refused as well.

    Raises:
        UserError: there is a document type, or the file is not XML.
    """
    if b"<!DOCTYPE" in content or b"\0" in content:
        raise UserError(
            f"{origin} is refused: annotations have no document type and are UTF-8; remove it."
        )
    try:
        return ET.fromstring(content)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{origin} is not readable XML ({error}); get it anew.") from error


def _read_picture(file: Path, image: Path) -> _Picture:
    try:
        root = parse_xml(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); get it anew.") from error
    width, height = _size(root, file, image)
    objects = tuple(_object(element, file) for element in root.findall("object"))
    return _Picture(file, image, width, height, objects)


def _size(root: ET.Element, file: Path, image: Path) -> tuple[int, int]:
    """Width and height in px, from the image where the XML does not tell them."""
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
            f"{file} has no image size, and {image} does not tell it ({error}); add it."
        ) from error
    return width, height


def _object(element: ET.Element, file: Path) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{file} has an object without a name; add it.")
    # In an object's own box, not in those of its parts (head, hand, foot).
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
