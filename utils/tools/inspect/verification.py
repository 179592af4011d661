"""Verifies a checkpoint: checksums of its members, and that all tensors are finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from utils.checkpoint.format import LAST, PREVIOUS
from utils.checkpoint.zip_members import ChecksumResult
from utils.errors import UserError
from utils.tools.inspect.inspection import inspect_checkpoint

MAX_NAMED = 5
"""Number of damaged members or tensors that a message names."""


@dataclass(frozen=True)
class Verdict:
    """Result of a verification."""

    members: int
    """Number of archive members whose checksums were verified."""
    tensors: int | None
    """Number of tensors checked; None if a checksum is wrong, since then none can be trusted."""
    wrong_sums: tuple[str, ...]
    """Names of members with a wrong checksum, such as `data/17`."""
    not_finite: tuple[str, ...]
    """Names of tensors with infinity or NaN."""
    remedy: str = ""
    """What to use instead of a damaged file."""

    @property
    def fine(self) -> bool:
        """Whether the file is intact."""
        return not self.wrong_sums and not self.not_finite

    @property
    def message(self) -> str:
        """The result as one line of text."""
        if self.wrong_sums:
            count = f"{len(self.wrong_sums)} of {self.members} members"
            names = _join_first(self.wrong_sums)
            return f"Damaged: {count} have a wrong checksum: {names}.{self.remedy}"
        sums = f"the checksums of all {self.members} members are correct"
        if self.not_finite:
            count = f"{len(self.not_finite)} of {self.tensors} tensors"
            return f"Damaged: {count} are not finite: {_join_first(self.not_finite)}; {sums}."
        return f"Verified: {sums}, and all {self.tensors} tensors are finite."

    def to_json(self) -> dict[str, object]:
        """Return the result as plain data."""
        return {
            "fine": self.fine,
            "members": self.members,
            "tensors": self.tensors,
            "wrong_sums": list(self.wrong_sums),
            "not_finite": list(self.not_finite),
            "advice": self.remedy.strip(),
        }


def make_verdict(
    path: Path, checksums: ChecksumResult, tensors: Mapping[str, Tensor] | None
) -> Verdict:
    """Check the tensors and combine the result with that of the checksums.

    Args:
        path: the file.
        checksums: result of verifying its checksums.
        tensors: its tensors; None if they cannot be trusted.
    """
    if tensors is None:
        return Verdict(checksums.members, None, checksums.wrong, (), describe_previous(path))
    wrong = tuple(name for name, tensor in tensors.items() if not _is_finite(tensor))
    return Verdict(checksums.members, len(tensors), checksums.wrong, wrong)


def describe_previous(path: Path) -> str:
    """Return a sentence on the last_prev.pt of a damaged last.pt, after a space; "" otherwise."""
    previous = path.with_name(PREVIOUS)
    if path.name != LAST or not previous.is_file():
        return ""
    try:
        facts = inspect_checkpoint(previous).facts
    except UserError as error:
        return f" The previous checkpoint cannot be used either: {error}"
    return f" {previous} is intact: {facts.epoch} epochs completed, step {facts.step}."


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _join_first(names: Sequence[str]) -> str:
    more = ", …" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
