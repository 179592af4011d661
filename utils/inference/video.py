"""Reads every n-th frame of a video; skips frames without decoding them where that is exact."""

from __future__ import annotations

import logging
import time
from pathlib import PurePath
from typing import NamedTuple

import cv2
import numpy as np

from utils.datasets.image_files import ImageError, check_unicode_name, open_image_file
from utils.files.download import has_scheme, is_url, without_secrets

log = logging.getLogger("yolo")

DEFAULT_FPS = 30.0  # of a stream that does not report its frame rate
MAX_FPS = 240.0  # larger values are not frame rates; some cameras report 0 or 90000
UNDECODED = -1  # value of CAP_PROP_FORMAT: grab packets without decoding them
SEEK_DETOUR = 16
"""OpenCV seeks to a key frame at least so many frames before the wanted one, and decodes from it.
With a smaller stride, seeking never saves time."""
MS_PER_S = 1e3
COUNTED_SUFFIXES = frozenset({".avi", ".m4v", ".mov", ".mp4"})
"""Formats whose header has the number of frames; of others OpenCV derives it from the duration."""
TOLERANCE = 2.5
"""Frames that may be missing at the end; OpenCV's number is not exact."""
TOLERANCE_S = 1.0
"""Likewise, if the number was derived from the duration, which may be that of the sound."""
MIN_FRACTION = 0.95
"""With fewer frames than this fraction of an estimated number, there may be gaps."""
MAX_DAMAGED = 1000
"""Frames in a row that may be damaged before a video is taken to end."""
DELAYS_S = (1, 2, 4, 8, 8, 8, 8, 8, 8)
"""Seconds to wait before a lost stream is opened again, each time."""
STABLE_S = 30
"""After so many seconds without a loss, the delays begin again."""


class Shortfall(NamedTuple):
    """What is missing of a video."""

    text: str
    """As a clause."""
    is_early: bool
    """Whether the video ended early."""


