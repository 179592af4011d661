"""Draw boxes into images: detections, and batches as used in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw

from utils.plots.fonts import dejavu, drawable_names, font_for, load_font

if TYPE_CHECKING:
    from torch import Tensor

    from utils.datasets.dataset import Batch

Bgr = tuple[int, int, int]

# Twenty hues that differ from each other on grass, asphalt and sky; neighbors differ most.
PALETTE = (
    "#ff3b30", "#2f7bff", "#2fbf4a", "#ffb000", "#c04cff", "#00bcd4", "#ff6f91", "#8d6e00",
    "#7ed957", "#5b5bd6", "#ff7a1a", "#00997a", "#e0218a", "#9acd32", "#4aa3df", "#b5651d",
    "#f2d600", "#845ec2", "#00d2a0", "#a83232",
)  # fmt: skip
LUMA = (0.114, 0.587, 0.299)  # of blue, green and red, ITU-R BT.601
BRIGHT = 150  # luma above which black text is easier to read than white
MIN_FONT_SIZE, FONT_PER_THICKNESS, FONT_BASE = 10, 4, 4  # pixels; 16 for lines of 3
MAX_LABEL_LENGTH = 60  # characters
JPEG_QUALITY = 92

GREY = 114
HATCH, HATCH_STEP = 190, 6  # grey level of the hatch lines, and their distance in pixels
MAX_GRID_SIDE = 1920  # pixels, width and height of a grid of images
MIN_SHOWN_CONFIDENCE = 0.25  # less certain detections would clutter the image
MAX_FILE_NAME_LENGTH = 40  # characters that fit on a tile


def class_color(index: int) -> Bgr:
    """Return the color of a class as BGR; colors repeat after 20 classes."""
    code = PALETTE[index % len(PALETTE)]
    return int(code[5:7], 16), int(code[3:5], 16), int(code[1:3], 16)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str | None],
    colors: Sequence[Bgr],
    thickness: int = 3,
) -> np.ndarray:
    """Return a copy of an image with boxes and their labels drawn into it.

    Args:
        image: uint8 [h, w, 3] BGR.
        boxes: [n, 4] corners x1, y1, x2, y2, px; drawn in this order.
        labels: text of each box, any characters; None or empty for no label.
        colors: color of each box, BGR.
        thickness: line width, px; the font size depends on it.
    """
    drawn = np.ascontiguousarray(image).copy()
    height, width = drawn.shape[:2]
    # Corners far outside, as a diverged model predicts, would overflow OpenCV's coordinates.
    limits = (-thickness, -thickness, width + thickness, height + thickness)
    for box, label, color in zip(np.asarray(boxes, float), labels, colors, strict=True):
        x1, y1 = (round(max(v, low)) for v, low in zip(box[:2], limits[:2], strict=True))
        x2, y2 = (round(min(v, high)) for v, high in zip(box[2:], limits[2:], strict=True))
        cv2.rectangle(drawn, (x1, y1), (x2, y2), color, thickness)
        if label:
            _draw_label(drawn, label, (x1, y1), color, thickness)
    return drawn


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a BGR image, encoded according to the suffix of the path.

    Raises:
        OSError: the file cannot be written.
    """
    is_jpeg = path.suffix.lower() in {".jpg", ".jpeg"}
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if is_jpeg else []
    encoded = cv2.imencode(path.suffix, image, options)[1]
    path.write_bytes(encoded.tobytes())


