"""A random generator that gives the same numbers on every machine and with every Python version."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Rng:
    """A seeded random generator.

    All methods use `Random.random`. Python guarantees its numbers, but not those of its `choice`,
    `randint` and so on, so they are implemented here.
    """

    def __init__(self, *key: int) -> None:
        self._random = Random(repr(key)).random

    def uniform(self, low: float, high: float) -> float:
        """Return a random number in [low, high)."""
        return low + (high - low) * self._random()

    def bernoulli(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self._random() < probability

    def choice(self, options: Sequence[T]) -> T:
        """Return one of the options, all with equal probability."""
        return options[int(len(options) * self._random())]
