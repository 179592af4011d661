"""What detect.py can look at: images, folders, patterns, lists, videos, cameras and addresses."""

from __future__ import annotations

import glob
import http.client
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np

from utils.datasets.image_files import (
    IMAGE_SUFFIXES,
    ImageError,
    check_unicode_name,
    read_image,
)
from utils.datasets.letterbox import Letterboxed, letterbox
from utils.errors import UserError
from utils.files.download import open_url

log = logging.getLogger("yolo")

VIDEO_SUFFIXES = frozenset(
    {
        ".asf",
        ".avi",
        ".gif",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".ts",
        ".webm",
        ".wmv",
    }
)
WEB_SCHEMES = ("http", "https")
STREAM_SCHEMES = ("rtsp", "rtmp", "tcp")
MAX_BYTES = 256 << 20  # of an image at a web address
SHOWN = 80  # characters of a source that cannot be looked up
USUAL_FPS = 30.0  # of a stream that does not tell
MAX_FPS = 240.0  # what lies beyond is no frame rate; some cameras report 0 or 90000

Kind = Literal["image", "video"]
Fit = Callable[[np.ndarray], Letterboxed]


class SourceImage(NamedTuple):
    """One image, or one frame of a video, and what the network gets of it."""

    path: str
    """File, address, or number of the camera."""
    kind: Kind
    original: np.ndarray
    """uint8 [h, w, 3] BGR."""
    network: np.ndarray
    """uint8 [H, W, 3] RGB, letterboxed, contiguous."""
    ratio: tuple[float, float]
    """(vertical, horizontal) size in `network` over size in `original`."""
    pad: tuple[float, float]
    """(left, top) border in `network`, px."""
    number: int
    """Of the file among all files, from 1."""
    files: int
    """Number of files."""
    frame: int = 0
    """Of a video, from 1; 0 for images."""
    frames: int = 0
    """How many the video says it has; 0 for images and for streams, which do not know."""
    fps: float = 0.0
    """Frames yielded per second of the video; 0 for images."""


class Entry(NamedTuple):
    """A file, address or camera of the source."""

    location: str
    kind: Kind


def open_source(
    source: str,
    *,
    image_size: tuple[int, int],
    stride: int,
    auto: bool = True,
    vid_stride: int = 1,
) -> Iterator[SourceImage]:
    """Find what a `--source` names and return an iterator that loads it piece by piece.

    Args:
        source: image or video file; folder (its own files only); glob pattern; .txt list of any of
            these files; number of a camera; http, https, rtsp, rtmp or tcp address.
        image_size: (height, width) that each image is fitted into, px.
        stride: of the network, px.
        auto: only pad up to the next multiple of the stride.
        vid_stride: yield every n-th frame of videos.

    Raises:
        UserError: at once if the source does not exist or holds nothing usable; while iterating, if
            not one of its files can be read. Single files that cannot are skipped with a warning.
    """
    try:
        entries = _find(source)
    except (OSError, RuntimeError, ValueError) as error:
        # such as a name longer than the file system takes, or the home folder of nobody
        raise UserError(f"--source {source[:SHOWN]} cannot be used: {error}.") from error
    fit = partial(letterbox, new_shape=image_size, auto=auto, stride=stride)
    return _load(source, entries, fit, vid_stride)


def _find(source: str) -> list[Entry]:
    scheme = urlsplit(source).scheme.lower()
    path = Path(source).expanduser()
    if source.isdecimal():
        return [Entry(source, "video")]
    if scheme in (*WEB_SCHEMES, *STREAM_SCHEMES):
        return [_address(source)]
    if path.is_dir():
        return _usable([file for file in sorted(path.iterdir()) if file.is_file()], source)
    if path.is_file() and path.suffix.lower() == ".txt":
        return _listed(path)
    if path.is_file():
        return _usable([path], source)
    if glob.has_magic(source):
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - patterns may be absolute
        return _usable([Path(name) for name in sorted(found)], source)
    raise UserError(
        f"--source {source} does not exist; give an image, a video or a folder of them."
    )


def _address(source: str) -> Entry:
    suffix = PurePosixPath(urlsplit(source).path).suffix.lower()
    return Entry(source, "image" if suffix in IMAGE_SUFFIXES else "video")


