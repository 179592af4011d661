import pickle

import numpy as np
import pytest

from utils.datasets.packed_strings import PackedStrings

STRINGS = ["one", "", "zwölf 🚶", "two\nlines"]


def test_packed_strings_behave_like_the_sequence() -> None:
    packed = PackedStrings.of(iter(STRINGS))
    assert len(packed) == 4
    assert list(packed) == STRINGS
    assert packed[2] == packed[-2] == packed[int(np.int64(2))] == "zwölf 🚶"
    assert "one" in packed


def test_layout() -> None:
    packed = PackedStrings.of(["ab", "", "ö"])
    assert packed.content.dtype == np.uint8
    assert packed.content.tobytes() == b"ab\xc3\xb6"
    assert packed.offsets.dtype == np.int64
    assert packed.offsets.tolist() == [0, 2, 2, 4]


@pytest.mark.parametrize("i", [4, -5])
def test_index_out_of_range_raises(i: int) -> None:
    with pytest.raises(IndexError):
        PackedStrings.of(STRINGS)[i]


def test_empty_sequence() -> None:
    packed = PackedStrings.of([])
    assert len(packed) == 0
    assert list(packed) == []


def test_pickling() -> None:
    packed = pickle.loads(pickle.dumps(PackedStrings.of(STRINGS)))  # noqa: S301 -- just made
    assert list(packed) == STRINGS
