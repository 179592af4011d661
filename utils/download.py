"""Fetching archives and unpacking them so that nothing half done or dangerous is left behind."""

from __future__ import annotations

import http.client
import logging
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm import tqdm

from utils.atomic_files import write_replacing
from utils.errors import UserError

log = logging.getLogger("yolo")

BLOCK = 1 << 20
TIMEOUT_S = 30
MOST_EXPANSION = 100
"""Unpacked size over archive size: images hardly shrink, label text 5-fold, a bomb 1000-fold."""
SYMLINK_MODE_SHIFT = 16  # a zip made on Unix keeps the file mode in the upper half of external_attr
# What reading an archive that is no zip, damaged or encrypted is known to raise.
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)


def is_address(text: str) -> bool:
    """Whether `text` is an address that `fetch` understands."""
    return text.startswith(("http://", "https://"))


def fetch(url: str, target: Path) -> None:
    """Download `url` to the file `target`, with a progress bar; on any failure there is no file.

    Raises:
        UserError: the address cannot be reached or the connection breaks off.
    """
    log.info("Downloading %s to %s", url, target)
    try:
        write_replacing(target, lambda part: _download(url, part))
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        raise UserError(f"{url} cannot be downloaded ({reason})") from error


def _download(url: str, part: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "yolov5-extend"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response, part.open("wb") as file:
        expected = int(response.headers.get("Content-Length", 0))
        with tqdm(total=expected, unit="B", unit_scale=True, disable=None) as progress:
            while block := response.read(BLOCK):
                file.write(block)
                progress.update(len(block))
        if expected and file.tell() != expected:
            raise http.client.IncompleteRead(b"", expected - file.tell())


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip into `folder`, which is made.

    Raises:
        UserError: not a zip or damaged; or an entry is a link or would land outside of `folder`; or
            it unpacks to more than a hundred times its size, or than the disk has room for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as content:
            entries = content.infolist()
            for entry in entries:
                _require_harmless(entry, archive)
            _require_room(sum(entry.file_size for entry in entries), archive, folder)
            for entry in tqdm(entries, desc=f"Unpacking {archive.name}", disable=None):
                content.extract(entry, folder)
    except ARCHIVE_ERRORS as error:
        raise UserError(
            f"{archive} is not a usable zip archive ({error}); delete it and try again."
        ) from error


def _require_harmless(entry: zipfile.ZipInfo, archive: Path) -> None:
    name = entry.filename
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    if absolute or "\\" in name or ".." in PurePosixPath(name).parts:
        raise UserError(f"{archive} is refused: its entry {name!r} leads out of the folder.")
    if stat.S_ISLNK(entry.external_attr >> SYMLINK_MODE_SHIFT):
        raise UserError(f"{archive} is refused: its entry {name!r} is a link.")


def _require_room(size: int, archive: Path, folder: Path) -> None:
    if size > MOST_EXPANSION * archive.stat().st_size:
        raise UserError(
            f"{archive} is refused: it would grow more than {MOST_EXPANSION}-fold to {size} bytes."
        )
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{archive} unpacks to {size} bytes, but only {free} are free at {folder}; make room."
        )
