import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from utils.datasets.image_files import ImageError
from utils.inference.video import DELAYS_S, VideoReader, key_frames

FRAMES, RATE = 100, 10.0


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A video whose frames all differ; OpenCV writes a key frame in every 12."""
    path = str(tmp_path_factory.mktemp("video") / "v.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), RATE, (64, 48))
    assert writer.isOpened()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for i in range(FRAMES):
        writer.write(np.roll(noise, i, axis=1))
    writer.release()
    return path


def plain_loop(path: str, stride: int) -> list[np.ndarray]:
    """Every frame is grabbed, each n-th decoded."""
    capture, found = cv2.VideoCapture(path), []
    while all(capture.grab() for _ in range(stride)):
        found.append(capture.retrieve()[1])
    return found


def frames_of(reader: VideoReader) -> list[np.ndarray]:
    found = []
    while (frame := reader.read()) is not None:
        found.append(frame)
    reader.close()
    return found


def equal(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


@pytest.fixture
def seeks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The frames that were sought."""
    found: list[int] = []
    seek = VideoReader._seek

    def noting(self: VideoReader, frame: int) -> bool:
        done = seek(self, frame)
        found.extend([frame] * done)
        return done

    monkeypatch.setattr(VideoReader, "_seek", noting)
    return found


@pytest.mark.parametrize(
    ("stride", "sought"),
    [(1, []), (7, []), (16, []), (30, [30, 60, 90]), (45, [45, 90]), (99, [99]), (101, [])],
)
def test_every_nth_frame_is_that_of_a_plain_loop(
    video: str, stride: int, sought: list[int], seeks: list[int]
) -> None:
    assert equal(frames_of(VideoReader(video, stride)), plain_loop(video, stride))
    assert seeks == sought


def test_key_frames(video: str) -> None:
    assert key_frames(video, RATE).tolist() == list(range(0, FRAMES, 12))


def test_no_seeking_where_numbers_do_not_follow_from_times(video: str) -> None:
    assert key_frames(video, RATE * 2).tolist() == []


