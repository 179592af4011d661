from pathlib import Path

from utils.files.writable import is_writable


def test_is_writable_checks_the_nearest_existing_folder(tmp_path: Path) -> None:
    assert is_writable(tmp_path / "a" / "b")
    tmp_path.chmod(0o555)
    try:
        assert not is_writable(tmp_path)
        assert not is_writable(tmp_path / "a" / "b")
    finally:
        tmp_path.chmod(0o755)
