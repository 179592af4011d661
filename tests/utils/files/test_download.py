import base64
import io
import stat
import tarfile
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.utils.datasets.web import closed_address, serving
from utils.errors import UserError
from utils.files.download import download_file, extract_archive, is_url, without_secrets


def test_is_url() -> None:
    assert is_url("https://example.org/a.zip")
    assert is_url("http://example.org/a.zip")
    assert not is_url("file:///etc/passwd")
    assert not is_url("import os")


def test_download_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a.zip").write_bytes(content)
    with serving(tmp_path / "site") as address:
        download_file(f"{address}/a.zip", tmp_path / "new" / "b.zip")
    assert (tmp_path / "new" / "b.zip").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "reason"), [("absent.zip", "File not found"), ("broken", "IncompleteRead")]
)
def test_failed_download_leaves_no_file(tmp_path: Path, name: str, reason: str) -> None:
    with (
        serving(tmp_path) as address,
        pytest.raises(UserError, match=rf"^{address}/{name} cannot be downloaded \({reason}"),
    ):
        download_file(f"{address}/{name}", tmp_path / "target" / "b.zip")
    assert not list((tmp_path / "target").iterdir())


def test_unreachable_url(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*refused"):
        download_file(f"{closed_address()}/a.zip", tmp_path / "b.zip")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/a.zip", "/etc/passwd"])
def test_only_http_urls_are_downloaded(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=rf"^{url} cannot be downloaded \(not an http"):
        download_file(url, tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/a.zip", "file:///etc/passwd"])
def test_redirections_to_other_protocols_are_rejected(tmp_path: Path, target: str) -> None:
    with (
        serving(tmp_path) as address,
        pytest.raises(UserError, match=r"cannot be downloaded \(.*(redirects to ftp:|not allowed)"),
    ):
        download_file(f"{address}/redirect?{target}", tmp_path / "target" / "a.zip")
    assert not list((tmp_path / "target").iterdir())


@pytest.mark.parametrize("url", ["http://[bad/a.zip", "http://localhost/ü", "http://a b/c"])
def test_malformed_urls(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="cannot be downloaded"):
        download_file(url, tmp_path / "a.zip")


@pytest.mark.parametrize("name", ["a.zip", "endless"])
def test_download_larger_than_the_free_disk_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "a.zip").write_bytes(bytes(1001))
    usage = namedtuple("usage", "total used free")
    # 64 MiB are kept free
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(0, 0, (64 << 20) + 1000))
    with (
        serving(tmp_path) as address,
        pytest.raises(UserError, match=r"needs \d+ bytes, but only 1000 are free"),
    ):
        download_file(f"{address}/{name}", tmp_path / "target" / "a.zip")
    assert not list((tmp_path / "target").iterdir())


def archive_of(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_extract_archive(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"coco/": b"", "coco/a/1.txt": b"one", "2..txt": b"2"})
    extract_archive(archive, tmp_path / "out")
    assert (tmp_path / "out" / "coco" / "a" / "1.txt").read_bytes() == b"one"
    assert (tmp_path / "out" / "2..txt").read_bytes() == b"2"


@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "a/../../evil.txt", "/tmp/evil.txt", "C:/evil.txt", "C:evil.txt", "..\\evil"],  # noqa: S108
)
def test_entries_outside_of_the_folder_are_rejected(tmp_path: Path, name: str) -> None:
    archive = archive_of(tmp_path / "a.zip", {"good.txt": b"", name: b"evil"})
    with pytest.raises(
        UserError, match=r"a\.zip is not safe: its entry .* is outside of the folder"
    ):
        extract_archive(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())  # not even the valid entry


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO])
def test_links_and_devices_are_rejected(tmp_path: Path, kind: int) -> None:
    link = zipfile.ZipInfo("odd")
    link.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(UserError, match="its entry 'odd' is a link or a device"):
        extract_archive(tmp_path / "a.zip", tmp_path / "out")


def test_unusual_compression_is_rejected(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", b"content")
    with pytest.raises(UserError, match="its entry 'a' has an unusual compression method"):
        extract_archive(tmp_path / "a.zip", tmp_path / "out")


def test_entry_larger_than_declared_is_rejected(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"zeros": bytes(1 << 20)})
    content = bytearray(archive.read_bytes())
    size = content.rfind(b"PK\x01\x02") + 24  # in the directory at the end of a zip
    content[size : size + 4] = (1000).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zip is damaged .*Bad CRC-32"):
        extract_archive(archive, tmp_path / "out")
    assert (tmp_path / "out" / "zeros").stat().st_size <= 1000


def test_zip_bombs_are_rejected(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"zeros": bytes(1 << 20)})
    with pytest.raises(UserError, match="unpacks to 1048576 bytes, more than 100 times its size"):
        extract_archive(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_archive_larger_than_the_free_disk_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(100, 98, 2))
    with pytest.raises(UserError, match="unpacks to 3 bytes, but only 2 are free"):
        extract_archive(archive_of(tmp_path / "a.zip", {"a": b"abc"}), tmp_path / "out")


@pytest.mark.parametrize("damage", [lambda _: b"no zip", lambda content: content[:-30]])
def test_damaged_archives(tmp_path: Path, damage: object) -> None:
    archive = archive_of(tmp_path / "a.zip", {"a": b"abc" * 99})
    assert callable(damage)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(UserError, match=r"a\.zip is damaged .* delete it"):
        extract_archive(archive, tmp_path / "out")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"a": b"abc", "a/b": b"abc"})
    with pytest.raises(UserError, match=r"cannot write .*/out: .*; unpack .*/a\.zip yourself"):
        extract_archive(archive, tmp_path / "out")


