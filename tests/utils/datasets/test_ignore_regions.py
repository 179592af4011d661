from pathlib import Path

import numpy as np
import pytest

from utils.datasets.ignore_regions import ignore_path, load_ignore_regions
from utils.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Paths of three images in two folders; the files do not exist."""
    return [str(tmp_path / "images" / name) for name in ("a/1.jpg", "a/2.png", "b/1.jpg")]


def write(root: Path, name: str, text: str) -> None:
    path = root / "ignore" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("/d/images/val/x.jpg", "/d/ignore/val/x.txt"),
        ("/images/d/images/x.jpg", "/images/d/ignore/x.txt"),
        ("/d/labels/x.jpg", "/d/ignore/x.txt"),  # labels beside the images, in `labels`
    ],
)
def test_ignore_path(image: str, expected: str) -> None:
    assert ignore_path(image) == expected


def test_images_outside_an_images_folder_have_no_regions() -> None:
    assert ignore_path("/d/photos/x.jpg") is None
    assert load_ignore_regions(["/d/photos/x.jpg"]) is None


def test_regions_of_each_image_in_order(tmp_path: Path, images: list[str]) -> None:
    write(tmp_path, "a/2.txt", "0.5 0.5 0.25 1\n\n0.75 0.25 0.5 0.5\n")
    write(tmp_path, "b/1.txt", "\ufeff0.5 0.75 0.125 0.125\n")
    regions = load_ignore_regions(images)
    assert regions is not None
    assert [regions.of(i).tolist() for i in range(3)] == [
        [],
        [[0.5, 0.5, 0.25, 1.0], [0.75, 0.25, 0.5, 0.5]],
        [[0.5, 0.75, 0.125, 0.125]],
    ]
    assert regions.boxes.dtype == np.float32


def test_missing_files_give_none(tmp_path: Path, images: list[str]) -> None:
    assert load_ignore_regions(images) is None
    write(tmp_path, "a/other.txt", "0 0 1 1")
    assert load_ignore_regions(images) is None
    assert load_ignore_regions([]) is None


def test_regions_without_area_are_dropped(tmp_path: Path, images: list[str]) -> None:
    write(tmp_path, "a/1.txt", "0.5 0.5 0 1\n")
    regions = load_ignore_regions(images)
    assert regions is not None
    assert regions.of(0).shape == (0, 4)


@pytest.mark.parametrize("text", ["0 0.5 0.5 0.1 0.1", "a b c d", "0.5 0.5 2 1", "nan 0 0 0", "1"])
def test_invalid_ignore_files_raise(tmp_path: Path, images: list[str], text: str) -> None:
    write(tmp_path, "a/1.txt", text)
    with pytest.raises(UserError, match=r"a/1\.txt is damaged .*; write rows `x y w h`"):
        load_ignore_regions(images)


def test_regions_are_clipped_to_the_image(tmp_path: Path) -> None:
    image = tmp_path / "images" / "a.jpg"
    file = tmp_path / "ignore" / "a.txt"
    file.parent.mkdir()
    file.write_text("0.125 0.5 0.5 0.25\n0.3 0.4 0.1 0.2\n")
    regions = load_ignore_regions([str(image)])
    assert regions is not None
    expected = np.array([[0.1875, 0.5, 0.375, 0.25], [0.3, 0.4, 0.1, 0.2]], np.float32)
    np.testing.assert_array_equal(regions.of(0), expected)


def test_rounding_and_other_ways_to_write_the_name(tmp_path: Path) -> None:
    """The image as macOS writes it, its regions as other systems do; 1 as float32."""
    write(tmp_path, "\u00e9.txt", "0.5 0.5 1.0000000000000002 1\n")
    regions = load_ignore_regions([str(tmp_path / "images" / "e\u0301.jpg")])
    assert regions is not None
    assert regions.of(0).tolist() == [[0.5, 0.5, 1, 1]]
