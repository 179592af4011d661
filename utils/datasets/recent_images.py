"""Images that were loaded lately, kept for the mosaics that show them next."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from utils.datasets.image_store import ImageStore


class RecentImages:
    """Images of another store, of which the last few are loaded only once.

    Each process that loads has its own: `capacity` images of at most side x side x 3 bytes, that is
    79 MB for 64 of 640 px.

    Args:
        images: where to load them.
        capacity: images to keep.
    """

    def __init__(self, images: ImageStore, capacity: int) -> None:
        self._images = images
        self._capacity = capacity
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()  # the last used ones last

    def size(self, i: int) -> tuple[int, int]:
        """See `ImageStore.size`."""
        return self._images.size(i)

    def load(self, i: int) -> np.ndarray:
        """See `ImageStore.load`."""
        image = self._recent.get(i)
        if image is None:
            if len(self._recent) >= self._capacity:
                self._recent.popitem(last=False)
            image = self._recent[i] = self._images.load(i)
        else:
            self._recent.move_to_end(i)
        return image
