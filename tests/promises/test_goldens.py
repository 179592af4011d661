"""The expected numbers in the repository are those of the original program."""

from tests.paths import GOLDENS, SHARED_GOLDENS, requires_shared

FILES = sorted(GOLDENS.iterdir())
MAX_BYTES = 4_000_000


@requires_shared
def test_numbers_equal_the_recorded_ones() -> None:
    for file in FILES:
        assert file.read_bytes() == (SHARED_GOLDENS / file.name).read_bytes(), file.name


def test_numbers_are_small() -> None:
    assert len(FILES) == 15
    assert sum(file.stat().st_size for file in FILES) < MAX_BYTES
