import numpy as np
import pytest

from utils.datasets.affine import Warp
from utils.datasets.augment import IGNORE_CLASS, LabeledImage
from utils.datasets.mosaic import Layout, Tile, compose, letterbox_layout, mosaic_layout

TURNED = 1e-7
"""Degrees; invisible, but such a warp is not axis-aligned."""


def plain(height: int, width: int, level: int) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def tiles_of(images: list[np.ndarray], rows: list[np.ndarray]) -> list[Tile]:
    pairs = zip(images, rows, strict=True)
    return [Tile(i, image.shape[:2], row) for i, (image, row) in enumerate(pairs)]


def composed(
    layout: Layout, images: list[np.ndarray], warp: Warp, shape: tuple[int, int]
) -> LabeledImage:
    out = np.zeros((*shape, 3), np.uint8)
    labelled = compose(layout, warp, images.__getitem__, out)
    assert labelled.image is out
    return labelled


def canvas_of(layout: Layout, images: list[np.ndarray], warp: Warp = Warp()) -> LabeledImage:  # noqa: B008
    """Compose an output of the size of the canvas."""
    return composed(layout, images, warp, layout.canvas)


@pytest.mark.parametrize("warp", [Warp(), Warp(angle=TURNED)])
def test_mosaic_tiles_meet_at_the_centre(warp: Warp) -> None:
    #        0   4   6   12   16
    #      0 +---------------+
    #      2 |   +---+----+  |     1: 8 x 4 high, only 6 rows of it on the canvas
    #        | 0 | 0 | 1  |        the canvas is 16 x 16, the centre (6, 6)
    #      6 +---+---+----+--+
    #        | 2     |  3
    images = [plain(4, 3, 10), plain(8, 6, 20), plain(8, 8, 30), plain(3, 8, 40)]
    whole = np.array([[0, 0.5, 0.5, 1, 1]], np.float32)
    rows = [whole + np.array([i, 0, 0, 0, 0]) for i in range(4)]
    layout = mosaic_layout(tiles_of(images, rows), (6, 6), 8)
    labelled = canvas_of(layout, images, warp)
    expected = np.full((16, 16), 114)
    expected[2:6, 3:6] = 10
    expected[0:6, 6:12] = 20  # 2 rows are clipped at the top
    expected[6:14, 0:6] = 30  # 2 columns on the left
    expected[6:9, 6:14] = 40
    assert np.array_equal(labelled.image[..., 0], expected)
    assert labelled.classes.tolist() == [0, 1, 2, 3]
    boxes = [[3, 2, 6, 6], [6, 0, 12, 6], [0, 6, 6, 14], [6, 6, 14, 9]]
    np.testing.assert_allclose(labelled.boxes, boxes, atol=1e-6)


@pytest.mark.parametrize("warp", [Warp(), Warp(angle=TURNED)])
def test_mosaic_shows_the_parts_next_to_the_centre(warp: Warp) -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1).repeat(3, axis=2)
    layout = mosaic_layout(tiles_of([image] * 4, [np.empty((0, 5))] * 4), (4, 12), 8)
    canvas = canvas_of(layout, [image] * 4, warp).image[..., 0]
    assert np.array_equal(canvas[4:12, 0:4], image[:, 4:, 0])  # the right half of the top left tile
    assert np.array_equal(canvas[12:16, 4:12], image[:4, :, 0])  # the top of the bottom right tile


@pytest.mark.parametrize("warp", [Warp(), Warp(angle=TURNED)])
def test_single_image_is_letterboxed(warp: Warp) -> None:
    image = plain(20, 40, 9)
    tile = Tile(0, (20, 40), np.array([[7, 0.5, 0.5, 0.5, 0.5]]))
    layout = letterbox_layout(tile, (51, 60))  # 30 x 60, with 10 rows above and 11 below
    assert (layout.tiles[0].x, layout.tiles[0].y) == ((0, 60), (10, 40))
    labelled = canvas_of(layout, [image], warp)
    assert (labelled.image[10:40] == 9).all()
    assert (labelled.image[[*range(10), *range(40, 51)]] == 114).all()
    np.testing.assert_allclose(labelled.boxes, [[15, 17.5, 45, 32.5]], atol=1e-6)


def one_tile(size: tuple[int, int], corners: np.ndarray, classes: np.ndarray) -> Layout:
    """Lay out one image that fills the canvas."""
    height, width = size
    scale = np.array([width, height])
    centres, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    rows = np.column_stack([classes, centres / scale, sizes / scale])
    return Layout([Tile(0, size, rows, (0, width), (0, height))], size)


@pytest.mark.parametrize("warp", [Warp(), Warp(angle=TURNED)])
def test_boxes_that_are_no_longer_visible_are_dropped(warp: Warp) -> None:
    corners = np.array([[16.0, 16, 24, 24], [0, 0, 9, 9], [5, 18, 15, 22]])
    layout = one_tile((40, 40), corners, np.array([1, 2, 3]))
    middle = composed(layout, [plain(40, 40, 0)], warp, (20, 20))  # 10 … 30 of both axes
    assert not middle.image.any()
    assert middle.classes.tolist() == [1, 3]
    np.testing.assert_allclose(middle.boxes, [[6, 6, 14, 14], [0, 8, 5, 12]], atol=1e-6)


