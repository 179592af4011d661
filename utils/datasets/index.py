"""The index of a data set: paths and sizes of its images and all labels, packed into arrays."""

from __future__ import annotations

import itertools
import logging
import os
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from utils.datasets.cache_files import (
    PREFIX,
    cache_paths,
    files_digest,
    remove_unfinished,
    source_key,
    write_to_first_writable,
)
from utils.datasets.ignore_regions import (
    NO_REGIONS,
    IgnoreRegions,
    list_ignore_files,
    load_ignore_regions,
)
from utils.datasets.image_files import (
    ImageError,
    darkness,
    list_images,
    probe_image,
    read_image,
)
from utils.datasets.labels import (
    BOX_COLUMNS,
    LabelError,
    find_labels,
    label_path,
    log_shared_labels,
    read_labels,
)
from utils.datasets.packed_strings import PackedStrings
from utils.errors import UserError

log = logging.getLogger("yolo")

FORMAT = "index 5"
"""Part of every cache's digest; increase the number when the content of the arrays changes."""
CHUNK = 32
"""Images per task of a thread pool; a task takes milliseconds, far more than its overhead."""
READ_THREADS = 8
"""Default number of threads that read files: more than processors, because they wait for disks."""
MAX_MESSAGES_LOGGED = 20
Result = TypeVar("Result")
NO_BOXES = np.empty((0, BOX_COLUMNS), np.float32)
# Exceptions that np.load raises for truncated files and for other file formats or versions.
CACHE_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, IndexError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True, eq=False)
class Index:
    """Paths, image sizes and labels of a data set with `n` images and `m` boxes."""

    paths: PackedStrings
    """The `n` image files."""
    sizes: np.ndarray
    """int32 [n, 2]: height and width of the decoded, upright images, px."""
    boxes: np.ndarray
    """float32 [m, 5]: class, cx, cy, w, h, normalised; in the order of the images."""
    offsets: np.ndarray
    """int64 [n + 1]: the boxes of image i are `boxes[offsets[i]:offsets[i + 1]]`."""
    messages: PackedStrings
    """Skipped images and repaired label files, one sentence each."""
    key: str = ""
    """Short hash of the sources, for the names of cache files."""
    ignored: IgnoreRegions | None = None
    """Ignore regions; None if there are none."""

    def __len__(self) -> int:
        return len(self.paths)

    def labels(self, i: int) -> np.ndarray:
        """Return a view of the boxes of image `i`: float32 [k, 5], class, cx, cy, w, h."""
        return self.boxes[self.offsets[i] : self.offsets[i + 1]]

    def regions(self, i: int) -> np.ndarray:
        """Return a view of the ignore regions of image `i`: float32 [k, 4], cx, cy, w, h."""
        return NO_REGIONS if self.ignored is None else self.ignored.of(i)


class _CheckedImage(NamedTuple):
    """Result of checking one image; an image without a size is skipped."""

    path: str
    size: tuple[int, int] | None
    rows: np.ndarray
    messages: tuple[str, ...]


def build_index(
    sources: Sequence[Path],
    names: Sequence[str],
    *,
    single_class: bool = False,
    workers: int | None = 0,
    needs_boxes: bool = True,
) -> Index:
    """Index the images of folders and list files. Use the cache if no file has changed.

    Args:
        sources: folders of images, or .txt files that list images.
        names: class names; a class in a label file must be below their number.
        single_class: set the class of every box to 0.
        workers: number of threads that check files, see `read_threads`.
        needs_boxes: whether images without any box are an error, not only worth a warning.

    Raises:
        UserError: there are no images, or no boxes where they are needed, a class is out of range,
            or a file of ignore regions is damaged.
    """
    images = list_images(sources)
    labels = find_labels(images)
    key = source_key(sources)
    digest = files_digest(images, FORMAT, [*labels, *list_ignore_files(images)])
    places = cache_paths(Path(labels[0]).parent, f"{PREFIX}index-{key}.npz")
    remove_unfinished(Path(images[0]).parent, *(place.parent for place in places))

    index = next(filter(None, (_read_cache(place, digest, images) for place in places)), None)
    if index is None:
        threads = read_threads(workers)
        checked = map_in_threads(
            lambda i: _check_image(images[i], labels[i]), len(images), threads, "Checking images"
        )
        index = _pack(checked)
        index = replace(index, ignored=load_ignore_regions(index.paths))
        _write_cache(places, index, digest)
    index = replace(index, key=key)
    log_shared_labels(images, labels)
    _log_summary(index, sources)
    _require_boxes(index, sources, needs_boxes=needs_boxes)
    if single_class:
        boxes = index.boxes.copy()
        boxes[:, 0] = 0
        return replace(index, boxes=boxes)
    _require_known_classes(index, names)
    return index


