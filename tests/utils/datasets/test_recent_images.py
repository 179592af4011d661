import numpy as np

from utils.datasets.recent_images import RecentImages


class CountingImages:
    """Images of one pixel, and which were asked for."""

    def __init__(self) -> None:
        self.loaded: list[int] = []

    def size(self, i: int) -> tuple[int, int]:
        return 1, i

    def load(self, i: int) -> np.ndarray:
        self.loaded.append(i)
        return np.full((1, 1, 3), i, np.uint8)


def test_the_images_used_last_are_kept() -> None:
    images = CountingImages()
    recent = RecentImages(images, 3)
    order = [1, 2, 1, 3, 1, 4, 1, 3, 2, 1, 4]
    assert [int(recent.load(i)[0, 0, 0]) for i in order] == order
    # 4 takes the place of 2, which comes back in that of 4, which in that of 3
    assert images.loaded == [1, 2, 3, 4, 2, 4]


def test_sizes_are_told_without_loading() -> None:
    images = CountingImages()
    assert RecentImages(images, 3).size(7) == (1, 7)
    assert images.loaded == []
