"""The common representation of annotations, between reading and writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from utils.datasets.image_files import IMAGE_SUFFIXES
from utils.datasets.labels import IMAGE_FOLDER
from utils.errors import UserError

MAX_PIXELS = 1_000_000
"""Maximum side of an image: a hundred times the largest images, so larger numbers are errors."""


class Corners(NamedTuple):
    """A box, px of the image; 0, 0 is the outer corner of its first pixel."""

    left: float
    top: float
    right: float
    bottom: float


class Annotation(NamedTuple):
    """One object of the original annotations."""

    kind: str
    """Class name in the original annotations."""
    box: Corners
    label: int | None
    """Class index in the converted data set; None for an ignore region."""
    reason: str = ""
    """Why it becomes an ignore region."""


class AnnotatedImage(NamedTuple):
    """An image and its annotations."""

    place: PurePosixPath
    """Path of the image below images/SPLIT/."""
    file: Path
    """The original image; it may not exist."""
    width: int
    """Width of the image, px."""
    height: int
    annotations: tuple[Annotation, ...]


class Split(NamedTuple):
    """A split of the data set."""

    name: str
    """Name of the folders images/NAME and labels/NAME."""
    role: str
    """`train`, `val` or `test`: the key of the data-set file that lists the folder."""
    images: Sequence[AnnotatedImage]


@dataclass(frozen=True)
class Conversion:
    """A converted data set, ready to be written."""

    source_format: str
    """Original format: citypersons, coco or voc."""
    settings: Mapping[str, object]
    """Options of the conversion, as plain data."""
    kinds: tuple[str, ...]
    """Class names of the original annotations, in their order."""
    names: tuple[str, ...]
    """Class names by class index."""
    splits: tuple[Split, ...]
    entries: Mapping[str, str] = field(default_factory=dict)
    """Additional entries of the data-set file."""
    json_files: Mapping[str, object] = field(default_factory=dict)
    """Content of additional JSON files, by path in the data set."""
    linked_files: Mapping[str, Path] = field(default_factory=dict)
    """Additional files to link, by path in the data set."""
    lists: bool = False
    """Whether to write a SPLIT.txt that lists the images of each split."""
    missing_images_remedy: str = "put them there"
    """What to do if images are missing, as a clause for the message."""


def image_place(name: object, origin: str) -> PurePosixPath:
    """Return the path below images/SPLIT/ for an image name of the annotations.

    Folders up to and including one called `images` are removed, because labels are looked for
    beside the last folder of this name.

    Args:
        name: image name from the annotations; it can be anything.
        origin: where it was read, for messages.

    Raises:
        UserError: the name is not a relative path of an image file, or is outside of its folder.
    """
    if not isinstance(name, str) or not name.isprintable():
        raise UserError(f"{origin}: image name {name!r:.80} is not a printable string; correct it.")
    path = PurePosixPath(name)
    absolute = path.is_absolute() or PureWindowsPath(name).anchor
    if absolute or "\\" in name or ".." in path.parts:
        raise UserError(
            f"{origin}: image name {name!r} is outside of its folder; "
            "use a relative path without `..`."
        )
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(
            f"{origin}: image name {name!r} has an unknown suffix; "
            f"choose one of {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    folders = path.parent.parts
    while IMAGE_FOLDER in folders:
        folders = folders[folders.index(IMAGE_FOLDER) + 1 :]
    return PurePosixPath(*folders, path.name)