def read_threads(workers: int | None) -> int:
    """Return the number of threads that read files for this number of loader workers."""
    return READ_THREADS if workers is None else max(workers, 1)


def map_in_threads(
    work: Callable[[int], Result], count: int, threads: int, title: str
) -> Iterator[Result]:
    """Yield `work(i)` of the images 0 to `count - 1`, in order, with a progress bar.

    At least one thread is used.
    """

    def work_on_chunk(start: int) -> list[Result]:
        return [work(i) for i in range(count)[start : start + CHUNK]]

    with (
        ThreadPoolExecutor(max(threads, 1)) as pool,
        tqdm(total=count, desc=title, unit="img", disable=None) as progress,
    ):
        for results in pool.map(work_on_chunk, range(0, count, CHUNK)):
            progress.update(len(results))
            yield from results


def _check_image(image: str, label: str) -> _CheckedImage:
    try:
        size, is_deep = probe_image(image)
        rows, notes = read_labels(label)
        dark = darkness(read_image(image)) if is_deep else ""
    except ImageError as error:
        return _CheckedImage(image, None, NO_BOXES, (f"{_printable(image)} is skipped: {error}.",))
    except LabelError as error:
        return _CheckedImage(image, None, NO_BOXES, (f"{image} is skipped: {label}: {error}.",))
    expected = label_path(image)
    if label != expected:
        missing = expected.removeprefix(f"{label.rpartition(os.sep)[0]}{os.sep}")
        notes = (f"used for {image}, because {missing} does not exist", *notes)
    messages = [f"{label}: {note}." for note in notes]
    messages += [f"{image} is {dark}."] if dark else []
    return _CheckedImage(image, size, rows, tuple(messages))


