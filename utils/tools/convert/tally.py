"""Convert annotations to the rows of label and ignore files; count and report the results."""

from __future__ import annotations

import logging
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from utils.tools.convert.annotated import AnnotatedImage, Corners

log = logging.getLogger("yolo")

DROPPED_SHOWN = 20
LINE = 120  # characters


class LabelRows(NamedTuple):
    """The rows of an image's label file and ignore file."""

    labels: list[str]
    """`class cx cy w h`, normalised."""
    ignored: list[str]
    """`cx cy w h`, normalised."""


@dataclass
class Tally:
    """Counts of a split's conversion; the fields are those of conversion.json.

    Every row of the annotations is in one of `boxes`, `ignored` and `dropped`.
    """

    split: str
    images: int = 0
    background: int = 0
    """Images without a box."""
    rows: Counter[str] = field(default_factory=Counter)
    """Rows of the original annotations, by original class."""
    boxes: Counter[str] = field(default_factory=Counter)
    """Rows of the label files, by class."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Ignore regions, by reason."""
    cut: int = 0
    """Boxes that were clipped to the image."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Dropped rows, by reason."""
    dropped_rows: list[str] = field(default_factory=list)
    """One sentence per dropped row."""

    def rows_of(self, image: AnnotatedImage) -> LabelRows:
        """Return the rows of an image, and count them."""
        found = LabelRows([], [])
        for kind, box, label, reason in image.annotations:
            inside = _inside(box, image)
            row = _row(label, inside, image)
            fault = _fault(box, inside) or ("repeated" if row in found.labels else "")
            self.rows[kind] += 1
            self.cut += not fault and inside != box
            if fault:
                self.dropped[fault] += 1
                corners = ", ".join(f"{value:g}" for value in box)
                self.dropped_rows.append(f"{image.place}: {kind} ({corners}) is {fault}")
            elif label is None:
                self.ignored[reason] += 1
                found.ignored.append(row)
            else:
                self.boxes[kind] += 1
                found.labels.append(row)
        self.images += 1
        self.background += not found.labels
        return found


def _inside(box: Corners, image: AnnotatedImage) -> Corners:
    """Clip a box to the image."""
    left, top, right, bottom = box
    return Corners(max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))


def _fault(box: Corners, inside: Corners) -> str:
    """Return the reason to drop a box, if there is one; `inside` is its part in the image."""
    if box.right <= box.left or box.bottom <= box.top:
        return "without area"
    if inside.right <= inside.left or inside.bottom <= inside.top:
        return "outside the image"
    return ""


def _row(label: int | None, box: Corners, image: AnnotatedImage) -> str:
    numbers = (
        (box.left + box.right) / 2 / image.width,
        (box.top + box.bottom) / 2 / image.height,
        (box.right - box.left) / image.width,
        (box.bottom - box.top) / image.height,
    )
    text = " ".join(f"{number:.6f}" for number in numbers)  # 0.01 px in an image of 10,000 px
    return text if label is None else f"{label} {text}"


def log_summary(tallies: Sequence[Tally]) -> None:
    """Log images, rows, boxes per class, ignore regions, clipped boxes and dropped rows."""
    for tally in tallies:
        log.info("\n%s", _line(f"{tally.split}: {tally.images} images,", tally.rows, "rows"))
        log.info("%s", _line("  in the labels:", tally.boxes, "boxes"))
        log.info("  images without a box, background: %d", tally.background)
        log.info("%s", _line("  ignore regions:", tally.ignored, "regions"))
        log.info("  boxes clipped to the image: %d", tally.cut)
        log.info("%s", _line("  dropped:", tally.dropped, "rows"))
        for sentence in tally.dropped_rows[:DROPPED_SHOWN]:
            log.info("    %s", sentence)
        more = len(tally.dropped_rows) - DROPPED_SHOWN
        if more > 0:
            log.info("    … and %d more in conversion.json", more)
    log.info(
        "\nTotal: %d images, %d rows: %d boxes, %d ignore regions, %d dropped.",
        sum(tally.images for tally in tallies),
        sum(tally.rows.total() for tally in tallies),
        sum(tally.boxes.total() for tally in tallies),
        sum(tally.ignored.total() for tally in tallies),
        sum(tally.dropped.total() for tally in tallies),
    )


def _line(title: str, counts: Counter[str], unit: str) -> str:
    """Format a total with its parts: `5 rows = 3 pedestrian + 2 rider`."""
    parts = " + ".join(f"{count} {name}" for name, count in counts.items() if count)
    text = f"{title} {counts.total()} {unit}" + (f" = {parts}" if parts else "")
    return textwrap.fill(text, LINE, subsequent_indent="    ", break_long_words=False)
