"""Compare the size of each image in the annotations with the image, and correct the boxes.

An annotation tool that ignores the EXIF orientation writes boxes of the image as it is stored; the
boxes are turned with the image then. Boxes of an image that was resized afterwards are scaled.
So are boxes that are fractions of the image, as some tools write them in formats of pixels.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from utils.datasets.image_files import (
    DECODING_ERRORS,
    ORIENTATION_TAG,
    UPRIGHT,
    ImageError,
    probe_image,
)
from utils.datasets.index import READ_THREADS, map_in_threads
from utils.files.regular_file import open_regular_file
from utils.tools.convert.annotated import (
    AnnotatedImage,
    Conversion,
    Corners,
    Problems,
    Split,
    shown,
)

log = logging.getLogger("yolo")

ROUNDING = 1
"""A side of a resized image may differ by this many px from the exact ratio."""
FRACTIONS = (1, 1)
"""Width and height of an image whose boxes are fractions of its sides."""
FRACTION_TOLERANCE = 0.1
"""By so much a fraction may be outside 0 to 1, for an object at the edge of the image."""
TURNED = "have the size of the stored image; their boxes are turned by its EXIF orientation"
SWAPPED = "have width and height exchanged in the annotations; the size of the image is used"
SCALED = "have another size in the annotations; their boxes are scaled to the image"
UNREADABLE = "cannot be read as images; training skips them"
UNCERTAIN = (
    "have an EXIF orientation, and their size does not show whether the annotation tool applied "
    "it; if it did not, their boxes are at wrong places"
)


class _Header(NamedTuple):
    stored: tuple[int, int]
    """Width and height of the image as it is stored, px."""
    upright: tuple[int, int]
    """Width and height after the EXIF orientation is applied, px."""
    orientation: int
    """1 to 8; see `TRANSFORMS`."""


# From a box x1, y1, x2, y2 of the stored image of width w and height h to the upright image.
# Source: EXIF 2.3, section 4.6.4, the side at which row 0 and column 0 are to be shown.
TRANSFORMS: dict[int, Callable[[Corners, int, int], Corners]] = {
    5: lambda box, w, h: Corners(box.top, box.left, box.bottom, box.right),
    6: lambda box, w, h: Corners(h - box.bottom, box.left, h - box.top, box.right),
    7: lambda box, w, h: Corners(h - box.bottom, w - box.right, h - box.top, w - box.left),
    8: lambda box, w, h: Corners(box.top, w - box.right, box.bottom, w - box.left),
}


def are_fractions(split: Split) -> bool:
    """Whether all boxes of a split are fractions of the image: none goes beyond the first pixel."""
    boxes = [annotation.box for image in split.images for annotation in image.annotations]
    return any(max(box) > 0 for box in boxes) and all(map(_in_first_pixel, boxes))


def scale_fractions(splits: Iterable[Split]) -> list[Split]:
    """Return splits with boxes in pixels, also where `are_fractions`, which is logged.

    In images without a size they stay fractions, and the size becomes `FRACTIONS`.
    """
    return [
        _scaled_split(split) if are_fractions(split) else _checked_split(split) for split in splits
    ]


def _scaled_split(split: Split) -> Split:
    message = "%s: all boxes are within 0 to 1: they are fractions of the image, and are scaled."
    log.warning(message, split.name or "the data set")
    images = []
    for image in split.images:
        sides = (image.width, image.height)
        sides = sides if all(sides) else FRACTIONS
        sized = image._replace(width=sides[0], height=sides[1])
        images.append(_scaled(sized, FRACTIONS, sides))
    return split._replace(images=images)


def _checked_split(split: Split) -> Split:
    """Return a split with boxes in pixels; log if some of them look like fractions."""
    found = [
        image.place
        for image in split.images
        if image.annotations and all(_in_first_pixel(a.box) for a in image.annotations)
        if any(max(a.box) > 0 for a in image.annotations)
    ]
    if found:
        log.warning(
            "%s: in %d images all boxes are within the first pixel, as if they were fractions of "
            "the image, but other images have boxes in pixels: %s; correct them.",
            *(split.name or "the data set", len(found), shown(found)),
        )
    return split


def _in_first_pixel(box: Corners) -> bool:
    return min(box) >= -FRACTION_TOLERANCE and max(box) <= 1 + FRACTION_TOLERANCE


def with_real_sizes(conversion: Conversion) -> Conversion:
    """Return a conversion in which every existing image has its real size and boxes that fit it.

    Raises:
        UserError: sizes differ, and it is not clear what happened to the images, or an image has
            no size in the annotations and cannot be read, or no image of a split can be read.
    """
    problems, notes = Problems(), defaultdict[str, list[Path]](list)
    splits = []
    for split in conversion.splits:
        images, before = [], split.images
        checked = map_in_threads(
            lambda i, before=before: _checked(before[i]),  # type: ignore[misc]
            *(len(before), READ_THREADS, f"Sizes of {split.name}"),
        )
        for image, note, error in checked:
            images.append(image)
            if note:
                notes[note].append(image.file)
            if error:
                problems.found.append(error)
        splits.append(split._replace(images=images))
    for note, files in notes.items():
        log.warning("%d images %s: %s.", len(files), note, shown(files))
    broken = frozenset(notes[UNREADABLE])
    for split in splits:
        files = [image.file for image in split.images]
        if broken.issuperset(file for file in files if file.is_file()) and broken & set(files):
            problems.found.append(
                f"no image of {split.name or 'the data set'} can be read: {shown(files)}; "
                "get them again, or check that they are images."
            )
    problems.raise_if_any()
    return replace(conversion, splits=tuple(splits))


def _checked(image: AnnotatedImage) -> tuple[AnnotatedImage, str, str]:
    """Return the image with its real size, a note about it, and an error; both may be empty."""
    given = (image.width, image.height)
    try:
        header = _read_header(image.file)
    except (*DECODING_ERRORS, ImageError) as error:
        if all(given):
            return image, UNREADABLE if image.file.is_file() else "", ""
        reason = str(error).replace(str(image.file), "file")
        return (
            image,
            "",
            f"{image.file} has no size in the annotations and cannot be read: {reason}.",
        )
    if given == FRACTIONS:
        return image, "", ""
    width, height = header.upright
    real = image._replace(width=width, height=height)
    if not all(given) or not image.annotations or given == header.upright:
        ambiguous = not all(given) or header.stored == header.upright
        unknown = ambiguous and header.orientation != UPRIGHT
        return real, UNCERTAIN if unknown and image.annotations else "", ""
    if given == (height, width) and header.stored == header.upright:
        if all(_fits(annotation.box, real) for annotation in image.annotations):
            return real, SWAPPED, ""
    elif _same_shape(given, header.upright):
        return _scaled(real, given, header.upright), SCALED, ""
    elif _same_shape(given, header.stored):
        note = TURNED if given == header.stored else SCALED
        scaled = _scaled(real, given, header.stored)
        turn = TRANSFORMS[header.orientation]
        return _with_boxes(scaled, lambda box: turn(box, *header.stored)), note, ""
    mismatch = (
        f"{image.file} has {width}x{height} px, but {given[0]}x{given[1]} px in the annotations; "
        "use the image that was annotated, or remove the size there if the boxes are right."
    )
    return image, "", mismatch


def _read_header(file: Path) -> _Header:
    with open_regular_file(file) as stream, Image.open(stream) as opened:
        stored = opened.size
        orientation = opened.getexif().get(ORIENTATION_TAG, UPRIGHT)
        is_jpeg = opened.format == "JPEG"
    if orientation not in range(UPRIGHT, 9):
        orientation = UPRIGHT
    upright = stored[::-1] if orientation in TRANSFORMS else stored
    if orientation != UPRIGHT and not is_jpeg:
        height, width = probe_image(file).size  # not every reader applies it in other formats
        if (width, height) != upright:
            return _Header(stored, stored, UPRIGHT)
    return _Header(stored, upright, orientation)


def _fits(box: Corners, image: AnnotatedImage) -> bool:
    right, bottom = image.width + ROUNDING, image.height + ROUNDING
    return min(box) >= -ROUNDING and box.right <= right and box.bottom <= bottom


def _same_shape(given: tuple[int, int], real: tuple[int, int]) -> bool:
    """Whether an image of one size can be resized to the other, up to rounding."""
    return (
        abs(given[0] * real[1] / given[1] - real[0]) <= ROUNDING
        or abs(given[1] * real[0] / given[0] - real[1]) <= ROUNDING
    )


def _scaled(image: AnnotatedImage, given: tuple[int, int], real: tuple[int, int]) -> AnnotatedImage:
    x, y = real[0] / given[0], real[1] / given[1]
    return _with_boxes(image, lambda b: Corners(b[0] * x, b[1] * y, b[2] * x, b[3] * y))


def _with_boxes(image: AnnotatedImage, change: Callable[[Corners], Corners]) -> AnnotatedImage:
    changed = (a._replace(box=change(a.box)) for a in image.annotations)
    return image._replace(annotations=tuple(changed))
