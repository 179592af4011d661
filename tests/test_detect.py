import csv
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
from models.detector import Detector, fuse
from models.spec import load_spec
from tests.paths import ROOT, SHARED, SHARED_GOLDENS, requires_shared
from tests.toy import make_toy_model, make_toy_weights
from utils.errors import UserError
from utils.inference.backend import TorchBackend, open_backend
from utils.inference.outputs import OutputSettings, PredictionFiles, crop_box, spreadsheet_text
from utils.inference.predictor import DetectSettings, Prediction, Predictor, Speed
from utils.inference.sources import SourceImage, open_source
from utils.options.arguments import parse_options
from utils.options.detect_options import DetectOptions

WEIGHTS = SHARED / "weights" / "yolov5n.pt"
COCO128 = SHARED / "datasets" / "coco128" / "images" / "train2017"
NAMES = ("cat", "a/b: c")

# corners in an image of 100 x 80 pixels, confidence, class; highest confidence first
FOUND = np.array([[20, 20, 60, 40, 0.9, 1], [0, 10, 10, 30, 0.5, 0]], np.float32)


def loaded(path: str = "/in/a.png", kind: str = "image", frame: int = 0) -> SourceImage:
    image = np.zeros((80, 100, 3), np.uint8)
    return SourceImage(path, kind, image, image, (1, 1), (0, 0), 2, 7, frame, 9, 10.0)  # type: ignore[arg-type]


def toy(folder: Path) -> TorchBackend:
    return TorchBackend(fuse(Detector(load_spec(make_toy_model(folder)))), NAMES, "toy.pt")


def run(*options: object) -> Path:
    argv = [str(option) for option in options]
    return detect.detect(parse_options(detect.build_parser(), DetectOptions, argv))


def pixels(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def write(folder: Path, settings: OutputSettings, *items: SourceImage) -> None:
    with PredictionFiles(folder, NAMES, settings) as files:
        for item in items:
            files.write(item, FOUND, files.annotate(item, FOUND))


@requires_shared
@pytest.mark.slow
def test_same_detections_as_the_reference() -> None:
    """The reference file rounds corners to whole pixels, so the tolerance is one pixel."""
    golden = json.loads((SHARED_GOLDENS / "detect_yolov5n_640.json").read_text(encoding="utf-8"))
    settings = DetectSettings(golden["conf_thres"], golden["iou_thres"])
    predictor = Predictor(open_backend(WEIGHTS, torch.device("cpu")), settings)
    assert len(golden["detections"]) == 7
    for stem, rows in golden["detections"].items():
        folder = COCO128 if stem.isdecimal() else SHARED / "images"
        (image,) = open_source(str(folder / f"{stem}.jpg"), image_size=(640, 640), stride=32)
        found = predictor([image])[0].detections
        height, width = image.original.shape[:2]
        expected = np.array(rows)[::-1]  # highest confidence first
        assert found[:, 5].tolist() == expected[:, 0].tolist()
        assert found[:, 4] == pytest.approx(expected[:, 5], abs=0.005)
        centre = expected[:, 1:3] * (width, height)
        half = expected[:, 3:5] * (width, height) / 2
        corners = np.concatenate((centre - half, centre + half), axis=1)
        assert np.abs(found[:, :4] - corners).max() <= 1.0


@requires_shared
def test_detect_end_to_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "yolo"):
        folder = run(
            *("--weights", WEIGHTS, "--source", SHARED / "images", "--device", "cpu"),
            *("--imgsz", 320, "--classes", 0, "--project", tmp_path, "--save-txt", "--save-conf"),
            *("--save-csv", "--save-crop"),
        )
    assert folder == tmp_path / "exp"
    found = set(tree(folder))
    assert {"bus.jpg", "zidane.jpg", "labels/bus.txt", "predictions.csv"} <= found
    assert {"labels/zidane.txt", "crops/person/bus.jpg", "crops/person/zidane.jpg"} <= found
    rows = [line.split() for line in (folder / "labels/bus.txt").read_text().splitlines()]
    assert {(len(row), row[0]) for row in rows} == {(6, "0")}  # persons only
    confidences = [float(row[5]) for row in rows]
    assert confidences == sorted(confidences)
    assert pixels(folder / "bus.jpg").shape == (1080, 810, 3)
    report = [message for message in caplog.messages if message.startswith("image")]
    assert report[0].startswith(f"image 1/2 {SHARED}/images/bus.jpg: 320x256 ")
    assert f" {len(rows)} persons, " in report[0]
    assert caplog.messages[-3].startswith("Speed: ")
    assert caplog.messages[-2:] == [
        f"2 labels saved to {folder}/labels",
        f"Results saved to {folder}",
    ]