def test_random_damage_is_rejected_or_harmless(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"set/1.txt": b"0 .5 .5 .5 .5\n" * 9, "é": b"x"})
    good = archive.read_bytes()
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(300):
        content = bytearray(good)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        archive.write_bytes(content[: rng.integers(len(content) // 2, 3 * len(content))])
        try:
            extract_archive(archive, tmp_path / "out")
        except UserError:
            rejected += 1
    assert rejected > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]


def test_too_many_entries_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.files.download.MAX_ENTRIES", 2)
    archive = archive_of(tmp_path / "a.zip", {"a": b"", "b": b"", "c": b""})
    with pytest.raises(UserError, match=r"a\.zip has 3 entries, more than 2"):
        extract_archive(archive, tmp_path / "out")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:word@host:8/b.zip?token=word&x", "https://***@host:8/b.zip?token=***&x=***"),
        ("rtsp://word@host", "rtsp://***@host"),
        ("rtsp://me:w@rd@host/live", "rtsp://***@host/live"),
        ("rtsp://me:wo/rd@host/live", "rtsp://***@host/live"),
        ("rtsp://me:wo?rd@host/live", "rtsp://***@host/live"),
        ("https://host:80/a@b/c.zip?", "https://host:80/a@b/c.zip?"),
        ("https://[::1]:80/a@b", "https://[::1]:80/a@b"),
        ("me:word@host/a?b=c", "me:word@host/a?b=c"),  # a path
    ],
)
def test_without_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_download_log_and_errors_have_no_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="yolo")
    address = closed_address().replace("http://", "http://me:word@")
    with pytest.raises(UserError) as caught:
        download_file(f"{address}/a.zip?key=word", tmp_path / "a.zip")
    assert "word" not in caplog.text + str(caught.value)
    assert "?key=***" in str(caught.value)


class Guarded(BaseHTTPRequestHandler):
    """Notes the Authorization header of each request; redirects /move?TARGET."""

    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        host = str(self.headers["Host"]).partition(":")[0]
        self.seen.append((host, self.headers["Authorization"]))
        moved = "?" in self.path
        self.send_response(302 if moved else 200)
        if moved:
            self.send_header("Location", self.path.partition("?")[2])
        self.end_headers()
        self.wfile.write(b"content")

    def log_message(self, *_: object) -> None:
        pass


def test_basic_authentication_stays_with_its_host(tmp_path: Path) -> None:
    """RFC 7617: `Basic` and base64 of user and password, here `m/e` and `p@ss`."""
    Guarded.seen.clear()
    login = "Basic " + base64.b64encode(b"m/e:p@ss").decode()
    with serving(tmp_path, Guarded) as address:
        port = address.rpartition(":")[2]
        named = f"http://m%2Fe:p%40ss@127.0.0.1:{port}"
        for target in ("a", f"move?http://127.0.0.1:{port}/a", f"move?http://localhost:{port}/a"):
            download_file(f"{named}/{target}", tmp_path / "a")
            assert (tmp_path / "a").read_bytes() == b"content"
        download_file(f"{address}/a", tmp_path / "a")
    here = ("127.0.0.1", login)
    assert Guarded.seen == [here, here, here, here, ("localhost", None), ("127.0.0.1", None)]


def tar_of(path: Path, entries: dict[str, bytes], mode: str, kind: bytes = tarfile.REGTYPE) -> Path:
    how: Any = f"w{mode}"
    with tarfile.open(path, how) as archive:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.type, entry.linkname = len(content), kind, "/etc"
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.mark.parametrize("mode", ["", ":gz", ":bz2", ":xz"])
def test_tar_archives(tmp_path: Path, mode: str) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", {"coco/a/1.txt": b"one", "2..txt": b"2"}, mode)
    extract_archive(archive, tmp_path / "out")
    assert (tmp_path / "out" / "coco" / "a" / "1.txt").read_bytes() == b"one"
    assert (tmp_path / "out" / "2..txt").read_bytes() == b"2"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../evil.txt", tarfile.REGTYPE, "is outside of the folder"),
        ("/tmp/evil.txt", tarfile.REGTYPE, "is outside of the folder"),  # noqa: S108
        ("C:/evil.txt", tarfile.REGTYPE, "is outside of the folder"),
        *(
            (("odd", kind, "is a link or a device"))
            for kind in (
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.CHRTYPE,
                tarfile.BLKTYPE,
                tarfile.FIFOTYPE,
            )
        ),
    ],
)
def test_unsafe_entries_of_tar_archives(
    tmp_path: Path, name: str, kind: bytes, message: str
) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", {name: b""}, ":gz", kind)
    with pytest.raises(UserError, match=f"a.tar.gz is not safe: its entry .* {message}"):
        extract_archive(archive, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_bombs_and_damage_of_tar_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar_of(tmp_path / "a.tgz", {"b": bytes(1 << 22), "c": bytes(1 << 22)}, ":gz")
    with pytest.raises(UserError, match="unpacks to 4194304 bytes, more than 100 times its size"):
        extract_archive(archive, tmp_path / "out")
    good = tar_of(tmp_path / "b.tgz", {"a": b"abc" * 999, "b": b"x"}, ":gz").read_bytes()
    monkeypatch.setattr("utils.files.download.MAX_ENTRIES", 1)
    with pytest.raises(UserError, match="has 2 entries, more than 1"):
        extract_archive(tmp_path / "b.tgz", tmp_path / "out")
    monkeypatch.undo()
    (tmp_path / "b.tgz").write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match=r"b\.tgz is damaged"):
        extract_archive(tmp_path / "b.tgz", tmp_path / "out")
