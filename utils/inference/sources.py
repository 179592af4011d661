"""Sources of detect.py: images, folders, glob patterns, lists, videos, cameras and URLs."""

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
MAX_BYTES = 256 << 20  # of a downloaded image
MAX_SHOWN_CHARACTERS = 80  # of an invalid source, in a message
DEFAULT_FPS = 30.0  # of a stream that does not report its frame rate
MAX_FPS = 240.0  # larger values are not frame rates; some cameras report 0 or 90000

Kind = Literal["image", "video"]
Fit = Callable[[np.ndarray], Letterboxed]


class SourceImage(NamedTuple):
    """One image or one frame of a video, and the network input made from it."""

    path: str
    """File, URL, or camera index."""
    kind: Kind
    original: np.ndarray
    """uint8 [h, w, 3] BGR."""
    network: np.ndarray
    """uint8 [H, W, 3] RGB, letterboxed, contiguous."""
    ratio: tuple[float, float]
    """(vertical, horizontal) scale factor from `original` to `network`."""
    pad: tuple[float, float]
    """(left, top) padding in `network`, px."""
    number: int
    """Index of the file, from 1."""
    files: int
    """Number of files."""
    frame: int = 0
    """Index of the frame in its video, from 1; 0 for images."""
    frames: int = 0
    """Number of frames that the video reports; 0 for images and streams."""
    fps: float = 0.0
    """Frames yielded per second of the video; 0 for images."""


class SourceEntry(NamedTuple):
    """One file, URL or camera of a source."""

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
    """Resolve a `--source` and return an iterator over its images and video frames.

    Args:
        source: image or video file; folder (not recursive); glob pattern; .txt list of such files;
            camera index; http, https, rtsp, rtmp or tcp URL.
        image_size: (height, width) that each image is fitted into, px.
        stride: stride of the network, px.
        auto: pad only up to the next multiple of the stride.
        vid_stride: yield every n-th frame of videos.

    Raises:
        UserError: immediately if the source does not exist or has no image or video; during the
            iteration if none of its files can be read. Of several files, those that cannot be read
            are skipped with a warning.
    """
    try:
        entries = _find_entries(source)
    except (OSError, RuntimeError, ValueError) as error:
        # e.g. a name that is too long for the file system, or the home folder of an unknown user
        raise UserError(
            f"--source {source[:MAX_SHOWN_CHARACTERS]} cannot be used ({error}); "
            "give another source."
        ) from error
    fit = partial(letterbox, new_shape=image_size, auto=auto, stride=stride)
    return _load(source, entries, fit, vid_stride)


def _find_entries(source: str) -> list[SourceEntry]:
    scheme = urlsplit(source).scheme.lower()
    path = Path(source).expanduser()
    if source.isdecimal():
        return [SourceEntry(source, "video")]
    if scheme in (*WEB_SCHEMES, *STREAM_SCHEMES):
        return [_url_entry(source)]
    if path.is_dir():
        return _media_entries([file for file in sorted(path.iterdir()) if file.is_file()], source)
    if path.is_file() and path.suffix.lower() == ".txt":
        return _entries_from_list(path)
    if path.is_file():
        return _media_entries([path], source)
    if glob.has_magic(source):
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - patterns may be absolute
        return _media_entries([Path(name) for name in sorted(found)], source)
    raise UserError(
        f"--source {source} does not exist; give an image, a video or a folder of them."
    )


def _url_entry(source: str) -> SourceEntry:
    suffix = PurePosixPath(urlsplit(source).path).suffix.lower()
    return SourceEntry(source, "image" if suffix in IMAGE_SUFFIXES else "video")


def _media_entries(files: Sequence[Path], source: str) -> list[SourceEntry]:
    entries = [
        SourceEntry(str(file), "image" if file.suffix.lower() in IMAGE_SUFFIXES else "video")
        for file in files
        if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
    ]
    if not entries:
        known = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
        raise UserError(
            f"--source {source} has no image or video; give files of these types: {known}."
        )
    return entries


def _entries_from_list(file: Path) -> list[SourceEntry]:
    """Return the entries of a list file; paths are relative to the working or the list's folder."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(
            f"--source {file} is not a UTF-8 text file ({error}); put one path on each line."
        ) from error
    entries: list[SourceEntry] = []
    for line in filter(None, lines):
        if urlsplit(line).scheme.lower() in (*WEB_SCHEMES, *STREAM_SCHEMES):
            entries.append(_url_entry(line))
        else:
            path = Path(line) if Path(line).is_file() else file.parent / line
            entries += _media_entries([path], line)
    if not entries:
        raise UserError(f"--source {file} is empty; put one path on each line.")
    return entries


def _load(
    source: str, entries: Sequence[SourceEntry], fit: Fit, vid_stride: int
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
                log.warning("Skipped %s: %s.", entry.location, error)
            else:
                raise UserError(
                    f"--source {entry.location} cannot be used ({error}); give another source."
                ) from error
    if not any_loaded:
        raise UserError(
            f"--source {source}: none of its {len(entries)} files can be read; give another source."
        )


def _load_image(location: str, fit: Fit) -> Iterator[SourceImage]:
    is_web = urlsplit(location).scheme.lower() in WEB_SCHEMES
    rgb = _fetch_image(location) if is_web else read_image(location)
    fitted = fit(rgb)
    yield _source_image(location, "image", np.ascontiguousarray(rgb[..., ::-1]), fitted)


def _source_image(
    location: str, kind: Kind, original: np.ndarray, fitted: Letterboxed
) -> SourceImage:
    network = np.ascontiguousarray(fitted.image)
    return SourceImage(location, kind, original, network, fitted.ratio, fitted.pad, 1, 1)


def _fetch_image(url: str) -> np.ndarray:
    """Download an image; return it as uint8 [h, w, 3] RGB."""
    try:
        with open_url(url) as response:
            content = response.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        raise ImageError(f"it cannot be downloaded ({getattr(error, 'reason', error)})") from error
    if len(content) > MAX_BYTES:
        raise ImageError(f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error as error:  # e.g. a header that claims more pixels than OpenCV accepts
        raise ImageError(f"it cannot be decoded ({error.err})") from error
    if bgr is None:
        raise ImageError("it is not an image")
    return np.ascontiguousarray(bgr[..., ::-1])


def _load_video(location: str, fit: Fit, vid_stride: int) -> Iterator[SourceImage]:
    check_unicode_name(location)
    capture = cv2.VideoCapture(int(location) if location.isdecimal() else location)
    try:
        if not capture.isOpened():
            raise ImageError("it cannot be opened as a video, a camera or a stream")
        rate = capture.get(cv2.CAP_PROP_FPS)
        fps = (rate if 0 < rate <= MAX_FPS else DEFAULT_FPS) / vid_stride
        frames = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        for number, bgr in _frames(capture, vid_stride):
            fitted = fit(np.ascontiguousarray(bgr[..., ::-1]))
            loaded = _source_image(location, "video", bgr, fitted)
            yield loaded._replace(frame=number, frames=frames, fps=fps)
    finally:
        capture.release()


def _frames(capture: cv2.VideoCapture, vid_stride: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield index and image (BGR) of every n-th frame; other frames are not decoded."""
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
