"""Sources without an end: the screen, and several cameras or streams at the same time."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TypeVar

import cv2
import numpy as np

from utils.datasets.image_files import ImageError
from utils.errors import UserError
from utils.inference.video import DEFAULT_FPS

SCREEN = "screen"
BOX_NUMBERS = (0, 4, 5)  # numbers after `screen`
SECONDS_TO_END = 1.0  # a thread that waits for a lost stream is left behind after this time

Item = TypeVar("Item")


def is_screen(source: str) -> bool:
    """Whether a source is the screen, or a part of it."""
    first, *numbers = source.split() or [""]
    return first == SCREEN and all(map(str.isdecimal, numbers))


class ScreenReader:
    """Reads the screen, as a video.

    Args:
        source: `screen`, or `screen LEFT TOP WIDTH HEIGHT` for a part of it, px; YOLOv5's form with
            the number of the screen before them is accepted for screen 0.

    Raises:
        UserError: the numbers are invalid.
    """

    def __init__(self, source: str) -> None:
        numbers = source.split()[1:]
        if len(numbers) not in BOX_NUMBERS:
            raise UserError(f"--source {source}: give `screen`, or `screen LEFT TOP WIDTH HEIGHT`.")
        *screen, left, top, width, height = map(int, numbers or ["0"] * 4)
        if any(screen):
            raise UserError(f"--source {source}: only screen 0 can be read; give its part of it.")
        self._box = (left, top, left + width, top + height) if numbers else None
        self.rate, self.frames, self.position, self.damaged = DEFAULT_FPS, 0, 0, 0

    def read(self) -> np.ndarray:
        """Return what the screen shows, uint8 [h, w, 3] BGR.

        Raises:
            ImageError: there is no screen that can be read.
        """
        from PIL import ImageGrab

        try:
            image = ImageGrab.grab(self._box)
        except (OSError, ValueError) as error:
            raise ImageError(f"the screen cannot be read: {error}") from error
        self.position += 1
        return cv2.cvtColor(np.array(image.convert("RGB")), cv2.COLOR_RGB2BGR)

    def shortfall(self) -> None:
        """Return None: the screen does not end."""

    def close(self) -> None:
        """Do nothing."""


def in_turns(streams: Sequence[Generator[Item]]) -> Generator[Item]:
    """Yield the latest item of each stream in turns; a thread reads each.

    A stream without a new item is passed over. The end of all streams is the end. An error of a
    stream is raised.
    """
    latest: dict[int, Item] = {}
    errors: list[BaseException] = []
    changed, stopped = threading.Condition(), threading.Event()

    def read(number: int, stream: Generator[Item]) -> None:
        try:
            with closing(stream):
                for item in stream:
                    with changed:
                        latest[number] = item
                        changed.notify()
                    if stopped.is_set():
                        return
        except BaseException as error:  # noqa: BLE001 -- raised in the thread of the caller
            errors.append(error)
        finally:
            with changed:
                ended.add(number)
                changed.notify()

    ended: set[int] = set()
    threads = [
        threading.Thread(target=read, args=pair, name="stream", daemon=True)
        for pair in enumerate(streams)
    ]
    for thread in threads:
        thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: latest or errors or len(ended) == len(streams))
                if errors:
                    raise errors[0]
                items = [latest.pop(number) for number in sorted(latest)]
            if not items:
                return
            yield from items
    finally:
        stopped.set()
        for thread in threads:
            thread.join(SECONDS_TO_END)
