"""Digests of the images of a run in a side file, to count those that move between the splits."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.checkpoint.format import Config
from utils.datasets.index import CACHE_ERRORS
from utils.files.atomic_write import atomic_write
from utils.runs.run import Run
from utils.training.data import TrainingData
from utils.training.state import TrainingState

log = logging.getLogger("yolo")

BLOCK = 1 << 14
"""Bytes; of a file of more than three blocks, the first, the middle and the last one are read."""
DIGEST_BYTES = 8  # two of a million different images have the same digest with probability 3e-8
THREADS = 8
"""Where a run waits for the digests; most of the time a thread waits for the file system."""
CHUNK = 64  # files per task of a thread
TIME_LIMIT = 30.0  # seconds; a seam waits for it, and so does a signal that arrives there


class ImageDigests(NamedTuple):
    """Digests of the images of a data set, uint64; fewer than images if the time was over."""

    train: np.ndarray
    val: np.ndarray
    images: int
    """Number of images of both splits."""


def compare_images(old: ImageDigests, new: ImageDigests) -> dict[str, int]:
    """Count the images that are in another split than before, new, or gone, by what happened.

    An edited image is a new one, and the old one is gone.
    """
    found, before = np.union1d(new.train, new.val), np.union1d(old.train, old.val)
    into_val, into_train = np.setdiff1d(new.val, old.val), np.setdiff1d(new.train, old.train)
    counts = {
        "moved from train to val": len(np.intersect1d(into_val, old.train)),
        "moved from val to train": len(np.intersect1d(into_train, old.val)),
        "new": len(np.setdiff1d(found, before)),
        "gone": len(np.setdiff1d(before, found)),
    }
    missing = sum(len(one.train) + len(one.val) - one.images for one in (old, new))
    return counts | ({"not compared": -missing} if missing else {})


def file_digest(path: str) -> int | None:
    """Return a digest of the size and of blocks of a file; None if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 -- a Path costs as much again
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(b"%d " % size, digest_size=DIGEST_BYTES)
            if size <= 3 * BLOCK:
                digest.update(file.read())
            else:
                for start in (0, (size - BLOCK) // 2, size - BLOCK):
                    file.seek(start)
                    digest.update(file.read(BLOCK))
    except OSError:
        return None
    return int.from_bytes(digest.digest(), "little")


def digest_images(
    data: TrainingData, stop: Callable[[], bool], apply: Callable[..., Iterable[list[int]]] = map
) -> ImageDigests:
    """Read the digests of all images, the validation images first, until `stop` returns true.

    Args:
        data: the images.
        stop: called before each group of files.
        apply: like `map`, which it may be; that of a thread pool reads several files at once.
    """

    def digests(paths: Sequence[str]) -> np.ndarray:
        def chunk(start: int) -> list[int]:
            part = range(len(paths))[start : start + CHUNK]
            found = () if stop() else (file_digest(paths[i]) for i in part)
            return [digest for digest in found if digest is not None]

        parts = apply(chunk, range(0, len(paths), CHUNK))
        return np.array([digest for part in parts for digest in part], np.uint64)

    val = digests(data.val.paths)
    train = val if data.train is data.val else digests(data.train.paths)
    return ImageDigests(train, val, len(data.train) + len(data.val))


def digests_file(folder: Path, config: Config) -> Path:
    """Return the side file in a run folder for the data of a configuration."""
    return folder / f"images_{config.get('data', {}).get('content')}.npz"


def read_digests(path: Path) -> ImageDigests | None:
    """Read a side file; None if it does not exist or is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return ImageDigests(arrays["train"], arrays["val"], int(arrays["images"]))
    except CACHE_ERRORS:
        return None


@dataclass
class ImageRecorder:
    """Writes the side file of the data of a run, unless it exists; compares it with an older one.

    A thread writes it, which starts with the first step. If the run ends first, the next one tries.
    """

    data: TrainingData
    path: Path
    """See `digests_file`."""
    pending: bool
    """Whether the file may still have to be written; never in other processes than the main one."""

    def changes(self, run: Run) -> dict[str, int] | None:
        """Compare the images of a run whose data change with those before; None if not possible.

        The old digests are in the folder of the resumed run; those of the new data are read now.
        """
        point = run.resume_point
        if not self.pending or point is None or point.ended or "data" not in run.allowed:
            return None
        saved = point.checkpoint["config"]
        old = read_digests(digests_file(point.folder, saved)) if point.folder else None
        if old is None:
            return None
        with ThreadPoolExecutor(THREADS) as pool:
            return compare_images(old, self._write(pool.map))

    def __call__(self, _: TrainingState) -> None:
        """Start the thread at the first call."""
        if self.pending and not self.path.is_file():
            threading.Thread(target=self._write, name="image digests", daemon=True).start()
        self.pending = False

    def _write(self, apply: Callable[..., Iterable[list[int]]] = map) -> ImageDigests:
        """Read the digests within the time limit, and write them."""
        end = time.monotonic() + TIME_LIMIT
        found = digest_images(self.data, lambda: time.monotonic() > end, apply)
        try:
            arrays = found._asdict()
            atomic_write(self.path, lambda part: np.savez(part, allow_pickle=False, **arrays))
        except OSError as error:
            log.warning("%s The run continues without the file.", error)
        return found
