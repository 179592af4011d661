"""Sources of detect.py: images, folders, glob patterns, lists, videos, cameras and URLs."""

from __future__ import annotations

import glob
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
    UNREAD_SUFFIXES,
    ImageError,
    is_comment,
    suffix_of,
)
from utils.datasets.letterbox import Letterboxed, letterbox
from utils.datasets.locate import native_path
from utils.errors import UserError
from utils.files.download import without_secrets
from utils.inference.image_source import WEB_SCHEMES, load_rgb
from utils.inference.streams import SCREEN, ScreenReader, in_turns, is_screen
from utils.inference.video import VideoReader

log = logging.getLogger("yolo")

VIDEO_SUFFIXES = frozenset(
    {".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov"}
    | {".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)
MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
LIST_SUFFIXES = (".txt", ".streams")
URL_SCHEMES = (*WEB_SCHEMES, "rtsp", "rtmp", "tcp")
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
    sources: str | Sequence[str],
    *,
    image_size: tuple[int, int],
    stride: int,
    auto: bool = True,
    vid_stride: int = 1,
    failed: list[str] | None = None,
) -> Generator[SourceImage]:
    """Resolve a `--source`, or several, and return a generator of their images and video frames.

    Cameras and streams come last; several of them are read at the same time, in turns.

    Args:
        sources: image or video file; folder (not recursive); glob pattern; .txt or .streams list of
            such files, cameras or URLs; camera index; http, https, rtsp, rtmp or tcp URL; `screen`,
            see `ScreenReader`.
        image_size: (height, width) that each image is fitted into, px.
        stride: stride of the network, px.
        auto: pad an image only up to the next multiple of the stride; otherwise to `image_size`.
        vid_stride: yield every n-th frame of videos.
        failed: receives the files that cannot be read, and the videos that ended early.

    Raises:
        UserError: immediately if the source does not exist or has no image or video; during the
            iteration if none of its files can be read. Of several files, those that cannot be read
            are skipped with a warning.
    """
    given = _joined_screen([sources] if isinstance(sources, str) else sources)
    locations: list[str] = []
    for source in given:
        try:
            locations += _find_locations(source)
        except (OSError, RuntimeError, ValueError) as error:
            # e.g. a name that is too long for the file system, or the home of an unknown user
            raise UserError(
                f"--source {_shown(source)} cannot be used ({error}); give another source."
            ) from error
    fit = partial(letterbox, new_shape=image_size, auto=auto, stride=stride)
    return _load(locations, fit, vid_stride, [] if failed is None else failed)


def _joined_screen(sources: Sequence[str]) -> Sequence[str]:
    """Return the sources, with `screen` and the numbers of its part as one."""
    return [" ".join(sources)] if sources[0] == SCREEN else sources


def _shown(source: str) -> str:
    """Return a source for a message: without secrets, and not too long."""
    return without_secrets(source)[:MAX_SHOWN_CHARACTERS]


def _find_locations(source: str) -> list[str]:
    """Return the files of a source, or the URL or camera index itself."""
    path = Path(source).expanduser()
    if is_stream(source) or _scheme(source) in URL_SCHEMES:
        return [source]
    if path.is_dir():
        return _media_files([file for file in sorted(path.iterdir()) if file.is_file()], source)
    if path.is_file() and path.suffix.lower() in LIST_SUFFIXES:
        return _listed_locations(path)
    if path.is_file():
        return _media_files([path], source)
    if glob.has_magic(source):
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207 - patterns may be absolute
        return _media_files([Path(name) for name in sorted(found)], source)
    raise UserError(
        f"--source {_shown(source)} does not exist; give an image, a video or a folder of them."
    )


def is_stream(location: str) -> bool:
    """Whether a location has no end: a camera, a stream or the screen."""
    if location.isdecimal() or is_screen(location):
        return True
    scheme = _scheme(location)
    is_file = file_name(location).suffix.lower() in MEDIA_SUFFIXES
    return scheme in URL_SCHEMES and not (scheme in WEB_SCHEMES and is_file)


def _scheme(location: str) -> str:
    return urlsplit(location).scheme.lower()


def _media_files(files: Sequence[Path], source: str) -> list[str]:
    found = [str(file) for file in files if suffix_of(file.name) in MEDIA_SUFFIXES]
    unread = [file for file in files if suffix_of(file.name) in UNREAD_SUFFIXES - MEDIA_SUFFIXES]
    if unread:
        log.warning(
            "Files of formats that are not read are left out: %d, for example %s; convert them to "
            "JPEG.",
            *(len(unread), unread[0]),
        )
    if not found:
        known = ", ".join(sorted(MEDIA_SUFFIXES))
        raise UserError(
            f"--source {source} has no image or video; give files of these types: {known}."
        )
    return found


def _listed_locations(file: Path) -> list[str]:
    """Return the locations in a list file, which may have lines of comment: `# text`.

    Paths are relative to the working folder or to that of the list.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(
            f"--source {file} is not a UTF-8 text file ({error}); put one path on each line."
        ) from error
    locations: list[str] = []
    for line in (line for line in lines if line and not is_comment(line)):
        if is_stream(line) or _scheme(line) in URL_SCHEMES:
            locations.append(line)
        else:
            places = [Path(line), file.parent / line, file.parent / native_path(line)]
            found = next((place for place in places if place.is_file()), places[1])
            locations += _media_files([found], line)
    if not locations:
        raise UserError(f"--source {file} is empty; put one path on each line.")
    return locations


def file_name(location: str) -> PurePath:
    """Return the file name of a path, or of a URL without its query; of a bare URL, the host."""
    if "://" not in location:
        return PurePath(PurePath(location).name)
    parts = urlsplit(location)
    return PurePath(PurePosixPath(parts.path).name or parts.hostname or parts.scheme)


def _load(
    locations: Sequence[str], fit: Fit, vid_stride: int, failed: list[str]
) -> Generator[SourceImage]:
    """Yield the images of all locations; skip those that cannot be read, unless it is the only."""
    streams = [location for location in locations if is_stream(location)]
    ordered = [*(location for location in locations if not is_stream(location)), *streams]
    reason = ""

    def load_one(number: int) -> Generator[SourceImage]:
        nonlocal reason
        location = ordered[number - 1]
        is_image = file_name(location).suffix.lower() in IMAGE_SUFFIXES and location not in streams
        video = partial(_load_video, vid_stride=vid_stride)
        try:
            for item in (_load_image if is_image else video)(location, fit, failed=failed):
                yield item._replace(number=number, files=len(ordered))
        except ImageError as error:
            reason = str(error)
            failed.append(location)
            if len(ordered) > 1:
                log.warning("Skipped %s: %s.", without_secrets(location), error)

    any_loaded = False
    parts = [load_one(number + 1) for number in range(len(ordered))]
    separate = parts if len(streams) == 1 else parts[: len(ordered) - len(streams)]
    together = parts[len(separate) :]
    for item in itertools.chain(*separate, in_turns(together) if together else ()):
        any_loaded = True
        yield item
    if not any_loaded and len(ordered) > 1:
        raise UserError(
            f"--source: none of its {len(ordered)} files can be read; give another source."
        )
    if not any_loaded and reason:
        raise UserError(
            f"--source {_shown(ordered[0])} cannot be used ({reason}); give another source."
        )


def _load_image(location: str, fit: Fit, failed: list[str]) -> Iterator[SourceImage]:
    rgb = load_rgb(location, failed)
    yield SourceImage(location, "image", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), *fit(rgb))


def _load_video(
    location: str, fit: Fit, vid_stride: int, failed: list[str]
) -> Iterator[SourceImage]:
    video = ScreenReader(location) if is_screen(location) else VideoReader(location, vid_stride)
    fps = video.rate / vid_stride
    try:
        while (bgr := video.read()) is not None:
            network, ratio, pad = fit(bgr)
            rgb = cv2.cvtColor(network, cv2.COLOR_BGR2RGB)
            fitted = (bgr, rgb, ratio, pad)
            yield SourceImage(
                location, "video", *fitted, frame=video.position, frames=video.frames, fps=fps
            )
        if video.position == 0:
            raise ImageError("none of its frames can be read")
        if video.damaged:
            frames = (
                "1 damaged frame was"
                if video.damaged == 1
                else f"{video.damaged} damaged frames were"
            )
            log.warning("%s: %s skipped.", without_secrets(location), frames)
        missing = video.shortfall()
        if missing:
            failed += [location] if missing.is_early else []
            log.warning("%s: %s.", without_secrets(location), missing.text)
    finally:
        video.close()
