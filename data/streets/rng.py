"""Random draws that are the same on every machine and with every version of numpy."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Rng:
    """Draws from one seeded stream.

    Everything comes from `Generator.random`, 53 bits of PCG64 scaled to [0, 1): numpy promises the
    bit stream, but not that the distributions built on it stay as they are (NEP 19), so those few
    that the painter needs are written out here.
    """

    def __init__(self, *key: int) -> None:
        self._stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def real(self, low: float, high: float) -> float:
        """Return a number in [low, high)."""
        return low + (high - low) * float(self._stream.random())

    def whole(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return low + int((high - low + 1) * float(self._stream.random()))

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return float(self._stream.random()) < probability

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely."""
        return options[self.whole(0, len(options) - 1)]
