import logging
import os
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageGrab

from tests.utils.datasets.web import closed_address, serving
from tests.utils.inference.test_video import FakeStream as FakeCapture
from utils.errors import UserError
from utils.inference.sources import SourceImage, file_name, open_source
from utils.inference.video import VideoReader

BLUE, RED = (250, 10, 20), (20, 10, 250)  # BGR


def image(path: Path, color: tuple[int, int, int] = BLUE, size: tuple[int, int] = (32, 64)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), color, np.uint8))
    return str(path)


def video(path: Path, frames: int = 6, fps: float = 10.0, step: int = 40) -> str:
    """Write a video whose frame i has the grey level `step` i."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (64, 32))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(np.full((32, 64, 3), step * i, np.uint8))
    writer.release()
    return str(path)


def load(*given: object, vid_stride: int = 1, failed: list[str] | None = None) -> list[SourceImage]:
    paths = [str(source) for source in given]
    source = open_source(
        paths, image_size=(64, 64), stride=32, vid_stride=vid_stride, failed=failed
    )
    return list(source)


def names(loaded: list[SourceImage]) -> list[str]:
    return [Path(item.path).name for item in loaded]


def test_a_list_may_have_comments(tmp_path: Path) -> None:
    image(tmp_path / "#1.png")
    image(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("# first\n#1.png\n\n#end\na.png\n")
    assert names(load(tmp_path / "list.txt")) == ["#1.png", "a.png"]
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="is empty; put one path on each line"):
        load(tmp_path / "list.txt")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damaged_image_is_named_and_has_failed(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of a JPEG is shown; a PNG that cannot be decoded at all is skipped."""
    path, failed = tmp_path / f"a{suffix}", list[str]()
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    whole = path.read_bytes()
    image(tmp_path / "b.png")
    assert names(load(path, tmp_path / "b.png", failed=failed)) == [path.name, "b.png"]
    assert (failed, caplog.messages) == ([], [])
    path.write_bytes(whole[: len(whole) // 2])
    found = load(path, tmp_path / "b.png", failed=failed)
    assert names(found) == ["a.jpg", "b.png"][suffix == ".png" :]
    assert failed == [str(path)]
    start = f"{path} is damaged (" if suffix == ".jpg" else f"Skipped {path}: it cannot be decoded"
    assert [message[: len(start)] for message in caplog.messages] == [start]


def test_image_file(tmp_path: Path) -> None:
    (item,) = load(image(tmp_path / "a.png", size=(20, 64)))
    assert (item.kind, item.number, item.files, item.frame, item.fps) == ("image", 1, 1, 0, 0.0)
    assert item.original.shape == (20, 64, 3)
    assert item.original[0, 0].tolist() == [250, 10, 20]  # BGR
    # 20 rows are padded by 6 above and below, to the next multiple of the stride
    assert item.network.shape == (32, 64, 3)
    assert (item.ratio, item.pad) == ((1.0, 1.0), (0.0, 6.0))
    assert item.network[5, 0].tolist() == [114, 114, 114]
    assert item.network[6, 0].tolist() == [20, 10, 250]  # RGB
    assert item.network.flags.c_contiguous


def test_folder_yields_its_images_and_videos_in_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.bmp", "inner/d.png"):
        image(tmp_path / name)
    video(tmp_path / "b.avi", frames=2)
    (tmp_path / "notes.md").write_text("not an image")
    loaded = load(tmp_path)
    assert names(loaded) == ["a.jpg", "b.PNG", "b.avi", "b.avi", "c.bmp"]
    assert [item.number for item in loaded] == [1, 2, 3, 3, 4]
    assert {item.files for item in loaded} == {4}


def test_glob_pattern(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b1.png", "inner/a3.png"):
        image(tmp_path / name)
    assert names(load(tmp_path / "a*.png")) == ["a1.png", "a2.png"]
    assert names(load(tmp_path / "**" / "a*.png")) == ["a1.png", "a2.png", "a3.png"]


def test_file_name_with_glob_characters(tmp_path: Path) -> None:
    assert names(load(image(tmp_path / "a[1].png"))) == ["a[1].png"]


def test_list_of_paths(tmp_path: Path) -> None:
    """Absolute paths, relative ones, and one of Windows; comments and blank lines are skipped."""
    image(tmp_path / "b.png")
    first = image(tmp_path / "inner" / "a.png")
    listing = tmp_path / "list.txt"
    listing.write_text(f"# my list\n{first}\n\n#\n  b.png\ninner\\a.png")
    assert names(load(listing)) == ["a.png", "b.png", "a.png"]


def test_video(tmp_path: Path) -> None:
    loaded = load(video(tmp_path / "v.avi"))
    assert [item.frame for item in loaded] == [1, 2, 3, 4, 5, 6]
    assert {(item.kind, item.frames, item.fps) for item in loaded} == {("video", 6, 10.0)}
    levels = [int(item.original[16, 32, 0]) for item in loaded]
    assert np.allclose(levels, [0, 40, 80, 120, 160, 200], atol=6)  # JPEG
    assert loaded[0].network.shape == (32, 64, 3)


def test_every_third_frame(tmp_path: Path) -> None:
    """The duration stays the same, with fewer frames per second."""
    loaded = load(video(tmp_path / "v.avi"), vid_stride=3)
    assert [item.frame for item in loaded] == [3, 6]
    assert loaded[0].fps == pytest.approx(10 / 3)
    assert abs(int(loaded[0].original[16, 32, 0]) - 80) <= 6


def test_unreadable_image_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    with caplog.at_level(logging.WARNING, "yolo"):
        assert names(load(tmp_path)) == ["a.png"]
    assert [message.split(":")[0] for message in caplog.messages] == [f"Skipped {tmp_path}/b.png"]


def test_unreadable_sources_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.avi"):
        (tmp_path / name).write_bytes(b"not an image")
    with pytest.raises(UserError, match="none of its 2 files can be read; give another source"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"a\.png cannot be used \(it cannot be decoded"):
        load(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"b\.avi cannot be used \(it cannot be opened as a video"):
        load(tmp_path / "b.avi")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jpg", "does not exist"),
        ("missing*.jpg", "has no image or video; give files of these types"),
        ("notes.md", "has no image or video; give files of these types"),
        ("empty", "has no image or video; give files of these types"),
        ("empty.txt", "is empty; put one path on each line"),
        ("binary.txt", "is not a UTF-8 text file"),
    ],
)
def test_invalid_sources_are_refused_before_the_first_image(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "notes.md").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path / name), image_size=(64, 64), stride=32)


