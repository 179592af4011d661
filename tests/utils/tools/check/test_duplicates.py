from pathlib import Path

import pytest

from utils.tools.check import duplicates
from utils.tools.check.duplicates import END_BYTES, equal_files

LONG = bytes(range(256)) * (END_BYTES // 128)  # twice the number of bytes read from the end


def write(folder: Path, *contents: bytes) -> list[str]:
    """Write files 0, 1, 2 … with these contents."""
    paths = [folder / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return list(map(str, paths))


def test_files_are_grouped_by_content(tmp_path: Path) -> None:
    paths = write(tmp_path, b"one", b"two", b"one", b"three", b"two", b"one")
    assert equal_files(paths, 2) == [(0, 2, 5), (1, 4)]


def test_files_with_equal_ends_can_differ(tmp_path: Path) -> None:
    assert equal_files(write(tmp_path, b"a" + LONG, b"b" + LONG, b"a" + LONG), 1) == [(0, 2)]


def test_links_to_the_same_file_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = write(tmp_path, b"content", b"another")
    link, hard = str(tmp_path / "link"), str(tmp_path / "hard")
    Path(link).symlink_to(first)
    Path(hard).hardlink_to(first)
    read: list[str] = []
    digest = duplicates._digest

    def record_and_read(path: str, last: int | None) -> bytes | None:
        read.append(path)
        return digest(path, last)

    monkeypatch.setattr(duplicates, "_digest", record_and_read)
    assert equal_files([link, second, hard, first, first], 1) == [(0, 2, 3, 4)]
    assert sorted(read) == sorted([link, second])


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, last: int | None) -> bytes:
        raise AssertionError(path)

    monkeypatch.setattr(duplicates, "_digest", refuse)
    assert equal_files(write(tmp_path, b"1", b"22", b"333"), 1) == []


def test_empty_and_missing_files_are_skipped(tmp_path: Path) -> None:
    paths = [*write(tmp_path, b"", b"", b"x"), str(tmp_path / "missing"), str(tmp_path)]
    assert equal_files(paths, 1) == []


def test_several_chunks_of_files(tmp_path: Path) -> None:
    contents = [b"%03d" % (number % 100) for number in range(200)]
    expected = [(number, number + 100) for number in range(100)]
    assert equal_files(write(tmp_path, *contents), 3) == expected
