"""Progress of a loop: a bar on a terminal, and in a log file a line a minute."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from tqdm import tqdm

log = logging.getLogger("yolo")

BAR_FORMAT = "{l_bar}{bar:10}{r_bar}"
SECONDS_BETWEEN_LINES = 60

Item = TypeVar("Item")


class Progress(Generic[Item]):
    """Yields items and shows how many of them are done.

    Somebody who sets one of tqdm's environment variables gets its bar without a terminal too.

    Args:
        items: what to yield.
        total: their number, with those that were done before.
        title: text before the bar, and in a line of a log file.
        initial: number of items that were done before.
        enabled: whether to show anything.
    """

    def __init__(
        self,
        items: Iterable[Item],
        total: int | None,
        title: str = "",
        *,
        initial: int = 0,
        enabled: bool = True,
    ) -> None:
        self._items = items
        self._total = total
        self._text = title
        self._initial = initial
        self._enabled = enabled
        self._bar: tqdm[Item] | None = None

    def describe(self, text: str) -> None:
        """Replace the text before the bar."""
        self._text = text
        if self._bar is not None:
            self._bar.set_description(text)

    def __iter__(self) -> Iterator[Item]:
        """Yield the items."""
        if not self._enabled:
            yield from self._items
        elif sys.stderr.isatty() or any(name.startswith("TQDM_") for name in os.environ):
            how = {"total": self._total, "initial": self._initial, "bar_format": BAR_FORMAT}
            with tqdm(self._items, self._text, **how) as self._bar:
                yield from self._bar
        else:
            yield from self._logged()

    def _logged(self) -> Iterator[Item]:
        shown = time.monotonic()
        for number, item in enumerate(self._items, self._initial + 1):
            yield item
            if time.monotonic() - shown >= SECONDS_BETWEEN_LINES:
                shown = time.monotonic()
                log.info("%s  %s/%s", self._text, number, self._total or "?")
