"""Convert annotations to the rows of label and ignore files, and count the results."""

from __future__ import annotations

from collections import Counter
from dataclasses import InitVar, dataclass, field
from typing import NamedTuple

from utils.tools.convert.annotated import AnnotatedImage, Annotation, Corners

NO_AREA = "without area"
OUTSIDE = "outside the image"
REPEATED = "repeated"


class LabelRows(NamedTuple):
    """The rows of an image's label file and ignore file."""

    labels: list[str]
    """`class cx cy w h`, normalised."""
    ignored: list[str]
    """`cx cy w h`, normalised."""


@dataclass
class Tally:
    """Counts of a split's conversion. Every row is in one of `boxes`, `ignored` and `dropped`."""

    split: str
    kinds: InitVar[tuple[str, ...]]
    """Class names of the original annotations, in their order."""
    classes: tuple[str, ...]
    """Class names by class index."""
    images: int = 0
    background: int = 0
    """Images without a box."""
    rows: Counter[str] = field(default_factory=Counter)
    """Rows of the original annotations, by original class."""
    cut: int = 0
    """Boxes that were clipped to the image."""
    boxes: Counter[str] = field(default_factory=Counter)
    """Rows of the label files, by class."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Ignore regions, by reason."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped rows, by reason."""
    dropped_rows: list[str] = field(default_factory=list)
    """One sentence per dropped row."""

    def __post_init__(self, kinds: tuple[str, ...]) -> None:
        self.rows.update(dict.fromkeys(kinds, 0))
        self.boxes.update(dict.fromkeys(self.classes, 0))

    def rows_of(self, image: AnnotatedImage) -> LabelRows:
        """Return the rows of an image, and count them."""
        found = LabelRows([], [])
        for annotation in image.annotations:
            self.rows[annotation.kind] += 1
            row, fault = _row(annotation, image)
            rows = found.ignored if annotation.label is None else found.labels
            if not fault and annotation.label is not None and row in rows:
                fault = REPEATED
            if fault:
                self._drop(annotation, image, fault)
                continue
            rows.append(row)
            self.cut += _inside(annotation.box, image) != annotation.box
            if annotation.label is None:
                self.ignored[annotation.reason] += 1
            else:
                self.boxes[self.classes[annotation.label]] += 1
        self.images += 1
        self.background += not found.labels
        return found

    def _drop(self, annotation: Annotation, image: AnnotatedImage, fault: str) -> None:
        self.dropped[fault] += 1
        corners = ", ".join(f"{value:g}" for value in annotation.box)
        self.dropped_rows.append(f"{image.place}: {annotation.kind} ({corners}) is {fault}")


def _row(annotation: Annotation, image: AnnotatedImage) -> tuple[str, str]:
    """Return the text of a row and the reason to drop it; one of them is empty."""
    box = annotation.box
    if box.right <= box.left or box.bottom <= box.top:
        return "", NO_AREA
    left, top, right, bottom = _inside(box, image)
    if right <= left or bottom <= top:
        return "", OUTSIDE
    width, height = image.width, image.height
    numbers = (
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
    )
    text = " ".join(f"{number:.6f}" for number in numbers)  # 0.01 px in an image of 10,000 px
    return text if annotation.label is None else f"{annotation.label} {text}", ""


def _inside(box: Corners, image: AnnotatedImage) -> Corners:
    """Clip a box to the image."""
    return Corners(
        max(box.left, 0),
        max(box.top, 0),
        min(box.right, image.width),
        min(box.bottom, image.height),
    )
