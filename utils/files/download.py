"""Download and unpack archives safely: no partial files, no files outside the target folder."""

from __future__ import annotations

import base64
import errno
import gzip
import http.client
import logging
import lzma
import re
import shutil
import stat
import struct
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from utils.errors import UserError
from utils.files.atomic_write import atomic_write

log = logging.getLogger("yolo")

HIDDEN = "***"
"""In place of a secret in a message."""
BLOCK_BYTES = 1 << 20
TIMEOUT_S = 30
MIN_FREE_BYTES = 64 << 20
"""Bytes of disk space that a download leaves free."""
MAX_ENTRIES = 1_000_000
"""Files in an archive. COCO's largest has 123,000. Each file needs memory and an inode."""
MAX_EXPANSION = 100
"""Unpacked size over archive size. Images are about 1, label text 5, a zip bomb 1000."""
FILE_MODE_SHIFT = 16  # on Unix, the upper half of a zip entry's external_attr is the file mode
ALLOWED_FILE_TYPES = frozenset({0, stat.S_IFREG, stat.S_IFDIR})  # 0: made on a system without modes
ALLOWED_COMPRESSION = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""Other compression methods may need gigabytes of memory to decompress."""
# Exceptions of zipfile and tarfile for files that are not archives, damaged or encrypted.
ARCHIVE_ERRORS = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, gzip.BadGzipFile),
    *(struct.error, EOFError, RuntimeError, ValueError),
)


def is_url(text: str) -> bool:
    """Whether `text` is an http(s) URL, as `open_url` requires."""
    return text.lower().startswith(("http://", "https://"))


def has_scheme(text: str) -> bool:
    """Whether `text` is a URL of any scheme, not a path."""
    return "://" in text


def without_secrets(text: str) -> str:
    """Return a URL without its password and the values of its query, for messages.

    Any other text is returned as it is.
    """
    if not has_scheme(text):
        return text
    scheme, _, rest = text.partition("://")
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    login, found, _ = place.rpartition("@")
    if not found and ":" in place and not place.rpartition(":")[2].isdecimal():
        login = rest.rpartition("@")[0]  # a password with / or the like
    if login:
        rest = f"{HIDDEN}{rest[len(login) :]}"
    head, mark, query = rest.partition("?")
    keys = [part.partition("=")[0] for part in query.split("&")]
    hidden = "&".join(f"{key}={HIDDEN}" for key in keys) if query else ""
    return f"{scheme}://{head}{mark}{hidden}"


def download_file(url: str, target: Path) -> None:
    """Download `url` to the file `target`, with a progress bar. Leave no file on failure.

    Raises:
        UserError: the URL is not http(s), cannot be reached or redirects to another protocol; the
            connection is lost; or the disk has too little free space.
    """
    shown = without_secrets(url)
    log.info("Downloading %s to %s", shown, target)
    try:
        atomic_write(target, lambda part: _download(url, part))
    # URLError is an OSError; malformed URLs raise ValueError.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{shown} cannot be downloaded ({reason})") from error


def open_url(url: str) -> http.client.HTTPResponse:
    """Open an http(s) URL; follow redirections to http(s) URLs only.

    A user name and a password in the URL are sent by Basic authentication (RFC 7617), but not to
    another host.

    Raises:
        OSError, HTTPException, ValueError: the URL cannot be reached or is malformed, or the
            connection is lost.
    """
    if not is_url(url):
        raise ValueError("not an http(s) URL")
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(
        parts._replace(netloc=host).geturl(), headers={"User-Agent": "yolov5-extend"}
    )
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        code = base64.b64encode(pair.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {code}")
    response: http.client.HTTPResponse = urllib.request.build_opener(_HttpRedirectHandler).open(
        request, timeout=TIMEOUT_S
    )
    return response


class _HttpRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http(s) only; the library's handler also allows ftp."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request for the new URL."""
        if not is_url(newurl):
            shown = without_secrets(newurl)
            raise urllib.error.URLError(f"it redirects to {shown}, which is not an http(s) URL")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        login = req.unredirected_hdrs.get("Authorization")
        is_as_safe = after.scheme in (before.scheme, "https")
        if login and following and before.hostname == after.hostname and is_as_safe:
            following.add_unredirected_header("Authorization", login)
        return following


