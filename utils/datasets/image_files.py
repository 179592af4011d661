"""Find, validate and decode image files."""

from __future__ import annotations

import itertools
import logging
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from utils.errors import UserError
from utils.files.regular_file import open_regular_file

log = logging.getLogger("yolo")

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jp2", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"}
)
UNREAD_SUFFIXES = frozenset(
    {".arw", ".cr2", ".dng", ".exr", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jxl", ".nef"}
    | {".pbm", ".pfm", ".pgm", ".ppm"}
)
"""Image files that are left out, which is reported."""
MAC_PREFIX = "._"
"""Files that macOS writes beside others on foreign disks; they contain no images."""
MIN_SIDE = 10
"""Pixels; smaller images contain nothing that can be detected at stride 8."""
JPEG_END = b"\xff\xd9"
ORIENTATION_TAG = 0x0112  # EXIF 2.3, section 4.6.4
UPRIGHT = 1
MAX_ENTRIES_TRIED = 100
NEARLY_BLACK = "nearly black"
DARK = 64
"""An image of more than 8 bits per channel is nearly black if its upper 8 bits stay below this."""
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
        UserError: a source does not exist, is neither a folder nor a .txt file, has no images, or
            lists only images that do not exist.
    """
    images: list[str] = []
    for source in sources:
        if source.is_dir():
            found = _images_in_folder(source.absolute())
        elif source.is_file() and source.suffix.lower() == ".txt":
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
    unread: Counter[str] = Counter()
    entered: set[tuple[int, int]] = set()
    waiting = [str(folder)]
    while waiting:
        for where, folders, names in os.walk(waiting.pop(0)):
            status = os.stat(where)  # noqa: PTH116 -- a plain string needs no Path
            if (status.st_dev, status.st_ino) in entered:
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            found += [f"{where}{os.sep}{name}" for name in names if is_image_name(name)]
            unread.update(suffix_of(name) for name in names if suffix_of(name) in UNREAD_SUFFIXES)
            inner = (f"{where}{os.sep}{name}" for name in sorted(folders))
            waiting += [path for path in inner if Path(path).is_symlink()]
    if unread:
        log.warning(
            "%s: files of formats that are not read are left out: %d (%s); convert them to JPEG.",
            *(folder, unread.total(), ", ".join(sorted(unread))),
        )
    return sorted(found)


def is_image_name(name: str) -> bool:
    """Return whether a file of this name is an image, by its suffix."""
    return suffix_of(name) in IMAGE_SUFFIXES


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case; empty for a file of macOS, see above."""
    stem, _, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if stem and not name.startswith(MAC_PREFIX) else ""


def _images_in_list(file: Path) -> list[str]:
    """Return the entries of a list file as paths.

    They are relative to the folder, from the list file's own upwards, that contains most of them;
    of several, the nearest. This finds the data set's root if list files are in a folder of their
    own. Where none is found, backslashes are read as separators, and the first folders of the
    entries are dropped, for a list that was written on another machine.
    """
    entries = _entries(file)
    if not entries:
        return []
    step = -(-len(entries) // MAX_ENTRIES_TRIED)
    sample = entries[::step]  # from all parts of the list
    best: Callable[[str], str] = partial(_place, file.parent)
    most = -1
    for place in _places(file, sample):
        found = sum(map(os.path.isfile, map(place, sample)))  # a Path raises for a long name
        if found > most:
            best, most = place, found
        if found == len(sample):
            break
    images = [best(entry) for entry in entries]
    missing = [] if most == len(sample) else [*itertools.filterfalse(os.path.isfile, images)]
    if missing:
        number = f"{len(missing)} of {len(images)} images listed in {file} are not there"
        if len(missing) == len(images):
            folders = ", ".join(map(str, list(file.parents)[:-1] or file.parents))
            raise UserError(
                f"{number} (the first is {entries[0]!r}; looked in {folders}); "
                "correct the list, or put the images there."
            )
        log.warning("%s, for example %s.", number, missing[0])
    return images


def _entries(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is damaged ({error}); save it as UTF-8 text.") from error
    entries = [line.strip() for line in lines if line.strip() and not is_comment(line)]
    for entry in entries:
        if "\0" in entry or len(entry) > MAX_ENTRY_LENGTH:
            raise UserError(
                f"{file} is not a list of images (it has the line {entry[:MAX_QUOTED]!r}); "
                "write one path per line."
            )
    return entries


def is_comment(line: str) -> bool:
    """Return whether a line of a list is a comment: # and a space, or # and no name of a file."""
    text = line.strip()
    return text.startswith("#") and (text[1:2].isspace() or "." not in text)


def _places(file: Path, sample: Sequence[str]) -> Iterator[Callable[[str], str]]:
    """Yield ways to make a path of an entry, in the order in which they are tried."""
    longest = max(len(PureWindowsPath(entry).parts) for entry in sample)
    for dropped in (None, *range(longest)):
        yield from (partial(_place, folder, dropped=dropped) for folder in file.parents)


def _place(folder: Path, entry: str, dropped: int | None = None) -> str:
    """Return the path of an entry below a folder.

    If `dropped` is a number, backslashes are separators too, and a root or a drive and so many of
    the first folders are left out.
    """
    if dropped is None:
        return str(folder / entry)
    path = PureWindowsPath(entry)
    return str(folder.joinpath(*path.parts[dropped + bool(path.anchor) :]))


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image and apply its EXIF orientation.

    OpenCV decodes; Pillow handles the few formats that OpenCV rejects.

    Returns:
        uint8 [height, width, 3], RGB, for any bit depth, palette or number of channels.

    Raises:
        ImageError: neither library can decode the file.
        MemoryError: there is too little memory for it.
    """
    check_unicode_name(path)
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # for example a header with more pixels than OpenCV accepts
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from error
        raise ImageError(f"it cannot be decoded ({error.err})") from error
    if image is not None:
        return image
    try:
        with Image.open(path) as opened:
            return np.array(ImageOps.exif_transpose(opened).convert("RGB"))
    except FileNotFoundError as error:
        raise ImageError("it does not exist") from error
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


class ImageHeader(NamedTuple):
    """What the header of an image file says."""

    size: tuple[int, int]
    """(height, width) of the image that `read_image` returns, px."""
    is_deep: bool
    """Whether it has more than 8 bits per channel, of which the upper 8 are used."""


def probe_image(path: str | Path) -> ImageHeader:
    """Validate an image file and return its size, if possible without decoding.

    JPEG and PNG, the formats of large data sets, are not decoded: the size is in the header, and
    the end marker or the checksums show that the file is complete. Other formats, and images with
    an EXIF orientation, are decoded.

    Raises:
        ImageError: the file is not an image, is truncated, or has a side below 10 px.
    """
    with open_image_file(path) as stream:
        try:
            size, is_deep = read_header(stream)
        except UnidentifiedImageError as error:
            raise ImageError("corrupt image (unknown image format)") from error
        except DECODING_ERRORS as error:
            reason = str(error).replace(str(path), "file")
            raise ImageError(f"corrupt image ({reason})") from error
    if size is None:
        size = read_image(path).shape[:2]
    if min(size) < MIN_SIDE:
        raise ImageError(f"image is {size[1]}x{size[0]} px; sides must be at least {MIN_SIDE} px")
    return ImageHeader(size, is_deep)


def open_image_file(path: str | Path) -> IO[bytes]:
    """Open a file with images or a video for reading.

    Raises:
        ImageError: it does not exist, is not a regular file, or its name is not UTF-8.
    """
    check_unicode_name(path)
    try:
        return open_regular_file(path)
    except FileNotFoundError as error:
        is_link = Path(path).is_symlink()
        reason = "it is a link to a file that does not exist" if is_link else "it does not exist"
        raise ImageError(reason) from error
    except OSError as error:
        raise ImageError(f"it cannot be read ({error.strerror})") from error


def check_pixels(stream: IO[bytes]) -> bool:
    """Check that an image has at most as many pixels as Pillow accepts, 179 million.

    An image of another format than Pillow's is accepted.

    Returns:
        Whether it has more than 8 bits per channel.

    Raises:
        ImageError: it has more pixels.
    """
    try:
        with Image.open(stream) as opened:
            return has_deep_channels(opened)
    except Image.DecompressionBombError as error:
        raise ImageError(f"it has too many pixels ({error})") from error
    except DECODING_ERRORS:  # reported when the image is read
        return False


def darkness(deep: np.ndarray) -> str:
    """Return what is wrong with an image of more than 8 bits per channel, as read; or nothing."""
    if deep.max() >= DARK:
        return ""
    return (
        f"{NEARLY_BLACK}, because it uses only the lower of its more than 8 bits; convert it to 8"
    )


def read_header(stream: IO[bytes]) -> tuple[tuple[int, int] | None, bool]:
    """Return (height, width) of a complete, upright JPEG or PNG, and whether it is deep.

    The size is None for an image that must be decoded.
    """
    with Image.open(stream) as opened:
        size = opened.height, opened.width
        is_deep = has_deep_channels(opened)
        if opened.format == "JPEG" and _ends_with(stream, JPEG_END):
            upright = opened.getexif().get(ORIENTATION_TAG, UPRIGHT) == UPRIGHT
            return size if upright else None, is_deep
        if opened.format == "PNG" and "exif" not in opened.info:
            opened.verify()
            return size, is_deep
        opened.load()  # raises if the file is truncated
        return None, is_deep


def has_deep_channels(image: ImageFile.ImageFile) -> bool:
    """Return whether an image that is not loaded yet has more than 8 bits per channel."""
    modes = [image.mode]
    for tile in image.tile:  # Pillow's own mode is RGB for 16 bits per channel
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        modes += [part for part in arguments[:1] if isinstance(part, str)]
    return any(mode in ("I", "F") or ";16" in mode or ";32" in mode for mode in modes)


def _ends_with(stream: IO[bytes], ending: bytes) -> bool:
    position = stream.tell()
    stream.seek(-len(ending), os.SEEK_END)
    found = stream.read(len(ending)) == ending
    stream.seek(position)
    return found
