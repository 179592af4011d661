"""What a file is that should be a checkpoint and is none; by its first bytes, nothing is parsed."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

START = 64
"""How many bytes are looked at."""


class Kind(NamedTuple):
    """A kind of file, and how it begins."""

    pattern: re.Pattern[bytes]
    sentence: str


def _kind(pattern: bytes, sentence: str) -> Kind:
    return Kind(re.compile(pattern, re.DOTALL), sentence)


OLD_TORCH = "was written by a torch older than 1.6; save it again with a newer one"
NOT = "is not a checkpoint"
KINDS = (
    _kind(rb"\Z", f"{NOT}, it is empty; use another file"),
    _kind(
        rb"PK(\x03\x04|\x05\x06)",
        f"{NOT}, or it is cut short: its table of contents is missing or wrong; use another file",
    ),
    # torch before 1.6 wrote bare pickles, the first of them this number, or else tar files
    _kind(rb".{0,5}\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", OLD_TORCH),
    _kind(rb"(\./)?(sys_info|pickle|storages|tensors)\x00", OLD_TORCH),
    _kind(
        rb"\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF....WEBP|II\*\x00|MM\x00\*",
        f"{NOT}, it is a picture; name a .pt file",
    ),
    _kind(
        rb"\x80[\x02-\x05]",
        f"{NOT}, it is a bare pickle, which could make a program do anything; refused",
    ),
    _kind(rb"[\t\n\r\x20-\x7e]+\Z", f"{NOT}, it is a text file; name a .pt file"),
    _kind(rb"", f"{NOT}: it is of no kind that torch writes; use another file"),
)


def what_it_is(start: bytes) -> str:
    """The rest of a sentence about a file, of which the first `START` bytes are given."""
    return next(kind.sentence for kind in KINDS if kind.pattern.match(start))


def what_zip_it_is(members: Collection[str]) -> str:
    """The rest of a sentence about a zip file that is no checkpoint, given the names inside."""
    if "constants.pkl" in members or any(name.startswith("code/") for name in members):
        return f"{NOT}, it is a TorchScript archive; give the file that it was exported from"
    return "is a zip file, but not one that torch wrote: no data.pkl in it"
