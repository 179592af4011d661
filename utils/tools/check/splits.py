"""Read the splits of a data set: indices, label files, and errors as findings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

from utils.datasets.description import DatasetDescription, ensure_available
from utils.datasets.image_files import list_images
from utils.datasets.index import Index, build_index
from utils.datasets.labels import LABEL_FOLDER, MAX_CLASS, find_labels
from utils.errors import UserError
from utils.tools.check.findings import STOP, Finding

log = logging.getLogger("yolo")

NEEDED = ("train", "val")
OPTIONAL = "test"


@dataclass(frozen=True, eq=False)
class Split:
    """A split that could be indexed."""

    name: str
    sources: tuple[Path, ...]
    index: Index
    """The index; it may contain classes that are out of range."""
    images: tuple[str, ...]
    """All images of the sources, including those that the index skips."""
    labels: tuple[str, ...]
    """The label file of each image; it may not exist."""


class ReadSplits(NamedTuple):
    """The readable splits of a data set, and findings about the others."""

    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]


class _EveryClass(Sequence[str]):
    """Names for every possible class, so that the index accepts classes that are out of range."""

    def __len__(self) -> int:
        return MAX_CLASS

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        numbers = range(MAX_CLASS)[i]
        return list(map(str, numbers)) if isinstance(numbers, range) else str(numbers)


def read_splits(description: DatasetDescription, threads: int) -> ReadSplits:
    """Get the data set as training does, and index every split that exists.

    The `test:` split is optional, because training does not use it.
    """
    given = {"train": description.train, "val": description.val, OPTIONAL: description.test}
    findings = [
        Finding(STOP, name, f"the data-set file has no `{name}:` line")
        for name in NEEDED
        if not given[name]
    ]
    try:
        ensure_available(description, [name for name in NEEDED if given[name]])
    except UserError as error:
        findings.append(Finding(STOP, "", str(error)))
    splits = []
    for name, sources in given.items():
        if not sources or not all(source.exists() for source in sources):
            continue
        try:
            splits.append(_read_split(name, sources, threads))
        except UserError as error:
            findings.append(Finding.blocking(name, str(error)))
    return ReadSplits(tuple(splits), tuple(findings))


def _read_split(name: str, sources: tuple[Path, ...], threads: int) -> Split:
    images = list_images(sources)
    with _without_messages():
        index = build_index(sources, _EveryClass(), workers=threads)
    return Split(name, sources, index, tuple(images), tuple(find_labels(images)))


@contextmanager
def _without_messages() -> Iterator[None]:
    """Silence the log of the index; its messages are part of the report."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def stray_labels(splits: Sequence[Split]) -> list[str]:
    """Return label files that belong to no image of any split.

    Only folders `labels` are searched. Splits that are list files are skipped, because a list may
    omit images on purpose.
    """
    claimed = {label for split in splits for label in split.labels}
    folders = {
        label.rpartition(os.sep)[0]
        for split in splits
        if all(source.is_dir() for source in split.sources)
        for label in split.labels
    }
    present = (
        f"{folder}{os.sep}{name}"
        for folder in sorted(folders)
        if LABEL_FOLDER in Path(folder).parts and Path(folder).is_dir()
        for name in sorted(os.listdir(folder))  # noqa: PTH208 -- names are all that is needed
    )
    return [
        path
        for path in present
        if path.endswith(".txt") and not path.endswith(f"{os.sep}classes.txt")
        if path not in claimed
    ]
