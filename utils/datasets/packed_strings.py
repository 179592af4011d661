"""Many strings packed into two arrays, which loader workers can share."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np


class PackedStrings(Sequence[str]):
    """A sequence of `n` strings without a Python object per string.

    A list of 120,000 paths is 120,000 objects. Their reference counts make a forked process copy
    the memory pages, and a spawned process receives all objects. A numpy array of strings stores
    each string at the length of the longest.

    Args:
        content: uint8, all strings in UTF-8, concatenated.
        offsets: int64 [n + 1]; string i is `content[offsets[i]:offsets[i + 1]]`.
    """

    def __init__(self, content: np.ndarray, offsets: np.ndarray) -> None:
        self.content = content
        self.offsets = offsets

    @staticmethod
    def of(strings: Iterable[str]) -> PackedStrings:
        """Pack strings.

        Raises:
            UnicodeEncodeError: a string cannot be encoded as UTF-8.
        """
        content, offsets = bytearray(), array("q", [0])
        for string in strings:
            content += string.encode()
            offsets.append(len(content))
        return PackedStrings(np.frombuffer(content, np.uint8), np.frombuffer(offsets, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:  # type: ignore[override] # no slices
        i = range(len(self))[i]  # checks the bounds and resolves negative indices
        return self.content[self.offsets[i] : self.offsets[i + 1]].tobytes().decode()
