"""Inspect a data set: derive findings from its splits and their statistics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.anchors import MIN_SIDE
from utils.autoanchor import GOOD_RECALL
from utils.datasets.description import DatasetDescription
from utils.datasets.image_files import NEARLY_BLACK
from utils.tools.check.duplicates import find_duplicate_images
from utils.tools.check.findings import NOTE, STOP, WARNING, Finding, by_severity, count
from utils.tools.check.report import AnchorGrid, DatasetReport
from utils.tools.check.splits import Split, read_splits, stray_labels

SKIPPED = " is skipped: "
"""Part of the index's message about an unusable image."""
EDGE_TOLERANCE = 1.0
"""Pixels by which a box may extend beyond its image, for rounding."""


def inspect_dataset(
    description: DatasetDescription, grid: AnchorGrid, image_size: int, threads: int
) -> DatasetReport:
    """Inspect all splits of a data set; problems are returned as findings, not raised.

    Args:
        description: the data set.
        grid: anchors and grid of the model.
        image_size: longer side of an image in training, px.
        threads: number of threads that read files.
    """
    splits, findings = read_splits(description, image_size, threads)
    for split in splits:
        findings += _unreadable(split)
        findings += _unknown_classes(split)
        findings += _shared_labels(split)
        findings += _about_boxes(split, grid.cell)
        findings += _background(split)
    findings += _found(WARNING, "", "label file", "without an image", stray_labels(splits))
    findings += _class_balance(splits, description.names)
    findings += find_duplicate_images(splits, threads)
    findings += _about_anchors(splits, grid.anchors)
    sorted_findings = by_severity(findings, description.root)
    return DatasetReport(description, splits, sorted_findings, grid, image_size)


def _found(level: str, split: str, thing: str, fault: str, cases: Sequence[str]) -> list[Finding]:
    """Return a finding about things with a fault, one per case; none without cases."""
    text = f"{count(len(cases), thing)} {fault}"
    return [Finding(level, split, text, tuple(cases))] if cases else []


def _unreadable(split: Split) -> list[Finding]:
    skipped = [message for message in split.index.messages if SKIPPED in message]
    dark = [message for message in split.index.messages if f" is {NEARLY_BLACK}" in message]
    others = {*skipped, *dark}
    repaired = [message for message in split.index.messages if message not in others]
    return [
        *_found(WARNING, split.name, "image", NEARLY_BLACK, dark),
        *_found(STOP, split.name, "image", "with an unusable image or label file", skipped),
        *_found(WARNING, split.name, "repair", "of label files", repaired),
    ]


def _unknown_classes(split: Split) -> list[Finding]:
    rows = np.flatnonzero(split.index.boxes[:, 0] >= split.classes)
    if not len(rows):
        return []
    unknown: defaultdict[str, set[int]] = defaultdict(set)
    for label, number in zip(_label_files(split, rows), split.index.boxes[rows, 0], strict=True):
        unknown[label].add(int(number))
    cases = tuple(
        f"{label}: class {', '.join(map(str, sorted(numbers)))}"
        for label, numbers in unknown.items()
    )
    known = f"classes are 0 to {split.classes - 1}"
    text = f"{count(len(rows), 'box')} with a class out of range ({known})"
    return [Finding(STOP, split.name, text, cases)]


def _label_files(split: Split, boxes: np.ndarray) -> list[str]:
    """Return the label file of each of the boxes with these numbers."""
    images = np.searchsorted(split.index.offsets, boxes, side="right") - 1
    return [split.labels[split.index.paths[image]] for image in images.tolist()]


def _shared_labels(split: Split) -> list[Finding]:
    users = Counter(split.labels.values())
    shared = [label for label, images in users.items() if images > 1]
    return _found(WARNING, split.name, "label file", "used by several images", shared)


def _about_boxes(split: Split, cell: int) -> list[Finding]:
    """Return findings about boxes beyond the image, and about boxes that are too small."""
    sizes = np.repeat(split.image_sizes, split.per_image, axis=0)
    centres, halves = split.centres * sizes, split.file_sides / 2
    beyond = np.maximum(halves - centres, centres + halves - sizes).max(axis=1, initial=0)
    tiny = split.below_min_side
    faults = (
        (WARNING, "beyond the image by more than 1 px", beyond > EDGE_TOLERANCE),
        (WARNING, f"with a side below {MIN_SIDE:g} px", tiny),
        (NOTE, f"smaller than a cell of {cell} px", split.below_cell(cell) & ~tiny),
    )
    found = []
    for level, fault, which in faults:
        numbers = Counter(_label_files(split, np.flatnonzero(which)))
        if numbers:
            text = f"{count(numbers.total(), 'box')} {fault}"
            cases = tuple(f"{label}: {count(boxes, 'box')}" for label, boxes in numbers.items())
            found.append(Finding(level, split.name, text, cases))
    return found


def _background(split: Split) -> list[Finding]:
    cases = []
    for image in np.flatnonzero(split.per_image == 0).tolist():
        path = split.index.paths[image]
        labelled = Path(split.labels[path]).exists()
        cases.append(f"{path}: {'a label file without boxes' if labelled else 'no label file'}")
    return _found(NOTE, split.name, "image", "without a box, background", cases)


def _class_balance(splits: Sequence[Split], names: Sequence[str]) -> list[Finding]:
    present = {split.name: split.per_class > 0 for split in splits}
    if "train" not in present:
        return []
    learned = present.pop("train")
    unused = ~np.any([learned, *present.values()], axis=0)
    faults = [(NOTE, "", "without a box anywhere", unused)]
    for split, evaluated in present.items():
        faults.append((WARNING, split, "without a box in train", evaluated & ~learned))
        faults.append((NOTE, split, "of train without a box", learned & ~evaluated))
    found = []
    for level, split, fault, which in faults:
        classes = [names[i] for i in np.flatnonzero(which).tolist()]
        if classes:
            text = f"{count(len(classes), 'class')} {fault}"
            found.append(Finding(level, split, text, (", ".join(classes),)))
    return found


def _about_anchors(splits: Sequence[Split], anchors: np.ndarray) -> list[Finding]:
    """Return a finding if AutoAnchor will replace the anchors in training."""
    train = next((split for split in splits if split.name == "train"), None)
    recall = None if train is None else train.best_recall(anchors)
    if train is None or recall is None or recall > GOOD_RECALL:
        return []
    text = f"best possible recall {recall:.4f} is not above {GOOD_RECALL:g}: a new run will "
    if (~train.below_min_side).sum() < len(anchors):
        text += f"keep the anchors, because there are fewer than {len(anchors)} usable boxes"
    else:
        text += "fit anchors to the data; disable this with --noautoanchor"
    return [Finding(NOTE, "train", text)]
