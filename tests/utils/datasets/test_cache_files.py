import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.paths import ROOT
from utils.datasets.cache_files import (
    cache_home,
    cache_paths,
    remove_unfinished,
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


def test_cache_folder_of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert cache_home() == Path(tempfile.gettempdir()) / "yolov5-extend-12345"


def test_write_to_first_writable_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    places = [tmp_path / "file" / "x", tmp_path / "b" / "x", tmp_path / "c" / "x"]
    assert write_to_first_writable(places, lambda part: None) == places[1]
    assert not places[2].exists()
    with pytest.raises(UserError, match=r"cannot write a cache file: .*; set XDG_CACHE_HOME"):
        write_to_first_writable(places[:1], lambda part: None)


WRITER = """
import sys, time
from pathlib import Path
from utils.datasets.cache_files import write_to_first_writable

def write(part):
    part.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)

write_to_first_writable([Path(sys.argv[1]) / "yolo-images-x.npy"], write)
"""


def test_unfinished_files_are_removed_when_nobody_writes_them(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in (".yolo-notes.txt", "yolo-images-y.npy", ".hidden.npy")]
    for file in mine:
        file.touch()
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        (part,) = set(tmp_path.iterdir()) - {*mine}
        remove_unfinished(tmp_path, tmp_path / "absent")
        assert part.exists()
        writer.kill()
    assert part.read_bytes() == b"half"
    remove_unfinished(tmp_path)
    assert set(tmp_path.iterdir()) == {*mine}
