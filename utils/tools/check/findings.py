"""What is wrong or remarkable with a data set, and which of it keeps training from starting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

STOP, WARNING, NOTE = "stop", "warning", "note"
LEVELS = (STOP, WARNING, NOTE)
"""By descending weight: training cannot start or would leave files out; look at it; know it."""
NOT_TRAINED_ON = "test"


@dataclass(frozen=True)
class Finding:
    """One thing that was found, in one or many files."""

    level: str
    split: str
    """`train`, `val`, `test`, two of them, or nothing if it concerns all."""
    text: str
    """What it is, without a full stop."""
    cases: tuple[str, ...] = ()
    """The files, each with what there is to say of it."""

    @property
    def sentence(self) -> str:
        """Where and what."""
        where = f"{self.split}: " if self.split else ""
        return f"{where}{self.text.rstrip('.')}."

    @staticmethod
    def serious(split: str, text: str, cases: tuple[str, ...] = ()) -> Finding:
        """What stops training, unless it is in a split that is not trained or validated on."""
        return Finding(WARNING if split == NOT_TRAINED_ON else STOP, split, text, cases)


def can_start(findings: Iterable[Finding]) -> bool:
    """Whether nothing that was found keeps training from starting."""
    return all(finding.level != STOP for finding in findings)


def by_weight(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings with what stops training first; what several splits share is told once."""
    splits: defaultdict[tuple[str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for finding in findings:
        splits[finding.level, finding.text, finding.cases].append(finding.split)
    process_group = (
        Finding(level, ", ".join(names), text, cases)
        for (level, text, cases), names in splits.items()
    )
    return tuple(sorted(process_group, key=lambda finding: LEVELS.index(finding.level)))


def count(number: int, thing: str) -> str:
    """A number with its noun: `1 box`, `2 boxes`."""
    plural = thing + ("es" if thing.endswith(("x", "s")) else "s")
    return f"{number:,} {thing if number == 1 else plural}"
