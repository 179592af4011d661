import cv2
import numpy as np
import pytest

from utils.inference.video import VideoReader, key_frames

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
