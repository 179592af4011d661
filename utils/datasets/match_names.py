"""One rule for file names that mean the same file but are written differently."""

from __future__ import annotations

import unicodedata


def match_key(name: str) -> str:
    """Return the key under which a file name is compared with others.

    It ignores upper and lower case and the Unicode form: macOS stores `é` as `e` and an accent
    (NFD), most other systems as one character (NFC). An exact match has precedence over a match
    of keys. Source: Unicode Standard, section 3.13, canonical caseless matching.
    """
    if name.isascii():
        return name.casefold()
    folded = unicodedata.normalize("NFD", name).casefold()
    return unicodedata.normalize("NFC", folded)