class LateAfterSeek:
    """A capture whose second seek shows a later frame than the one that was wanted."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self._seeks = 0

    def set(self, name: int, value: float) -> bool:
        self._seeks += 1
        return self._capture.set(name, value + (self._seeks == 2))

    def __getattr__(self, name: str) -> object:
        return getattr(self._capture, name)


def test_wrong_frame_after_a_seek_is_corrected(video: str, seeks: list[int]) -> None:
    """As in damaged files; from there on, the reader grabs every frame."""
    reader = VideoReader(video, 30)
    reader._capture = LateAfterSeek(reader._capture)  # type: ignore[assignment]
    assert equal(frames_of(reader), plain_loop(video, 30))
    assert seeks == [30]


def written(path: Path, frames: int = 60) -> bytes:
    """A video with a frame of noise, shifted; the codec depends on the suffix."""
    codec = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}[path.suffix]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), RATE, (64, 48))
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for i in range(frames):
        writer.write(np.roll(noise, i, axis=1))
    writer.release()
    return path.read_bytes()


def zeroed(content: bytes, start: float, end: float) -> bytes:
    first, last = int(len(content) * start), int(len(content) * end)
    return content[:first] + bytes(last - first) + content[last:]


def numbers_of(reader: VideoReader) -> list[int]:
    found = []
    while reader.read() is not None:
        found.append(reader.position)
    reader.close()
    return found


@pytest.mark.parametrize("stride", [1, 7, 20])
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_whole_video_has_no_shortfall(tmp_path: Path, suffix: str, stride: int) -> None:
    written(tmp_path / f"v{suffix}")
    reader = VideoReader(str(tmp_path / f"v{suffix}"), stride)
    assert numbers_of(reader) == list(range(stride, 61, stride))
    assert (reader.damaged, reader.shortfall()) == (0, None)


@pytest.mark.parametrize("stride", [1, 7, 20])
def test_damaged_frames_in_the_middle_are_skipped_and_counted(tmp_path: Path, stride: int) -> None:
    """The frames after them are those of the whole video and keep their numbers."""
    path = tmp_path / "v.mp4"
    content = written(path)
    whole = plain_loop(str(path), 1)
    path.write_bytes(zeroed(content, 0.3, 0.6))
    reader = VideoReader(str(path), stride)
    frames = {}
    while (frame := reader.read()) is not None:
        frames[reader.position] = frame
    assert 0 < reader.damaged < 25
    assert reader.shortfall() is None
    assert len(frames) >= (60 - reader.damaged) // stride
    assert max(frames) == 60 // stride * stride
    key_frame = next(n for n in range(49, 61) if n % 12 == 1)  # right again from here on
    for number in (n for n in frames if n < 12 or n >= key_frame):
        np.testing.assert_array_equal(frames[number], whole[number - 1])


@pytest.mark.parametrize("stride", [1, 7])
@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_truncated_video_ends_early(tmp_path: Path, suffix: str, stride: int) -> None:
    path = tmp_path / f"v{suffix}"
    content = written(path)
    path.write_bytes(content[: len(content) // 2])
    read = len(plain_loop(str(path), 1))
    assert 27 <= read <= 30
    reader = VideoReader(str(path), stride)
    assert numbers_of(reader) == list(range(stride, read + 1, stride))
    assert reader.shortfall() == (f"{read} of 60 frames could be read", True)


def test_damage_at_the_end_is_an_early_end(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    content = written(path)
    end = content.rindex(b"moov") / len(content)  # the index, which follows the frames
    path.write_bytes(zeroed(content, end * 0.6, end * 0.99))
    reader = VideoReader(str(path), 1)
    read = len(numbers_of(reader))
    assert 30 < read < 45
    assert reader.shortfall() == (f"{read} of 60 frames could be read", True)


def test_few_missing_frames_are_reported_but_no_early_end(tmp_path: Path) -> None:
    path = tmp_path / "v.avi"
    content = written(path)
    path.write_bytes(content[: int(len(content) * 0.965)])
    reader = VideoReader(str(path), 1)
    read = len(numbers_of(reader))
    assert read in (58, 59)
    assert reader.shortfall() == (f"{read} of 60 frames could be read", False)


class FakeStream:
    """A stream of grey frames; each connection ends after `ends.pop()` frames, 0 if refused."""

    def __init__(self, ends: list[int]) -> None:
        self.left = ends.pop(0) if ends else 0

    def isOpened(self) -> bool:  # noqa: N802 -- OpenCV's name
        return self.left > 0

    def get(self, _: int) -> float:
        return 0.0

    def grab(self) -> bool:
        self.left -= 1
        return self.left >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((48, 64, 3), self.left, np.uint8)

    def release(self) -> None:
        pass


def test_lost_stream_is_opened_again_with_a_growing_delay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends, waited = [3, 0, 0, 2], list[float]()
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: FakeStream(ends))
    monkeypatch.setattr("utils.inference.video.time.sleep", waited.append)
    reader = VideoReader("rtsp://me:secret@camera/live?token=secret", 1)
    assert numbers_of(reader) == [1, 2, 3, 4, 5]
    assert waited == [*DELAYS_S]
    assert reader.shortfall() == ("the stream was lost after 5 frames", True)
    assert caplog.messages[0] == (
        "rtsp://***@camera/live?token=***: the stream was lost after 3 frames; opening it again "
        "in 1 s."
    )
    assert "secret" not in caplog.text


def test_delays_begin_again_after_a_stable_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ends, waited = [3, 2, 2], list[float]()
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: FakeStream(ends))
    times = itertools.chain([0, 10, 11, 42, 43], itertools.repeat(44))  # opened, lost, opened, ...
    clock = SimpleNamespace(sleep=waited.append, monotonic=lambda: next(times))
    monkeypatch.setattr("utils.inference.video.time", clock)
    assert numbers_of(VideoReader("0", 1)) == [1, 2, 3, 4, 5, 6, 7]
    assert waited == [1, 1, *DELAYS_S[1:]]


def test_single_frame_of_an_http_url_is_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = [1, 1]
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: FakeStream(ends))
    reader = VideoReader("http://host/picture?id=1", 1)
    assert numbers_of(reader) == [1]
    assert reader.shortfall() is None


def test_pipes_and_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v.mp4")
    with pytest.raises(ImageError, match=r"it cannot be read \(Not a regular file\)"):
        VideoReader(str(tmp_path / "v.mp4"), 1)
    with pytest.raises(ImageError, match="it does not exist"):
        VideoReader(str(tmp_path / "w.mp4"), 1)