def test_images_are_padded_to_the_fixed_size_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backend = toy(tmp_path)
    shapes: list[tuple[int, ...]] = []
    backend.model.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    backend.input_size = (96, 160)  # type: ignore[assignment]
    monkeypatch.setattr("utils.inference.backend.open_backend", lambda *_, **__: backend)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 60, 3), np.uint8))
    with caplog.at_level(logging.INFO, "yolo"):
        run("--source", tmp_path / "a.png", "--project", tmp_path, "--nosave")
    assert shapes == [(1, 3, 96, 160)]
    assert caplog.messages[0] == "toy.pt accepts only one image size; using 96 x 160."
    assert caplog.messages[1].startswith(f"image 1/1 {tmp_path}/a.png: 96x160 ")


@pytest.mark.parametrize("more", ["--augment", ""])
def test_a_model_twice_detects_what_it_detects_once(more: str, tmp_path: Path) -> None:
    """NMS drops the second copy of every box."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 200, np.uint8))
    weights = make_toy_weights(tmp_path)
    options: list[object] = ["--source", tmp_path / "a.png", "--imgsz", 64, "--max-det", 9]
    options += ["--conf-thres", 0.001, "--project", tmp_path, "--nosave", "--save-txt"]
    options += ["--save-conf", *more.split()]
    one, two = (run("--weights", *files, *options) for files in ([weights], [weights] * 2))
    labels = (one / "labels" / "a.txt").read_text()
    assert len(labels.splitlines()) == 9
    assert (two / "labels" / "a.txt").read_text() == labels


@requires_shared
def test_nosave_writes_nothing_and_runs_are_numbered(tmp_path: Path) -> None:
    options = ("--weights", WEIGHTS, "--source", SHARED / "images" / "bus.jpg", "--imgsz", 96)
    first, second = (run(*options, "--nosave", "--project", tmp_path) for _ in range(2))
    assert (first.name, second.name) == ("exp", "exp2")
    assert tree(tmp_path) == []
    assert run(*options, "--project", tmp_path, "--exist-ok") == first
    assert tree(tmp_path) == ["exp/bus.jpg"]


def test_predictor_maps_boxes_to_the_original(tmp_path: Path) -> None:
    """Boxes are mapped back through an explicit scale and padding."""
    settings = DetectSettings(conf_thres=0.0, iou_thres=1.0, max_det=50)
    predictor = Predictor(toy(tmp_path), settings)
    image = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (64, 64, 3), np.uint8)
    plain = SourceImage("x", "image", image, image, (1.0, 1.0), (0.0, 0.0), 1, 1)
    boxes = predictor([plain])[0].detections
    assert boxes.shape == (50, 6)
    assert (np.diff(boxes[:, 4]) <= 0).all()
    assert 0 <= boxes[:, :4].min() < boxes[:, :4].max() <= 64

    twice = plain._replace(original=np.zeros((120, 96, 3)), ratio=(0.5, 0.5), pad=(8.0, 2.0))
    expected = np.clip((boxes[:, :4] - (8, 2, 8, 2)) / 0.5, 0, (96, 120, 96, 120))
    (mapped,) = predictor([twice])
    assert mapped.detections[:, :4] == pytest.approx(expected, abs=1e-3)


class CountingPredictor(Predictor):
    """Notes the sizes of its batches."""

    def __call__(self, loaded: Sequence[SourceImage]) -> list[Prediction]:
        self.sizes = [*getattr(self, "sizes", []), len(loaded)]
        return super().__call__(loaded)


def of_shapes(rows: Sequence[int], kind: str = "image") -> list[SourceImage]:
    """Images of random pixels, whose widths are 64."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (height, 64, 3), np.uint8) for height in rows]
    return [SourceImage(str(i), kind, p, p, (1.0, 1.0), (0.0, 0.0)) for i, p in enumerate(pixels)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    # Of the 9 images, the 1st, 3rd, 5th, 7th and 9th are equal in shape, and the 2nd, 6th and 8th.
    [(1, [1] * 9), (2, [2, 2, 2, 1, 1, 1]), (4, [4, 3, 1, 1])],
)
def test_batches_of_equal_shapes_yield_the_detections_of_single_images_in_order(
    tmp_path: Path, batch_size: int, sizes: list[int]
) -> None:
    """Equal up to rounding, as the library may sum a batch in another order than an image."""
    settings = DetectSettings(conf_thres=0.0, iou_thres=0.5, max_det=20)
    predictor = CountingPredictor(toy(tmp_path), settings)
    images = of_shapes([64, 32, 64, 96, 64, 32, 64, 32, 64])
    pairs = list(predictor.in_batches(iter(images), batch_size))
    assert predictor.sizes == sizes
    assert [image.path for image, _ in pairs] == [image.path for image in images]
    for image, prediction in pairs:
        (alone,) = predictor([image])
        assert prediction.detections == pytest.approx(alone.detections, rel=1e-5, abs=1e-4)


