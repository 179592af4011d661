"""Stores of resized images for the loaders: decoded on every load, or cached in RAM or on disk."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
import torch

from utils.datasets.cache_files import (
    PREFIX,
    cache_paths,
    files_digest,
    write_to_first_writable,
)
from utils.datasets.control_groups import memory_rooms
from utils.datasets.image_files import ImageError, read_image
from utils.datasets.index import Index, map_in_threads
from utils.errors import UserError
from utils.files.writable import existing_parent

log = logging.getLogger("yolo")

CacheKind = Literal["ram", "disk"]

CHANNELS = 3
GIB = 1 << 30
MAX_USED_FRACTION = 0.8
"""Of the free memory or disk; the rest is for the model, the loaders and the checkpoints."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- used only to query its free space
FORMAT = "images 1"
"""Part of every file's digest; increase the number when the same inputs give different pixels."""
DIGEST_LENGTH = 64
MEMINFO = Path("/proc/meminfo")
KIB = 1024


class ImageStore(Protocol):
    """Images of a data set, resized to the same longer side."""

    def size(self, i: int) -> tuple[int, int]:
        """Return (height, width) of image `i` after resizing, px."""

    def load(self, i: int) -> np.ndarray:
        """Return image `i`: uint8 [height, width, 3], RGB; read-only.

        Raises:
            UserError: the file was removed or changed after the index was built.
        """


