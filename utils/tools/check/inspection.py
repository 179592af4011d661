"""Derive findings from the splits and their statistics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.anchors import MIN_SIDE
from utils.tools.check.copies import find_duplicate_images
from utils.tools.check.findings import NOTE, WARNING, Finding, count
from utils.tools.check.measures import Measures
from utils.tools.check.splits import Split, stray_labels

SKIPPED = " is skipped: "
"""Part of the index's message about an unusable image."""
EDGE_TOLERANCE = 1.0
"""Pixels by which a box may extend beyond its image, for rounding."""


def inspect(
    splits: Sequence[Split],
    measures: Sequence[Measures],
    names: Sequence[str],
    cell: int,
    threads: int,
) -> list[Finding]:
    """Return all findings except those about anchors.

    Args:
        splits: the splits, in the order train, val, test; missing ones are skipped.
        measures: statistics of each split.
        names: class names.
        cell: size of a grid cell of the finest level, px.
        threads: number of threads that read files.
    """
    findings: list[Finding] = []
    for split, measured in zip(splits, measures, strict=True):
        label_of = dict(zip(split.images, split.labels, strict=True))
        labels = [label_of[path] for path in split.index.paths]
        findings += _unreadable(split)
        findings += _unknown_classes(split, labels, len(names))
        findings += _shared_labels(split)
        findings += _out_of_image(split, measured, labels)
        findings += _too_small(split, measured, labels, cell)
        findings += _background(split, measured, labels)
    strays = stray_labels(splits)
    if strays:
        text = f"{count(len(strays), 'label file')} without an image"
        findings.append(Finding(WARNING, "", text, tuple(strays)))
    return findings + _class_balance(measures, names) + find_duplicate_images(splits, threads)


def _unreadable(split: Split) -> list[Finding]:
    skipped = tuple(message for message in split.index.messages if SKIPPED in message)
    repaired = tuple(message for message in split.index.messages if SKIPPED not in message)
    found = []
    if skipped:
        text = f"{count(len(skipped), 'image')} with an unusable image or label file"
        found.append(Finding.blocking(split.name, text, skipped))
    if repaired:
        text = f"{count(len(repaired), 'repair')} of label files"
        found.append(Finding(WARNING, split.name, text, repaired))
    return found


def _unknown_classes(split: Split, labels: Sequence[str], classes: int) -> list[Finding]:
    rows = np.flatnonzero(split.index.boxes[:, 0] >= classes)
    if not len(rows):
        return []
    named: defaultdict[str, set[int]] = defaultdict(set)
    for image, label in zip(
        _image_of(split, rows).tolist(), split.index.boxes[rows, 0], strict=True
    ):
        named[labels[image]].add(int(label))
    cases = tuple(
        f"{label}: class {', '.join(map(str, sorted(unknown)))}" for label, unknown in named.items()
    )
    text = f"{count(len(rows), 'box')} with a class out of range (classes are 0 to {classes - 1})"
    return [Finding.blocking(split.name, text, cases)]


def _shared_labels(split: Split) -> list[Finding]:
    owners = Counter(dict(set(zip(split.images, split.labels, strict=True))).values())
    shared = tuple(label for label, images in owners.items() if images > 1)
    text = f"{count(len(shared), 'label file')} used by several images"
    return [Finding(WARNING, split.name, text, shared)] if shared else []


def _out_of_image(split: Split, measured: Measures, labels: Sequence[str]) -> list[Finding]:
    sizes = np.repeat(measured.image_sizes, measured.per_image, axis=0)
    centres, halves = measured.centres * sizes, measured.file_sides / 2
    beyond = np.maximum(halves - centres, centres + halves - sizes).max(axis=1, initial=0)
    return _about_boxes(
        split, labels, beyond > EDGE_TOLERANCE, WARNING, "beyond the image by more than 1 px"
    )


def _too_small(split: Split, measured: Measures, labels: Sequence[str], cell: int) -> list[Finding]:
    below = measured.below_min_side()
    within = measured.below_cell(cell) & ~below
    return [
        *_about_boxes(split, labels, below, WARNING, f"with a side below {MIN_SIDE:g} px"),
        *_about_boxes(split, labels, within, NOTE, f"smaller than a cell of {cell} px"),
    ]


def _about_boxes(
    split: Split, labels: Sequence[str], which: np.ndarray, level: str, fault: str
) -> list[Finding]:
    """Return a finding about the selected boxes, with their label files."""
    rows = np.flatnonzero(which)
    if not len(rows):
        return []
    images, numbers = np.unique(_image_of(split, rows), return_counts=True)
    cases = tuple(
        f"{labels[image]}: {count(number, 'box')}"
        for image, number in zip(images.tolist(), numbers.tolist(), strict=True)
    )
    return [Finding(level, split.name, f"{count(len(rows), 'box')} {fault}", cases)]


def _image_of(split: Split, rows: np.ndarray) -> np.ndarray:
    """Return the index of the image of each box."""
    return np.searchsorted(split.index.offsets, rows, side="right") - 1


def _background(split: Split, measured: Measures, labels: Sequence[str]) -> list[Finding]:
    images = np.flatnonzero(measured.per_image == 0).tolist()
    if not images:
        return []
    without = {image for image in images if not Path(labels[image]).exists()}
    cases = tuple(
        f"{split.index.paths[image]}: "
        f"{'no label file' if image in without else 'a label file without boxes'}"
        for image in images
    )
    text = f"{count(len(images), 'image')} without a box, background"
    return [Finding(NOTE, split.name, text, cases)]


def _class_balance(measures: Sequence[Measures], names: Sequence[str]) -> list[Finding]:
    counts = {measured.split: measured.per_class for measured in measures}
    if "train" not in counts:
        return []
    learned = counts.pop("train") > 0
    unused = ~learned & ~np.any([number > 0 for number in counts.values()], axis=0)
    found = []
    if unused.any():
        text = f"{count(int(unused.sum()), 'class')} without a box anywhere"
        found.append(Finding(NOTE, "", text, _named(unused, names)))
    for split, number in counts.items():
        unseen = (number > 0) & ~learned
        if unseen.any():
            text = f"{count(int(unseen.sum()), 'class')} without a box in train"
            found.append(Finding(WARNING, split, text, _named(unseen, names)))
        unevaluated = (number == 0) & learned
        if unevaluated.any():
            text = f"{count(int(unevaluated.sum()), 'class')} of train without a box"
            found.append(Finding(NOTE, split, text, _named(unevaluated, names)))
    return found


def _named(chosen: np.ndarray, names: Sequence[str]) -> tuple[str, ...]:
    return (", ".join(names[i] for i in np.flatnonzero(chosen).tolist()),)
