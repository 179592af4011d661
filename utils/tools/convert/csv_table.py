"""CSV: a row per object, with the image, the corners of the box and the class.

The tutorials of TensorFlow write `filename,width,height,class,xmin,ymin,xmax,ymax`, RetinaNet
`path,x1,y1,x2,y2,class` without a header; other tables have such columns in another order.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.tools.convert.annotated import (
    MAX_PIXELS,
    AnnotatedImage,
    Annotation,
    Conversion,
    Corners,
    Problems,
    Split,
    chosen_names,
    image_place,
    labelled,
    shown,
)
from utils.tools.convert.finder import FileFinder, find_images, require_same
from utils.tools.convert.sizes import scale_fractions
from utils.tools.convert.splitting import role_of, shorten_places, with_unlisted

log = logging.getLogger("yolo")

# Column names in lower case without spaces, dashes and underscores.
SYNONYMS = {
    "image": ("filename", "image", "imageid", "imagename", "path", "filepath", "imagepath", "file"),
    "kind": ("class", "label", "classname", "category", "labelname", "name"),
    "left": ("xmin", "x1", "left"),
    "top": ("ymin", "y1", "top"),
    "right": ("xmax", "x2", "right"),
    "bottom": ("ymax", "y2", "bottom"),
    "bbox": ("bbox", "box"),
    "width": ("width", "imagewidth"),
    "height": ("height", "imageheight"),
}
WITHOUT_HEADER = ("image", "left", "top", "right", "bottom", "kind")
SIDES = ("left", "top", "right", "bottom")
DELIMITERS = (",", ";", "\t")
LAYOUTS = "filename,width,height,class,xmin,ymin,xmax,ymax or path,x1,y1,x2,y2,class"


class _Table(NamedTuple):
    file: Path
    columns: Mapping[str, int]
    rows: Sequence[tuple[int, list[str]]]
    """Each with its line number."""


def read_csv(source: Path, images: Path | None = None, classes: str = "") -> Conversion:
    """Read a CSV file, or the CSV files of a folder whose names begin with train, val or test.

    Args:
        source: a file, whose images are one split without a role, and unlisted images are
            background; or a folder.
        images: folder of the images, in any subfolders; None: that of the source.
        classes: as in `read_voc`; if the table has no column of classes, the one class of all.

    Raises:
        UserError: a column is missing, or a row is invalid.
    """
    tables = [(_read_table(source), "")] if source.is_file() else _tables(source)
    finder = find_images(images or (source.parent if source.is_file() else source))
    problems, splits = Problems(), list[Split]()
    for table, role in tables:
        with problems.collected():
            found = _images(table, finder, role, classes)
            splits.append(Split(role, role, found, None if role else ""))
    problems.raise_if_any()
    splits = with_unlisted(splits, source, finder)
    boxes = [a for split in splits for image in split.images for a in image.annotations]
    if not boxes:
        raise UserError(f"{source} has no boxes; give a table with boxes.")
    kinds = sorted({annotation.kind for annotation in boxes})
    names = chosen_names(classes, kinds)
    return Conversion(
        source_format="csv",
        settings={"tables": [str(table.file) for table, _ in tables], "classes": list(names)},
        kinds=tuple(kinds),
        names=names,
        splits=labelled([shorten_places(split) for split in scale_fractions(splits)], names),
        missing_images_remedy="put them there, or give their folder with --images",
    )


def _tables(source: Path) -> list[tuple[_Table, str]]:
    """Return the tables of a folder with the roles that their names say; log the others."""
    files = sorted(file for file in source.glob("*") if file.suffix.lower() == ".csv")
    used = [(_read_table(file), role_of(file.stem)) for file in files if role_of(file.stem)]
    if not used:
        raise UserError(
            f"{source} has no CSV files for train, val or test by their names"
            + (
                f", only {shown([file.name for file in files])}; give one of them."
                if files
                else "; give a CSV file."
            )
        )
    unused = [file.name for file in files if not role_of(file.stem)]
    if unused:
        log.warning("CSV files that are not used: %s.", shown(unused))
    roles = [role for _, role in used]
    if len(set(roles)) < len(roles):
        names = [table.file.name for table, _ in used]
        raise UserError(f"{source} has several CSV files per split ({shown(names)}); join them.")
    return used


def _read_table(file: Path) -> _Table:
    try:
        content = file.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        text = content.decode(encoding)
        first = text.split("\n", 1)[0]
        delimiter = max(DELIMITERS, key=first.count)
        lines = enumerate(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), 1)
        rows = [(number, [cell.strip() for cell in row]) for number, row in lines if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} is damaged ({error}); save it as CSV in UTF-8.") from error
    if not rows:
        raise UserError(f"{file} is empty; give a table with boxes.")
    columns = _columns(rows[0][1])
    if columns:
        return _Table(file, columns, rows[1:])
    if len(rows[0][1]) == len(WITHOUT_HEADER) and all(map(_is_number, rows[0][1][1:5])):
        return _Table(file, {name: i for i, name in enumerate(WITHOUT_HEADER)}, rows)
    raise UserError(
        f"{file} has the columns {shown(rows[0][1])}; expected are {LAYOUTS}. Rename the columns."
    )


def _columns(header: Sequence[str]) -> dict[str, int]:
    """Return the positions of the known columns; empty if image and box are not among them."""
    names = [re.sub(r"[\s_-]", "", name.lower()) for name in header]
    found = {
        column: names.index(name)
        for column, synonyms in SYNONYMS.items()
        if (name := next((name for name in synonyms if name in names), ""))
    }
    has_box = "bbox" in found or all(side in found for side in SIDES)
    return found if has_box and "image" in found else {}


def _is_number(text: str) -> bool:
    try:
        return not text or abs(float(text)) <= MAX_PIXELS
    except ValueError:
        return False


def _images(table: _Table, finder: FileFinder, role: str, classes: str) -> list[AnnotatedImage]:
    """Return the images of a table; objects have no label yet."""
    one_class = "" if "kind" in table.columns else classes.strip()
    if "kind" not in table.columns and (not one_class or "," in one_class):
        raise UserError(
            f"{table.file} has no column of classes; add a column `class`, or give the one class "
            "of all boxes with --classes NAME."
        )
    problems, found = Problems(), dict[str, AnnotatedImage]()
    annotations: defaultdict[str, list[Annotation]] = defaultdict(list)
    for number, row in table.rows:
        with problems.collected():
            origin = f"{table.file}, line {number}"
            cells = {name: row[i] if i < len(row) else "" for name, i in table.columns.items()}
            name = cells["image"]
            if name not in found:
                found[name] = _image(cells, finder, role, origin)
            box = _box(cells, origin)
            if box is not None:
                kind = one_class or " ".join(cells["kind"].split())
                if not kind:
                    raise UserError(f"{origin} has no class; add it.")
                annotations[name].append(Annotation(kind, box))
    joined: dict[Path, tuple[str, AnnotatedImage]] = {}
    for name, image in found.items():
        with problems.collected():
            other, before = joined.get(image.file, (name, image))
            require_same(other, name, image.place)
            rows = (*before.annotations, *annotations[name])
            joined[image.file] = (name, before._replace(annotations=rows))
    problems.raise_if_any()
    return [image for _, image in joined.values()]


def _image(cells: Mapping[str, str], finder: FileFinder, role: str, origin: str) -> AnnotatedImage:
    file = finder.find(cells["image"], {role})
    if file is None:
        place = image_place(cells["image"], origin)
        file = finder.folder / place
    else:
        place = finder.place(file)
    sides = [cells.get(side, "") for side in ("width", "height")]
    width, height = (int(float(s)) if s and _is_number(s) else 0 for s in sides)
    known = (width, height) if min(width, height) > 0 else (0, 0)
    return AnnotatedImage(place, file, *known, ())


def _box(cells: Mapping[str, str], origin: str) -> Corners | None:
    """Return the box of a row; None for a row without one, of a background image."""
    if "bbox" in cells:
        texts = cells["bbox"].strip("[]() ").replace(",", " ").split()
    else:
        texts = [cells[side] for side in SIDES]
    if not any(texts):
        return None
    if len(texts) != len(SIDES) or not all(text and _is_number(text) for text in texts):
        raise UserError(
            f"{origin} has the box {shown(texts)}; it must be four numbers of at most {MAX_PIXELS}."
        )
    left, top, right, bottom = map(float, texts)
    if "bbox" in cells:  # left, top, width, height, as in COCO
        return Corners(left, top, left + right, top + bottom)
    return Corners(left, top, right, bottom)
