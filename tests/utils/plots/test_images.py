from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.datasets.dataset import Batch, Frame
from utils.plots.images import (
    PALETTE,
    class_color,
    draw_boxes,
    save_batch_grid,
    write_image,
)

GREEN = (0, 255, 0)
# line breaks, mathtext, a format string, right-to-left text, characters missing in the font
UNUSUAL_NAMES = (
    "two\nlines",
    "$x^2_",
    "%s {0}",
    "שלום",
    "\U0001f6b6\U0010ffff",
    "",
    "tab\there" * 40,
)


def batch(images: int, size: tuple[int, int] = (32, 64)) -> Batch:
    """Return grey images, each with one box of its own class over its upper left quarter."""
    targets = [[i, i, 0.25, 0.25, 0.5, 0.5] for i in range(images)]
    return Batch(
        torch.full((images, 3, *size), 128, dtype=torch.uint8),
        torch.tensor(targets, dtype=torch.float32).reshape(-1, 6),
        torch.arange(images),
        tuple(Frame(f"/x/{i}.png", size, (1.0, 1.0), (0.0, 0.0)) for i in range(images)),
    )


def pixels(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image


def test_colors_are_distinct_and_repeat() -> None:
    assert class_color(0) == (0x30, 0x3B, 0xFF)  # #ff3b30 in BGR
    assert len({class_color(i) for i in range(len(PALETTE))}) == 20
    assert class_color(21) == class_color(1)


def test_box_is_drawn_into_a_copy() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[10.0, 12.0, 30.4, 28.0]]), [None], [GREEN], 1)
    assert image.max() == 0
    rows, columns = np.nonzero(drawn[..., 1] == 255)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 12, 30, 28)
    assert drawn[20, 20].tolist() == [0, 0, 0]  # not filled


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([10.0, 50.0, 50.0, 90.0], (45, 12)),  # above the box
        ([10.0, 2.0, 50.0, 90.0], (4, 12)),  # no room above: below the upper edge
        ([95.0, 50.0, 99.0, 90.0], (45, 97)),  # moved to the left, ends at the edge of the image
    ],
)
def test_label_stays_inside_the_image(box: list[float], inside: tuple[int, int]) -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    drawn = draw_boxes(image, np.array([box]), ["car"], [GREEN], 1)
    assert drawn[inside][1] > 100  # the label's background has the color of the box
    only_box = draw_boxes(image, np.array([box]), [None], [GREEN], 1)
    assert (drawn[..., 1] > 0).sum() > (only_box[..., 1] > 0).sum() + 100


def test_text_is_readable_on_every_color() -> None:
    """Black on yellow, white on blue."""
    image = np.full((60, 90, 3), 60, np.uint8)
    box = np.array([[5.0, 30.0, 80.0, 55.0]])
    for color, ink in (((0, 220, 255), 0), ((200, 40, 0), 255)):
        label = draw_boxes(image, box, ["HHHH"], [color], 1)[17:30, 5:60].reshape(-1, 3)
        assert np.abs(label.astype(int) - ink).max(axis=1).min() < 60


def test_boxes_of_zero_size_and_far_outside_the_image() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    boxes = np.array([[-1e9, -1e9, 1e9, 1e9], [5.0, 5.0, 5.0, 5.0], [50.0, 50.0, 60.0, 60.0]])
    drawn = draw_boxes(image, boxes, ["a", "b", "c"], [GREEN] * 3)
    assert drawn.shape == image.shape


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_unusual_names(name: str, tmp_path: Path) -> None:
    image = np.zeros((30, 200, 3), np.uint8)
    drawn = draw_boxes(image, np.array([[5.0, 20.0, 25.0, 28.0]]), [name], [GREEN], 1)
    assert drawn[28, 15].tolist() == list(GREEN)


def test_grid_of_targets(tmp_path: Path) -> None:
    """Three tiles of 64 x 32 in two columns; the fourth tile is empty."""
    save_batch_grid(batch(3), tmp_path / "grid.png", ("a", "b", "c"))
    grid = pixels(tmp_path / "grid.png")
    assert grid.shape == (64, 128, 3)
    # the lower edges of the boxes, in the middle of each tile
    assert grid[16, 25].tolist() == list(class_color(0))
    assert grid[16, 64 + 25].tolist() == list(class_color(1))
    assert grid[32 + 16, 25].tolist() == list(class_color(2))
    assert grid[48, 96].tolist() == [114, 114, 114]


def test_ignore_regions_are_hatched_below_the_targets(tmp_path: Path) -> None:
    regions = torch.tensor([[1, 0.75, 0.5, 0.5, 1.0], [1, 0.0, 0.5, 0.25, 1.0]])
    marked = batch(2)._replace(ignored=regions)
    for name, images_, boxes in (
        ("plain.png", batch(2), None),
        ("marked.png", marked, None),
        ("detections.png", marked, [torch.empty(0, 6)] * 2),
    ):
        save_batch_grid(images_, tmp_path / name, ("a", "b"), boxes)
    plain, hatched, detections = (
        pixels(tmp_path / name) for name in ("plain.png", "marked.png", "detections.png")
    )
    rows, columns = np.nonzero((hatched != plain).any(axis=2))
    # the second tile's right half and its left eighth, without the frame at the edges
    assert set(columns - 64) == {*range(1, 8), *range(32, 63)}
    assert {tuple(color) for color in hatched[rows, columns]} == {(190, 190, 190)}
    assert hatched[20, 64 + 40].tolist() == [190, 190, 190]
    assert hatched[20, 64 + 41].tolist() == [128, 128, 128]
    assert detections[20, 64 + 40].tolist() == [128, 128, 128]


def test_grid_of_detections_omits_low_confidence(tmp_path: Path) -> None:
    found = torch.tensor([[10.0, 14, 50, 26, 0.9, 1], [40, 20, 62, 30, 0.24, 0]])
    save_batch_grid(batch(1), tmp_path / "grid.png", ("a", "b"), [found])
    grid = pixels(tmp_path / "grid.png")
    assert grid[26, 30].tolist() == list(class_color(1))
    assert grid[30, 55].tolist() == [128, 128, 128]


def test_grid_size_is_limited(tmp_path: Path) -> None:
    """In images and in pixels: 4 x 4 tiles of 640 are resized to 480."""
    save_batch_grid(batch(20, (640, 640)), tmp_path / "grid.jpg", [str(i) for i in range(20)])
    assert pixels(tmp_path / "grid.jpg").shape == (1920, 1920, 3)


def test_unknown_class_is_shown_by_its_number(tmp_path: Path) -> None:
    found = torch.tensor([[10.0, 14, 50, 26, 0.9, 7]])
    save_batch_grid(batch(1), tmp_path / "grid.png", ("a",), [found])
    assert (tmp_path / "grid.png").is_file()


def test_path_with_any_characters(tmp_path: Path) -> None:
    path = tmp_path / "знак 1.png"
    write_image(path, np.full((4, 4, 3), 9, np.uint8))
    stored = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert stored is not None
    assert stored.max() == 9