def _printable(path: str) -> str:
    """Return the path with escapes for bytes that are not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _pack(records: Iterable[_CheckedImage]) -> Index:
    """Pack the records one by one: two million of them would take more than a GB.

    Freed afterwards, that memory would still be written to, and so copied, in every worker.
    """
    sizes, boxes, offsets, messages = array("i"), bytearray(), array("q", [0]), list[str]()

    def kept_paths() -> Iterator[str]:
        for record in records:
            messages.extend(record.messages)
            if record.size is not None:
                sizes.extend(record.size)
                boxes.extend(record.rows.tobytes())
                offsets.append(offsets[-1] + len(record.rows))
                yield record.path

    return Index(
        paths=PackedStrings.of(kept_paths()),
        sizes=np.frombuffer(sizes, np.int32).reshape(-1, 2),
        boxes=np.frombuffer(boxes, np.float32).reshape(-1, BOX_COLUMNS),
        offsets=np.frombuffer(offsets, np.int64),
        messages=PackedStrings.of(messages),
    )


def _read_cache(place: Path, digest: str, images: Sequence[str]) -> Index | None:
    """Read a cached index; None if it does not exist, is outdated or is damaged."""
    try:
        with place.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["digest"]) != digest:
                return None
            index = Index(
                paths=PackedStrings(arrays["paths"], arrays["path_offsets"]),
                sizes=arrays["sizes"],
                boxes=arrays["boxes"],
                offsets=arrays["offsets"],
                messages=PackedStrings(arrays["messages"], arrays["message_offsets"]),
                ignored=IgnoreRegions(arrays["regions"], arrays["region_offsets"])
                if "regions" in arrays
                else None,
            )
        _check_arrays(index)
        if not set(index.paths) <= {*images}:
            raise ValueError("it has images that are not of this data set")
    except FileNotFoundError:
        return None
    except CACHE_ERRORS as error:
        log.warning("Cache file %s is damaged (%s); the index is rebuilt.", place, error)
        return None
    return index


def _check_arrays(index: Index) -> None:
    """Check that the arrays of an index fit together, and have possible values.

    Raises:
        ValueError: they do not.
    """
    count = len(index.paths)
    packed = [
        (index.paths.content, index.paths.offsets, count, np.uint8, ()),
        (index.messages.content, index.messages.offsets, len(index.messages), np.uint8, ()),
        (index.boxes, index.offsets, count, np.float32, (BOX_COLUMNS,)),
    ]
    if index.ignored is not None:
        regions = index.ignored
        packed.append((regions.boxes, regions.offsets, count, np.float32, NO_REGIONS.shape[1:]))
    for content, offsets, length, kind, columns in packed:
        if (content.dtype, content.shape[1:], offsets.dtype) != (kind, columns, np.int64):
            raise ValueError("an array has another type or shape")
        ends = offsets.shape == (length + 1,) and (offsets[0], offsets[-1]) == (0, len(content))
        if not ends or (np.diff(offsets) < 0).any():
            raise ValueError("offsets do not fit their array")
    if (index.sizes.dtype, index.sizes.shape) != (np.int32, (count, 2)) or (index.sizes < 1).any():
        raise ValueError("image sizes are invalid")
    classes, sides = index.boxes[:, 0], index.boxes[:, 1:]
    if not ((classes >= 0) & (classes == np.floor(classes))).all() or (sides < 0).any():
        raise ValueError("boxes are invalid")
    if not np.isfinite(index.boxes).all() or (sides > 1).any():
        raise ValueError("boxes are invalid")


def _write_cache(places: Sequence[Path], index: Index, digest: str) -> None:
    arrays = {
        "digest": np.array(digest),
        "paths": index.paths.content,
        "path_offsets": index.paths.offsets,
        "sizes": index.sizes,
        "boxes": index.boxes,
        "offsets": index.offsets,
        "messages": index.messages.content,
        "message_offsets": index.messages.offsets,
    }
    if index.ignored is not None:
        arrays |= {"regions": index.ignored.boxes, "region_offsets": index.ignored.offsets}

    def write(part: Path) -> None:
        np.savez(part, allow_pickle=False, **arrays)

    try:
        write_to_first_writable(places, write)
    except UserError as error:
        log.warning("The index is rebuilt at every start: %s", error)


def _log_summary(index: Index, sources: Sequence[Path]) -> None:
    for message in itertools.islice(index.messages, MAX_MESSAGES_LOGGED):
        log.warning("%s", message)
    if len(index.messages) > MAX_MESSAGES_LOGGED:
        log.warning("… and %d more messages.", len(index.messages) - MAX_MESSAGES_LOGGED)
    background = int((np.diff(index.offsets) == 0).sum())
    log.info(
        "%s: %d images, %d of them background, %d boxes%s",
        *(", ".join(map(str, sources)), len(index), background, len(index.boxes)),
        f", {len(index.ignored.boxes)} ignore regions" if index.ignored is not None else "",
    )


def _require_boxes(index: Index, sources: Sequence[Path], *, needs_boxes: bool) -> None:
    if len(index.boxes):
        return
    origin = ", ".join(map(str, sources))
    if len(index) == 0:
        raise UserError(
            f"{origin} has no usable images; correct the files. First error: {index.messages[0]}"
        )
    message = (
        f"{origin} has no boxes; put the label files where they are read, "
        f"for example {label_path(index.paths[0])}."
    )
    if needs_boxes:
        raise UserError(message)
    log.warning("%s Without boxes, only false positives are counted.", message)


def _require_known_classes(index: Index, names: Sequence[str]) -> None:
    unknown = np.flatnonzero(index.boxes[:, 0] >= len(names))
    if len(unknown):
        image = int(np.searchsorted(index.offsets, unknown[0], side="right")) - 1
        (label,) = find_labels([index.paths[image]])
        raise UserError(
            f"{label}: class {int(index.boxes[unknown[0], 0])} is out of range "
            f"(classes are 0 to {len(names) - 1}); correct the label file or `names:`."
        )
