"""Whether a checkpoint is what was written: its checksums, and that its numbers are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from utils.checkpoint.format import LAST, PREVIOUS
from utils.checkpoint.zip_members import Sums
from utils.errors import UserError
from utils.tools.inspect.inspection import inspect_checkpoint

SHOWN = 5
"""How many offenders are named."""


@dataclass(frozen=True)
class Verdict:
    """What a check found."""

    members: int
    """Members of the archive whose checksums were compared."""
    tensors: int | None
    """Tensors that were looked at; None where a checksum is wrong, and none can be trusted."""
    wrong_sums: tuple[str, ...]
    """Members whose checksum is wrong, such as `data/17`."""
    not_finite: tuple[str, ...]
    """Tensors with an infinity or NaN."""
    remedy: str = ""
    """What to use in place of a damaged file."""

    @property
    def fine(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.wrong_sums and not self.not_finite

    @property
    def sentence(self) -> str:
        """What was found, for a reader."""
        if self.wrong_sums:
            count = f"{len(self.wrong_sums)} of {self.members} members"
            return f"Damaged: wrong checksum of {count}: {_first(self.wrong_sums)}.{self.remedy}"
        sums = f"the checksums of {self.members} members are right"
        if self.not_finite:
            count = f"{len(self.not_finite)} of {self.tensors} tensors"
            return f"Not finite: {count}: {_first(self.not_finite)}; {sums}."
        return f"Verified: {sums}, {self.tensors} tensors are finite."

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        return {
            "fine": self.fine,
            "members": self.members,
            "tensors": self.tensors,
            "wrong_sums": list(self.wrong_sums),
            "not_finite": list(self.not_finite),
            "advice": self.remedy.strip(),
        }


def judge(path: Path, sums: Sums, tensors: Mapping[str, Tensor] | None) -> Verdict:
    """Put together what was found.

    Args:
        path: the file.
        sums: what became of its checksums.
        tensors: those in it; None if they cannot be trusted.
    """
    if tensors is None:
        return Verdict(sums.members, None, sums.wrong, (), about_previous(path))
    wrong = tuple(name for name, tensor in tensors.items() if not _is_finite(tensor))
    return Verdict(sums.members, len(tensors), sums.wrong, wrong)


def about_previous(path: Path) -> str:
    """A sentence, with a blank before it, on the file before a damaged last.pt; "" of any other."""
    previous = path.with_name(PREVIOUS)
    if path.name != LAST or not previous.is_file():
        return ""
    try:
        facts = inspect_checkpoint(previous).facts
    except UserError as error:
        return f" Nor is the file before it whole: {error}"
    return f" {previous} beside it is whole: {facts.epoch} epochs completed, step {facts.step}."


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _first(names: Sequence[str]) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
