"""Fonts for texts in any script: DejaVu Sans, and system fonts for what it lacks."""

from __future__ import annotations

import logging
import subprocess
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont

log = logging.getLogger("yolo")

INVISIBLE = ("Cf", "Mn", "Zs")
"""Unicode categories of characters that need no glyph of their own."""
UNASSIGNED = "\U0010ffff"  # every font draws it as a missing character
TEST_SIZE = 20  # pixels
TIMEOUT_S = 20
MAX_SHOWN = 40  # characters of a name in a message


class FontFile(NamedTuple):
    """A font: a file, and the number of the font in it."""

    path: str
    number: int = 0


def font_for(text: str) -> FontFile | None:
    """Return a font that has all characters of a text; None if no font has them."""
    if text.isascii() or not (lacking := _lacking(dejavu(), text)):
        return dejavu()
    return _system_font("".join(sorted(set(lacking))))


def drawable_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names to draw: a name that no font can draw is replaced by its number.

    A warning says so, once per list of names.
    """
    return _drawable_names(tuple(names))


@lru_cache(maxsize=8)
def _drawable_names(names: tuple[str, ...]) -> tuple[str, ...]:
    shown = tuple(name if font_for(name) else str(i) for i, name in enumerate(names))
    numbers = [i for i, name in enumerate(names) if shown[i] != name]
    if numbers:
        log.warning(
            "No font of this system has the characters of class names such as %s (%d of %d); they "
            "are drawn as numbers. Install a font for them, for example Noto Sans.",
            *(names[numbers[0]][:MAX_SHOWN], len(numbers), len(names)),
        )
    return shown


@lru_cache(maxsize=64)
def load_font(file: FontFile, size: int) -> ImageFont.FreeTypeFont:
    """Return a font in a size, px."""
    return ImageFont.truetype(file.path, size, file.number)


@lru_cache(maxsize=1)
def dejavu() -> FontFile:
    """Return DejaVu Sans, which matplotlib contains; OpenCV's own fonts have ASCII only.

    Matplotlib is imported only if it keeps the font elsewhere.
    """
    package = find_spec("matplotlib")
    if package is not None and package.origin is not None:
        data = Path(package.origin).with_name("mpl-data")
        if data.is_dir():
            return FontFile(str(data / "fonts/ttf/DejaVuSans.ttf"))
    import matplotlib as mpl

    return FontFile(str(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"))


def _lacking(file: FontFile, text: str) -> list[str]:
    """Return the characters of a text that a font lacks."""
    font = load_font(file, TEST_SIZE)
    missing = bytes(font.getmask(UNASSIGNED))
    return [
        character
        for character in text
        if unicodedata.category(character) not in INVISIBLE and character.isprintable()
        if bytes(font.getmask(character)) == missing
    ]


@lru_cache(maxsize=256)
def _system_font(characters: str) -> FontFile | None:
    for file in _system_fonts(characters):
        try:
            if not _lacking(file, characters):
                return file
        except OSError:  # not a font, or one of bitmaps in other sizes, as of coloured emoji
            continue
    return None


def _system_fonts(characters: str) -> Iterator[FontFile]:
    """Yield the fonts that fontconfig prefers for the characters; without it, all fonts."""
    wanted = " ".join(f"{ord(character):x}" for character in characters)
    command = ["fc-match", "-s", "-f", "%{file}\t%{index}\n", f"sans:charset={wanted}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError):
        from matplotlib.font_manager import findSystemFonts

        yield from map(FontFile, sorted(findSystemFonts()))
        return
    for line in done.stdout.splitlines():
        path, _, number = line.partition("\t")
        yield FontFile(path, int(number or 0) & 0xFFFF)  # above: an instance of a variable font
