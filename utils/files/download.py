"""Fetching archives and unpacking them so that nothing half done or dangerous is left behind."""

from __future__ import annotations

import errno
import http.client
import logging
import lzma
import shutil
import stat
import struct
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from tqdm import tqdm

from utils.errors import UserError
from utils.files.atomic_write import write_replacing

log = logging.getLogger("yolo")

BLOCK = 1 << 20
TIMEOUT_S = 30
KEPT_FREE = 64 << 20
"""Bytes of the disk that a download leaves to others."""
MAX_EXPANSION = 100
"""Unpacked size over archive size: images hardly shrink, label text 5-fold, a bomb 1000-fold."""
MAX_ENTRIES = 1_000_000
"""Files in an archive; COCO's largest has 123,000. Each costs memory, and an inode of the disk."""
FILE_MODE_SHIFT = 16  # a zip made on Unix keeps the file mode in the upper half of external_attr
PLAIN_KINDS = frozenset({0, stat.S_IFREG, stat.S_IFDIR})  # 0: made where there are no modes
USUAL_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
"""The others may take gigabytes of memory to decompress."""
# What reading an archive that is no zip, damaged or encrypted is known to raise.
ARCHIVE_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(NotImplementedError, RuntimeError, EOFError, ValueError),
)


def is_address(text: str) -> bool:
    """Whether `text` is an address that `fetch` understands."""
    return text.lower().startswith(("http://", "https://"))


def fetch(url: str, target: Path) -> None:
    """Download `url` to the file `target`, with a progress bar; on any failure there is no file.

    Raises:
        UserError: the address is not of the web, cannot be reached, leads to one that is not of
            the web, or sends more than there is room for; or the connection breaks off.
    """
    if not is_address(url):
        raise UserError(f"{url} is not an http(s) address.")
    log.info("Downloading %s to %s", url, target)
    try:
        write_replacing(target, lambda part: _download(url, part))
    # URLError is an OSError; addresses that are malformed raise ValueError.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url} cannot be downloaded ({reason})") from error


def open_address(url: str) -> http.client.HTTPResponse:
    """Open an http(s) address; redirections are followed to such addresses only.

    Raises:
        OSError, HTTPException, ValueError: it cannot be reached, breaks off, or is malformed.
    """
    if not is_address(url):
        raise ValueError("not an http(s) address")
    request = urllib.request.Request(url, headers={"User-Agent": "yolov5-extend"})
    response: http.client.HTTPResponse = urllib.request.build_opener(_WebOnly).open(
        request, timeout=TIMEOUT_S
    )
    return response


def _download(url: str, part: Path) -> None:
    with open_address(url) as response, part.open("wb") as file:
        expected = int(response.headers.get("Content-Length", 0))
        room = shutil.disk_usage(part.parent).free - KEPT_FREE
        _require_at_most(room, expected)
        with tqdm(total=expected, unit="B", unit_scale=True, disable=None) as progress:
            while block := response.read(BLOCK):
                _require_at_most(room, file.tell() + len(block))
                file.write(block)
                progress.update(len(block))
        if expected and file.tell() != expected:
            raise http.client.IncompleteRead(b"", expected - file.tell())


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not to ftp, which the one of the library allows."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request for the new address."""
        if not is_address(newurl):
            raise urllib.error.URLError(f"it leads to {newurl}, which is not of the web")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_at_most(room: int, size: int) -> None:
    if size > room:
        raise OSError(errno.ENOSPC, f"at least {size} bytes, but there is room for {max(room, 0)}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip into `folder`, which is made.

    Raises:
        UserError: not a zip or damaged, or it cannot be written; or an entry is neither file nor
            folder, or would land outside of `folder`; or there are more than a million of them; or
            it unpacks to more than a hundred times its size, or than the disk has room for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as content:
            entries = content.infolist()
            if len(entries) > MAX_ENTRIES:
                raise UserError(f"{archive} is refused: it has {len(entries)} entries.")
            for entry in entries:
                _require_harmless(entry, archive)
            # An entry that holds more than it declares is cut off by the library and found damaged.
            _require_room(sum(entry.file_size for entry in entries), archive, folder)
            for entry in tqdm(entries, desc=f"Unpacking {archive.name}", disable=None):
                content.extract(entry, folder)
    except ARCHIVE_ERRORS as error:
        raise UserError(
            f"{archive} is not a usable zip archive ({error}); delete it and try again."
        ) from error
    except OSError as error:
        raise UserError(f"{archive} cannot be unpacked into {folder} ({error}).") from error


def _require_harmless(entry: zipfile.ZipInfo, archive: Path) -> None:
    name = entry.filename
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if not name or absolute or "\\" in name or ".." in PurePosixPath(name).parts:
        raise UserError(f"{archive} is refused: its entry {name!r} leads out of the folder.")
    if stat.S_IFMT(entry.external_attr >> FILE_MODE_SHIFT) not in PLAIN_KINDS:
        raise UserError(f"{archive} is refused: its entry {name!r} is a link or a device.")
    if entry.compress_type not in USUAL_METHODS:
        raise UserError(f"{archive} is refused: its entry {name!r} is compressed unusually.")


def _require_room(size: int, archive: Path, folder: Path) -> None:
    if size > MAX_EXPANSION * archive.stat().st_size:
        raise UserError(
            f"{archive} is refused: it would grow more than {MAX_EXPANSION}-fold to {size} bytes."
        )
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{archive} unpacks to {size} bytes, but only {free} are free at {folder}; make room."
        )