def _download(url: str, part: Path) -> None:
    with open_url(url) as response, part.open("wb") as file:
        expected = int(response.headers.get("Content-Length", 0))
        room = shutil.disk_usage(part.parent).free - MIN_FREE_BYTES
        with tqdm(total=expected, unit="B", unit_scale=True, disable=None) as progress:
            while block := response.read(BLOCK_BYTES):
                size = max(expected, file.tell() + len(block))
                if size > room:
                    raise OSError(
                        errno.ENOSPC, f"needs {size} bytes, but only {max(room, 0)} are free"
                    )
                file.write(block)
                progress.update(len(block))
        if expected and file.tell() != expected:
            raise http.client.IncompleteRead(b"", expected - file.tell())


def extract_archive(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive, the latter also compressed, into `folder`, which is created.

    Raises:
        UserError: the archive is of another kind or is damaged; the folder cannot be written; an
            entry is neither a file nor a folder, or would be written outside of `folder`; there are
            more than a million entries; the unpacked size is more than a hundred times the
            archive's size, or more than the free disk space.
    """
    folder.mkdir(parents=True, exist_ok=True)
    title = f"Unpacking {archive.name}"
    try:
        if not zipfile.is_zipfile(archive) and tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                members = _tar_entries(tar, archive)
                _check_entries(members, archive, folder)
                for member in tqdm(members, desc=title, disable=None):
                    _extract_member(tar, member, folder)
            return
        with zipfile.ZipFile(archive) as content:
            entries = list(map(_ZipEntry, content.infolist()))
            _check_entries(entries, archive, folder)
            for entry in tqdm(entries, desc=title, disable=None):
                content.extract(entry.info, folder)
    except ARCHIVE_ERRORS as error:
        raise UserError(
            f"{archive} is damaged ({error}); delete it to download it again."
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error}; unpack {archive} yourself or choose another folder."
        ) from error


class _ZipEntry:
    """An entry of a zip with the attributes of one of a tar."""

    def __init__(self, info: zipfile.ZipInfo) -> None:
        self.info, self.name, self.size = info, info.filename, info.file_size


def _tar_entries(tar: tarfile.TarFile, archive: Path) -> list[tarfile.TarInfo]:
    """List the entries; stop early where the archive is refused anyway: reading unpacks it."""
    found, size, most = [], 0, MAX_EXPANSION * archive.stat().st_size
    for member in tar:
        found.append(member)
        size += member.size
        if len(found) > MAX_ENTRIES or size > most:
            break
    return found


def _extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write a file or folder, without the owner and mode in the archive."""
    target = folder / member.name
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # it is a file; for the type checker
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


def _check_entries(
    entries: Sequence[_ZipEntry | tarfile.TarInfo], archive: Path, folder: Path
) -> None:
    """Check all entries before the first is written."""
    if len(entries) > MAX_ENTRIES:
        raise UserError(
            f"{archive} has {len(entries)} entries, more than {MAX_ENTRIES}; "
            "unpack it yourself if you trust it."
        )
    for entry in entries:
        fault = _fault(entry)
        if fault:
            raise UserError(f"{archive} is not safe: its entry {entry.name!r} {fault}; delete it.")
    # zipfile reports entries that are larger than declared as damaged.
    size = sum(entry.size for entry in entries)
    if size > MAX_EXPANSION * archive.stat().st_size:
        raise UserError(
            f"{archive} is not safe: it unpacks to {size} bytes, more than {MAX_EXPANSION} times "
            "its size; delete it."
        )
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{archive} unpacks to {size} bytes, but only {free} are free at {folder}; "
            "free disk space and run again."
        )


def _fault(entry: _ZipEntry | tarfile.TarInfo) -> str:
    """Return why an entry is refused; empty if it is an ordinary file or folder."""
    name = entry.name
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if not name or absolute or "\\" in name or ".." in PurePosixPath(name).parts:
        return "is outside of the folder"
    if isinstance(entry, tarfile.TarInfo):
        return "" if entry.isfile() or entry.isdir() else "is a link or a device"
    if stat.S_IFMT(entry.info.external_attr >> FILE_MODE_SHIFT) not in ALLOWED_FILE_TYPES:
        return "is a link or a device"
    if entry.info.compress_type not in ALLOWED_COMPRESSION:
        return "has an unusual compression method"
    return ""
