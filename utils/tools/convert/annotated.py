"""What every converter makes of its annotations, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from utils.datasets.image_files import IMAGE_SUFFIXES
from utils.datasets.labels import IMAGE_FOLDER
from utils.errors import UserError

MAX_PIXELS = 1_000_000
"""Of a side: a hundred times the largest pictures, so larger numbers are mistakes."""


class Corners(NamedTuple):
    """A box, px of the image; 0, 0 is the outer corner of its first pixel."""

    left: float
    top: float
    right: float
    bottom: float


class Annotation(NamedTuple):
    """One row of the original annotations."""

    kind: str
    """Its class as the original names it."""
    box: Corners
    label: int | None
    """Its class in the data set to be; None if it becomes an ignore region."""
    reason: str = ""
    """Why it becomes an ignore region."""


class AnnotatedImage(NamedTuple):
    """An image and all that is known of it."""

    place: PurePosixPath
    """Of the image, below images/SPLIT/."""
    file: Path
    """The original image, which may be absent."""
    width: int
    """Of the image, px."""
    height: int
    annotations: tuple[Annotation, ...]


class Split(NamedTuple):
    """Images that belong together."""

    name: str
    """The folder: images/NAME, labels/NAME."""
    role: str
    """`train`, `val` or `test`: the line of the data-set file that names the folder."""
    images: tuple[AnnotatedImage, ...]


@dataclass(frozen=True)
class Conversion:
    """A data set, ready to be written."""

    form: str
    """Of the original: citypersons, coco or voc."""
    settings: Mapping[str, object]
    """What was asked for, for the record; plain data."""
    kinds: tuple[str, ...]
    """Classes of the original, in its order."""
    names: tuple[str, ...]
    """Class names by label."""
    splits: tuple[Split, ...]
    entries: Mapping[str, str] = field(default_factory=dict)
    """Further lines of the data-set file."""
    documents: Mapping[str, object] = field(default_factory=dict)
    """Further JSON files, by their place in the data set."""
    originals: Mapping[str, Path] = field(default_factory=dict)
    """Further files that are taken as they are, by their place in the data set."""
    lists: bool = False
    """Whether SPLIT.txt is to list the images of each split."""
    where_images: str = "put them there"
    """What to do if images are missing."""


def image_place(name: object, origin: str) -> PurePosixPath:
    """Where the image `name` of some annotations goes below images/SPLIT/.

    Folders up to one called `images` are left out: labels are looked for beside the last of them.

    Args:
        name: from the annotations, so it can be anything.
        origin: where it was read, for the message.

    Raises:
        UserError: it is no relative path of an image file, or leads out of its folder.
    """
    if not isinstance(name, str) or not name.isprintable():
        raise UserError(f"{origin}: image name {name!r:.80} is no printable text; correct it.")
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    leads_out = path.is_absolute() or windows.anchor or "\\" in name or ".." in path.parts
    if leads_out:
        raise UserError(
            f"{origin}: image name {name!r} leads out of its folder; make it relative, without .."
        )
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"{origin}: {name!r} is no image file's name; give one that ends in .jpg …")
    folders = path.parent.parts
    while IMAGE_FOLDER in folders:
        folders = folders[folders.index(IMAGE_FOLDER) + 1 :]
    return PurePosixPath(*folders, path.name)


def require_distinct(images: tuple[AnnotatedImage, ...], origin: str) -> None:
    """No two images may have the same label file.

    Raises:
        UserError: two have.
    """
    seen: dict[str, PurePosixPath] = {}
    for image in images:
        stem = str(image.place.with_suffix(""))
        if stem in seen:
            raise UserError(
                f"{origin}: {seen[stem]} and {image.place} would share the label file {stem}.txt; "
                "rename one of them."
            )
        seen[stem] = image.place
