import pytest

from utils.datasets.match_names import match_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A.JPG", "a.jpg"),
        ("caf\u00e9", "cafe\u0301"),  # NFC and NFD
        ("CAF\u00c9", "cafe\u0301"),
        ("\ud55c\uae00", "\u1112\u1161\u11ab\u1100\u1173\u11af"),  # Hangul: syllables and letters
        ("stra\u00dfe", "STRASSE"),
    ],
)
def test_the_same_name(one: str, other: str) -> None:
    assert match_key(one) == match_key(other)


def test_other_names() -> None:
    names = ("cafe", "caf\u00e9", "\u732b", "\u72d7", "a b", "a_b")
    assert len({match_key(name) for name in names}) == len(names)
