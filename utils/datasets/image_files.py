"""Image files: finding them, checking them, decoding them always in the same way."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import UserError
from utils.files.regular_file import open_regular

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
MIN_SIDE = 10
"""Pixels; a smaller image shows nothing that a stride of 8 could find."""
JPEG_END = b"\xff\xd9"
ORIENTATION_TAG = 0x0112  # EXIF 2.3, section 4.6.4
UPRIGHT = 1
ENTRIES_TRIED = 10
MAX_ENTRY_LENGTH = 4096  # characters of a path, the most that Linux takes
SHOWN = 40  # characters of a line that is quoted

# What Pillow is known to raise on broken files, the struct and zlib layers under it included.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


class ImageError(ValueError):
    """Why an image file cannot be used."""


def list_images(sources: Sequence[Path]) -> list[str]:
    """Every image of some folders (searched to any depth, sorted) and list files (in their order).

    Raises:
        UserError: a source does not exist, is of another kind, or yields no image.
    """
    images: list[str] = []
    for source in sources:
        if source.is_dir():
            found = _images_in_folder(source.absolute())
        elif source.is_file() and source.suffix == ".txt":
            found = _images_in_list(source.absolute())
        elif source.is_file():
            raise UserError(f"{source} is neither a folder of images nor a .txt list of them.")
        else:
            raise UserError(f"{source} does not exist; correct the data-set file or put it there.")
        if not found:
            raise UserError(f"{source} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
        images += found
    return images


def _images_in_folder(folder: Path) -> list[str]:
    """Links to folders are followed, but no folder is entered twice: links may form circles."""
    found: list[str] = []
    entered: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        for where, folders, names in os.walk(waiting.pop(0)):
            status = os.stat(where)  # noqa: PTH116 -- a plain path, of which no Path is needed
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            found += [f"{where}{os.sep}{name}" for name in names if _is_image_name(name)]
            inner = (f"{where}{os.sep}{name}" for name in sorted(folders))
            waiting += [path for path in inner if Path(path).is_symlink()]
    return sorted(found)


def _is_image_name(name: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return bool(stem) and f".{suffix.lower()}" in IMAGE_SUFFIXES


def _images_in_list(file: Path) -> list[str]:
    """Entries are relative to the list file's folder, or to the nearest one above that has them.

    The folders above include the data set's root, for list files in a folder of their own.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not a list of images in UTF-8 ({error}).") from error
    entries = [line.strip() for line in lines if line.strip()]
    wrong = next(
        (entry for entry in entries if "\0" in entry or len(entry) > MAX_ENTRY_LENGTH), None
    )
    if wrong is not None:
        raise UserError(f"{file} is not a list of images: it has the line {wrong[:SHOWN]!r}.")
    for folder in file.parents:
        if any(_exists(folder / entry) for entry in entries[:ENTRIES_TRIED]):
            return [str(folder / entry) for entry in entries]
    return [str(file.parent / entry) for entry in entries]


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is longer than the file system takes
        return False


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image, upright according to its EXIF orientation.

    OpenCV decodes; Pillow helps with the few kinds that OpenCV refuses.

    Returns:
        uint8 [height, width, 3], RGB, whatever the file's depth, palette or channels.

    Raises:
        ImageError: neither library can decode the file.
    """
    require_unicode_name(path)
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # such as a header that claims more pixels than OpenCV takes
        raise ImageError(f"it cannot be decoded ({error.err})") from error
    if image is not None:
        return image
    try:
        with Image.open(path) as picture:
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except DECODING_ERRORS as error:
        raise ImageError(f"it cannot be decoded ({error})") from error


def require_unicode_name(path: str | Path) -> None:
    """Refuse names that are not UTF-8, which Python keeps as surrogates and OpenCV crashes at.

    Raises:
        ImageError: it is such a name.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ImageError("its name is not UTF-8; rename it") from error


def probe_size(path: str | Path) -> tuple[int, int]:
    """Check an image file and measure it, without decoding it where the format allows.

    JPEG and PNG, the formats of large data sets, tell their size at the beginning and their
    completeness at the end or by checksums; anything else, or turned by EXIF, is decoded.

    Returns:
        (height, width) as `read_image` returns it.

    Raises:
        ImageError: the file is no image, truncated, or smaller than 10 pixels.
    """
    require_unicode_name(path)
    try:
        with open_regular(path) as stream:
            size = _size_from_header(stream)
    except UnidentifiedImageError as error:
        raise ImageError("corrupt image (of no kind that is known)") from error
    except DECODING_ERRORS as error:
        reason = str(error).replace(str(path), "file")
        raise ImageError(f"corrupt image ({reason})") from error
    if size is None:
        size = read_image(path).shape[:2]
    if min(size) < MIN_SIDE:
        raise ImageError(f"image of {size[1]}x{size[0]} px; {MIN_SIDE} is the least side")
    return size


def _size_from_header(stream: IO[bytes]) -> tuple[int, int] | None:
    """(height, width) of a complete, upright JPEG or PNG; None if it takes decoding to know."""
    with Image.open(stream) as picture:
        size = picture.height, picture.width
        if picture.format == "JPEG" and _ends_with(stream, JPEG_END):
            upright = picture.getexif().get(ORIENTATION_TAG, UPRIGHT) == UPRIGHT
            return size if upright else None
        if picture.format == "PNG" and "exif" not in picture.info:
            picture.verify()
            return size
        picture.load()  # raises if the file is truncated
        return None


def _ends_with(stream: IO[bytes], ending: bytes) -> bool:
    position = stream.tell()
    stream.seek(-len(ending), os.SEEK_END)
    found = stream.read(len(ending)) == ending
    stream.seek(position)
    return found