def test_waiting_for_a_full_batch_has_a_limit_and_ends_with_a_video(tmp_path: Path) -> None:
    predictor = CountingPredictor(toy(tmp_path), DetectSettings())
    given: list[str] = []

    def images() -> Iterator[SourceImage]:
        for image in [*of_shapes([96, *[64, 32] * 4]), *of_shapes([64, 64], "video")]:
            given.append(image.path)
            yield image

    found = [len(given) for _ in predictor.in_batches(images(), 3)]
    # The first is predicted when 12 images wait or a video comes: the 10th is one.
    assert found == [10] * 10 + [11]


def test_yolo_label_files(tmp_path: Path) -> None:
    """Lowest confidence first, as in YOLOv5."""
    write(tmp_path, OutputSettings(images=False, txt=True), loaded())
    assert tree(tmp_path) == ["labels/a.txt"]
    text = (tmp_path / "labels/a.txt").read_text()
    assert text == "0 0.05 0.25 0.1 0.25\n1 0.4 0.375 0.4 0.25\n"


def test_voc_label_files_with_confidence(tmp_path: Path) -> None:
    settings = OutputSettings(images=False, txt=True, txt_format=1, txt_confidence=True)
    write(tmp_path, settings, loaded("/in/v.mp4", "video", 3))
    assert (tmp_path / "labels/v_3.txt").read_text() == "0 0 10 10 30 0.5\n1 20 20 60 40 0.9\n"


def test_no_label_file_without_detections(tmp_path: Path) -> None:
    with PredictionFiles(tmp_path, NAMES, OutputSettings(images=False, txt=True)) as files:
        files.write(loaded(), FOUND[:0], None)
        assert files.label_files == 0
    assert tree(tmp_path) == []


def test_table(tmp_path: Path) -> None:
    write(tmp_path, OutputSettings(images=False, csv=True), loaded("/in/a.png"), loaded("/b.jpg"))
    with (tmp_path / "predictions.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["Image Name", "Prediction", "Confidence"],
            ["a.png", "cat", "0.50"],
            ["a.png", "a/b: c", "0.90"],
            ["b.jpg", "cat", "0.50"],
            ["b.jpg", "a/b: c", "0.90"],
        ]


def test_crops(tmp_path: Path) -> None:
    """Crops exceed the box by 2 % and 10 pixels, clipped to the image; names are sanitized."""
    write(tmp_path, OutputSettings(images=False, crops=True), loaded())
    assert tree(tmp_path) == ["crops/a_b_ c/a2.jpg", "crops/cat/a.jpg"]
    assert pixels(tmp_path / "crops/cat/a.jpg").shape == (31, 15, 3)
    image = np.broadcast_to(np.arange(80)[:, None, None], (80, 100, 1))  # the row's number
    crop = crop_box(image, np.array([20.0, 20, 60, 40]))
    # 40 x 20 grow to 50.8 x 30.4 about (40, 30)
    assert (crop.shape[:2], crop[0, 0, 0]) == ((31, 51), 14)


