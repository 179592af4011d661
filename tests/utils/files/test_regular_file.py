import os
from pathlib import Path

import pytest

from utils.files.regular_file import open_regular_file, read_regular_file


def test_opens_files_and_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b"):
        with open_regular_file(tmp_path / name) as stream:
            assert stream.read() == b"content"
        assert read_regular_file(tmp_path / name, 100) == b"content"
        assert read_regular_file(tmp_path / name, 3) == b"con"


def test_rejects_pipes_devices_and_folders(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="Not a regular file"):
            open_regular_file(path)
        with pytest.raises(OSError, match="Not a regular file"):
            read_regular_file(path, 1)
    with pytest.raises(IsADirectoryError):
        open_regular_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular_file(tmp_path / "absent")
