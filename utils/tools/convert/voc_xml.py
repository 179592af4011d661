"""The XML files of Pascal VOC: safe parsing, and the values of their elements."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

from utils.errors import UserError
from utils.tools.convert.annotated import MAX_PIXELS, Annotation, Corners

ENCODING = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w-]+)""")
ENCODINGS = re.compile(
    r"utf-?(8|16)|us-ascii|ascii|gbk?|gb2312|gb18030|big5\w*|shift_jis|euc[-_](jp|kr)|koi8-r"
    r"|iso-8859-\d+|latin-?1|windows-125\d|cp125\d",
    re.IGNORECASE,
)
SIDES = ("xmin", "ymin", "xmax", "ymax")


def read_side(text: str | None) -> int:
    """Return a side of an image, px; 0 if the text is no valid one."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0
    return int(value) if 0 < value <= MAX_PIXELS else 0


def parse_xml(content: bytes, origin: Path) -> ET.Element:
    """Parse XML without entities, so that it can neither expand nor read other files.

    Entities can only be declared in a document type, which is rejected. The text is decoded before
    it is searched for one, so no encoding can hide it.

    Raises:
        UserError: the file has a document type, is not XML, or has an unknown encoding.
    """
    declared = ENCODING.match(content.removeprefix(b"\xef\xbb\xbf").lstrip()[:200])
    encoding = declared[1].decode() if declared else "utf-8"
    if not ENCODINGS.fullmatch(encoding):
        raise UserError(f"{origin} is damaged (unknown encoding {encoding}); save it as UTF-8.")
    if encoding.lower().startswith("utf"):  # the first bytes are more reliable
        wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        encoding = "utf-16" if wide else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise UserError(f"{origin} is damaged ({error}); save it as UTF-8.") from error
    if "<!DOCTYPE" in text or "\0" in text:
        raise UserError(
            f"{origin} is not safe: it has a document type or is not UTF-8; "
            "remove the document type and save it as UTF-8."
        )
    try:
        return ET.fromstring(text.lstrip())
    except (ET.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{origin} is damaged ({error}); get it again.") from error


def read_xml(file: Path) -> ET.Element:
    """Read an XML file; see `parse_xml`.

    Raises:
        UserError: it cannot be read, or has the annotations of several images.
    """
    try:
        root = parse_xml(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; get it again.") from error
    if root.tag == "annotations":
        raise UserError(
            f"{file} has the annotations of several images, a format of CVAT; export them as "
            "COCO, YOLO or Pascal VOC."
        )
    return root


def read_object(element: ET.Element, file: Path) -> Annotation:
    """Return an <object> as an annotation without label; difficult ones are to be ignored.

    The box is as it is written: `read_voc` converts pixels to edges.

    Raises:
        UserError: it has no name or no box of numbers.
    """
    name = " ".join((element.findtext("name") or "").split())
    if not name:
        raise UserError(f"{file} has an object without a name; add it.")
    difficult = (element.findtext("difficult") or "").strip() == "1"
    return Annotation(
        name, _box(element, f"{file}: {name}"), None, "difficult" if difficult else ""
    )


def _box(element: ET.Element, origin: str) -> Corners:
    """Return the box of the object as it is written, not those of its parts (head, hand, foot)."""
    polygon = element.find("polygon")
    if element.find("bndbox") is None and polygon is not None:
        points = {axis: [*_points(polygon, axis, origin)] for axis in "xy"}
        if all(points.values()):
            x, y = points["x"], points["y"]
            return Corners(min(x), min(y), max(x), max(y))
    return Corners(*(_number(element.findtext(f"bndbox/{s}"), s, origin) for s in SIDES))


def _points(polygon: ET.Element, axis: str, origin: str) -> Iterable[float]:
    """Return the coordinates of a polygon: <x1>, <x2> …, or <pt><x> as LabelMe writes them."""
    tags = (tag for tag in polygon.iter() if re.fullmatch(rf"{axis}\d*", tag.tag))
    return (_number(tag.text, tag.tag, origin) for tag in tags)


def _number(text: str | None, side: str, origin: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{origin} has {side} {text or ''!r:.80}; it must be a number.")
    return value
