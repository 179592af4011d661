import stat
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from tests.utils.datasets.web import closed_address, serving
from utils.download import fetch, is_address, unpack
from utils.errors import UserError


def test_addresses() -> None:
    assert is_address("https://example.org/a.zip")
    assert is_address("http://example.org/a.zip")
    assert not is_address("file:///etc/passwd")
    assert not is_address("import os")


def test_fetch(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a.zip").write_bytes(content)
    with serving(tmp_path / "site") as address:
        fetch(f"{address}/a.zip", tmp_path / "new" / "b.zip")
    assert (tmp_path / "new" / "b.zip").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "reason"), [("absent.zip", "File not found"), ("broken", "IncompleteRead")]
)
def test_a_failed_download_leaves_nothing(tmp_path: Path, name: str, reason: str) -> None:
    with (
        serving(tmp_path) as address,
        pytest.raises(UserError, match=rf"^{address}/{name} cannot be downloaded \({reason}"),
    ):
        fetch(f"{address}/{name}", tmp_path / "target" / "b.zip")
    assert not list((tmp_path / "target").iterdir())


def test_an_unreachable_address(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*refused"):
        fetch(f"{closed_address()}/a.zip", tmp_path / "b.zip")


def archive_of(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_unpack(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"coco/": b"", "coco/a/1.txt": b"one", "2..txt": b"2"})
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "coco" / "a" / "1.txt").read_bytes() == b"one"
    assert (tmp_path / "out" / "2..txt").read_bytes() == b"2"


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "C:/evil.txt", "C:evil.txt", "..\\evil"],  # noqa: S108
)
def test_entries_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    archive = archive_of(tmp_path / "a.zip", {"good.txt": b"", name: b"evil"})
    with pytest.raises(UserError, match=r"a\.zip is refused: its entry .* leads out"):
        unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())  # not even the good one


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(UserError, match="its entry 'link' is a link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_bombs_are_refused(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"zeros": bytes(1 << 20)})
    with pytest.raises(UserError, match="grow more than 100-fold to 1048576 bytes"):
        unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_too_large_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100, 98, 2))
    with pytest.raises(UserError, match="unpacks to 3 bytes, but only 2 are free"):
        unpack(archive_of(tmp_path / "a.zip", {"a": b"abc"}), tmp_path / "out")


@pytest.mark.parametrize("damage", [lambda _: b"no zip", lambda content: content[:-30]])
def test_damaged_archives(tmp_path: Path, damage: object) -> None:
    archive = archive_of(tmp_path / "a.zip", {"a": b"abc" * 99})
    assert callable(damage)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(UserError, match=r"a\.zip is not a usable zip archive .* delete it"):
        unpack(archive, tmp_path / "out")
