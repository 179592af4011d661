"""Pascal VOC: an XML file per image, and maybe lists of the images of each split.

Corners are pixels counted from 1, and both corners are inside the box (VOC2007 development kit):
columns 1 to 5 become 0 to 5 px. If left or upper corners of the data set are at 0, it was written
by a tool that counts from 0, and corners are the edges of the box. Negative corners do not show it:
they are outside the image in both ways. Boxes with equal corners would be a single pixel and are
errors; they count as boxes without area.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree as ET

from tqdm import tqdm

from utils.datasets.image_files import IMAGE_SUFFIXES
from utils.datasets.matching import name_key
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
from utils.tools.convert.sizes import are_fractions, scale_fractions
from utils.tools.convert.splitting import TRAINVAL, shorten_places, split_by_folders, split_by_lists
from utils.tools.convert.voc_xml import read_object, read_side, read_xml

log = logging.getLogger("yolo")

PUBLISHED_ROLES = {"train": "train", "val": "train", "test": "val"}
KIT = "VOCdevkit"
ANNOTATIONS = "Annotations"
LISTS = Path("ImageSets", "Main")
LIST_ROLES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


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
    if not splits:
        splits = _by_folders(_read_images(source, root)[0], source)
    splits = _count_pixels(splits)
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
    found, root = _read_images(images, folder / ANNOTATIONS)
    lists = _list_files(folder)
    if not lists:
        return _by_folders(found, images)
    every = FileFinder(root, found, IMAGE_SUFFIXES)
    return [shorten_places(split) for split in split_by_lists(lists, every, found)]


def _by_folders(found: Mapping[Path, AnnotatedImage], images: Path) -> list[Split]:
    return [shorten_places(split) for split in split_by_folders([*found.values()], images)]


def _of_year(split: Split, year: str) -> Split:
    """Add the year to the names, so that the splits of several years differ."""
    if not year:
        return split
    folder = None if split.folder is None else year
    return split._replace(name=f"{split.name or 'train'}{year}", folder=folder)


def _image_folder(folder: Path) -> Path:
    usual = (folder / name for name in ("JPEGImages", "images", "Images"))
    return next((path for path in usual if path.is_dir()), folder)


def _list_files(folder: Path) -> dict[Path, str]:
    """Return the lists to read and their roles; log those that are not used.

    `trainval` is the union of `train` and `val`: it comes last, for what one of them lacks. A
    single list of another name, such as CVAT's `default`, has no role; `dog_default` is for one
    class.
    """
    found = {
        path.stem.lower(): path
        for path in sorted((folder / LISTS).glob("*"))
        if path.suffix.lower() == ".txt" and path.is_file()
    }
    roles = {role: path for stem, path in found.items() if (role := LIST_ROLES.get(stem, ""))}
    used: dict[Path, str] = {}
    for role in ("train", "val", "test"):
        if role in roles:
            used[roles[role]] = role
    if TRAINVAL in found and not {"train", "val"} <= roles.keys():
        used[found[TRAINVAL]] = "val" if "train" in roles else "train"
    whole = [stem for stem in found if not any(stem.endswith(f"_{other}") for other in found)]
    if not used and len(whole) == 1:
        used = {found[whole[0]]: ""}
    if not used and found:
        raise UserError(
            f"{folder / LISTS} has the lists {shown([path.name for path in found.values()])}, but "
            "no train.txt, val.txt or test.txt; rename those to use, or remove them to use all "
            "images."
        )
    unused = [path.name for path in found.values() if path not in used]
    if unused:
        log.warning("Lists in %s that are not used: %s.", folder / LISTS, shown(unused))
    return used


def _read_images(images: Path, annotations: Path) -> tuple[dict[Path, AnnotatedImage], Path]:
    """Read a folder of images and a folder of XML files, with the same names in any subfolders.

    Returns:
        the images with their annotations, also those without an XML file and those that do not
        exist, sorted; and their folder.
    """
    files = find_files(annotations, ".xml")
    if not any(files):
        raise UserError(
            f"{annotations} has no XML files; give a folder of Pascal VOC, or a folder of images "
            "and one of XML files."
        )
    finder, problems = find_images(images), Problems()
    found = {image: AnnotatedImage(finder.place(image), image, 0, 0, ()) for image in finder}
    described: dict[Path, Path] = {}
    others = []
    for file in tqdm(list(files), "Reading XML files", unit="file", disable=None):
        with problems.collected():
            root = read_xml(file)
            if not any(root.find(tag) is not None for tag in ("object", "size", "filename")):
                others.append(file)
                continue
            name = str(files.place(file).with_suffix(""))
            image = _named_image(root, file, finder, name) or _missing_image(root, file, finder)
            if described.setdefault(image, file) != file:
                raise UserError(f"{file} and {described[image]} both describe {image}; remove one.")
            found[image] = _annotated(root, file, image, image.relative_to(finder.folder))
    problems.raise_if_any()
    if others:
        log.warning("XML files without annotations, not used: %s.", shown(others))
    background = len(found) - len(described)
    if background:
        log.warning("%d images have no XML file: they are background.", background)
    return dict(sorted(found.items())), finder.folder


def _named_image(root: ET.Element, file: Path, finder: FileFinder, name: str) -> Path | None:
    """Find the image with the name of the XML file, else the one that is named in it.

    Images and XML files are often renamed together, which leaves the name in the file as it was.
    """
    written = (root.findtext("filename") or "").strip()
    if name and name_key(stem_of(written)) == name_key(PurePosixPath(name).name):
        folder = PurePosixPath(name).parent
        found = finder.find(str(folder / written))  # among a.jpg and a.png, the one that it says
        if found:
            return found
    return (finder.find(name) if name else None) or (finder.find(written) if written else None)


def _missing_image(root: ET.Element, file: Path, finder: FileFinder) -> Path:
    """Return the path at which the image of an XML file is missing."""
    written = PurePosixPath((root.findtext("filename") or "").strip().replace("\\", "/"))
    return finder.folder / image_place(f"{file.stem}{written.suffix or '.jpg'}", str(file))


def _annotated(root: ET.Element, file: Path, image: Path, place: Path) -> AnnotatedImage:
    """Return the annotations of an XML file; its objects have no label yet."""
    width, height = (read_side(root.findtext(f"size/{side}")) for side in ("width", "height"))
    problems, annotations = Problems(), []
    for element in root.findall("object"):
        with problems.collected():
            annotations.append(read_object(element, file))
    problems.raise_if_any()
    known = (width, height) if width and height else (0, 0)
    return AnnotatedImage(PurePosixPath(place.as_posix()), image, *known, tuple(annotations))


def _count_pixels(splits: Sequence[Split]) -> list[Split]:
    """Convert corners counted from 1 to edges, unless corners show that they count from 0.

    Fractions of the image become pixels.
    """
    images = [image for split in splits if not are_fractions(split) for image in split.images]
    from_zero = [i.place for i in images for a in i.annotations if _starts_at_zero(a.box)]
    if from_zero:
        log.warning(
            "%d of %d boxes have a left or upper corner at 0, so pixels are counted from 0: %s.",
            *(len(from_zero), sum(len(i.annotations) for i in images)),
            shown(list(dict.fromkeys(from_zero))),
        )

    def moved(annotation: Annotation) -> Annotation:
        left, top, right, bottom = annotation.box
        if right > left and bottom > top:
            return annotation._replace(box=Corners(left - 1, top - 1, right, bottom))
        return annotation

    def edges(split: Split) -> Split:
        if from_zero or are_fractions(split):
            return split
        rows = [tuple(map(moved, image.annotations)) for image in split.images]
        pairs = zip(split.images, rows, strict=True)
        return split._replace(images=[image._replace(annotations=row) for image, row in pairs])

    return scale_fractions(map(edges, splits))


def _starts_at_zero(box: Corners) -> bool:
    return 0 <= box.left < 1 or 0 <= box.top < 1
