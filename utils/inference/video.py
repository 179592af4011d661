"""Reads every n-th frame of a video; skips frames without decoding them where that is exact."""

from __future__ import annotations

import cv2
import numpy as np

from utils.datasets.image_files import ImageError, check_unicode_name

DEFAULT_FPS = 30.0  # of a stream that does not report its frame rate
MAX_FPS = 240.0  # larger values are not frame rates; some cameras report 0 or 90000
UNDECODED = -1  # value of CAP_PROP_FORMAT: grab packets without decoding them
SEEK_DETOUR = 16
"""OpenCV seeks to a key frame at least so many frames before the wanted one, and decodes from it.
With a smaller stride, seeking never saves time."""
MS_PER_S = 1e3


class VideoReader:
    """Reads every `stride`-th frame of a file, camera or stream: frames `stride`, `2 * stride`, ...

    Call `close` at the end.

    Args:
        location: file, URL or camera index.
        stride: at least 1.

    Raises:
        ImageError: it cannot be opened.
    """

    def __init__(self, location: str, stride: int) -> None:
        check_unicode_name(location)
        self._location, self._stride = location, stride
        self._capture = self._open()
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate <= MAX_FPS else DEFAULT_FPS
        """Frames per second of the whole video."""
        self.frames = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        """Number of frames that the video reports; 0 for streams."""
        self._position = 0  # frames grabbed or skipped so far
        self._seekable = stride > SEEK_DETOUR and self.frames > stride
        # Only long strides need them: finding the key frames reads the whole file.
        self._starts = key_frames(location, self.rate) if self._seekable else np.zeros(0, int)

    def read(self) -> np.ndarray | None:
        """Return the next frame of the stride, uint8 [h, w, 3] BGR; None at the end."""
        frame = self._position + self._stride
        if not self._seek(frame) and not self._grab_until(frame):
            return None
        decoded, bgr = self._capture.retrieve()
        return bgr if decoded else None

    def close(self) -> None:
        """Close the video."""
        self._capture.release()

    def _open(self) -> cv2.VideoCapture:
        name = self._location
        capture = cv2.VideoCapture(int(name) if name.isdecimal() else name)
        if not capture.isOpened():
            raise ImageError("it cannot be opened as a video, a camera or a stream")
        return capture

    def _grab_until(self, frame: int) -> bool:
        """Grab frames one by one, which decodes them, up to a frame (from 1)."""
        while self._position < frame and self._capture.grab():
            self._position += 1
        return self._position == frame

    def _seek(self, frame: int) -> bool:
        """Skip to a frame (from 1) and grab it, if there is a key frame to start from.

        If the time of the frame shows that it is another one, start again without seeking.
        """
        useful = (self._starts >= self._position) & (self._starts < frame - SEEK_DETOUR)
        if frame > self.frames or not useful.any():
            return False
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, frame - 1)
        if self._capture.grab():
            shown = self._capture.get(cv2.CAP_PROP_POS_MSEC) * self.rate / MS_PER_S  # from 0
            if round(shown) == frame - 1:
                self._position = frame
                return True
        self.close()
        self._capture, self._position, self._starts = self._open(), 0, self._starts[:0]
        return False


def key_frames(location: str, rate: float) -> np.ndarray:
    """Return the indices of the frames, from 0, that a decoder can start from: int64 [n], sorted.

    There are none if the number of a frame does not follow from its time: at a variable frame rate,
    or with packets that are not shown. OpenCV seeks by time, so it would find other frames.
    """
    packets = cv2.VideoCapture(location)
    times, starts = [], []
    if packets.set(cv2.CAP_PROP_FORMAT, UNDECODED):
        while packets.grab():
            times.append(packets.get(cv2.CAP_PROP_POS_MSEC) * rate / MS_PER_S)
            starts.append(packets.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) > 0)
    packets.release()
    order = np.argsort(times)  # decoders get some frames later than they are shown
    if not np.array_equal(np.rint(np.array(times)[order]), np.arange(len(times))):
        return np.zeros(0, int)
    return np.flatnonzero(np.array(starts)[order])