def _usable(files: Sequence[Path], source: str) -> list[Entry]:
    entries = [
        Entry(str(file), "image" if file.suffix.lower() in IMAGE_SUFFIXES else "video")
        for file in files
        if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
    ]
    if not entries:
        known = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        raise UserError(f"--source {source} holds no image and no video ({known}).")
    return entries


def _listed(file: Path) -> list[Entry]:
    """Entries of a list file, relative to the working directory or else to the list's folder."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"--source {file} is not a text file of paths: {error}.") from error
    entries: list[Entry] = []
    for line in filter(None, lines):
        if urlsplit(line).scheme.lower() in (*WEB_SCHEMES, *STREAM_SCHEMES):
            entries.append(_address(line))
        else:
            path = Path(line) if Path(line).is_file() else file.parent / line
            entries += _usable([path], line)
    if not entries:
        raise UserError(f"--source {file} lists nothing; put a path on each line.")
    return entries


def _load(
    source: str, entries: Sequence[Entry], fit: Fit, vid_stride: int
) -> Iterator[SourceImage]:
    any_loaded = False
    for number, entry in enumerate(entries, start=1):
        load = _load_image if entry.kind == "image" else partial(_load_video, vid_stride=vid_stride)
        try:
            for loaded in load(entry.location, fit):
                any_loaded = True
                yield loaded._replace(number=number, files=len(entries))
        except ImageError as error:
            if len(entries) > 1:
                log.warning("Skipped %s: %s", entry.location, error)
            else:
                raise UserError(f"--source {entry.location} cannot be used: {error}.") from error
    if not any_loaded:
        raise UserError(f"--source {source}: not one of its {len(entries)} files can be read.")


def _load_image(location: str, fit: Fit) -> Iterator[SourceImage]:
    is_web = urlsplit(location).scheme.lower() in WEB_SCHEMES
    rgb = _fetch_image(location) if is_web else read_image(location)
    fitted = fit(rgb)
    yield _loaded(location, "image", np.ascontiguousarray(rgb[..., ::-1]), fitted)


def _loaded(location: str, kind: Kind, original: np.ndarray, fitted: Letterboxed) -> SourceImage:
    network = np.ascontiguousarray(fitted.image)
    return SourceImage(location, kind, original, network, fitted.ratio, fitted.pad, 1, 1)


def _fetch_image(url: str) -> np.ndarray:
    """Return the image at a web address, uint8 [h, w, 3] RGB."""
    try:
        with open_url(url) as response:
            content = response.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        raise ImageError(f"it cannot be downloaded ({getattr(error, 'reason', error)})") from error
    if len(content) > MAX_BYTES:
        raise ImageError(f"what is at this address is larger than {MAX_BYTES >> 20} MiB")
    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error as error:  # such as a header that claims more pixels than OpenCV takes
        raise ImageError(f"it cannot be decoded ({error.err})") from error
    if bgr is None:
        raise ImageError("what is at this address is not an image")
    return np.ascontiguousarray(bgr[..., ::-1])


def _load_video(location: str, fit: Fit, vid_stride: int) -> Iterator[SourceImage]:
    check_unicode_name(location)
    capture = cv2.VideoCapture(int(location) if location.isdecimal() else location)
    try:
        if not capture.isOpened():
            raise ImageError("it cannot be opened as a video, a camera or a stream")
        rate = capture.get(cv2.CAP_PROP_FPS)
        fps = (rate if 0 < rate <= MAX_FPS else USUAL_FPS) / vid_stride
        frames = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        for number, bgr in _frames(capture, vid_stride):
            fitted = fit(np.ascontiguousarray(bgr[..., ::-1]))
            loaded = _loaded(location, "video", bgr, fitted)
            yield loaded._replace(frame=number, frames=frames, fps=fps)
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, vid_stride: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number and the picture, BGR, of every n-th frame; only those are decoded."""
    number = 0
    while True:
        for _ in range(vid_stride):
            if not capture.grab():
                return
            number += 1
        decoded, bgr = capture.retrieve()
        if not decoded:
            return
        yield number, bgr
