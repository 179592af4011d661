import logging
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.utils.datasets.drawn import drawn_index
from utils.datasets.image_cache import (
    FileImages,
    PackedImages,
    RecentImages,
    free_disk,
    open_image_store,
)
from utils.datasets.image_files import read_image
from utils.datasets.index import Index

SIZES = [(40, 60), (60, 40), (50, 50), (21, 64)]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return drawn_index(tmp_path, SIZES)


def images_of(store: FileImages | PackedImages, count: int = len(SIZES)) -> list[np.ndarray]:
    return [store.load(i) for i in range(count)]


def equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_longer_side_is_resized_and_shorter_side_rounded_up(index: Index) -> None:
    store = FileImages(index, 32, cv2.INTER_AREA)
    assert [image.shape for image in images_of(store)] == [
        (22, 32, 3),  # 40 * 32 / 60 = 21.3
        (32, 22, 3),
        (32, 32, 3),
        (11, 32, 3),  # 21 / 2 = 10.5
    ]


def test_interpolation(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    index = drawn_index(tmp_path, [(40, 40)])
    stripes = np.zeros((40, 40, 3), np.uint8)
    stripes[:, ::4] = 255
    cv2.imwrite(str(index.paths[0]), stripes)
    area = FileImages(index, 10, cv2.INTER_AREA).load(0)
    linear = FileImages(index, 10, cv2.INTER_LINEAR).load(0)
    assert set(np.unique(area)) == {64}  # the mean of 255, 0, 0, 0
    assert set(np.unique(linear)) == {0}  # the two columns in the middle
    enlarged = FileImages(index, 80, cv2.INTER_AREA).load(0)
    assert np.array_equal(enlarged, cv2.resize(stripes, (80, 80)))


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_caches_hold_the_same_images(index: Index, cache: str) -> None:
    files = open_image_store(index, 48, shrink_interpolation=cv2.INTER_AREA, cache=None, threads=1)
    packed = open_image_store(
        index,
        48,
        shrink_interpolation=cv2.INTER_AREA,
        cache=cache,  # type: ignore[arg-type]
        threads=2,
    )
    assert isinstance(files, FileImages)
    assert isinstance(packed, PackedImages)
    assert equal(images_of(files), images_of(packed))
    for store in (files, packed):  # known without loading the images
        assert [store.size(i) for i in range(4)] == [(32, 48), (48, 32), (48, 48), (16, 48)]


def image_caches(index: Index) -> list[Path]:
    return sorted(Path(str(index.paths[0])).parent.glob("yolo-images-*.npy"))


def test_memory_mapped_file_is_pickled_by_name(index: Index) -> None:
    packed = open_image_store(
        index, 48, shrink_interpolation=cv2.INTER_AREA, cache="disk", threads=1
    )
    assert isinstance(packed, PackedImages)
    pickled = pickle.dumps(packed)
    assert len(pickled) < 2000
    assert equal(images_of(packed), images_of(pickle.loads(pickled)))  # noqa: S301 -- just made


def test_disk_cache_is_reused_until_an_image_changes(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "yolo")
    decoded: list[str] = []

    def decode(path: str) -> np.ndarray:
        decoded.append(path)
        return read_image(path)

    monkeypatch.setattr("utils.datasets.image_cache.read_image", decode)

    def reopened(side: int = 48, shrink_interpolation: int = cv2.INTER_AREA) -> int:
        decoded.clear()
        open_image_store(
            index, side, shrink_interpolation=shrink_interpolation, cache="disk", threads=1
        )
        return len(decoded)

    assert reopened() == 4
    assert reopened() == 0
    (cache,) = image_caches(index)
    says = [f"Caching images in {cache}, 0.0 GiB", f"Using the image cache {cache}, 0.0 GiB"]
    assert caplog.messages == says
    assert reopened(shrink_interpolation=cv2.INTER_LINEAR) == 4
    assert reopened(side=32) == 4
    assert len(image_caches(index)) == 3
    assert reopened() == 0
    os.utime(str(index.paths[2]), ns=(1, 1))
    assert reopened() == 4
    assert reopened() == 0
    (cache,) = [path for path in image_caches(index) if "-48-3" in path.name]
    cache.write_bytes(cache.read_bytes()[:-1])
    assert reopened() == 4


def test_read_only_data_set_is_cached_in_the_user_cache(index: Index, cache_home: Path) -> None:
    folder = Path(str(index.paths[0])).parent
    folder.chmod(0o555)
    try:
        packed = open_image_store(
            index, 48, shrink_interpolation=cv2.INTER_AREA, cache="disk", threads=1
        )
    finally:
        folder.chmod(0o755)
    assert isinstance(packed, PackedImages)
    assert not image_caches(index)
    assert len(list(cache_home.glob("yolo-images-*.npy"))) == 1


@pytest.mark.parametrize(
    ("cache", "measure", "reason"),
    [
        ("ram", "available_memory", "0.0 GiB of memory are free"),
        ("disk", "free_disk", "cannot write a cache file"),
    ],
)
def test_images_are_not_cached_without_enough_space(
    index: Index,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cache: str,
    measure: str,
    reason: str,
) -> None:
    # 32 * 48 + 48 * 32 + 48 * 48 + 16 * 48 px of 3 bytes are 18,432; four fifths of 23,000 are less
    monkeypatch.setattr(f"utils.datasets.image_cache.{measure}", lambda *_: 23_000)
    with caplog.at_level(logging.WARNING, "yolo"):
        store = open_image_store(
            index,
            48,
            shrink_interpolation=cv2.INTER_AREA,
            cache=cache,  # type: ignore[arg-type]
            threads=1,
        )
    assert isinstance(store, FileImages)
    assert reason in caplog.text
    monkeypatch.setattr(f"utils.datasets.image_cache.{measure}", lambda *_: 24_000)
    assert isinstance(
        open_image_store(index, 48, shrink_interpolation=cv2.INTER_AREA, cache=cache, threads=1),  # type: ignore[arg-type]
        PackedImages,
    )


class CountingImages:
    """Images of one pixel; records which were loaded."""

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def size(self, i: int) -> tuple[int, int]:
        return 1, i

    def load(self, i: int) -> np.ndarray:
        self.loaded.append(i)
        return np.full((1, 1, 3), i, np.uint8)


def test_recently_used_images_are_kept() -> None:
    images = CountingImages()
    recent = RecentImages(images, 3)
    order = [1, 2, 1, 3, 1, 4, 1, 3, 2, 1, 4]
    assert [int(recent.load(i)[0, 0, 0]) for i in order] == order
    # 4 replaces 2, then 2 replaces 4, then 4 replaces 3
    assert images.loaded == [1, 2, 3, 4, 2, 4]


def test_sizes_are_known_without_loading() -> None:
    images = CountingImages()
    assert RecentImages(images, 3).size(7) == (1, 7)
    assert images.loaded == []


def test_free_disk_of_a_missing_folder(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "a" / "b") > 0