class VideoReader:
    """Reads every `stride`-th frame of a file, camera or stream: frames `stride`, `2 * stride`, ...

    A damaged frame is skipped; if it is one of these, the next that is not damaged takes its place.
    A stream that is lost is opened again. Call `close` at the end.

    Args:
        location: file, URL or camera index.
        stride: at least 1.

    Raises:
        ImageError: it cannot be opened.
    """

    def __init__(self, location: str, stride: int) -> None:
        check_unicode_name(location)
        self._location, self._stride = location, stride
        is_stream = location.isdecimal() or has_scheme(location)
        if not is_stream:
            open_image_file(location).close()  # OpenCV would wait for the writer of a pipe
        self._capture = open_capture(location)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= MAX_FPS else DEFAULT_FPS
        """Frames per second of the whole video."""
        self.frames = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        """Number of frames that the video reports; 0 for streams."""
        self.position = 0
        """Number of the last frame, from 1."""
        self.damaged = 0
        """Frames that were skipped because they are damaged."""
        self._time = 0.0  # of the last frame, s
        self._is_live = is_stream and self.frames == 0
        self._opened, self._attempts = time.monotonic(), 0
        self._seekable = stride > SEEK_DETOUR and self.frames > stride
        # Only long strides need them: finding the key frames reads the whole file.
        self._starts = key_frames(location, self.rate) if self._seekable else np.zeros(0, int)

    def read(self) -> np.ndarray | None:
        """Return the next frame of the stride, uint8 [h, w, 3] BGR; None at the end."""
        while True:
            frame = (self.position // self._stride + 1) * self._stride
            if not self._seek(frame) and not self._grab_until(frame):
                return None
            decoded, bgr = self._capture.retrieve()
            if decoded:
                return bgr
            self.damaged += 1

    def shortfall(self) -> Shortfall | None:
        """Return what is missing of the video, after `read` returned None; None if nothing is.

        A difference to the number of frames that the video reports is not enough, since players
        also hide frames on purpose, and the number may be an estimate.
        """
        if self._is_live:
            return Shortfall(f"the stream was lost after {self.position} frames", is_early=True)
        if self.position >= self.frames:
            return None
        number, last = self.position, self._time
        if not has_scheme(self._location):  # a URL would be loaded again
            times, _ = packets(self._location)
            number, last = len(times), max(times, default=0.0)
        if PurePath(self._location).suffix.lower() in COUNTED_SUFFIXES:
            is_early, has_gaps = self.frames - number > TOLERANCE, number < self.frames
        else:
            is_early = self.frames / self.rate - last > TOLERANCE_S
            has_gaps = number < MIN_FRACTION * self.frames
        is_early |= (last - self._time) * self.rate > TOLERANCE
        read = self.position - self.damaged
        text = f"{read} of {self.frames} frames could be read"
        return Shortfall(text, is_early) if is_early or has_gaps else None

    def close(self) -> None:
        """Close the video."""
        self._capture.release()

    def _grab_until(self, frame: int) -> bool:
        """Grab frames one by one, which decodes them, up to a frame (from 1) or beyond."""
        failed = 0
        while self.position < frame:
            if self._capture.grab():
                self.position += failed + 1
                self.damaged += failed
                self._time = self._capture.get(cv2.CAP_PROP_POS_MSEC) / MS_PER_S
                failed = 0
            elif self._is_live:
                if self.position == 1 and is_url(self._location):  # it was a picture
                    self._is_live = False
                    return False
                if not self._reopen():
                    return False
            else:
                failed += 1
                if failed > min(self.frames - self.position, MAX_DAMAGED):
                    return False
        return True

    def _reopen(self) -> bool:
        """Open a lost stream again; wait longer each time, until it has lasted for a while."""
        if time.monotonic() - self._opened > STABLE_S:
            self._attempts = 0
        for delay in DELAYS_S[self._attempts :]:
            log.warning(
                "%s: the stream was lost after %d frames; opening it again in %d s.",
                *(without_secrets(self._location), self.position, delay),
            )
            self._attempts += 1
            self.close()
            time.sleep(delay)
            try:
                self._capture = open_capture(self._location)
            except ImageError:
                continue
            self._opened = time.monotonic()
            return True
        return False

    def _seek(self, frame: int) -> bool:
        """Skip to a frame (from 1) and grab it, if there is a key frame to start from.

        If the time of the frame shows that it is another one, start again without seeking.
        """
        useful = (self._starts >= self.position) & (self._starts < frame - SEEK_DETOUR)
        if frame > self.frames or not useful.any():
            return False
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, frame - 1)
        if self._capture.grab():
            shown = self._capture.get(cv2.CAP_PROP_POS_MSEC) * self.rate / MS_PER_S  # from 0
            if round(shown) == frame - 1:
                self.position, self._time = frame, shown / self.rate
                return True
        self.close()
        self._capture, self._starts = open_capture(self._location), self._starts[:0]
        self.position = self.damaged = 0
        return False


def open_capture(location: str) -> cv2.VideoCapture:
    """Open a file, URL or camera index.

    Raises:
        ImageError: it cannot be opened.
    """
    if location.isdecimal():
        capture = cv2.VideoCapture(int(location))
    elif without_secrets(location) == location:
        capture = cv2.VideoCapture(location)
    else:  # messages of other backends contain the URL
        capture = cv2.VideoCapture(location, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise ImageError("it cannot be opened as a video, a camera or a stream")
    return capture


def key_frames(location: str, rate: float) -> np.ndarray:
    """Return the indices of the frames, from 0, that a decoder can start from: int64 [n], sorted.

    There are none if the number of a frame does not follow from its time: at a variable frame rate,
    or with packets that are not shown. OpenCV seeks by time, so it would find other frames.
    """
    times, starts = packets(location)
    order = np.argsort(times)  # decoders get some frames later than they are shown
    numbers = np.rint(np.array(times)[order] * rate)
    if not np.array_equal(numbers, np.arange(len(times))):
        return np.zeros(0, int)
    return np.flatnonzero(np.array(starts)[order])


def packets(location: str) -> tuple[list[float], list[bool]]:
    """Return time (s) and kind, whether it is a key frame, of all coded frames, without decoding.

    They are in the order of the file.
    """
    capture, times, starts = open_capture(location), [], []
    if capture.set(cv2.CAP_PROP_FORMAT, UNDECODED):
        while capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / MS_PER_S)
            starts.append(capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) > 0)
    capture.release()
    return times, starts
