"""The common representation of annotations, between reading and writing."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from utils.datasets.image_files import IMAGE_SUFFIXES
from utils.datasets.labels import IMAGE_FOLDER
from utils.datasets.matching import name_key
from utils.errors import UserError

log = logging.getLogger("yolo")

MAX_PIXELS = 1_000_000
"""Maximum side of an image: a hundred times the largest images, so larger numbers are errors."""
MAX_SHOWN = 20
"""Names or errors in a message; the others are counted."""
# Control characters, surrogates, and separators of lines and paragraphs, which would split a line
# of a list. Other spaces than U+0020 are fine: macOS writes U+202F in names of screenshots.
UNSAFE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


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
    label: int | None = None
    """Class index in the converted data set; None for an ignore region."""
    reason: str = ""
    """Why it becomes an ignore region."""


class AnnotatedImage(NamedTuple):
    """An image and its annotations."""

    place: PurePosixPath
    """Path of the image below the split's folder of images."""
    file: Path
    """The original image; it may not exist."""
    width: int
    """Width according to the annotations, px; 0 if they do not say it. Later that of the image.
    1, and a height of 1, if the boxes are fractions of the image."""
    height: int
    annotations: tuple[Annotation, ...]


class Split(NamedTuple):
    """A split of the data set."""

    name: str
    """Name of the list NAME.txt and, unless `folder` is given, of images/NAME and labels/NAME."""
    role: str
    """`train`, `val` or `test`: the key of the data-set file; empty: still to be divided."""
    images: Sequence[AnnotatedImage]
    folder: str | None = None
    """Folder below images/ and labels/ that several splits share; empty for these themselves. The
    data-set file then names the list."""

    @property
    def images_folder(self) -> PurePosixPath:
        """Folder of the images in the data set; that of the labels differs in the first part."""
        return PurePosixPath(IMAGE_FOLDER, self.name if self.folder is None else self.folder)


@dataclass(frozen=True)
class Conversion:
    """A converted data set, ready to be written."""

    source_format: str
    """Original format, for example coco or voc."""
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
    """Whether to write a SPLIT.txt for every split, not only for those that share a folder."""
    missing_images_remedy: str = "put them there"
    """What to do if images are missing, as a clause for the message."""


class Problems:
    """Collects errors, so that a user sees all of them at once."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Collect a `UserError` of the block."""
        try:
            yield
        except UserError as error:
            self.found.append(str(error))

    def raise_if_any(self) -> None:
        """Raise one `UserError` with the collected errors: at most 20, then a count."""
        if len(self.found) == 1:
            raise UserError(self.found[0])
        if self.found:
            raise UserError(f"there are {len(self.found)} errors:" + shown(self.found, "\n  "))


def shown(items: Sequence[object], separator: str = ", ") -> str:
    """Return the first 20 items and the number of the others; each begins with a separator.

    With the default separator, the first one has none.
    """
    texts = [str(item) for item in items[:MAX_SHOWN]]
    if len(items) > MAX_SHOWN:
        texts.append(f"… and {len(items) - MAX_SHOWN} more")
    return (separator if separator != ", " else "") + separator.join(texts)


def image_place(name: object, origin: str) -> PurePosixPath:
    """Return the path below images/SPLIT/ for an image name of the annotations.

    Tools write paths of other machines: backslashes become separators; a drive, a leading `/` and
    `..` are removed. So are folders called `images`, because labels are looked for beside the last
    folder of this name.

    Args:
        name: image name from the annotations; it can be anything.
        origin: where it was read, for messages.

    Raises:
        UserError: the name is not a path of an image file.
    """
    if not isinstance(name, str) or UNSAFE_CATEGORIES & set(map(unicodedata.category, name)):
        raise UserError(f"{origin}: image name {name!r:.80} is not a printable string; correct it.")
    plain = without_query(name).replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    if parts and parts[0].endswith(":"):  # a drive, or the scheme of a URL
        parts.pop(0)
    path = PurePosixPath(*parts)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(
            f"{origin}: image name {name!r:.80} has an unknown suffix; "
            f"choose one of {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return without_images_folders(path)


def without_query(name: str) -> str:
    """Return an image name without the query of a URL, such as a signature."""
    path, _, query = name.partition("?")
    is_url = "://" in path or PurePosixPath(query).suffix.lower() not in IMAGE_SUFFIXES
    return path if is_url and PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES else name


def without_images_folders(path: PurePosixPath) -> PurePosixPath:
    """Return a path without its folders called `images`."""
    folders = (part for part in path.parent.parts if part != IMAGE_FOLDER)
    return PurePosixPath(*folders, path.name)


def labelled(splits: Sequence[Split], names: Sequence[str]) -> tuple[Split, ...]:
    """Give the objects of the classes `names` a label, except those with a reason to be ignored."""
    labels = {name: label for label, name in enumerate(names)}

    def with_label(annotation: Annotation) -> Annotation:
        if annotation.reason:
            return annotation
        label = labels.get(annotation.kind)
        reason = "" if label is not None else f"of class {annotation.kind}"
        return annotation._replace(label=label, reason=reason)

    return tuple(
        split._replace(
            images=[
                image._replace(annotations=tuple(map(with_label, image.annotations)))
                for image in split.images
            ]
        )
        for split in splits
    )


def chosen_names(classes: str, kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of `--classes`, separated by commas, or all of `kinds` if it is empty.

    Raises:
        UserError: a class does not occur, or is repeated.
    """
    chosen = tuple(name.strip() for name in classes.split(",") if name.strip())
    unknown = [name for name in chosen if name not in kinds]
    if unknown:
        raise UserError(f"--classes {','.join(unknown)}: choose from {shown(kinds)}.")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"--classes {classes}: choose each class once.")
    seen: dict[str, str] = {}
    for name in kinds:
        other = seen.setdefault(name_key(name), name)
        if other != name:
            log.warning("Classes %s and %s differ only in the way they are written.", other, name)
    return chosen or tuple(kinds)