def test_image_url(tmp_path: Path) -> None:
    image(tmp_path / "a.png", RED)
    with serving(tmp_path) as address:
        (item,) = load(f"{address}/a.png?size=1")
        with pytest.raises(UserError, match="cannot be downloaded"):
            load(f"{address}/missing.png")
    assert item.path.endswith("/a.png?size=1")
    assert item.network[0, 0].tolist() == [250, 10, 20]  # RGB
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*refused"):
        load(f"{closed_address()}/a.png")


def test_url_of_another_file_type(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("<html>")
    with (
        serving(tmp_path) as address,
        pytest.raises(UserError, match=r"a\.png cannot be used \(it is not an image\)"),
    ):
        load(f"{address}/a.png")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x" * 300, r"cannot be used \(.*File name too long"),
        ("~no-such-user/x", r"cannot be used \(Could not determine home directory"),
        ("a\0b.jpg", "does not exist"),
        ("http://[x", r"cannot be used \(Invalid IPv6 URL"),
        ("/dev/zero", "does not exist"),
    ],
)
def test_unresolvable_sources_are_refused(source: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        list(open_source(source, image_size=(64, 64), stride=32))


@pytest.mark.parametrize("suffix", [".png", ".mp4"])
def test_names_that_are_not_utf8_are_refused_before_opencv(tmp_path: Path, suffix: str) -> None:
    path = f"{tmp_path}/{os.fsdecode(bytes([255]))}{suffix}"
    Path(path).write_bytes(b"x")
    with pytest.raises(UserError, match="its name is not UTF-8; rename it"):
        list(open_source(path, image_size=(64, 64), stride=32))


def test_size_of_a_downloaded_image_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.inference.image_source.MAX_BYTES", 3 << 20)
    with (
        serving(tmp_path) as address,
        pytest.raises(UserError, match=r"cannot be used \(it is larger than 3 MiB\)"),
    ):
        list(open_source(f"{address}/a.jpg?endless", image_size=(64, 64), stride=32))


def test_several_sources(tmp_path: Path) -> None:
    first, second = image(tmp_path / "a.png"), image(tmp_path / "in" / "b.png")
    clip = video(tmp_path / "c.avi", frames=2)
    loaded = load(clip, tmp_path / "in", first)
    assert names(loaded) == ["c.avi", "c.avi", "b.png", "a.png"]
    assert [(item.number, item.files) for item in loaded] == [(1, 3), (1, 3), (2, 3), (3, 3)]
    with pytest.raises(UserError, match=r"--source .*/none\.png does not exist; give an image"):
        load(second, tmp_path / "none.png")


def test_what_failed_is_skipped_and_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken image, a pipe, and a video that ends early; what there is is yielded."""
    image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    os.mkfifo(tmp_path / "c.png")
    os.mkfifo(tmp_path / "d.mp4")
    clip = Path(video(tmp_path / "e.avi", frames=60, step=4))
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) // 2])
    failed: list[str] = []
    loaded = load(f"{tmp_path}/*.*", failed=failed)
    read = len(loaded) - 1
    assert 10 < read < 40
    assert [Path(path).name for path in failed] == ["b.png", "c.png", "d.mp4", "e.avi"]
    assert caplog.messages[1:] == [
        f"Skipped {tmp_path}/c.png: it cannot be read (Not a regular file).",
        f"Skipped {tmp_path}/d.mp4: it cannot be read (Not a regular file).",
        f"{clip}: {read} of 60 frames could be read.",
    ]


def test_video_without_a_readable_frame_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = video(tmp_path / "a.avi")
    monkeypatch.setattr(VideoReader, "read", lambda _: None)
    with pytest.raises(UserError, match=r"a\.avi cannot be used \(none of its frames can be read"):
        load(clip)


def test_images_that_are_too_large_or_nearly_black(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.full((32, 64), 4095, np.uint16))
    assert len(load(path)) == 1
    assert caplog.messages[0].startswith(f"{path} is nearly black, because it uses only the lower")
    content = path.read_bytes()
    header = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + content[24:29]
    code = zlib.crc32(header).to_bytes(4, "big")
    path.write_bytes(content[:12] + header + code + content[33:])
    with pytest.raises(UserError, match=r"a\.png cannot be used \(it has too many pixels \(Image"):
        load(path)
    with (
        serving(tmp_path) as address,
        pytest.raises(UserError, match=r"a\.png cannot be used \(it has too many pixels \(Image"),
    ):
        load(f"{address}/a.png")


def test_formats_that_are_not_read_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image(tmp_path / "a.png")
    for name in ("._a.png", "b.heic", "c.jfif"):
        (tmp_path / name).touch()
    assert names(load(tmp_path)) == ["a.png"]
    assert caplog.messages == [
        "Files of formats that are not read are left out: 2, for example "
        f"{tmp_path}/b.heic; convert them to JPEG."
    ]


def test_secrets_of_urls_are_masked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = closed_address().replace("http://", "http://me:secret@") + "/a.png?token=secret"
    (tmp_path / "list.txt").write_text(f"{address}\n{image(tmp_path / 'b.png')}")
    assert len(load(tmp_path / "list.txt")) == 1
    with pytest.raises(UserError) as caught:
        load(address)
    assert "secret" not in caplog.text + str(caught.value)
    assert "http://***@127.0.0.1:" in caplog.text
    assert "/a.png?token=***" in str(caught.value)


def test_file_names_of_urls() -> None:
    for url, name in (
        ("rtsp://me:secret@camera:554/live/1?token=x", "1"),
        ("rtsp://me:secret@camera.org:554/", "camera.org"),
        ("http://host/a%20b.jpg?x=1", "a%20b.jpg"),
    ):
        assert file_name(url).name == name


class FakeStream(FakeCapture):
    """A stream of five frames whose grey level is the number of the stream."""

    def __init__(self, location: str | int, *_: int) -> None:
        super().__init__([5])
        self.level = int(str(location)[-1])

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return True, np.full((32, 64, 3), self.level, np.uint8)


@pytest.mark.parametrize("suffix", [".txt", ".streams"])
def test_streams_are_read_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """After the files. Each stream is lost after its frames and not found again."""
    monkeypatch.setattr(cv2, "VideoCapture", FakeStream)
    monkeypatch.setattr("utils.inference.video.DELAYS_S", ())
    streams = ["rtsp://camera/1", "2", "http://host/stream3"]
    listed = "\n".join([*streams, image(tmp_path / "a.png")])
    (tmp_path / f"list{suffix}").write_text(listed)
    failed: list[str] = []
    loaded = load(tmp_path / f"list{suffix}", failed=failed)
    assert (loaded[0].number, loaded[0].files, loaded[0].kind) == (1, 4, "image")
    seen = {item.path: (item.number, int(item.original[0, 0, 0])) for item in loaded[1:]}
    assert seen == {stream: (i + 2, i + 1) for i, stream in enumerate(streams)}
    for stream in streams:
        frames = [item.frame for item in loaded if item.path == stream]
        assert frames == sorted(set(frames))
        assert frames[-1] == 5
    assert sorted(failed) == sorted(streams)
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]


def test_closing_ends_the_threads_of_endless_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", FakeStream)
    monkeypatch.setattr(FakeStream, "grab", lambda _: True)
    source = open_source(["0", "1"], image_size=(64, 64), stride=32)
    assert {next(source).path for _ in range(50)} == {"0", "1"}
    source.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "stream"]


def test_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = []

    def grab(box: tuple[int, ...] | None = None) -> Image.Image:
        boxes.append(box)
        return Image.new("RGBA", (64, 32), (20, 10, 250, 255))

    monkeypatch.setattr(ImageGrab, "grab", grab)
    for given, box in (
        (["screen"], None),
        (["screen", "10", "20", "64", "32"], (10, 20, 74, 52)),
        (["screen 0 10 20 64 32"], (10, 20, 74, 52)),
    ):
        source = open_source(given, image_size=(64, 64), stride=32)
        first, second = next(source), next(source)
        source.close()
        assert boxes.pop() == box
        assert (first.frame, second.frame, first.is_live) == (1, 2, True)
        assert first.original[0, 0].tolist() == [250, 10, 20]
    with pytest.raises(UserError, match="only screen 0 can be read"):
        load("screen 1 0 0 9 9")
    with pytest.raises(UserError, match="screen 7: give `screen`, or `screen LEFT TOP WIDTH H"):
        load("screen 7")
    monkeypatch.setattr(ImageGrab, "grab", lambda _: (_ for _ in ()).throw(OSError("no display")))
    with pytest.raises(UserError, match=r"--source screen cannot be used \(the screen cannot be"):
        load("screen")