def test_outputs_of_equally_named_files_are_numbered(tmp_path: Path) -> None:
    sources = ("/x/a.png", "/y/a.png", "http://z/a.jpg?n=1", "/x/a.heic", "/x/a.png")
    write(tmp_path, OutputSettings(txt=True), *(loaded(source) for source in sources))
    images = ["a.png", "a2.png", "a3.jpg", "a4.jpg"]
    labels = [f"labels/{name[:-4]}.txt" for name in images]
    assert tree(tmp_path) == images + labels


def test_no_crop_or_label_file_replaces_another(tmp_path: Path) -> None:
    """The names of crops and frames end with numbers, as those of other images may."""
    boxes = FOUND[[0] * 11]
    items = [
        *(loaded(f"/in/{name}", "image") for name in ("1.png", "12.png", "111.png", "1_2.png")),
        *(loaded("/in/clip.mp4", "video", frame) for frame in (1, 2, 11)),
        *(loaded(f"/in/clip{end}.jpg") for end in ("_1", "_1_2", "_12")),
        *(loaded("/in/again.mp4", "video", 1)._replace(number=number) for number in (1, 2)),
    ]
    settings = OutputSettings(txt=True, crops=True)
    with PredictionFiles(tmp_path, NAMES, settings) as files:
        for item in items:
            files.write(item, boxes)
    found = tree(tmp_path)
    assert len([name for name in found if name.startswith("crops/")]) == len(items) * len(boxes)
    labels = {name for name in found if name.startswith("labels/")}
    assert len(labels) == len(items) == files.label_files
    plain = {"1", "12", "111", "1_2", "clip_1", "clip_2", "clip_11", "clip_12", "again_1"}
    assert {f"labels/{name}.txt" for name in plain} < labels
    first = {f"crops/a_b_ c/1{number}.jpg" for number in ("", *range(2, 12))}
    assert first < set(found)  # of the first image, all have plain names
    assert {"again.mp4", "again2.mp4", "clip.mp4", "clip_1.jpg"} < set(found)


def test_video_is_written_as_one_file_per_source(tmp_path: Path) -> None:
    frames = [loaded("/in/v.avi", "video", i) for i in (1, 2, 3)]
    write(tmp_path, OutputSettings(), *frames, loaded("0", "video", 1))
    assert tree(tmp_path) == ["0.mp4", "v.mp4"]
    (first, second, third) = open_source(
        str(tmp_path / "v.mp4"), image_size=(80, 100), stride=4, vid_stride=1
    )
    assert (first.original.shape, third.frame, second.fps) == ((80, 100, 3), 3, 10.0)
    assert first.original.max() > 100  # the boxes