def save_batch_grid(
    batch: Batch,
    path: Path,
    names: Sequence[str],
    boxes: Sequence[Tensor] | None = None,
    max_images: int = 16,
) -> None:
    """Write a batch as one image of tiles, each with its boxes and file name.

    Ignore regions are hatched below the targets.

    Args:
        batch: images and targets.
        path: output file.
        names: class names by index.
        boxes: detections to draw instead of the targets, for each image [k, 6]: corners x1, y1, x2,
            y2 in pixels of the network input, confidence, class.
        max_images: maximum number of images drawn.
    """
    names = drawable_names(names)
    count = min(len(batch.images), max_images)
    height, width = (int(side) for side in batch.images.shape[2:])
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = min(1.0, MAX_GRID_SIDE / (columns * max(height, width)))
    tile_width, tile_height = round(width * scale), round(height * scale)
    grid = np.full((rows * tile_height, columns * tile_width, 3), GREY, np.uint8)
    for i in range(count):
        rgb = np.ascontiguousarray(batch.images[i].permute(1, 2, 0).cpu().numpy())
        tile = cv2.resize(rgb, (tile_width, tile_height), interpolation=cv2.INTER_AREA)
        cv2.cvtColor(tile, cv2.COLOR_RGB2BGR, tile)
        if boxes is None:
            _hatch(tile, _corners(batch, batch.ignored, i) * scale)
            corners = _corners(batch, batch.targets, i)
            classes = batch.targets[batch.targets[:, 0] == i, 1].cpu().numpy().astype(int)
            labels = [_name(names, index) for index in classes]
        else:
            found = boxes[i].cpu().numpy()
            found = found[found[:, 4] >= MIN_SHOWN_CONFIDENCE]
            corners, classes = found[:, :4], found[:, 5].astype(int)
            pairs = zip(classes, found[:, 4], strict=True)
            labels = [f"{_name(names, index)} {confidence:.1f}" for index, confidence in pairs]
        name = Path(batch.frames[i].path).name[:MAX_FILE_NAME_LENGTH]
        _paste(tile, _text_mask(one_line(name), MIN_FONT_SIZE), (3, 2), (GREY // 3,) * 3)
        tile = draw_boxes(tile, corners * scale, labels, [class_color(c) for c in classes], 1)
        cv2.rectangle(tile, (0, 0), (tile_width - 1, tile_height - 1), (255, 255, 255), 1)
        y, x = (i // columns) * tile_height, (i % columns) * tile_width
        grid[y : y + tile_height, x : x + tile_width] = tile
    write_image(path, grid)


def _corners(batch: Batch, rows: Tensor, index: int) -> np.ndarray:
    """Return corners [k, 4], px, of an image's rows (image, …, cx, cy, w, h; normalized)."""
    height, width = batch.images.shape[2:]
    mine = rows[rows[:, 0] == index, -4:].cpu().numpy()
    centre, size = mine[:, :2], mine[:, 2:]
    corners = np.concatenate((centre - size / 2, centre + size / 2), axis=1)
    return corners * np.array((width, height) * 2)


def _hatch(image: np.ndarray, regions: np.ndarray) -> None:
    """Draw diagonal lines into regions of an image, corners [k, 4], px."""
    for x1, y1, x2, y2 in regions.round().astype(int).clip(0):
        part = image[y1:y2, x1:x2]
        rows, columns = np.ogrid[y1 : y1 + part.shape[0], x1 : x1 + part.shape[1]]
        part[(rows + columns) % HATCH_STEP == 0] = HATCH


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else str(index)


def _draw_label(
    image: np.ndarray, text: str, corner: tuple[int, int], color: Bgr, line: int
) -> None:
    """Draw a label above the upper left corner of a box, or below it if there is no room."""
    size = max(MIN_FONT_SIZE, FONT_BASE + FONT_PER_THICKNESS * line)
    mask = _text_mask(one_line(text), size)
    height, width = mask.shape
    x = max(0, min(corner[0] - line // 2, image.shape[1] - width))
    above = corner[1] - height - line // 2
    y = above if above >= 0 else max(corner[1], 0)
    _paste(image, mask, (x, y), color)


def _paste(image: np.ndarray, mask: np.ndarray, corner: tuple[int, int], color: Bgr) -> None:
    """Fill the rectangle of a text mask with a color and draw the text in black or white."""
    x, y = corner
    part = image[y : y + mask.shape[0], x : x + mask.shape[1]]
    opacity = mask[: part.shape[0], : part.shape[1], None].astype(np.float32) / 255
    ink = 0 if np.dot(LUMA, color) > BRIGHT else 255
    part[:] = np.rint(np.array(color, np.float32) * (1 - opacity) + ink * opacity)


def one_line(text: str) -> str:
    """Return the text without line breaks and control characters, truncated to a label's length."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:MAX_LABEL_LENGTH]


@lru_cache(maxsize=256)
def _text_mask(text: str, size: int) -> np.ndarray:
    """Return the opacity of a line of text with a small margin, uint8 [h, w]."""
    font = load_font(font_for(text) or dejavu(), size)
    left, _, right, _ = font.getbbox(text)
    ascent, descent = font.getmetrics()
    margin = max(1, size // 8)
    mask = Image.new("L", (math.ceil(right - left) + 2 * margin, ascent + descent), 0)
    ImageDraw.Draw(mask).text((margin - left, 0), text, fill=255, font=font)
    return np.array(mask)
