"""Find, validate and decode image files."""

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
from utils.files.regular_file import open_regular_file

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
MIN_SIDE = 10
"""Pixels; smaller images contain nothing that can be detected at stride 8."""
JPEG_END = b"\xff\xd9"
ORIENTATION_TAG = 0x0112  # EXIF 2.3, section 4.6.4
UPRIGHT = 1
MAX_ENTRIES_TRIED = 10
MAX_ENTRY_LENGTH = 4096  # characters; maximum length of a path on Linux
MAX_QUOTED = 40  # characters of a quoted line

# Exceptions that Pillow, and struct and zlib below it, raise for broken files.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)


class ImageError(ValueError):
    """An image file is unusable; the message is the reason."""


def list_images(sources: Sequence[Path]) -> list[str]:
    """List the images of folders and list files.

    Folders are searched recursively and sorted; list files keep their order.

    Raises:
        UserError: a source does not exist, is neither a folder nor a .txt file, or has no images.
    """
    images: list[str] = []
    for source in sources:
        if source.is_dir():
            found = _images_in_folder(source.absolute())
        elif source.is_file() and source.suffix == ".txt":
            found = _images_in_list(source.absolute())
        elif source.is_file():
            raise UserError(
                f"{source} is neither a folder nor a .txt file; "
                "give a folder of images or a .txt file that lists them."
            )
        else:
            raise UserError(f"{source} does not exist; correct the data-set file or put it there.")
        if not found:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            raise UserError(f"{source} has no images; add some ({known}) or correct the path.")
        images += found
    return images


def _images_in_folder(folder: Path) -> list[str]:
    """List images recursively and follow links; enter each folder once, as links may form loops."""
    found: list[str] = []
    entered: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        for where, folders, names in os.walk(waiting.pop(0)):
            status = os.stat(where)  # noqa: PTH116 -- a plain string needs no Path
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
    """Return the entries of a list file as paths.

    They are relative to the nearest folder, from the list file's own upwards, that contains one of
    the first entries. This finds the data set's root if list files are in a folder of their own.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is damaged ({error}); save it as UTF-8 text.") from error
    entries = [line.strip() for line in lines if line.strip()]
    for entry in entries:
        if "\0" in entry or len(entry) > MAX_ENTRY_LENGTH:
            raise UserError(
                f"{file} is not a list of images (it has the line {entry[:MAX_QUOTED]!r}); "
                "write one path per line."
            )
    for folder in file.parents:
        tried = (folder / entry for entry in entries[:MAX_ENTRIES_TRIED])
        if any(map(os.path.isfile, tried)):  # a Path raises for a name that is too long
            return [str(folder / entry) for entry in entries]
    return [str(file.parent / entry) for entry in entries]


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image and apply its EXIF orientation.

    OpenCV decodes; Pillow handles the few formats that OpenCV rejects.

    Returns:
        uint8 [height, width, 3], RGB, for any bit depth, palette or number of channels.

    Raises:
        ImageError: neither library can decode the file.
    """
    check_unicode_name(path)
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # for example a header with more pixels than OpenCV accepts
        raise ImageError(f"it cannot be decoded ({error.err})") from error
    if image is not None:
        return image
    try:
        with Image.open(path) as opened:
            return np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    except DECODING_ERRORS as error:
        raise ImageError(f"it cannot be decoded ({error})") from error


def check_unicode_name(path: str | Path) -> None:
    """Check that a file name is UTF-8.

    Python represents other bytes as surrogates, which make OpenCV crash.

    Raises:
        ImageError: the name is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise ImageError("its name is not UTF-8; rename it") from error


def probe_size(path: str | Path) -> tuple[int, int]:
    """Validate an image file and return its size, if possible without decoding.

    JPEG and PNG, the formats of large data sets, are not decoded: the size is in the header, and
    the end marker or the checksums show that the file is complete. Other formats, and images with
    an EXIF orientation, are decoded.

    Returns:
        (height, width) of the image that `read_image` returns, px.

    Raises:
        ImageError: the file is not an image, is truncated, or has a side below 10 px.
    """
    check_unicode_name(path)
    try:
        with open_regular_file(path) as stream:
            size = _size_from_header(stream)
    except UnidentifiedImageError as error:
        raise ImageError("corrupt image (unknown image format)") from error
    except DECODING_ERRORS as error:
        reason = str(error).replace(str(path), "file")
        raise ImageError(f"corrupt image ({reason})") from error
    if size is None:
        size = read_image(path).shape[:2]
    if min(size) < MIN_SIDE:
        raise ImageError(f"image is {size[1]}x{size[0]} px; sides must be at least {MIN_SIDE} px")
    return size


def _size_from_header(stream: IO[bytes]) -> tuple[int, int] | None:
    """Return (height, width) of a complete, upright JPEG or PNG; None if it must be decoded."""
    with Image.open(stream) as opened:
        size = opened.height, opened.width
        if opened.format == "JPEG" and _ends_with(stream, JPEG_END):
            upright = opened.getexif().get(ORIENTATION_TAG, UPRIGHT) == UPRIGHT
            return size if upright else None
        if opened.format == "PNG" and "exif" not in opened.info:
            opened.verify()
            return size
        opened.load()  # raises if the file is truncated
        return None


def _ends_with(stream: IO[bytes], ending: bytes) -> bool:
    position = stream.tell()
    stream.seek(-len(ending), os.SEEK_END)
    found = stream.read(len(ending)) == ending
    stream.seek(position)
    return found
