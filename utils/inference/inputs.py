"""Images that are given from Python, and the shape in which they are predicted together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from utils.datasets.image_files import DECODING_ERRORS
from utils.datasets.rect_batches import round_up_to_stride
from utils.errors import UserError
from utils.files.download import is_url, without_secrets
from utils.inference.image_source import load_rgb

MAX_CHANNELS, MAX_SIZES = 4, 2
IMAGE_SIDES = 3

ImageInput = str | Path | Image.Image | np.ndarray


def common_shape(
    sizes: Sequence[Sequence[int]], size: int | Sequence[int], stride: int
) -> tuple[int, int]:
    """Return (height, width) of the network input for images that are predicted together, px.

    Each image is scaled so that its longer side is `size`; the shape is the largest of the scaled
    heights and widths, rounded up to multiples of the stride.

    Args:
        sizes: (height, width) of the images, px.
        size: longer side, px; or (height, width) of the network input.
        stride: stride of the network, px.

    Raises:
        UserError: the size is not positive, or has more than two sides.
    """
    try:
        sides = [int(side) for side in np.atleast_1d(size).tolist()]
    except (TypeError, ValueError, OverflowError):
        sides = []
    if len(sides) not in (1, MAX_SIZES) or min(sides) < 1:
        raise UserError(f"size {size}: give one side in pixels, at least 1, or (height, width).")
    if len(sides) == 1:
        # Rounded down: an error of rounding must not add a stride.
        scaled = [[int(side * sides[0] / max(one)) for side in one] for one in sizes]
        sides = [max(lengths) for lengths in zip(*scaled, strict=True)]
    height, width = (max(round_up_to_stride(side, stride), stride) for side in sides)
    return height, width


def load_image(item: Any, number: int) -> tuple[str, np.ndarray]:  # noqa: ANN401 -- checked
    """Return the name of an image, with the suffix .jpg, and its pixels, uint8 [h, w, 3] RGB.

    Args:
        item: path, URL, PIL image or array.
        number: index of the image in its list, for the name of an image without a file.

    Raises:
        UserError: it is none of these, or cannot be read.
    """
    name = str(item) if isinstance(item, str | Path) else getattr(item, "filename", "")
    name = str(name or f"image{number}")
    try:
        image = _pixels(item)
    except DECODING_ERRORS as error:
        shown = without_secrets(name)
        raise UserError(f"{shown} cannot be used ({error}); give another image.") from error
    stem = name.partition("?")[0] if is_url(name) else name
    return str(Path(stem).with_suffix(".jpg")), np.ascontiguousarray(image)


def _pixels(item: Any) -> np.ndarray:  # noqa: ANN401 -- checked
    """Return uint8 [h, w, 3] RGB, upright."""
    if isinstance(item, str | Path):
        return load_rgb(str(item))
    if isinstance(item, Image.Image):
        if item.mode[0] in "IF":
            raise UserError(f"a PIL image has the mode {item.mode}; convert it to RGB first.")
        return np.asarray(ImageOps.exif_transpose(item).convert("RGB"))
    if not isinstance(item, np.ndarray):
        raise UserError(
            f"an image is a {type(item).__name__}; give a path, a URL, a PIL image or an array."
        )
    image = item[..., None] if item.ndim == IMAGE_SIDES - 1 else item
    if image.ndim == IMAGE_SIDES and image.shape[0] <= MAX_CHANNELS < image.shape[2]:
        image = image.transpose(1, 2, 0)
    usable = image.dtype == np.uint8 and image.ndim == IMAGE_SIDES and image.size
    if not usable or image.shape[2] > MAX_CHANNELS:
        raise UserError(
            f"the array of an image is {item.dtype} {list(item.shape)}; give uint8 "
            "[height, width, 3] in RGB order."
        )
    grey = image.shape[2] < 3  # noqa: PLR2004 -- with or without opacity
    return image[..., [0, 0, 0]] if grey else image[..., :3]
