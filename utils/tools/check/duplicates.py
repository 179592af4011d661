"""Find duplicate images, within a split or across two splits, without reading every file fully.

First the sizes of the files are compared, then the ends of files of equal size, and only the
remaining files are read completely. Links to the same file are recognized by its inode.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, combinations

from tqdm import tqdm

from utils.tools.check.findings import WARNING, Finding, count
from utils.tools.check.splits import Split

END_BYTES = 4096
"""Compressed images differ at the end; at the beginning, files of one camera are often equal."""
BLOCK_BYTES = 1 << 20
CHUNK = 64  # files per task of the thread pool

Image = tuple[Split, int]
"""A split, and the number of an image in its index."""


def find_duplicate_images(splits: Sequence[Split], threads: int) -> list[Finding]:
    """Return findings about image files of equal content.

    Args:
        splits: the splits, in the order train, val, test; missing ones are skipped.
        threads: number of threads that read files.
    """
    images = [(split, number) for split in splits for number in range(len(split.index))]
    paths = [path for split in splits for path in split.index.paths]
    groups = [[images[i] for i in group] for group in equal_files(paths, threads)]
    found = [_within(split, groups) for split in splits]
    found += [_across(first, second, groups) for first, second in combinations(splits, 2)]
    return [finding for finding in found if finding is not None]


def _within(split: Split, groups: Sequence[Sequence[Image]]) -> Finding | None:
    parts = [[image for image in group if image[0] is split] for group in groups]
    repeated = [part for part in parts if len(part) > 1]
    if not repeated:
        return None
    copies = sum(map(len, repeated)) - len(repeated)
    return Finding(WARNING, split.name, count(copies, "duplicate image"), _cases(repeated))


def _across(first: Split, second: Split, groups: Sequence[Sequence[Image]]) -> Finding | None:
    parts = [[image for image in group if image[0] in (first, second)] for group in groups]
    shared = [part for part in parts if len({split.name for split, _ in part}) > 1]
    if not shared:
        return None
    copies = sum(split is second for part in shared for split, _ in part)
    text = f"{count(copies, 'image')} of {second.name} also in {first.name}"
    if copies == len(second.index):
        text = (
            f"all {count(copies, 'image')} of {second.name} are also in {first.name}: "
            "metrics on them say nothing about new images"
        )
    same = first.sources == second.sources
    return Finding(WARNING, f"{first.name}, {second.name}", text, () if same else _cases(shared))


def _cases(groups: Sequence[Sequence[Image]]) -> tuple[str, ...]:
    """Describe groups of equal images: their paths, and whether their labels differ."""
    cases = []
    for group in groups:
        labels = [sorted(split.index.labels(number).tolist()) for split, number in group]
        paths = " = ".join(split.index.paths[number] for split, number in group)
        differ = any(rows != labels[0] for rows in labels)
        cases.append(f"{paths}, but their labels differ" if differ else paths)
    return tuple(cases)


def equal_files(paths: Sequence[str], threads: int) -> list[tuple[int, ...]]:
    """Return groups of two or more paths whose files have the same content.

    Args:
        paths: paths of files; empty and unreadable files are skipped.
        threads: number of threads that read files, at least one.

    Returns:
        Groups of indices into `paths`, ascending, sorted by their first index.
    """
    same_file: defaultdict[tuple[int, int], list[int]] = defaultdict(list)  # by device and inode
    keys: dict[tuple[int, int], tuple[object, ...]] = {}  # what is known about a file's content
    for i, path in enumerate(paths):
        try:
            status = os.stat(path)  # noqa: PTH116 -- a Path per file would cost seconds
        except OSError:
            continue
        if status.st_size:
            same_file[status.st_dev, status.st_ino].append(i)
            keys[status.st_dev, status.st_ino] = (status.st_size,)
    for last in (END_BYTES, None):
        numbers = Counter(keys.values())
        candidates = [file for file, key in keys.items() if numbers[key] > 1]
        names = [paths[same_file[file][0]] for file in candidates]
        for file, digest in zip(candidates, _digest_all(names, last, threads), strict=True):
            keys[file] = (*keys[file], digest)
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for file, key in keys.items():
        if None not in key:  # None for a file that could not be read
            groups[key] += same_file[file]
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _digest_all(paths: Sequence[str], last: int | None, threads: int) -> list[bytes | None]:
    """Return the `_digest` of each file; show a progress bar."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        digests = pool.map(lambda chunk: [_digest(path, last) for path in chunk], chunks)
        progress = {"desc": "Comparing files", "unit": "file", "unit_scale": CHUNK}
        return [*chain(*tqdm(digests, total=len(chunks), disable=None, **progress))]


def _digest(path: str, last: int | None) -> bytes | None:
    """Return the digest of the last bytes of a file, or of all; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:  # noqa: PTH123 -- a Path per file would cost seconds
            if last is not None:
                stream.seek(max(stream.seek(0, os.SEEK_END) - last, 0))
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
