"""Compose an output image from one or four images: lay them out on a canvas, then warp the canvas.

If the warp only scales and translates, which is the default, the canvas is virtual: every image is
resized directly into the output. Otherwise the visible part of the canvas is rendered and warped.
Images that are not visible are not loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from utils.datasets.affine import (
    AxisResize,
    Warp,
    resize_along_axis,
    resize_into,
    still_visible,
    visible_window,
    warp_boxes,
    warp_image,
    warp_matrix,
)
from utils.datasets.augment import IGNORE_CLASS, LabeledImage
from utils.datasets.labels import to_pixels
from utils.datasets.letterbox import PADDING_GREY, border_offset, resize_ratio, scaled_size

LoadImage = Callable[[int], np.ndarray]
"""Loads an image by its index in the data set: uint8 [height, width, 3], RGB, read-only."""


class Tile(NamedTuple):
    """An image on the canvas, before it is loaded; it may extend beyond the canvas."""

    image_index: int
    """Index in the data set."""
    size: tuple[int, int]
    """(height, width) of the image, px."""
    rows: np.ndarray
    """[k, 5]: class or IGNORE_CLASS, cx, cy, w, h, normalised to the image."""
    x: tuple[int, int] = (0, 0)
    """Left and right edge, px of the canvas."""
    y: tuple[int, int] = (0, 0)
    """Top and bottom edge, px of the canvas."""


class Layout(NamedTuple):
    """Images on a canvas, without overlap."""

    tiles: Sequence[Tile]
    canvas: tuple[int, int]
    """(height, width), px."""


class _Objects(NamedTuple):
    """The labels of one tile, on the canvas and in the output."""

    classes: np.ndarray
    """[k]: class of each box; IGNORE_CLASS for an ignore region."""
    before: np.ndarray
    """float64 [k, 4]: corners, px of the canvas, clipped to it."""
    after: np.ndarray
    """float64 [k, 4]: corners, px of the output, not clipped."""


_NOTHING = _Objects(np.empty(0, np.float32), np.empty((0, 4)), np.empty((0, 4)))


def mosaic_layout(tiles: Sequence[Tile], centre: tuple[int, int], side: int) -> Layout:
    """Lay out four images on a square canvas, with twice the `side` of the output, px.

    The tiles are top left, top right, bottom left and bottom right. Their inner corners meet at
    `centre`, (x, y), px.
    """
    placed = []
    for position, tile in enumerate(tiles):
        height, width = tile.size
        row, column = divmod(position, 2)
        left = centre[0] if column else centre[0] - width
        top = centre[1] if row else centre[1] - height
        placed.append(tile._replace(x=(left, left + width), y=(top, top + height)))
    return Layout(placed, (2 * side, 2 * side))


def letterbox_layout(tile: Tile, shape: tuple[int, int]) -> Layout:
    """Lay out one image, scaled to fit, in the middle of a canvas of `shape` (height, width)."""
    height, width = scaled_size(tile.size, resize_ratio(tile.size, shape, scale_up=True))
    left, top = border_offset(((shape[1] - width) / 2, (shape[0] - height) / 2))
    return Layout([tile._replace(x=(left, left + width), y=(top, top + height))], shape)


def compose(layout: Layout, warp: Warp, load: LoadImage, out: np.ndarray) -> LabeledImage:
    """Warp the canvas into `out`; drop boxes that are too small, too thin or mostly cropped.

    An ignore region is kept as long as any part is visible, because that part may still contain an
    object without a label.

    Args:
        layout: the images on the canvas.
        warp: transform from the canvas to the output.
        load: loads an image.
        out: uint8 [height, width, 3], overwritten with the output image.
    """
    compose_tiles = _compose_by_resizing if warp.is_axis_aligned else _compose_by_warping
    objects = [_NOTHING, *compose_tiles(layout, warp, load, out)]
    classes, before, after = (np.concatenate(part) for part in zip(*objects, strict=True))
    after = after.clip(0, out.shape[1::-1] * 2)
    keep = np.where(
        classes == IGNORE_CLASS,
        (after[:, 2:] > after[:, :2]).all(axis=1),
        still_visible(before, after, warp.scale),
    )
    return LabeledImage(out, classes[keep], after[keep])


def _compose_by_resizing(
    layout: Layout, warp: Warp, load: LoadImage, out: np.ndarray
) -> list[_Objects]:
    """Resize each tile into its rectangle of the output, and map its boxes the same way."""
    seen: list[tuple[Tile, AxisResize, AxisResize]] = []
    for tile in layout.tiles:
        across, down = (_axis_resize(axis, tile, layout.canvas, warp, out) for axis in (0, 1))
        if across and down:
            seen.append((tile, across, down))
    covered = sum((x.stop - x.start) * (y.stop - y.start) for _, x, y in seen)
    if covered < out.shape[0] * out.shape[1]:
        out[:] = PADDING_GREY
    objects = []
    for tile, across, down in seen:
        resize_into(load(tile.image_index), across, down, out)
        if len(tile.rows):
            before = _on_canvas(tile, layout.canvas)
            after = before * ((across.scale, down.scale) * 2) + (across.shift, down.shift) * 2
            objects.append(_Objects(tile.rows[:, 0], before, after))
    return objects


def _axis_resize(
    axis: int, tile: Tile, canvas: tuple[int, int], warp: Warp, out: np.ndarray
) -> AxisResize | None:
    """Return how a tile is resized along x (axis 0) or y (axis 1); None if it is not visible."""
    output, side = out.shape[1 - axis], canvas[1 - axis]
    return resize_along_axis(
        (tile.x, tile.y)[axis],
        tile.size[1 - axis],
        side,
        scale=warp.scale,
        shift=warp.centre[axis] * output - warp.scale * side / 2,
        output=output,
    )


def _compose_by_warping(
    layout: Layout, warp: Warp, load: LoadImage, out: np.ndarray
) -> list[_Objects]:
    """Render the visible part of the canvas, and warp it into the output."""
    matrix = warp_matrix(warp, layout.canvas, out.shape[:2])
    left, top, right, bottom = visible_window(matrix, layout.canvas, out.shape[:2])
    if right <= left or bottom <= top:
        out[:] = PADDING_GREY
        return []
    window = np.full((bottom - top, right - left, 3), PADDING_GREY, np.uint8)
    objects = []
    for tile in layout.tiles:
        (x1, x2), (y1, y2) = tile.x, tile.y
        region = window[max(y1 - top, 0) : max(y2 - top, 0), max(x1 - left, 0) : max(x2 - left, 0)]
        if region.size == 0:
            continue
        image = load(tile.image_index)
        if tile.size != (y2 - y1, x2 - x1):
            image = cv2.resize(image, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
        skipped_y, skipped_x = max(top - y1, 0), max(left - x1, 0)
        height, width = region.shape[:2]
        region[:] = image[skipped_y : skipped_y + height, skipped_x : skipped_x + width]
        before = _on_canvas(tile, layout.canvas)
        objects.append(_Objects(tile.rows[:, 0], before, warp_boxes(before, matrix, out.shape[:2])))
    from_window = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
    warp_image(window, matrix @ from_window, out)
    return objects


def _on_canvas(tile: Tile, canvas: tuple[int, int]) -> np.ndarray:
    """Return the boxes of a tile: [k, 4], corners, px of the canvas, clipped to it."""
    (x1, x2), (y1, y2) = tile.x, tile.y
    return to_pixels(tile.rows, (y2 - y1, x2 - x1), (x1, y1)).clip(0, canvas[::-1] * 2)
