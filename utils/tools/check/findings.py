"""Findings about a data set: problems that prevent training, warnings and notes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

STOP, WARNING, NOTE = "stop", "warning", "note"
LEVELS = (STOP, WARNING, NOTE)
"""By descending severity: training cannot start or would skip files; a likely problem; a fact."""
NOT_TRAINED_ON = "test"


@dataclass(frozen=True)
class Finding:
    """One finding, in one or more files."""

    level: str
    split: str
    """`train`, `val`, `test`, two of them, or empty if it concerns all."""
    text: str
    """Description, without a full stop."""
    cases: tuple[str, ...] = ()
    """The files, each with a detail."""

    @property
    def sentence(self) -> str:
        """The split and the description, as a sentence."""
        where = f"{self.split}: " if self.split else ""
        return f"{where}{self.text.rstrip('.')}."


def by_severity(findings: Iterable[Finding], root: Path) -> tuple[Finding, ...]:
    """Sort findings by descending severity, and merge equal findings of several splits.

    What stops training in the other splits is only a warning in the test split.

    Args:
        findings: the findings.
        root: the data set's folder, to which the paths in cases become relative.
    """
    splits: defaultdict[tuple[str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for finding in findings:
        harmless = finding.level == STOP and finding.split == NOT_TRAINED_ON
        level = WARNING if harmless else finding.level
        splits[level, finding.text, finding.cases].append(finding.split)
    merged = [
        Finding(level, ", ".join(names), text, tuple(_shortened(case, root) for case in cases))
        for (level, text, cases), names in splits.items()
    ]
    return tuple(sorted(merged, key=lambda finding: LEVELS.index(finding.level)))


def _shortened(text: str, root: Path) -> str:
    """Make the paths in a text printable and relative to the data set's folder."""
    printable = os.fsencode(text).decode(errors="backslashreplace")
    return printable.replace(f"{root}{os.sep}", "")


def count(number: int, thing: str) -> str:
    """Format a number with its noun: `1 box`, `2 boxes`."""
    plural = thing + ("es" if thing.endswith(("x", "s")) else "s")
    return f"{number:,} {thing if number == 1 else plural}"
