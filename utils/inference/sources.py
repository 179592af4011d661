"""Sources of detect.py: images, folders, glob patterns, lists, videos, cameras and URLs."""

from __future__ import annotations

import glob
import http.client
import itertools
import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import cv2
import numpy as np

from utils.datasets.image_files import (
    IMAGE_SUFFIXES,
    ImageError,
    read_image,
)
from utils.datasets.letterbox import Letterboxed, letterbox
from utils.errors import UserError
from utils.files.download import open_url
from utils.inference.video import VideoReader

log = logging.getLogger("yolo")

VIDEO_SUFFIXES = frozenset(
    {".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov"}
    | {".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)
MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
WEB_SCHEMES = ("http", "https")
URL_SCHEMES = (*WEB_SCHEMES, "rtsp", "rtmp", "tcp")
MAX_BYTES = 256 << 20  # of a downloaded image
MAX_SHOWN_CHARACTERS = 80  # of an invalid source, in a message

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
    number: int = 1
    """Index of the file, from 1."""
    files: int = 1
    """Number of files."""
    frame: int = 0
    """Index of the frame in its video, from 1; 0 for images."""
    frames: int = 0
    """Number of frames that the video reports; 0 for images and streams."""
    fps: float = 0.0
    """Frames yielded per second of the video; 0 for images."""

    @property
    def is_live(self) -> bool:
        """Whether this is a frame of a camera or stream, of which the latest frame is wanted."""
        return self.kind == "video" and self.frames == 0


def open_source(
    source: str,
    *,
    image_size: tuple[int, int],
    stride: int,
    auto: bool = True,
    vid_stride: int = 1,
) -> Generator[SourceImage]:
    """Resolve a `--source` and return a generator of its images and video frames.

    Args:
        source: image or video file; folder (not recursive); glob pattern; .txt list of such files;
            camera index; http, https, rtsp, rtmp or tcp URL.
        image_size: (height, width) that each image is fitted into, px.
        stride: stride of the network, px.
        auto: pad an image only up to the next multiple of the stride; otherwise to `image_size`.
        vid_stride: yield every n-th frame of videos.

    Raises:
        UserError: immediately if the source does not exist or has no image or video; during the
            iteration if none of its files can be read. Of several files, those that cannot be read
            are skipped with a warning.
    """
    try:
        locations = _find_locations(source)
    except (OSError, RuntimeError, ValueError) as error:
        # e.g. a name that is too long for the file system, or the home folder of an unknown user
        raise UserError(
            f"--source {source[:MAX_SHOWN_CHARACTERS]} cannot be used ({error}); "
            "give another source."
        ) from error
    fit = partial(letterbox, new_shape=image_size, auto=auto, stride=stride)
    return _load(source, locations, fit, vid_stride)


def _find_locations(source: str) -> list[str]:
    """Return the files of a source, or the URL or camera index itself."""
    path = Path(source).expanduser()
    if source.isdecimal() or _scheme(source) in URL_SCHEMES:
        return [source]
    if path.is_dir():
        return _media_files([file for file in sorted(path.iterdir()) if file.is_file()], source)
    if path.is_file() and path.suffix.lower() == ".txt":
        return _listed_locations(path)
    if path.is_file():
        return _media_files([path], source)
    if glob.has_magic(source):
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - patterns may be absolute
        return _media_files([Path(name) for name in sorted(found)], source)
    raise UserError(
        f"--source {source} does not exist; give an image, a video or a folder of them."
    )


def _scheme(location: str) -> str:
    return urlsplit(location).scheme.lower()


def _media_files(files: Sequence[Path], source: str) -> list[str]:
    found = [str(file) for file in files if file.suffix.lower() in MEDIA_SUFFIXES]
    if not found:
        known = ", ".join(sorted(MEDIA_SUFFIXES))
        raise UserError(
            f"--source {source} has no image or video; give files of these types: {known}."
        )
    return found


def _listed_locations(file: Path) -> list[str]:
    """Return the lines of a list file; paths are relative to the working or the list's folder."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(
            f"--source {file} is not a UTF-8 text file ({error}); put one path on each line."
        ) from error
    locations: list[str] = []
    for line in filter(None, lines):
        if _scheme(line) in URL_SCHEMES:
            locations.append(line)
        else:
            path = Path(line) if Path(line).is_file() else file.parent / line
            locations += _media_files([path], line)
    if not locations:
        raise UserError(f"--source {file} is empty; put one path on each line.")
    return locations


def file_name(location: str) -> PurePath:
    """Return the file name of a path, or of a URL without its query."""
    path = PurePosixPath(urlsplit(location).path) if "://" in location else PurePath(location)
    return PurePath(path.name)


def _load(
    source: str, locations: Sequence[str], fit: Fit, vid_stride: int
) -> Generator[SourceImage]:
    any_loaded = False
    for number, location in enumerate(locations, start=1):
        is_image = file_name(location).suffix.lower() in IMAGE_SUFFIXES
        load = _load_image if is_image else partial(_load_video, vid_stride=vid_stride)
        try:
            for loaded in load(location, fit):
                any_loaded = True
                yield loaded._replace(number=number, files=len(locations))
        except ImageError as error:
            if len(locations) > 1:
                log.warning("Skipped %s: %s.", location, error)
            else:
                raise UserError(
                    f"--source {location} cannot be used ({error}); give another source."
                ) from error
    if not any_loaded:
        raise UserError(
            f"--source {source}: none of its {len(locations)} files can be read; "
            "give another source."
        )


def _load_image(location: str, fit: Fit) -> Iterator[SourceImage]:
    rgb = load_rgb(location)
    yield SourceImage(location, "image", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), *fit(rgb))


def load_rgb(location: str) -> np.ndarray:
    """Return the image of a path or of an http(s) URL, uint8 [h, w, 3] RGB, upright.

    Raises:
        ImageError: it cannot be read.
    """
    return _fetch_image(location) if _scheme(location) in WEB_SCHEMES else read_image(location)


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
    video = VideoReader(location, vid_stride)
    fps = video.rate / vid_stride
    try:
        for frame in itertools.count(vid_stride, vid_stride):
            bgr = video.read()
            if bgr is None:
                return
            network, ratio, pad = fit(bgr)
            rgb = cv2.cvtColor(network, cv2.COLOR_BGR2RGB)
            fitted = (bgr, rgb, ratio, pad)
            yield SourceImage(location, "video", *fitted, frame=frame, frames=video.frames, fps=fps)
    finally:
        video.close()
