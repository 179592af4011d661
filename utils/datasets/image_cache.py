"""Where the loaders get their resized images: decoded each time, or once into memory or a file."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
from tqdm import tqdm

from utils.datasets.cache_files import cache_places, files_digest, write_first_writable
from utils.datasets.image_files import ImageError, read_image
from utils.datasets.index import Index
from utils.errors import UserError

log = logging.getLogger("yolo")

CacheKind = Literal["ram", "disk"]

CHANNELS = 3
CHUNK = 16
"""Images that a thread decodes at a time, so that not each of them is handed over on its own."""
GIB = 1 << 30
SHARE_TO_USE = 0.8
"""Of the free memory or disk; the rest is for the model, the loaders and the checkpoints."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- only asked for its free space
FORMAT = "images 1"
"""Goes into the digest of every file: to be raised when the same inputs give other pixels."""
DIGEST_LENGTH = 64
MEMINFO = Path("/proc/meminfo")
CONTROL_GROUP = Path("/sys/fs/cgroup")  # version 2, as seen from inside a container
KIB = 1024


class ImageStore(Protocol):
    """Images of one data set, resized to one long side."""

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of image `i` as it will be loaded, px."""

    def load(self, i: int) -> np.ndarray:
        """Image `i`: uint8 [height, width, 3], RGB; not to be written to.

        Raises:
            UserError: the file is gone or has changed since the index was made.
        """


@dataclass(frozen=True, eq=False)
class FileImages:
    """Decodes and resizes at every call."""

    index: Index
    side: int
    """Px of the longer side."""
    shrinking: int
    """OpenCV's interpolation for images that shrink; those that grow are interpolated linearly."""

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of the resized image; the shorter side is rounded up."""
        height, width = map(int, self.index.sizes[i])
        longer = max(height, width)
        return -(-height * self.side // longer), -(-width * self.side // longer)

    def load(self, i: int) -> np.ndarray:
        """See `ImageStore.load`."""
        path = self.index.paths[i]
        try:
            image = read_image(path)
        except ImageError as error:
            raise UserError(f"image {path} is not usable any more: {error}; restore it.") from error
        before, size = image.shape[:2], self.size(i)
        if before != tuple(self.index.sizes[i]):
            raise UserError(f"image {path} has changed while it was in use; start again.")
        if before == size:
            return image
        interpolation = self.shrinking if max(size) < max(before) else cv2.INTER_LINEAR
        return cv2.resize(image, size[::-1], interpolation=interpolation)


class PackedImages:
    """All resized images one after the other in an array of bytes that the workers share.

    The array is a tensor in shared memory, or a file that is mapped by whoever unpickles this, so
    neither forked nor spawned workers copy it.
    """

    def __init__(self, pixels: torch.Tensor | Path, sizes: np.ndarray, offsets: np.ndarray) -> None:
        self._pixels = pixels
        self._sizes = sizes  # int64 [n, 2], height and width
        self._offsets = offsets  # int64 [n + 1], bytes
        mapped = np.load(pixels, mmap_mode="r") if isinstance(pixels, Path) else pixels.numpy()
        self._bytes = np.asarray(mapped)

    def __reduce__(self) -> tuple[Callable[..., PackedImages], tuple[object, ...]]:
        return PackedImages, (self._pixels, self._sizes, self._offsets)

    def size(self, i: int) -> tuple[int, int]:
        """See `ImageStore.size`."""
        height, width = self._sizes[i].tolist()
        return height, width

    def load(self, i: int) -> np.ndarray:
        """See `ImageStore.load`."""
        packed = self._bytes[self._offsets[i] : self._offsets[i + 1]]
        return packed.reshape(*self._sizes[i], CHANNELS)


def open_images(
    index: Index, side: int, *, shrinking: int, cache: CacheKind | None, threads: int
) -> ImageStore:
    """The images of a data set with their longer side resized to `side` px.

    Args:
        index: of the data set.
        side: px.
        shrinking: OpenCV's interpolation for images that shrink.
        cache: `ram` or `disk` to decode everything now, if there is room for it.
        threads: for that decoding.
    """
    files = FileImages(index, side, shrinking)
    if cache is None:
        return files
    sizes = np.array([files.size(i) for i in range(len(index))], np.int64)
    offsets = np.cumsum([0, *(sizes.prod(axis=1) * CHANNELS)], dtype=np.int64)
    pack = _pack_in_memory if cache == "ram" else _pack_in_file
    pixels = pack(files, offsets, max(threads, 1))
    return files if pixels is None else PackedImages(pixels, sizes, offsets)


def _pack_in_memory(files: FileImages, offsets: np.ndarray, threads: int) -> torch.Tensor | None:
    """A tensor of all bytes in shared memory; None, with a warning, if there is no room."""
    size = int(offsets[-1])
    room = available_memory()
    if SHARED_MEMORY.is_dir():
        room = min(room, free_disk(SHARED_MEMORY))
    if size > SHARE_TO_USE * room:
        _warn_no_room(size, f"memory has {room / GIB:.1f} GiB free")
        return None
    pixels = torch.empty(size, dtype=torch.uint8).share_memory_()
    _fill(pixels.numpy(), files, offsets, threads)
    return pixels


def _pack_in_file(files: FileImages, offsets: np.ndarray, threads: int) -> Path | None:
    """The .npy file of all bytes, from an earlier run if nothing has changed since.

    The digest of what the file was made from stands behind the last image.
    """
    index, size = files.index, int(offsets[-1])
    recipe = f"{FORMAT}, long side {files.side}, interpolation {files.shrinking}"
    digest = np.frombuffer(files_digest(index.paths, recipe).encode(), np.uint8)
    name = f"yolo-images-{index.key}-{files.side}-{files.shrinking}.npy"
    places = cache_places(Path(index.paths[0]).parent, name)

    def write(part: Path) -> None:
        shape = (size + DIGEST_LENGTH,)
        packed = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        _fill(packed, files, offsets, threads)
        packed[size:] = digest
        packed.flush()

    ready = next((place for place in places if _holds(place, size, digest)), None)
    if ready is not None:
        return ready
    roomy = [place for place in places if SHARE_TO_USE * free_disk(place.parent) > size]
    try:
        return write_first_writable(roomy, write)
    except UserError as error:
        _warn_no_room(size, str(error))
        return None


def _holds(place: Path, size: int, digest: np.ndarray) -> bool:
    """Whether a file of all bytes of these very images is at `place`."""
    try:
        packed = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return packed.shape == (size + DIGEST_LENGTH,) and np.array_equal(packed[size:], digest)


def _fill(pixels: np.ndarray, files: FileImages, offsets: np.ndarray, threads: int) -> None:
    """Decode every image into its place of `pixels`, in several threads, showing progress."""

    def decode(chunk: range) -> int:
        for i in chunk:
            pixels[offsets[i] : offsets[i + 1]] = files.load(i).reshape(-1)
        return len(chunk)

    everything = range(len(offsets) - 1)
    chunks = [everything[start : start + CHUNK] for start in everything[::CHUNK]]
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(everything), desc="Caching images", unit="img", disable=None) as progress,
    ):
        for count in pool.map(decode, chunks):
            progress.update(count)


def _warn_no_room(size: int, reason: str) -> None:
    log.warning(
        "Images are decoded anew in every epoch: caching them takes %.1f GiB, but %s.",
        size / GIB,
        reason,
    )


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


def available_memory() -> int:
    """Bytes that can be used without swapping, under a container's limit too."""
    free = _from_meminfo()
    limit, used = (_number(CONTROL_GROUP / f"memory.{name}") for name in ("max", "current"))
    if limit is None or used is None:
        return free
    return max(min(free, limit - used), 0)


def free_disk(folder: Path) -> int:
    """Free bytes at `folder`, which may not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _from_meminfo() -> int:
    if MEMINFO.is_file():
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * KIB
    if not hasattr(os, "sysconf"):  # Windows, which has no such figure without another package
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _number(file: Path) -> int | None:
    """The number in a file; None where there is no file or, in words, no limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
