"""A random generator that gives the same numbers on every machine and with every numpy version."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Rng:
    """A seeded random generator.

    All methods use `Generator.random`, 53 bits of PCG64 scaled to [0, 1). numpy guarantees this bit
    stream, but not the distributions computed from it (NEP 19), so the few that the painter needs
    are implemented here.
    """

    def __init__(self, *key: int) -> None:
        self._stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    def uniform(self, low: float, high: float) -> float:
        """Return a random number in [low, high)."""
        return low + (high - low) * float(self._stream.random())

    def integer(self, low: int, high: int) -> int:
        """Return a random integer from low to high, both inclusive."""
        return low + int((high - low + 1) * float(self._stream.random()))

    def bernoulli(self, probability: float) -> bool:
        """Return True with the given probability."""
        return float(self._stream.random()) < probability

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options, all with equal probability."""
        return options[self.integer(0, len(options) - 1)]
