"""Pascal VOC: an XML file per image, and maybe lists of the images of each split.

Corners are pixels counted from 1, and both corners are inside the box (VOC2007 development kit):
columns 1 to 5 become 0 to 5 px. If a left or upper corner of the data set is below 1, it was
written by a tool that counts from 0, and corners are the edges of the box. Boxes with equal corners
would be a single pixel and are errors; they count as boxes without area.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree as ET

from tqdm import tqdm

from utils.datasets.match_names import match_key
from utils.errors import UserError
from utils.tools.convert.annotated import (
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
from utils.tools.convert.finder import FileFinder, find_files, find_images, stem_of
from utils.tools.convert.splitting import shorten_places, split_by_folders, with_background
from utils.tools.convert.voc_xml import read_object, read_side, read_xml

log = logging.getLogger("yolo")

PUBLISHED_ROLES = {"train": "train", "val": "train", "test": "val"}
KIT = "VOCdevkit"
ANNOTATIONS = "Annotations"
LISTS = Path("ImageSets", "Main")
LIST_ROLES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
TRAINVAL = "trainval"
CLASS_FLAG = re.compile(r"(.+?)\s+(?:-1|0|1)")
"""A line of a list for one class: the image, and whether it shows the class."""


class _ListFile(NamedTuple):
    file: Path
    name: str
    """Name of the split."""
    role: str


class _Source(NamedTuple):
    """The files of a folder of Pascal VOC."""

    xmls: FileFinder
    images: FileFinder


def read_voc(source: Path, annotations: Path | None = None, classes: str = "") -> Conversion:
    """Read a folder of Pascal VOC, a VOCdevkit with several years, or images with XML files.

    If one of several years has a list `test`, as VOC2007 has, the lists `train` and `val` of all
    years become training data, and `test` becomes validation data. The published results use this
    split. Without lists, folders called train, valid or test are splits; without these, the images
    are one split without a role, and images without an XML file are background.

    Args:
        source: folder of the images, or one that contains Annotations/, or VOC2007/Annotations/.
        annotations: folder of the XML files; None: they are in the source.
        classes: classes to keep, separated by commas, in the order of their labels; others become
            ignore regions. If empty, all in alphabetical order, which is that of Pascal VOC.

    Raises:
        UserError: a file is missing or damaged, or a class does not occur.
    """
    root = annotations or source
    if root.name == ANNOTATIONS and (root.parent / LISTS).is_dir():
        root = root.parent
    splits = []
    for year, folder in _folders_by_year(root).items():
        images = source if annotations else _image_folder(folder)
        splits += [_of_year(split, year) for split in _read_folder(folder, images)]
    splits = _count_pixels(splits or _read_pairs(source, root))
    kinds = sorted(
        {a.kind for split in splits for image in split.images for a in image.annotations}
    )
    if not kinds:
        raise UserError(f"{root} has no objects; give a folder with annotated objects.")
    names = chosen_names(classes, kinds)
    if any(split.role == "test" and split.name != "test" for split in splits):  # of a year
        splits = [
            split._replace(role=PUBLISHED_ROLES.get(split.role, split.role)) for split in splits
        ]
    return Conversion(
        source_format="voc",
        settings={"annotations": str(root), "classes": list(names)},
        kinds=tuple(kinds),
        names=names,
        splits=labelled(splits, names),
    )


def _folders_by_year(source: Path) -> dict[str, Path]:
    """Return the folders that contain Annotations/, by year; the year of a single one is empty."""
    if (source / ANNOTATIONS).is_dir():
        return {"": source}
    root = source / KIT if (source / KIT).is_dir() else source
    folders = sorted(path.parent for path in root.glob(f"VOC*/{ANNOTATIONS}") if path.is_dir())
    return {folder.name.removeprefix("VOC"): folder for folder in folders}


def _read_folder(folder: Path, images: Path) -> list[Split]:
    """Read a folder that contains Annotations/, by its lists if it has some."""
    lists = _list_files(folder)
    if not lists:
        return _read_pairs(images, folder / ANNOTATIONS)
    source = _Source(find_files(folder / ANNOTATIONS, ".xml"), find_images(images))
    problems, splits = Problems(), []
    before: set[str] = set()
    for file, name, role in lists:
        with problems.collected():
            stems = _stems(file, source, problems)
            if file.stem.lower() == TRAINVAL:  # the last of the lists; see `_list_files`
                stems = [stem for stem in stems if stem not in before]
            before |= set(stems)
            found = []
            for stem in tqdm(stems, f"Reading {name}", unit="file", disable=None):
                with problems.collected():
                    found.append(_listed_image(stem, source, folder))
            split = Split(name, role, found, None if name else "")
            splits.append(shorten_places(split))
    problems.raise_if_any()
    used = {source.xmls.find(stem) for stem in before}
    unused = sum(file not in used for file in source.xmls)
    if unused:
        log.warning("%d XML files are in none of the lists and not used.", unused)
    return [split for split in splits if split.images]


def _of_year(split: Split, year: str) -> Split:
    """Add the year to the names, so that the splits of several years differ."""
    if not year:
        return split
    folder = None if split.folder is None else year
    return split._replace(name=f"{split.name or 'train'}{year}", folder=folder)


def _image_folder(folder: Path) -> Path:
    usual = (folder / name for name in ("JPEGImages", "images", "Images"))
    return next((path for path in usual if path.is_dir()), folder)


def _list_files(folder: Path) -> list[_ListFile]:
    """Return the lists to read; log those that are not used.

    `trainval` is the union of `train` and `val`: it is read for what one of them lacks. A single
    list of another name, such as CVAT's `default`, has no role; `dog_default` is for one class.
    """
    found = {
        path.stem.lower(): path
        for path in sorted((folder / LISTS).glob("*"))
        if path.suffix.lower() == ".txt" and path.is_file()
    }
    roles = {role: path for stem, path in found.items() if (role := LIST_ROLES.get(stem, ""))}
    used = [_ListFile(path, role, role) for role, path in roles.items()]
    if TRAINVAL in found and not {"train", "val"} <= roles.keys():
        rest = "val" if "train" in roles else "train"
        used.append(_ListFile(found[TRAINVAL], rest, rest))
    whole = [stem for stem in found if not any(stem.endswith(f"_{other}") for other in found)]
    if not used and len(whole) == 1:
        used = [_ListFile(found[whole[0]], "", "")]
    if not used and found:
        raise UserError(
            f"{folder / LISTS} has the lists {shown([path.name for path in found.values()])}, but "
            "no train.txt, val.txt or test.txt; rename those to use, or remove them to use all "
            "images."
        )
    unused = [path.name for path in found.values() if path not in {file for file, *_ in used}]
    if unused:
        log.warning("Lists in %s that are not used: %s.", folder / LISTS, shown(unused))
    order = ("train", "val", "test", "")
    # A list of the rest comes after the one that it completes.
    return sorted(used, key=lambda one: (one.file.stem.lower() == TRAINVAL, order.index(one.role)))


def _stems(list_file: Path, source: _Source, problems: Problems) -> list[str]:
    """Return the names without suffix of the images that a file lists, each once."""
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{list_file} is damaged ({error}); save it as UTF-8 text with one name per line."
        ) from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{list_file} has no images; remove the file or add image names.")
    stems = []
    for line in lines:
        with problems.collected():
            stems.append(_stem(line, source))
    distinct = list(dict.fromkeys(stems))
    if len(distinct) < len(stems):
        log.warning("%s lists %d images twice.", list_file, len(stems) - len(distinct))
    return distinct


def _stem(line: str, source: _Source) -> str:
    """Return the image of a line. Names may contain spaces; lists for one class end with a flag."""
    flagged = CLASS_FLAG.fullmatch(line)
    for stem in (line, stem_of(line), flagged[1] if flagged else line):
        if source.xmls.find(stem) or source.images.find(stem):
            return stem
    return flagged[1] if flagged else stem_of(line)


def _listed_image(stem: str, source: _Source, folder: Path) -> AnnotatedImage:
    """Read the XML file of an image in a list; without one, the image is background."""
    file = source.xmls.find(stem)
    image = source.images.find(stem)
    if file is None and image is None:
        expected = folder / ANNOTATIONS / f"{stem}.xml"
        raise UserError(
            f"cannot read {expected}: neither it nor an image {stem} exists; correct the list."
        )
    root = ET.Element("annotation") if file is None else read_xml(file)
    image = image or _named_image(root, file or folder, source.images, "")
    return _annotated(root, file or folder, image, source.images, stem)


def _read_pairs(images: Path, annotations: Path) -> list[Split]:
    """Read a folder of images and a folder of XML files, with the same names in any subfolders."""
    files = find_files(annotations, ".xml")
    if not any(files):
        raise UserError(
            f"{annotations} has no XML files; give a folder of Pascal VOC, or a folder of images "
            "and one of XML files."
        )
    finder, problems = find_images(images), Problems()
    found: dict[Path, AnnotatedImage] = {}
    others, missing = [], []
    for file in tqdm(list(files), "Reading XML files", unit="file", disable=None):
        with problems.collected():
            root = read_xml(file)
            if not any(root.find(tag) is not None for tag in ("object", "size", "filename")):
                others.append(file)
                continue
            image = _named_image(root, file, finder, str(files.place(file).with_suffix("")))
            if image in found:
                raise UserError(
                    f"{file} describes {image}, which another XML file does; remove one."
                )
            one = _annotated(root, file, image, finder, file.stem)
            if image is None:
                missing.append(one)
            else:
                found[image] = one
    problems.raise_if_any()
    if others:
        log.warning("XML files without annotations, not used: %s.", shown(others))
    every = with_background(Split("", "", [*found.values(), *missing]), finder).images
    return [shorten_places(split) for split in split_by_folders(every, images)]


def _named_image(root: ET.Element, file: Path, finder: FileFinder, name: str) -> Path | None:
    """Find the image with the name of the XML file, else the one that is named in it.

    Images and XML files are often renamed together, which leaves the name in the file as it was.
    """
    written = (root.findtext("filename") or "").strip()
    if name and match_key(stem_of(written)) == match_key(PurePosixPath(name).name):
        folder = PurePosixPath(name).parent
        found = finder.find(str(folder / written))  # among a.jpg and a.png, the one that it says
        if found:
            return found
    return (finder.find(name) if name else None) or (finder.find(written) if written else None)


def _annotated(
    root: ET.Element, file: Path, image: Path | None, finder: FileFinder, stem: str
) -> AnnotatedImage:
    """Return the annotations of an XML file; its objects have no label yet."""
    if image is None:
        written = PurePosixPath((root.findtext("filename") or "").strip().replace("\\", "/"))
        place = image_place(f"{stem}{written.suffix or '.jpg'}", str(file))
        image = finder.folder / place
    else:
        place = finder.place(image)
    width, height = (read_side(root.findtext(f"size/{side}")) for side in ("width", "height"))
    problems, annotations = Problems(), []
    for element in root.findall("object"):
        with problems.collected():
            annotations.append(read_object(element, file))
    problems.raise_if_any()
    known = (width, height) if width and height else (0, 0)
    return AnnotatedImage(place, image, *known, tuple(annotations))


def _count_pixels(splits: Sequence[Split]) -> list[Split]:
    """Convert corners counted from 1 to edges, unless a corner shows that they count from 0."""

    def boxes() -> Iterator[Corners]:
        return (a.box for split in splits for image in split.images for a in image.annotations)

    if any(min(box.left, box.top) < 1 for box in boxes()):
        log.info("A corner is below 1, so pixels are counted from 0.")
        return list(splits)

    def moved(annotation: Annotation) -> Annotation:
        left, top, right, bottom = annotation.box
        if right > left and bottom > top:
            return annotation._replace(box=Corners(left - 1, top - 1, right, bottom))
        return annotation

    return [
        split._replace(
            images=[i._replace(annotations=tuple(map(moved, i.annotations))) for i in split.images]
        )
        for split in splits
    ]
