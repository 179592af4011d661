from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.utils.datasets.web import serving
from utils.errors import UserError
from utils.inference.inputs import common_shape, load_image


def test_all_kinds_of_images_are_the_same_image(tmp_path: Path) -> None:
    """Rotated by EXIF; of different names."""
    upright = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    turned = np.rot90(upright)
    file = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(turned)).save(file, exif=exif)
    with serving(tmp_path) as address, Image.open(file) as opened:
        kinds: list[tuple[Any, str]] = [
            (file, f"{tmp_path}/a.jpg"),
            (str(file), f"{tmp_path}/a.jpg"),
            (f"{address}/a.png?n=1", f"{address.replace('//', '/')}/a.jpg"),
            (opened, f"{tmp_path}/a.jpg"),
            (Image.fromarray(upright), "image5.jpg"),
            (upright, "image5.jpg"),
            (upright[:, ::-1][:, ::-1], "image5.jpg"),
            (upright.transpose(2, 0, 1), "image5.jpg"),
            (np.dstack([upright, upright[..., 0]]), "image5.jpg"),
        ]
        for item, expected in kinds:
            name, image = load_image(item, 5)
            assert name == expected
            assert np.array_equal(image, upright)
            assert image.flags.c_contiguous


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (5, "an image is a int; give a path, a URL, a PIL image or an array"),
        (None, "an image is a NoneType"),
        ("absent.jpg", r"absent\.jpg cannot be used \(it does not exist\); give another image"),
        (np.zeros((4, 4, 3), np.float32), r"is float32 \[4, 4, 3\]; give uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]; give uint8 \[height, width, 3\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"\[2, 3, 8, 8\]; give uint8"),
        (Image.new("I", (8, 8)), "has the mode I; convert it to RGB first"),
        (np.zeros((8, 8, 5), np.uint8), r"\[8, 8, 5\]; give uint8"),
        ([np.zeros((4, 4, 3), np.uint8)], "an image is a list"),
    ],
)
def test_what_is_no_image_is_refused(item: object, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_image(item, 0)


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:2000])
    sentence = r"a\.png cannot be used \(.*\); give another image"
    with Image.open(file) as opened, pytest.raises(UserError, match=sentence):
        load_image(opened, 0)


@pytest.mark.parametrize(
    ("sizes", "size", "shape"),
    [
        ([(720, 1280)], 640, (384, 640)),
        ([(720, 1280), (1080, 810)], 640, (640, 640)),
        ([(48, 64)], 640, (480, 640)),
        ([(10, 1000)], 320, (32, 320)),  # a side is at least one stride
        ([(641, 641)], 33, (64, 64)),
        ([(481, 640)], [320, 100], (320, 128)),
        ([(448, 490), (70, 35)], np.int64(320), (320, 320)),
    ],
)
def test_common_shape(sizes: list[tuple[int, int]], size: Any, shape: tuple[int, int]) -> None:
    assert common_shape(sizes, size, 32) == shape


@pytest.mark.parametrize("size", [0, (64, 0), (1, 2, 3)])
def test_a_size_that_is_none(size: Any) -> None:
    with pytest.raises(UserError, match="give one side in pixels, at least 1, or"):
        common_shape([(10, 10)], size, 32)
