"""The report about a data set, as lines of text and as plain data."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from models.anchors import MIN_SIDE
from utils.datasets.description import DatasetDescription
from utils.tools.check.findings import STOP, WARNING, Finding, count
from utils.tools.check.splits import Split, spread

CASES_SHOWN = 5
CLASSES_SHOWN = 80
SIZES_KEPT = 20
LINE = 120  # characters
NOTHING = "-"
MIN_WHOLE = 1000.0  # values from here on are rounded to integers


class AnchorGrid(NamedTuple):
    """Anchors and grid of a model."""

    anchors: np.ndarray
    """float [k, 2]: width and height of the anchors of all levels, px."""
    cell: int
    """Size of a grid cell of the finest level, px."""


@dataclass(frozen=True, eq=False)
class DatasetReport:
    """The checked data set: statistics and findings."""

    data: DatasetDescription
    splits: tuple[Split, ...]
    findings: tuple[Finding, ...]
    """By descending severity; paths in their cases are relative to the data set's folder."""
    grid: AnchorGrid
    image_size: int
    """Longer side of an image in training, px."""

    @property
    def can_start(self) -> bool:
        """Whether training can start."""
        return all(finding.level != STOP for finding in self.findings)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        levels = [finding.level for finding in self.findings]
        warnings = count(levels.count(WARNING), "warning")
        if self.can_start:
            return f"Training can start; {warnings}."
        reasons = count(levels.count(STOP), "reason")
        return f"Training cannot start, or would skip files: {reasons}, {warnings}."

    @cached_property
    def statistics(self) -> dict[str, dict[str, Any]]:  # plain data, see `_statistics`
        """Statistics of each split, by name."""
        return {split.name: _statistics(split, self.grid) for split in self.splits}


def table_rows(report: DatasetReport) -> list[list[str]]:
    """Return the table: rows of a title and one cell per split; the first row is the header."""
    columns = [_column(report, split) for split in report.splits]
    titles = list(columns[0]) if columns else []
    return [[title, *(column[title] for column in columns)] for title in titles]


def _column(report: DatasetReport, split: Split) -> dict[str, str]:
    """Return the cells of a split by row title."""
    facts = report.statistics[split.name]
    boxes, recall = facts["boxes"], facts["best_possible_recall"]
    return {
        "": split.name,
        "images": f"{facts['images']:,}",
        "without a box": f"{facts['backgrounds']:,}",
        "boxes": f"{boxes:,}",
        "ignore regions": f"{facts['ignore_regions']:,}",
        "classes used": f"{facts['classes_used']} of {split.classes}",
        "image width, px": _span(split.image_sizes[:, 0]),
        "image height, px": _span(split.image_sizes[:, 1]),
        "boxes per image": _span(split.per_image),
        "width / height of boxes": _span(split.aspects),
        f"√area of boxes at {split.image_size}, px": _span(split.scales),
        "COCO's small, medium, large": ", ".join(
            _share(number, boxes) for number in facts["boxes_by_size"].values()
        ),
        f"smaller than a cell of {report.grid.cell} px": _share(facts["boxes_below_cell"], boxes),
        f"with a side below {MIN_SIDE:g} px": _share(facts["boxes_below_2_px"], boxes),
        "best possible recall": NOTHING if recall is None else f"{recall:.4f}",
    }


def _span(values: np.ndarray) -> str:
    """Format minimum, median and maximum."""
    if not len(values):
        return NOTHING
    found = np.quantile(values, (0, 0.5, 1)).tolist()
    least, middle, most = (
        f"{value:.3g}" if value < MIN_WHOLE else f"{value:.0f}" for value in found
    )
    return least if least == most else f"{least} … {middle} … {most}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if part and whole else "0"


def text_lines(report: DatasetReport) -> list[str]:
    """Return the lines of the report for the terminal."""
    data = report.data
    size = f"{count(len(data.names), 'class')}, at {report.image_size} px"
    lines = [f"{data.path}: {data.root}, {size}", ""]
    rows = table_rows(report)
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for title, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([title.ljust(widths[0]), *right]))
    if report.splits:
        lines += ["", *_class_lines(report.splits[0], data.names)]
    for finding in report.findings:
        lines += ["", f"{finding.level.upper()}  {finding.sentence}"]
        lines += [f"    {case}" for case in finding.cases[:CASES_SHOWN]]
        if len(finding.cases) > CASES_SHOWN:
            lines.append(f"    … and {len(finding.cases) - CASES_SHOWN:,} more")
    return [*lines, "", report.verdict]


def _class_lines(split: Split, names: Sequence[str]) -> list[str]:
    """Return the number of boxes per class, most frequent first."""
    order = np.argsort(-split.per_class, kind="stable")
    parts = [f"{names[i]} {split.per_class[i]:,}" for i in order[:CLASSES_SHOWN]]
    if len(order) > CLASSES_SHOWN:
        parts.append(f"and {len(order) - CLASSES_SHOWN} rarer ones")
    return textwrap.wrap(f"classes of {split.name}: {', '.join(parts)}", LINE)


def record(report: DatasetReport) -> dict[str, object]:
    """Return the whole report as plain data for JSON, with all files of the findings."""
    return {
        "data": str(report.data.path),
        "root": str(report.data.root),
        "image_size": report.image_size,
        "can_start": report.can_start,
        "verdict": report.verdict,
        "names": list(report.data.names),
        "anchors": np.round(report.grid.anchors, 3).tolist(),
        "cell": report.grid.cell,
        "splits": report.statistics,
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
    }


def _statistics(split: Split, grid: AnchorGrid) -> dict[str, Any]:  # plain data
    ignored = split.index.ignored
    spreads = {
        "image_width": split.image_sizes[:, 0],
        "image_height": split.image_sizes[:, 1],
        "boxes_per_image": split.per_image,
        "box_width": split.sides[:, 0],
        "box_height": split.sides[:, 1],
        "box_scale": split.scales,
        "box_aspect": split.aspects,
    }
    return {
        "images": len(split.index),
        "backgrounds": int((split.per_image == 0).sum()),
        "boxes": len(split.sides),
        "ignore_regions": 0 if ignored is None else len(ignored.boxes),
        "classes_used": int((split.per_class > 0).sum()),
        "boxes_per_class": split.per_class.tolist(),
        "boxes_by_size": split.by_size(),
        "boxes_below_cell": int(split.below_cell(grid.cell).sum()),
        "boxes_below_2_px": int(split.below_min_side.sum()),
        "best_possible_recall": split.best_recall(grid.anchors),
        "image_sizes": split.frequent_sizes(SIZES_KEPT),
        **{name: spread(values) for name, values in spreads.items() if len(values)},
    }