def test_long_names_are_shortened_and_kept_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Names of 246 bytes plus a suffix, which differ at the end only; likewise class names."""
    settings = OutputSettings(txt=True, crops=True)
    sources = [f"/in/{'é' * 122}x{end}.mp4" for end in "ab"]
    long_names = ["cat" * 100 + end for end in "ab"]
    with PredictionFiles(tmp_path, long_names, settings) as files:
        for source in sources:
            for frame in (1, 1_000_000):
                files.write(loaded(source, "video", frame), FOUND)
    stem = "é" * 115  # 230 bytes, and room for what follows
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == [f"{stem}.mp4", f"{stem}2.mp4"]
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == sorted(
        f"{name}_{frame}.txt" for name in (stem, f"{stem}2") for frame in (1, 1_000_000)
    )
    folders = sorted(path.name for path in (tmp_path / "crops").iterdir())
    assert folders == [f"{'cat' * 77}", f"{'cat' * 77}2"]
    assert [len(list((tmp_path / "crops" / name).iterdir())) for name in folders] == [4, 4]
    assert caplog.messages == [f"Long names are shortened in the output, for example {'é' * 40} …"]


def test_crops_of_names_that_differ_in_other_characters_are_kept_apart(tmp_path: Path) -> None:
    with PredictionFiles(tmp_path, ("a:b", "a/b"), OutputSettings(crops=True)) as files:
        files.write(loaded(), FOUND)
    assert sorted(path.name for path in (tmp_path / "crops").iterdir()) == ["a_b", "a_b2"]


def test_streams_are_written_at_the_same_time_in_the_size_of_their_first_frame(
    tmp_path: Path,
) -> None:
    def frame(stream: str, number: int, size: tuple[int, int] = (80, 100)) -> SourceImage:
        image = np.zeros((*size, 3), np.uint8)
        return loaded(stream, "video", number)._replace(original=image, frames=0)

    shown = [frame("rtsp://a/1", 1), frame("rtsp://b/2", 1), frame("rtsp://a/1", 2)]
    write(tmp_path, OutputSettings(), *shown, frame("rtsp://b/2", 2, (160, 200)))
    for name in ("1.mp4", "2.mp4"):
        video = cv2.VideoCapture(str(tmp_path / name))
        sizes = [video.read()[1].shape for _ in range(2)]
        assert sizes == [(80, 100, 3)] * 2
        assert not video.read()[0]


def test_incomplete_video_is_reported(tmp_path: Path) -> None:
    files = PredictionFiles(tmp_path, NAMES, OutputSettings())
    files.write(loaded("/in/v.avi", "video", 1), FOUND)
    (tmp_path / "v.mp4").unlink()
    files.__exit__(KeyboardInterrupt)  # an earlier error is not replaced
    files.write(loaded("/in/v.avi", "video", 1), FOUND)
    (tmp_path / "v.mp4").unlink()
    with pytest.raises(UserError, match=r"v\.mp4: it is incomplete, .*disk is full"):
        files.__exit__(None)


def test_captions() -> None:
    for settings, differs in ((OutputSettings(), True), (OutputSettings(hide_labels=True), False)):
        files = PredictionFiles(Path(), NAMES, settings)
        drawn = files.annotate(loaded(), FOUND)
        assert bool(drawn[5:15, 22:50].any()) is differs  # above the box at (20, 20)
    bare = PredictionFiles(Path(), NAMES, OutputSettings(hide_conf=True))._caption(0, 0.5)
    assert bare == "cat"


@pytest.mark.parametrize(
    ("item", "found", "line"),
    [
        (loaded(), FOUND, "image 2/7 /in/a.png: 80x100 1 cat, 1 a/b: c, 12.3ms"),
        (loaded(), FOUND[[0, 0]], "image 2/7 /in/a.png: 80x100 2 a/b: cs, 12.3ms"),
        (loaded(), FOUND[:0], "image 2/7 /in/a.png: 80x100 (no detections), 12.3ms"),
        (loaded("v", "video", 4), FOUND[:1], "video 2/7 (4/9) v: 80x100 1 a/b: c, 12.3ms"),
        (
            loaded("rtsp://me:word@a/1?key=word", "video", 4),
            FOUND[:1],
            "video 2/7 (4/9) rtsp://***@a/1?key=***: 80x100 1 a/b: c, 12.3ms",
        ),
        (
            loaded("0", "video", 4)._replace(frames=0),
            FOUND[:1],
            "video 2/7 (4) 0: 80x100 1 a/b: c, 12.3ms",
        ),
    ],
)
def test_report_line(item: SourceImage, found: np.ndarray, line: str) -> None:
    assert detect.report_line(item, Prediction(found, Speed(1.0, 12.34, 1.0)), NAMES) == line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--conf-thres", "1.5"), r"--conf-thres 1\.5: must be between 0 and 1"),
        (("--iou-thres", "-1"), "--iou-thres"),
        (("--max-det", "0"), "--max-det 0: must be at least 1"),
        (("--vid-stride", "0"), "--vid-stride"),
        (("--line-thickness", "0"), "--line-thickness"),
        (("--imgsz", "1", "2", "3"), "--imgsz 1 2 3: give one size, or the height and the width"),
        (("--imgsz", "0"), "--imgsz 0: must be between 1 and 32768"),
        (("--weights", "missing.pt"), r"missing\.pt"),
        (("--half", "--device", "cpu"), "--half needs a GPU"),
    ],
)
def test_bad_options(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(*options, "--project", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only X11 can be seen to be absent"
)
def test_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "argv", ["detect.py", "--view-img"])
    with pytest.raises(UserError, match="--view-img needs a display"):
        detect.main()


def test_class_names_come_from_the_weights_or_from_data(tmp_path: Path) -> None:
    assert detect.class_names(DetectOptions(), NAMES) == NAMES
    data = tmp_path / "two.yaml"
    data.write_text("path: .\ntrain: images\nval: images\nnames: [dog, bird]\n")
    theirs = DetectOptions(data=str(data))
    assert detect.class_names(theirs, NAMES) == ("dog", "bird")
    with pytest.raises(UserError, match=r"has 2 classes, but .* detects 3"):
        detect.class_names(theirs, (*NAMES, "third"))
    with pytest.raises(UserError, match="--classes 2: must be between 0 and 1"):
        detect.class_names(DetectOptions(classes=[0, 2]), NAMES)


def test_name_with_a_line_break_is_one_line() -> None:
    line = detect.report_line(loaded(), Prediction(FOUND, Speed(1.0, 1.0, 1.0)), ("a\nb", "c"))
    assert line == "image 2/7 /in/a.png: 80x100 1 a b, 1 c, 1.0ms"


def test_without_a_source_two_sample_images_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "__file__", str(tmp_path / "clone" / "detect.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    weights = make_toy_weights(tmp_path)
    run("--imgsz", 64, "--weights", weights, "--device", "cpu", "--project", tmp_path / "runs")
    assert tree(tmp_path / "runs" / "exp") == ["street_0.jpg", "street_1.jpg"]
    assert tree(tmp_path / "clone") == ["data/images/street_0.jpg", "data/images/street_1.jpg"]
    (tmp_path / "data" / "images").mkdir(parents=True)  # as in a clone of YOLOv5
    assert detect.sources_of(DetectOptions()) == ["data/images"]
    assert detect.sources_of(DetectOptions(source=["a.jpg"])) == ["a.jpg"]


def test_video_that_ends_early_is_written_and_the_exit_code_is_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    for _ in range(12):
        writer.write(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    writer.release()
    options = ["--weights", make_toy_weights(tmp_path), "--source", path, "--imgsz", 64]
    options += ["--device", "cpu", "--project", tmp_path / "runs"]
    monkeypatch.setattr(sys, "argv", ["detect.py", *map(str, options)])
    detect.main()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SystemExit) as stop:
        detect.main()
    assert stop.value.code == 1
    video = cv2.VideoCapture(str(tmp_path / "runs" / "exp2" / "v.mp4"))
    assert 4 <= video.get(cv2.CAP_PROP_FRAME_COUNT) <= 6


def test_help_is_quick() -> None:
    """--help imports no torch; the fastest of three runs counts, as the machine may be busy."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "detect.py", "--help"], cwd=ROOT, check=True, capture_output=True
        )
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("person", "person"),
        ("traffic light", "traffic light"),
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        (" =1", "' =1"),
        ("＝1", "'＝1"),
        ("a\x1b[31m", "a\\x1b[31m"),
        ("\t=1", "'\\t=1"),
        ("a\nb", "a\\nb"),
        ("a=b", "a=b"),
    ],
)
def test_spreadsheets_run_no_class_name_as_a_formula(text: str, shown: str) -> None:
    assert spreadsheet_text(text) == shown


def test_predictions_csv_is_safe(tmp_path: Path) -> None:
    settings = OutputSettings(images=False, csv=True)
    with PredictionFiles(tmp_path, ["=cmd|' /C calc'!A0"], settings) as files:
        files.write(loaded("/in/=a.png"), np.array([[0.0, 0, 9, 9, 0.5, 0]]))
    with (tmp_path / "predictions.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == ["'=a.png", "'=cmd|' /C calc'!A0", "0.50"]