@pytest.mark.parametrize("warp", [Warp(), Warp(angle=TURNED)])
def test_visible_parts_of_ignore_regions_are_kept(warp: Warp) -> None:
    corners = np.array(
        [
            [0.0, 0.0, 11.0, 40.0],  # 1 px of it is in the output, of 11
            [0.0, 0.0, 9.75, 40.0],  # none
            [0.0, 29.75, 40.0, 40.0],  # a sliver
            [16.0, 16.0, 24.0, 24.0],  # all
        ]
    )
    layout = one_tile((40, 40), corners, np.full(4, IGNORE_CLASS))
    middle = composed(layout, [plain(40, 40, 0)], warp, (20, 20))  # 10 … 30 of both axes
    boxes = np.array([[0, 0, 1, 20], [0, 19.75, 20, 20], [6, 6, 14, 14]])
    np.testing.assert_allclose(middle.boxes, boxes, atol=1e-6)
    assert middle.classes.tolist() == [IGNORE_CLASS] * 3


@pytest.mark.parametrize(
    ("centre", "straight", "turned"),
    [
        ((1.0, 0.5), [0, 2], [0, 1, 2, 3]),  # rotation needs a margin of one pixel
        ((0.5, 0.0), [2, 3], [0, 1, 2, 3]),
        ((-0.5, -0.5), [3], [3]),
        ((1.5, 0.5), [0, 2], [0, 2]),
        ((9.5, 0.5), [], []),
    ],
)
def test_invisible_images_are_not_loaded(
    centre: tuple[float, float], straight: list[int], turned: list[int]
) -> None:
    images = [plain(8, 8, level) for level in (10, 20, 30, 40)]
    whole = np.array([[IGNORE_CLASS, 0.5, 0.5, 1, 1]])
    layout = mosaic_layout(tiles_of(images, [whole] * 4), (8, 8), 8)
    loaded: list[int] = []

    def load(i: int) -> np.ndarray:
        loaded.append(i)
        return images[i]

    for angle, expected in ((0.0, straight), (TURNED, turned)):
        loaded.clear()
        out = np.zeros((4, 4, 3), np.uint8)
        labelled = compose(layout, Warp(centre=centre, angle=angle), load, out)
        assert loaded == expected
        assert set(np.unique(out)) == ({images[i][0, 0, 0] for i in straight} or {114})
        sizes = labelled.boxes[:, 2:] - labelled.boxes[:, :2]
        assert (sizes.min(axis=1, initial=4) > 1e-3).sum() == len(straight)


def smooth(height: int, width: int, phase: int) -> np.ndarray:
    """Return an image of waves with a gradient of at most 1.5 levels per px."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 60 * np.sin((x + 2 * phase) / 40 + c) * np.cos(y / 50 - phase) for c in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


@pytest.mark.parametrize("scale", [0.53, 0.8, 1.0, 1.37, 1.9])
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.43, 0.58), (0.61, 0.4)])
@pytest.mark.parametrize("meeting", [(96, 96), (51, 140), (143, 77)])
def test_resizing_equals_warping(
    scale: float, centre: tuple[float, float], meeting: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    images = [smooth(*size, i) for i, size in enumerate([(96, 71), (64, 96), (96, 96), (57, 96)])]
    rows = []
    for i in range(4):
        sizes = rng.uniform(0.1, 0.4, (6, 2))
        rows.append(np.column_stack([np.arange(6) + 10 * i, rng.uniform(0.2, 0.8, (6, 2)), sizes]))
    layout = mosaic_layout(tiles_of(images, rows), meeting, 96)
    shape = (96, 96)
    straight = composed(layout, images, Warp(scale=scale, centre=centre), shape)
    other = composed(layout, images, Warp(scale=scale, centre=centre, angle=TURNED), shape)
    difference = np.abs(straight.image.astype(int) - other.image)
    assert np.median(difference) <= 1
    assert np.percentile(difference, 90) <= 4  # the rest are edges of tiles
    common = set(straight.classes.tolist()) & set(other.classes.tolist())
    # For a box at the limit of visibility the results may differ.
    assert len(common) >= max(len(straight.classes), len(other.classes)) - 1
    for label in common:
        np.testing.assert_allclose(
            straight.boxes[straight.classes == label],
            other.boxes[other.classes == label],
            atol=1.2,
        )


@pytest.mark.parametrize("scale", [0.5, 0.71, 1.0, 1.23, 1.5])
def test_boxes_match_resized_pixels_exactly(scale: float) -> None:
    """Each image is a single box; its edges are whole pixels of the output."""
    images = [plain(48, 37, 255), plain(41, 48, 250), plain(48, 48, 245), plain(33, 48, 240)]
    whole = np.array([[IGNORE_CLASS, 0.5, 0.5, 1, 1]])  # kept as long as any part is visible
    layout = mosaic_layout(tiles_of(images, [whole] * 4), (47, 50), 48)
    found = 0
    for centre in ((0.5, 0.5), (0.44, 0.53), (0.57, 0.41)):
        labelled = composed(layout, images, Warp(scale=scale, centre=centre), (48, 48))
        covered = np.zeros((48, 48), int)
        for x1, y1, x2, y2 in labelled.boxes:
            corners = np.array([x1, y1, x2, y2])
            np.testing.assert_allclose(corners, corners.round(), atol=1e-9)
            left, top, right, bottom = corners.round().astype(int)
            assert len(np.unique(labelled.image[top:bottom, left:right])) == 1
            covered[top:bottom, left:right] += 1
            found += 1
        assert np.array_equal(labelled.image[..., 0] == 114, covered == 0)
        assert covered.max() == 1
    assert found >= 9
