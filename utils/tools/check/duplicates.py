"""Find files of equal content without reading every file completely.

First the sizes are compared, then the ends of files of equal size, and only the remaining files are
read completely. Links to the same file are recognized by its inode.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from tqdm import tqdm

END_BYTES = 4096
"""Compressed images differ at the end; at the beginning, files of one camera are often equal."""
BLOCK_BYTES = 1 << 20
CHUNK = 64  # files per task of the thread pool

Fingerprints = dict[int, Hashable]
"""A value to compare for each file, by its index; unreadable files are missing."""


def equal_files(paths: Sequence[str], threads: int) -> list[tuple[int, ...]]:
    """Return groups of two or more paths whose files have the same content.

    Args:
        paths: paths of files; empty and unreadable files are skipped.
        threads: number of threads that read files, at least one.

    Returns:
        Groups of indices into `paths`, ascending, sorted by their first index.
    """
    same_file: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    sizes: Fingerprints = {}
    for i, path in enumerate(paths):
        try:
            status = os.stat(path)  # noqa: PTH116 -- a Path per file would cost seconds
        except OSError:
            continue
        if status.st_size:
            same_file[status.st_dev, status.st_ino].append(i)
            sizes[i] = status.st_size
    names = {group[0]: group for group in same_file.values()}
    groups = _alike(names, sizes)
    for read in (_end_of, _digest_of):
        candidates = list(chain.from_iterable(group for group in groups if len(group) > 1))
        found = _read_all(read, paths, candidates, threads)
        groups = [part for group in groups for part in _parted(group, found)]
    whole = (sorted(chain.from_iterable(names[i] for i in group)) for group in groups)
    return sorted(tuple(group) for group in whole if len(group) > 1)


def _parted(group: Sequence[int], fingerprints: Fingerprints) -> list[list[int]]:
    return [list(group)] if len(group) == 1 else _alike(group, fingerprints)


def _alike(numbers: Iterable[int], fingerprints: Fingerprints) -> list[list[int]]:
    """Group the indices of files by equal values."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for i in numbers:
        if i in fingerprints:
            groups[fingerprints[i]].append(i)
    return list(groups.values())


def _read_all(
    read: Callable[[str], bytes | None], paths: Sequence[str], chosen: Sequence[int], threads: int
) -> Fingerprints:
    """Apply `read` to each chosen file; files for which it returns None are missing."""

    def read_chunk(start: int) -> list[bytes | None]:
        return [read(paths[i]) for i in chosen[start : start + CHUNK]]

    found: Fingerprints = {}
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(chosen), desc="Comparing files", unit="file", disable=None) as progress,
    ):
        starts = range(0, len(chosen), CHUNK)
        for start, fingerprints in zip(starts, pool.map(read_chunk, starts), strict=True):
            files = chosen[start : start + CHUNK]
            found |= {i: f for i, f in zip(files, fingerprints, strict=True) if f is not None}
            progress.update(len(files))
    return found


def _end_of(path: str) -> bytes | None:
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 -- a Path per file would cost seconds
            stream.seek(max(stream.seek(0, os.SEEK_END) - END_BYTES, 0))
            return hashlib.sha256(stream.read()).digest()
    except OSError:
        return None


def _digest_of(path: str) -> bytes | None:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 -- a Path per file would cost seconds
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