def resized_sizes(sizes: np.ndarray, side: int) -> np.ndarray:
    """Return sizes [n, 2] with the longer side scaled to `side`, the shorter one rounded up, px."""
    sizes = sizes.astype(np.int64)
    return -(-sizes * side // sizes.max(axis=1, keepdims=True))


def cached_bytes(index: Index, side: int) -> int:
    """Return the size of a cache of all images, with their longer side resized to `side`."""
    return int(resized_sizes(index.sizes, side).prod(axis=1).sum()) * CHANNELS


@dataclass(frozen=True, eq=False)
class FileImages:
    """Decodes and resizes an image on every load."""

    index: Index
    side: int
    """Length of the longer side, px."""
    shrink_interpolation: int
    """OpenCV interpolation for downscaling; upscaling is always linear."""

    def size(self, i: int) -> tuple[int, int]:
        """Return (height, width) of the resized image, px; the shorter side is rounded up."""
        height, width = resized_sizes(self.index.sizes[i : i + 1], self.side)[0].tolist()
        return height, width

    def load(self, i: int) -> np.ndarray:
        """See `ImageStore.load`."""
        path = self.index.paths[i]
        try:
            image = read_image(path)
            before, size = image.shape[:2], self.size(i)
            if before != tuple(self.index.sizes[i]):
                raise ImageError("its size is different")
        except ImageError as error:
            raise UserError(
                f"{path} changed during the run ({error}); restore the file and restart."
            ) from error
        if before == size:
            return image
        interpolation = self.shrink_interpolation if max(size) < max(before) else cv2.INTER_LINEAR
        return cv2.resize(image, size[::-1], interpolation=interpolation)


class PackedImages:
    """All resized images, concatenated in one array of bytes that the workers share.

    The array is a tensor in shared memory or a memory-mapped file. Unpickling maps the file again,
    so neither forked nor spawned workers copy it.
    """

    def __init__(self, pixels: torch.Tensor | Path, sizes: np.ndarray, offsets: np.ndarray) -> None:
        self._pixels = pixels
        self._sizes = sizes  # int64 [n, 2]: height and width
        self._offsets = offsets  # int64 [n + 1], in bytes
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


Share = Callable[[bool], AbstractContextManager["tuple[Path, bool] | None"]]
"""Opens a file in memory for all processes of a machine together, if the first one says that there
is room. Returns its path, and whether this process writes it; the others wait for that when they
leave the context."""


def open_image_store(
    index: Index,
    side: int,
    *,
    shrink_interpolation: int,
    cache: CacheKind | None,
    threads: int,
    share: Share | None = None,
) -> ImageStore:
    """Return the image store of a data set, with the longer side of the images resized to `side`.

    `cache` is `ram` or `disk` to decode all images now, with several threads, if there is enough
    space; None to decode on every load. `shrink_interpolation` is OpenCV's, for downscaling. With
    `share`, the processes of a machine fill and map one `ram` cache; all must call this together.
    """
    files = FileImages(index, side, shrink_interpolation)
    if cache is None:
        return files
    sizes = resized_sizes(index.sizes, side)
    offsets = np.cumsum([0, *(sizes.prod(axis=1) * CHANNELS)], dtype=np.int64)
    pixels: torch.Tensor | Path | None
    if cache == "disk":
        pixels = _pack_in_file(files, offsets, threads)
    elif share is None:
        pixels = _pack_in_memory(files, offsets, threads)
    else:
        pixels = _pack_in_shared_file(files, offsets, threads, share)
    return files if pixels is None else PackedImages(pixels, sizes, offsets)


def _pack_in_memory(files: FileImages, offsets: np.ndarray, threads: int) -> torch.Tensor | None:
    """Decode all images into shared memory; None, with a warning, if there is too little."""
    if not _fits_in_memory(int(offsets[-1])):
        return None
    pixels = torch.empty(int(offsets[-1]), dtype=torch.uint8).share_memory_()
    _fill(pixels.numpy(), files, offsets, threads)
    return pixels


def _pack_in_shared_file(
    files: FileImages, offsets: np.ndarray, threads: int, share: Share
) -> Path | None:
    """Decode all images in one process of the machine, into a file in memory that all map."""
    with share(_fits_in_memory(int(offsets[-1]))) as file:
        if file is None:
            return None
        path, is_writer = file
        if is_writer:
            shape = (int(offsets[-1]),)
            pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
            _fill(pixels, files, offsets, threads)
    return path


def cache_room() -> int:
    """Return the bytes of memory that are free for a cache of images."""
    room = available_memory()
    return min(room, free_disk(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else room


def _fits_in_memory(size: int) -> bool:
    """Whether there is room for a cache of `size` bytes; logs a warning if there is not."""
    room = cache_room()
    if size > MAX_USED_FRACTION * room:
        _warn_no_room(size, f"{room / GIB:.1f} GiB of memory are free.")
        return False
    return True


def _pack_in_file(files: FileImages, offsets: np.ndarray, threads: int) -> Path | None:
    """Return the .npy file of all images, reused from an earlier run if nothing changed.

    The digest of the source files is stored after the last image. None, with a warning, if no
    location is writable and has enough free space.
    """
    index, size = files.index, int(offsets[-1])
    recipe = f"{FORMAT}, long side {files.side}, interpolation {files.shrink_interpolation}"
    digest = np.frombuffer(files_digest(index.paths, recipe).encode(), np.uint8)
    name = f"{PREFIX}images-{index.key}-{files.side}-{files.shrink_interpolation}.npy"
    places = cache_paths(Path(index.paths[0]).parent, name)

    def write(part: Path) -> None:
        log.info("Caching images in %s, %.1f GiB", part.parent / name, size / GIB)
        shape = (size + DIGEST_LENGTH,)
        packed = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        _fill(packed, files, offsets, threads)
        packed[size:] = digest
        packed.flush()

    ready = next((place for place in places if _holds(place, size, digest)), None)
    if ready is not None:
        log.info("Using the image cache %s, %.1f GiB", ready, size / GIB)
        return ready
    roomy = [place for place in places if MAX_USED_FRACTION * free_disk(place.parent) > size]
    try:
        return write_to_first_writable(roomy, write)
    except UserError as error:
        _warn_no_room(size, str(error))
        return None


def _holds(place: Path, size: int, digest: np.ndarray) -> bool:
    """Whether `place` is a complete cache file with this digest."""
    try:
        packed = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return packed.shape == (size + DIGEST_LENGTH,) and np.array_equal(packed[size:], digest)


def _fill(pixels: np.ndarray, files: FileImages, offsets: np.ndarray, threads: int) -> None:
    """Decode every image into its slice of `pixels`, with several threads and a progress bar."""

    def decode(i: int) -> None:
        pixels[offsets[i] : offsets[i + 1]] = files.load(i).reshape(-1)

    for _ in map_in_threads(decode, len(offsets) - 1, threads, "Caching images"):
        pass


def _warn_no_room(size: int, reason: str) -> None:
    log.warning(
        "Images are not cached but decoded in every epoch: the cache needs %.1f GiB, but %s",
        *(size / GIB, reason),
    )


@dataclass(frozen=True, eq=False)
class RecentImages:
    """Least-recently-used cache in front of another image store.

    Each loading process has its own. It holds `capacity` images of at most side x side x 3 bytes:
    79 MB for 64 images of 640 px.
    """

    images: ImageStore
    capacity: int
    recent: OrderedDict[int, np.ndarray] = field(default_factory=OrderedDict)
    """The cached images, the most recently used one last."""

    def size(self, i: int) -> tuple[int, int]:
        """See `ImageStore.size`."""
        return self.images.size(i)

    def load(self, i: int) -> np.ndarray:
        """See `ImageStore.load`."""
        image = self.recent.pop(i, None)
        if image is None:
            if len(self.recent) >= self.capacity:
                self.recent.popitem(last=False)
            image = self.images.load(i)
        self.recent[i] = image
        return image


def available_memory() -> int:
    """Return the bytes of memory available without swapping, within the limits of containers."""
    return max(min([_from_meminfo(), *memory_rooms()]), 0)


def free_disk(folder: Path) -> int:
    """Return the free bytes of the disk of `folder`, which may not exist yet."""
    return shutil.disk_usage(existing_parent(folder)).free


def _from_meminfo() -> int:
    if MEMINFO.is_file():
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * KIB
    if not hasattr(os, "sysconf"):  # Windows, which reports it only with another package
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
