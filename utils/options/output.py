"""Standard output and error that a narrow encoding or a reader that leaves cannot break."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from pathlib import Path
from typing import TextIO

READABLE = {"→": "->", "×": "x", "…": "..."}
"""Replacements of characters that an encoding lacks, such as ASCII."""
ERROR_HANDLER = "yolo-readable"
LOST = {errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EBADF}
"""Reported if a reader has left, the terminal was closed, or the disk of a log file is full."""


class LastingStream:
    """A text stream that discards its output once nobody can read it, instead of failing.

    A training continues if the `| tee` or `| less` that shows its output ends.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text; returns its length."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._discard(error)
        return len(text)

    def flush(self) -> None:
        """Write buffered text."""
        try:
            self._stream.flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        if error.errno not in LOST:
            raise error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)

    def __getattr__(self, name: str) -> object:
        """All else is as in the wrapped stream."""
        return getattr(self._stream, name)


def set_up_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` lasting, and able to print every character."""
    codecs.register_error(ERROR_HANDLER, _readable)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the program was started with a closed stream
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERROR_HANDLER)
            setattr(sys, name, LastingStream(stream))


def _readable(error: UnicodeError) -> tuple[str, int]:
    """Replace one character that cannot be encoded, see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    return READABLE.get(character, ascii(character)[1:-1]), error.start + 1
