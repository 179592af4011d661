"""Composing a picture from images that lie on a canvas, of which a warp shows a part.

The canvas is a way to speak of places. Where the warp only scales and moves, which is the default,
every image goes straight into the picture; else as much of the canvas is painted as is seen.
Images of which nothing is seen are not loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from utils.datasets.affine import (
    Stretch,
    Warp,
    seen_window,
    still_visible,
    stretch,
    stretch_image,
    warp_boxes,
    warp_image,
    warp_matrix,
)
from utils.datasets.augment import IGNORED, Picture
from utils.datasets.labels import to_pixels
from utils.datasets.letterbox import PADDING_GREY, border_offset, fitting_ratio, scaled_size

Load = Callable[[int], np.ndarray]
"""Gives an image by its data-set index: uint8 [height, width, 3], RGB; not written to."""


class Tile(NamedTuple):
    """An image on the canvas, with what is known of it before it is loaded."""

    image: int
    """Data-set index."""
    size: tuple[int, int]
    """(height, width) of the image, px."""
    rows: np.ndarray
    """[k, 5]: class or IGNORED, cx, cy, w, h, normalised to the image."""


class Place(NamedTuple):
    """Where a tile lies, px of the canvas; it may be outside."""

    x: tuple[int, int]
    """Its left edge and its right one."""
    y: tuple[int, int]
    """Its upper edge and its lower one."""


class Layout(NamedTuple):
    """Images on a canvas. None covers another."""

    tiles: Sequence[Tile]
    places: Sequence[Place]
    """Of each tile."""
    canvas: tuple[int, int]
    """(height, width), px."""


class _Objects(NamedTuple):
    """What is in one tile, on the canvas and in the picture."""

    classes: np.ndarray
    """[k]; IGNORED for a region."""
    before: np.ndarray
    """float64 [k, 4]: corners, px of the canvas, clipped to it."""
    after: np.ndarray
    """float64 [k, 4]: corners, px of the picture; they may be outside."""


_NOTHING = _Objects(np.empty(0, np.float32), np.empty((0, 4)), np.empty((0, 4)))


def mosaic_layout(tiles: Sequence[Tile], centre: tuple[int, int], side: int) -> Layout:
    """Four images around `centre` on a canvas of twice `side`, cut off at its edges.

    Args:
        tiles: top left, top right, bottom left, bottom right.
        centre: (x, y) at which their inner corners meet, px.
        side: of the picture to be made from the canvas.
    """
    places = []
    for position, tile in enumerate(tiles):
        height, width = tile.size
        below, beside = divmod(position, 2)
        left = centre[0] if beside else centre[0] - width
        top = centre[1] if below else centre[1] - height
        places.append(Place((left, left + width), (top, top + height)))
    return Layout(tiles, places, (2 * side, 2 * side))


def letterbox_layout(tile: Tile, shape: tuple[int, int]) -> Layout:
    """One image in the middle of a canvas of `shape` (height, width), as large as fits."""
    height, width = scaled_size(tile.size, fitting_ratio(tile.size, shape, scale_up=True))
    left, top = border_offset(((shape[1] - width) / 2, (shape[0] - height) / 2))
    return Layout([tile], [Place((left, left + width), (top, top + height))], shape)


def compose(layout: Layout, warp: Warp, load: Load, out: np.ndarray) -> Picture:
    """Fill `out` with what the warp shows of the canvas; without the objects that are lost in it.

    Of an ignore region all that is visible stays: the least part of it may show half an object.

    Args:
        layout: what lies on the canvas.
        warp: from the canvas to the picture.
        load: gives the images.
        out: uint8 [height, width, 3], the picture's image, written to.
    """
    paint = _paint_straight if warp.is_straight else _paint_warped
    objects = [_NOTHING, *paint(layout, warp, load, out)]
    classes, before, after = (np.concatenate(part) for part in zip(*objects, strict=True))
    after = after.clip(0, out.shape[1::-1] * 2)
    keep = np.where(
        classes == IGNORED,
        (after[:, 2:] > after[:, :2]).all(axis=1),
        still_visible(before, after, warp.scale),
    )
    return Picture(out, classes[keep], after[keep])


def _paint_straight(layout: Layout, warp: Warp, load: Load, out: np.ndarray) -> list[_Objects]:
    """Stretch each tile onto its own rectangle of the picture, and its boxes along with it."""
    seen: list[tuple[int, Stretch, Stretch]] = []
    for number in range(len(layout.tiles)):
        across, down = (_along(axis, layout, number, warp, out) for axis in (0, 1))
        if across and down:
            seen.append((number, across, down))
    covered = sum((x.stop - x.start) * (y.stop - y.start) for _, x, y in seen)
    if covered < out.shape[0] * out.shape[1]:
        out[:] = PADDING_GREY
    objects = []
    for number, across, down in seen:
        tile = layout.tiles[number]
        stretch_image(load(tile.image), across, down, out)
        if len(tile.rows):
            before = _on_canvas(layout, number)
            after = before * ((across.scale, down.scale) * 2) + (across.shift, down.shift) * 2
            objects.append(_Objects(tile.rows[:, 0], before, after))
    return objects


def _along(axis: int, layout: Layout, number: int, warp: Warp, out: np.ndarray) -> Stretch | None:
    """How a tile is stretched along x, 0, or y, 1."""
    picture, canvas = out.shape[1 - axis], layout.canvas[1 - axis]
    return stretch(
        layout.places[number][axis],
        layout.tiles[number].size[1 - axis],
        canvas,
        scale=warp.scale,
        shift=warp.centre[axis] * picture - warp.scale * canvas / 2,
        picture=picture,
    )


def _paint_warped(layout: Layout, warp: Warp, load: Load, out: np.ndarray) -> list[_Objects]:
    """Paint the part of the canvas that is seen, and warp it into the picture."""
    matrix = warp_matrix(warp, layout.canvas, out.shape[:2])
    left, top, right, bottom = seen_window(matrix, layout.canvas, out.shape[:2])
    if right <= left or bottom <= top:
        out[:] = PADDING_GREY
        return []
    window = np.full((bottom - top, right - left, 3), PADDING_GREY, np.uint8)
    objects = []
    for number, (tile, ((x1, x2), (y1, y2))) in enumerate(
        zip(layout.tiles, layout.places, strict=True)
    ):
        region = window[max(y1 - top, 0) : max(y2 - top, 0), max(x1 - left, 0) : max(x2 - left, 0)]
        if region.size == 0:
            continue
        image = load(tile.image)
        if tile.size != (y2 - y1, x2 - x1):
            image = cv2.resize(image, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
        skipped_y, skipped_x = max(top - y1, 0), max(left - x1, 0)
        height, width = region.shape[:2]
        region[:] = image[skipped_y : skipped_y + height, skipped_x : skipped_x + width]
        before = _on_canvas(layout, number)
        objects.append(_Objects(tile.rows[:, 0], before, warp_boxes(before, matrix)))
    from_window = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]])
    warp_image(window, matrix @ from_window, out)
    return objects


def _on_canvas(layout: Layout, number: int) -> np.ndarray:
    """Boxes of a tile: [k, 4], corners, px of the canvas, clipped to it."""
    (x1, x2), (y1, y2) = layout.places[number]
    boxes = to_pixels(layout.tiles[number].rows, (y2 - y1, x2 - x1), (x1, y1))
    return boxes.clip(0, layout.canvas[::-1] * 2)
