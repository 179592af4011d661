from pathlib import Path

import pytest

from utils.datasets.cache_files import (
    cache_home,
    cache_paths,
    write_to_first_writable,
)
from utils.errors import UserError


def test_cache_folder_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_home() == Path("/c/yolov5-extend")
    assert cache_paths(Path("/d"), "x") == (Path("/d/x"), Path("/c/yolov5-extend/x"))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert cache_home() == Path("/h/.cache/yolov5-extend")


def test_write_to_first_writable_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = [tmp_path / "file" / "x", tmp_path / "b" / "x", tmp_path / "c" / "x"]
    assert write_to_first_writable(places, lambda part: None) == places[1]
    assert not places[2].exists()
    with pytest.raises(UserError, match=r"cannot write a cache file: .*; set XDG_CACHE_HOME"):
        write_to_first_writable(places[:1], lambda part: None)
