"""detect.py reads, predicts and writes in threads: results and errors are those of one thread."""

import itertools
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
from tests.test_detect import run, tree
from tests.toy import make_toy_weights
from utils.datasets.letterbox import letterbox
from utils.errors import UserError
from utils.inference import outputs, sources
from utils.inference.backend import open_backend
from utils.inference.outputs import OutputSettings, PredictionFiles
from utils.inference.predictor import DetectSettings, Predictor
from utils.inference.sources import SourceImage
from utils.options.script import run_script


@pytest.fixture
def on_video(tmp_path: Path) -> list[object]:
    """The options that detect on a video of 12 frames with a toy model."""
    path = str(tmp_path / "v.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (96, 64))
    rng = np.random.default_rng(0)
    for _ in range(12):
        writer.write(rng.integers(0, 256, (64, 96, 3), np.uint8))
    writer.release()
    options = ["--weights", make_toy_weights(tmp_path), "--source", path, "--imgsz", 64]
    return [*options, "--device", "cpu", "--project", tmp_path / "runs", "--conf-thres", 0.001]


def test_video_is_that_of_a_plain_loop(on_video: list[object], tmp_path: Path) -> None:
    """Reading, predicting and writing one frame after another, without threads."""
    folder = run(*on_video, "--save-txt", "--save-conf", "--vid-stride", 2)
    expected = tmp_path / "expected"
    expected.mkdir()
    model = open_backend(tmp_path / "toy.pt", torch.device("cpu"))
    predictor = Predictor(model, DetectSettings(0.001))
    settings = OutputSettings(txt=True, txt_confidence=True)
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    with PredictionFiles(expected, model.names, settings) as files:
        for frame in range(2, 13, 2):
            capture.grab()
            bgr = capture.read()[1]
            fitted = letterbox(np.ascontiguousarray(bgr[..., ::-1]), 64, auto=True)
            source = str(tmp_path / "v.mp4")
            item = SourceImage(source, "video", bgr, *fitted, frame=frame, frames=12, fps=5.0)
            files.write(item, predictor([item])[0].detections)
    assert tree(folder) == ["labels/" + f"v_{n}.txt" for n in (10, 12, 2, 4, 6, 8)] + ["v.mp4"]
    for name in tree(folder):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()


def error_of(
    options: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """The exit code and the error output of detect.py; no thread is left."""
    threads = threading.active_count()
    monkeypatch.setattr("sys.argv", ["detect.py", *map(str, options)])
    with pytest.raises(SystemExit) as stop:
        run_script(detect.main)
    assert threading.active_count() == threads
    assert isinstance(stop.value.code, int)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("owner", "name", "error", "code", "sentence"),
    [
        (sources, "letterbox", UserError("no colour; buy some."), 2, "error: no colour; buy"),
        (Predictor, "__call__", KeyboardInterrupt(), 130, "interrupted\n"),
        (
            outputs,
            "draw_boxes",
            OSError(28, "No space left on device", "/d/v.mp4"),
            2,
            "error: cannot write /d/v.mp4: No space left on device; free disk space, then",
        ),
        (outputs, "draw_boxes", UserError("cannot write."), 2, "error: cannot write.\n"),
    ],
    ids=["reading", "Ctrl-C", "full disk", "writing"],
)
def test_error_in_any_thread_ends_the_program_in_one_sentence(  # noqa: PLR0917
    owner: object,
    name: str,
    error: BaseException,
    code: int,
    sentence: str,
    on_video: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """The error comes with the 4th frame; frames before it are written, and the video is whole."""
    right = getattr(owner, name)
    calls = itertools.count(1)

    def failing(*args: object, **options: object) -> object:
        if next(calls) == 4:
            raise error
        return right(*args, **options)

    monkeypatch.setattr(owner, name, failing)
    found = error_of(on_video, monkeypatch, capsys)
    assert found[0] == code
    assert found[1].startswith(sentence)
    assert found[1].count("\n") == 1
    capture = cv2.VideoCapture(str(tmp_path / "runs" / "exp" / "v.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
