"""Reads an image of a path or a URL for detection."""

from __future__ import annotations

import http.client
import io
import logging
from typing import IO
from urllib.parse import urlsplit

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from utils.datasets.image_files import (
    DECODING_ERRORS,
    ImageError,
    check_pixels,
    darkness,
    open_image_file,
    read_header,
    read_image,
)
from utils.files.download import open_url, without_secrets

log = logging.getLogger("yolo")

WEB_SCHEMES = ("http", "https")
MAX_BYTES = 256 << 20  # of a downloaded image
PARTLY_DECODED = frozenset({"JPEG", "MPO", "PNG"})


def load_rgb(location: str, failed: list[str] | None = None) -> np.ndarray:
    """Return the image of a path or of an http(s) URL, uint8 [h, w, 3] RGB, upright.

    The limits of training apply. Of a truncated image the part that can be decoded is returned, and
    a warning names it.

    Args:
        location: the path or URL.
        failed: receives the location of a truncated image.

    Raises:
        ImageError: it cannot be read.
    """
    if urlsplit(location).scheme.lower() in WEB_SCHEMES:
        return _fetch_image(location, failed)
    with open_image_file(location) as stream:
        is_deep = check_pixels(stream)
        image = read_image(location)
        _report_damage(location, stream, failed)
    dark = darkness(image) if is_deep else ""
    if dark:
        log.warning("%s is %s.", location, dark)
    return image


def _report_damage(location: str, stream: IO[bytes], failed: list[str] | None) -> None:
    """Warn about an image of which only a part was decoded."""
    damage = _incompleteness(stream)
    if damage:
        log.warning("%s is damaged (%s).", without_secrets(location), damage)
        if failed is not None:
            failed.append(location)


def _incompleteness(stream: IO[bytes]) -> str:
    """Return what is wrong with a JPEG or PNG that was decoded only in part; or nothing.

    Training leaves such a file out, see `probe_image`. Of other formats, OpenCV decodes all or
    nothing.
    """
    try:
        with Image.open(stream) as opened:
            is_known = opened.format in PARTLY_DECODED
        if is_known:
            read_header(stream)
    except UnidentifiedImageError:  # a format that only OpenCV reads
        return ""
    except DECODING_ERRORS as error:
        return str(error)
    return ""


def _fetch_image(url: str, failed: list[str] | None) -> np.ndarray:
    """Download an image; return it as uint8 [h, w, 3] RGB."""
    try:
        with open_url(url) as response:
            content = response.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        raise ImageError(f"it cannot be downloaded ({getattr(error, 'reason', error)})") from error
    if len(content) > MAX_BYTES:
        raise ImageError(f"it is larger than {MAX_BYTES >> 20} MiB")
    check_pixels(io.BytesIO(content))
    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error as error:  # e.g. a header that claims more pixels than OpenCV accepts
        raise ImageError(f"it cannot be decoded ({error.err})") from error
    if bgr is None:
        raise ImageError("it is not an image")
    _report_damage(url, io.BytesIO(content), failed)
    return np.ascontiguousarray(bgr[..., ::-1])
