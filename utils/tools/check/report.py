"""The report about a data set, as lines of text and as plain data."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.anchors import MIN_SIDE
from utils.tools.check.findings import STOP, WARNING, Finding, can_start, count
from utils.tools.check.measures import (
    Measures,
    by_size,
    frequent_sizes,
    spread,
)

CASES_SHOWN = 5
CLASSES_SHOWN = 80
SIZES_KEPT = 20
LINE = 120  # characters
NOTHING = "-"
MIN_WHOLE = 1000.0  # values from here on are rounded to integers


@dataclass(frozen=True, eq=False)
class DatasetReport:
    """The checked data set: statistics and findings."""

    file: Path
    """The data-set file."""
    root: Path
    names: tuple[str, ...]
    measures: tuple[Measures, ...]
    findings: tuple[Finding, ...]
    """By descending severity."""
    recalls: Mapping[str, float]
    """Best possible recall of the anchors by split; only splits with boxes of 2 px or more."""
    anchors: np.ndarray
    """float [k, 2]: width and height of the anchors of all levels, px."""
    cell: int
    """Size of a grid cell of the finest level, px."""
    image_size: int
    """Longer side of an image in training, px."""

    @property
    def can_start(self) -> bool:
        """Whether training can start."""
        return can_start(self.findings)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        stops, warnings = (
            sum(finding.level == level for finding in self.findings) for level in (STOP, WARNING)
        )
        if stops:
            reasons = f"{count(stops, 'reason')}, {count(warnings, 'warning')}"
            return f"Training cannot start, or would skip files: {reasons}."
        return f"Training can start; {count(warnings, 'warning')}."

    def shorten(self, text: str) -> str:
        """Make the paths in a text printable and relative to the data set's folder."""
        printable = os.fsencode(text).decode(errors="backslashreplace")
        return printable.replace(f"{self.root}{os.sep}", "")


def table_rows(report: DatasetReport) -> list[list[str]]:
    """Return the table: rows of a title and one cell per split; the first row is the header."""
    columns = [_column(report, measures) for measures in report.measures]
    titles = list(columns[0]) if columns else []
    return [[title, *(column[title] for column in columns)] for title in titles]


def _column(report: DatasetReport, measures: Measures) -> dict[str, str]:
    """Return the cells of a split by row title."""
    boxes = len(measures.sides)
    used = int((measures.per_class > 0).sum())
    sizes = by_size(measures)
    column = {
        "": measures.split,
        "images": f"{len(measures.per_image):,}",
        "without a box": f"{int((measures.per_image == 0).sum()):,}",
        "boxes": f"{boxes:,}",
        "ignore regions": f"{measures.ignored:,}",
        "classes used": f"{used} of {len(measures.per_class)}",
        "image width, px": _span(measures.image_sizes[:, 0]),
        "image height, px": _span(measures.image_sizes[:, 1]),
        "boxes per image": _span(measures.per_image),
        "width / height of boxes": _span(measures.aspects),
        f"√area of boxes at {report.image_size}, px": _span(measures.scales),
        "COCO's small, medium, large": ", ".join(
            _share(number, boxes) for number in sizes.values()
        ),
        f"smaller than a cell of {report.cell} px": _share(
            int(measures.below_cell(report.cell).sum()), boxes
        ),
        f"with a side below {MIN_SIDE:g} px": _share(int(measures.below_min_side().sum()), boxes),
    }
    recall = report.recalls.get(measures.split)
    return column | {"best possible recall": NOTHING if recall is None else f"{recall:.4f}"}


def _span(values: np.ndarray) -> str:
    """Format minimum, median and maximum."""
    if not len(values):
        return NOTHING
    found = [float(np.quantile(values, at)) for at in (0, 0.5, 1)]
    least, middle, most = (
        f"{value:.3g}" if value < MIN_WHOLE else f"{value:.0f}" for value in found
    )
    return least if least == most else f"{least} … {middle} … {most}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if part and whole else "0"


def text_lines(report: DatasetReport) -> list[str]:
    """Return the lines of the report for the terminal."""
    size = f"{count(len(report.names), 'class')}, at {report.image_size} px"
    lines = [f"{report.file}: {report.root}, {size}", ""]
    rows = table_rows(report)
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for title, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([title.ljust(widths[0]), *right]))
    if report.measures:
        lines += ["", *_class_lines(report)]
    for finding in report.findings:
        lines += ["", f"{finding.level.upper()}  {finding.sentence}"]
        lines += [f"    {report.shorten(case)}" for case in finding.cases[:CASES_SHOWN]]
        if len(finding.cases) > CASES_SHOWN:
            lines.append(f"    … and {len(finding.cases) - CASES_SHOWN:,} more")
    return [*lines, "", report.verdict]


def _class_lines(report: DatasetReport) -> list[str]:
    """Return the number of boxes per class of the first split, most frequent first."""
    measures = report.measures[0]
    order = np.argsort(-measures.per_class, kind="stable")
    parts = [f"{report.names[i]} {measures.per_class[i]:,}" for i in order[:CLASSES_SHOWN]]
    if len(order) > CLASSES_SHOWN:
        parts.append(f"and {len(order) - CLASSES_SHOWN} rarer ones")
    return textwrap.wrap(f"classes of {measures.split}: {', '.join(parts)}", LINE)


def record(report: DatasetReport) -> dict[str, object]:
    """Return the whole report as plain data for JSON, with all files of the findings."""
    return {
        "data": str(report.file),
        "root": str(report.root),
        "image_size": report.image_size,
        "can_start": report.can_start,
        "verdict": report.verdict,
        "names": list(report.names),
        "anchors": np.round(report.anchors, 3).tolist(),
        "cell": report.cell,
        "splits": {measures.split: _split_record(report, measures) for measures in report.measures},
        "findings": [
            {
                "level": finding.level,
                "split": finding.split,
                "text": finding.text,
                "cases": [report.shorten(case) for case in finding.cases],
            }
            for finding in report.findings
        ],
    }


def _split_record(report: DatasetReport, measures: Measures) -> dict[str, object]:
    spreads = {
        "image_width": measures.image_sizes[:, 0],
        "image_height": measures.image_sizes[:, 1],
        "boxes_per_image": measures.per_image,
        "box_width": measures.sides[:, 0],
        "box_height": measures.sides[:, 1],
        "box_scale": measures.scales,
        "box_aspect": measures.aspects,
    }
    return {
        "images": len(measures.per_image),
        "backgrounds": int((measures.per_image == 0).sum()),
        "boxes": len(measures.sides),
        "ignore_regions": measures.ignored,
        "classes_used": int((measures.per_class > 0).sum()),
        "boxes_per_class": measures.per_class.tolist(),
        "boxes_by_size": by_size(measures),
        "boxes_below_cell": int(measures.below_cell(report.cell).sum()),
        "boxes_below_2_px": int(measures.below_min_side().sum()),
        "best_possible_recall": report.recalls.get(measures.split),
        "image_sizes": frequent_sizes(measures, SIZES_KEPT),
        **{name: spread(values) for name, values in spreads.items() if len(values)},
    }
