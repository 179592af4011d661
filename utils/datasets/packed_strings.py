"""Many strings in two arrays, for what each loader process gets a copy of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class PackedStrings(Sequence[str]):
    """A sequence of `n` strings that holds no Python object for each of them.

    A list of 120,000 paths is as many objects, whose reference counts make a forked process copy
    their pages, and a spawned one receive them all; an array of numpy's strings makes each as long
    as the longest.

    Args:
        content: uint8, all strings in UTF-8, one behind the other.
        offsets: int64 [n + 1]; string i is `content[offsets[i]:offsets[i + 1]]`.
    """

    def __init__(self, content: np.ndarray, offsets: np.ndarray) -> None:
        self.content = content
        self.offsets = offsets

    @staticmethod
    def of(strings: Iterable[str]) -> PackedStrings:
        """Pack strings.

        Raises:
            UnicodeEncodeError: one cannot be written as UTF-8.
        """
        encoded = [string.encode() for string in strings]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return PackedStrings(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        """String `i`, or a list of those of a slice."""
        numbers = range(len(self))[i]  # checks, and counts negative ones from the end
        return [self._at(k) for k in numbers] if isinstance(numbers, range) else self._at(numbers)

    def __iter__(self) -> Iterator[str]:
        return map(self._at, range(len(self)))

    def _at(self, i: int) -> str:
        return self.content[self.offsets[i] : self.offsets[i + 1]].tobytes().decode()
