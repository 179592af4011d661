import contextlib
import io
import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from pycocotools.coco import COCO
from torch import Tensor

import val
from tests.paths import ROOT, SHARED, SHARED_GOLDENS, requires_shared
from utils.datasets.description import load_description
from utils.errors import UserError
from utils.evaluation import coco_eval as coco_benchmark
from utils.inference.backend import open_backend
from utils.options.arguments import parse_options
from utils.options.val_options import ValOptions

WEIGHTS = SHARED / "weights" / "yolov5n.pt"
IMAGES = SHARED / "datasets" / "coco128" / "images" / "train2017"


@requires_shared
def test_classes_in_another_order_are_reported(
    two_images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = yaml.safe_load(two_images.read_text())
    options = ("--data", two_images, "--imgsz", 64, "--noplots", *common(tmp_path))
    content["names"][7] = "lorry"  # only another name
    two_images.write_text(yaml.safe_dump(content))
    validate(*options)
    assert "another order" not in caplog.text
    content["names"][:2] = ["bicycle", "person"]
    two_images.write_text(yaml.safe_dump(content))
    validate(*options)
    assert (
        "in another order (bicycle is 0 in the data and 1 in the weights; person is 1 in the data "
        "and 0 in the weights); classes are compared by number" in caplog.text
    )


METRICS = ("precision", "recall", "map50", "map50_95")


@pytest.fixture
def two_images(tmp_path: Path) -> Path:
    """A data set of two COCO128 images, one without labels; returns its data-set file."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number, stem in enumerate(("000000000009", "000000000025")):
        shutil.copyfile(IMAGES / f"{stem}.jpg", tmp_path / "images" / f"{stem}.jpg")
        labels = Path(str(IMAGES).replace("images", "labels")) / f"{stem}.txt"
        if number == 0:
            shutil.copyfile(labels, tmp_path / "labels" / f"{stem}.txt")
    file = tmp_path / "two.yaml"
    names = list(load_description("coco128.yaml").names)
    file.write_text(
        yaml.safe_dump({"path": str(tmp_path), "train": "images", "val": "images", "names": names})
    )
    return file


def parse(*options: object) -> ValOptions:
    return parse_options(val.build_parser(), ValOptions, [str(option) for option in options])


def validate(*options: object) -> Path:
    return val.validate(parse(*options))


def common(tmp_path: Path) -> tuple[object, ...]:
    return ("--weights", WEIGHTS, "--device", "cpu", "--workers", 0, "--project", tmp_path / "runs")


@requires_shared
@pytest.mark.slow
@pytest.mark.parametrize("size", [320, 640])
def test_coco128_metrics_equal_the_reference(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(SHARED / "datasets"))
    options = ("--data", "coco128.yaml", "--imgsz", size, "--batch-size", 16, "--noplots")
    folder = validate(*options, *common(tmp_path))
    assert [path.name for path in folder.iterdir()] == ["metrics.json"]
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    goldens = json.loads((SHARED_GOLDENS / "val_yolov5n_coco128.json").read_text(encoding="utf-8"))
    golden = goldens[str(size)]
    overall = golden.pop("all")
    assert (found["images"], found["instances"]) == (128, 929)
    for name in METRICS:
        assert found[name] == pytest.approx(overall[name], abs=0.003), name
    classes = {result["name"]: result for result in found["classes"]}
    assert classes.keys() == golden.keys()
    for name, expected in golden.items():
        assert classes[name]["instances"] == expected["instances"]
        for metric in METRICS:
            assert classes[name][metric] == pytest.approx(expected[metric], abs=0.003), name


@requires_shared
def test_all_outputs(two_images: Path, tmp_path: Path) -> None:
    options = ("--data", two_images, "--imgsz", 320, "--conf-thres", 0.25, "--verbose")
    outputs = ("--save-txt", "--save-conf", "--save-json")
    folder = validate(*options, *outputs, *common(tmp_path))
    assert folder == tmp_path / "runs" / "exp"
    assert sorted(path.name for path in folder.iterdir()) == [
        "F1_curve.png",
        "PR_curve.png",
        "P_curve.png",
        "R_curve.png",
        "coco_ground_truth.json",
        "confusion_matrix.png",
        "labels",
        "metrics.json",
        "val_batch0_labels.jpg",
        "val_batch0_pred.jpg",
        "yolov5n_predictions.json",
    ]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["images"], metrics["instances"]) == (2, 8)
    results = json.loads((folder / "yolov5n_predictions.json").read_text(encoding="utf-8"))
    found = {(result["image_id"], result["category_id"]) for result in results}
    assert (25, 25) in found  # class 23, giraffe, is COCO category 25
    assert {image for image, _ in found} == {9, 25}
    lines = (folder / "labels" / "000000000025.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [6] * len(lines)
    assert "23" in {line.split()[0] for line in lines}
    assert all(float(line.split()[-1]) > 0.25 for line in lines)
    assert validate(*options, "--noplots", *common(tmp_path)).name == "exp2"


@requires_shared
@pytest.mark.slow
def test_coco_metrics_of_coco128(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(SHARED / "datasets"))
    options = ("--data", "coco128.yaml", "--batch-size", 16, "--noplots", "--save-json")
    folder = validate(*options, *common(tmp_path))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    coco = metrics["coco"]
    assert coco["library"].startswith("faster-coco-eval")
    assert coco["AP"] == pytest.approx(0.367, abs=0.002)
    assert metrics["map50_95"] == pytest.approx(coco["AP"], abs=0.01)
    assert metrics["map50"] == pytest.approx(coco["AP50"], abs=0.01)
    assert len(coco) == 13
    truth, results = folder / "coco_ground_truth.json", folder / "yolov5n_predictions.json"
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(truth)).loadRes(str(results))
    assert len(loaded.anns) == len(json.loads(results.read_text()))


@requires_shared
def test_images_without_boxes_are_evaluated(two_images: Path, tmp_path: Path) -> None:
    """Each detection above 0.25 is a false positive; detect.py finds as many."""
    shutil.rmtree(tmp_path / "labels")
    options = ("--data", two_images, "--imgsz", 320, "--noplots", "--save-txt", "--conf-thres")
    folder = validate(*options, 0.2501, *common(tmp_path))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["instances"], metrics["map50"], metrics["classes"]) == (0, 0, [])
    found = sum(len(file.read_text().splitlines()) for file in (folder / "labels").iterdir())
    assert found > 5
    assert metrics["false_positives_per_image"] == found / 2


@requires_shared
def test_published_ground_truth_is_preferred(two_images: Path, tmp_path: Path) -> None:
    names = load_description(two_images).names
    giraffe: dict[str, object] = {
        "id": 1,
        "image_id": 500,
        "category_id": names.index("giraffe"),
        "iscrowd": 0,
    }
    giraffe |= {"bbox": [385.5, 60.0, 214.7, 297.2], "area": 30000.0}
    truth = {
        "images": [
            {"id": 500, "file_name": "000000000025.jpg"},
            {"id": 501, "file_name": "000000000009.jpg"},
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [giraffe],
    }
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    two_images.write_text(two_images.read_text() + "annotations: instances.json\n")
    options = ("--data", two_images, "--imgsz", 320, "--noplots", "--save-json")
    folder = validate(*options, *common(tmp_path))
    assert not (folder / "coco_ground_truth.json").exists()
    results = json.loads((folder / "yolov5n_predictions.json").read_text(encoding="utf-8"))
    assert {result["image_id"] for result in results} == {500, 501}
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    # Only this ground truth contains the giraffe.
    assert metrics["coco"]["AP50"] == pytest.approx(1)


@requires_shared
def test_validation_without_a_coco_library(
    two_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(coco_benchmark, "find_spec", lambda _: None)
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    options = ("--data", two_images, "--imgsz", 320, "--noplots", "--save-json")
    folder = validate(*options, *common(tmp_path))
    assert "library is not installed; run: pip install faster-coco-eval" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == [
        "coco_ground_truth.json",
        "metrics.json",
        "yolov5n_predictions.json",
    ]


@requires_shared
def test_miss_rate(two_images: Path, tmp_path: Path) -> None:
    options = ("--data", two_images, "--imgsz", 320, "--miss-rate", *common(tmp_path))
    with pytest.raises(UserError, match=r"--miss-rate needs ground truth .* `miss_rate_gt:`"):
        validate(*options)
    # The giraffe is labelled as a pedestrian; the detector finds no person.
    person = {"image_id": 1, "category_id": 1, "bbox": [385, 60, 214, 297], "ignore": 0}
    truth = {
        "images": [{"id": 1, "im_name": "000000000025.png"}, {"id": 2, "im_name": "000000000009"}],
        "annotations": [{**person, "height": 297, "vis_ratio": 1.0}],
    }
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    two_images.write_text(two_images.read_text() + "miss_rate_gt: gt.json\n")
    missed = {"Reasonable": 100.0, "All": 100.0, "Reasonable_small": None}
    missed["Reasonable_occ=heavy"] = None
    folder = validate(*options)
    assert (folder / "miss_rate.png").stat().st_size > 10_000
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["miss_rate_percent"] == missed
    folder = validate(*options, "--single-cls", "--noplots")
    assert [path.name for path in folder.iterdir()] == ["metrics.json"]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["miss_rate_percent"] == {**missed, "Reasonable": 0.0, "All": 0.0}


@requires_shared
def test_ignore_regions_are_used(two_images: Path, tmp_path: Path) -> None:
    options = ("--data", two_images, "--imgsz", 320, "--noplots", *common(tmp_path))
    before = json.loads((validate(*options) / "metrics.json").read_text(encoding="utf-8"))
    (tmp_path / "ignore").mkdir()
    for stem in ("000000000009", "000000000025"):
        (tmp_path / "ignore" / f"{stem}.txt").write_text("0.5 0.5 1 1\n")
    after = json.loads((validate(*options) / "metrics.json").read_text(encoding="utf-8"))
    assert after["instances"] == before["instances"]
    assert after["map50"] > before["map50"]


@requires_shared
def test_single_cls_accepts_other_classes(two_images: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(two_images.read_text())
    content["names"] = content["names"][:60]
    two_images.write_text(yaml.safe_dump(content))
    options = ("--data", two_images, "--imgsz", 320, "--noplots", *common(tmp_path))
    with pytest.raises(UserError, match=r"has 60 classes, but .* detects 80"):
        validate(*options)
    folder = validate(*options, "--single-cls")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert [(result["name"], result["instances"]) for result in metrics["classes"]] == [("item", 8)]


@requires_shared
def test_speed_task_uses_square_images_and_saves_no_plots(two_images: Path, tmp_path: Path) -> None:
    options = ("--data", two_images, "--imgsz", 300, "--task", "speed", *common(tmp_path))
    index = val.build_split_index(parse(*options), load_description(two_images))
    backend = open_backend(WEIGHTS, torch.device("cpu"))
    batch = next(iter(val.build_loader(parse(*options), index, backend)))
    assert batch.images.shape == (2, 3, 320, 320)
    assert [path.name for path in validate(*options).iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", (0.001, 0.6)),
        ("--task speed", (0.25, 0.45)),
        ("--task speed --conf-thres 0.1 --iou-thres 0.5", (0.1, 0.5)),
    ],
)
def test_speed_task_has_its_own_thresholds(options: str, expected: tuple[float, float]) -> None:
    settings = val.eval_settings(parse(*options.split()))
    assert (settings.conf_thres, settings.iou_thres) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--batch-size 0", "--batch-size 0: must be at least 1"),
        ("--imgsz -1", "--imgsz -1: must be between 1 and 32768"),
        ("--conf-thres 2", "--conf-thres 2.0: must be between 0 and 1"),
        ("--save-conf", "--save-txt"),
    ],
)
def test_invalid_options_are_errors(options: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse(*options.split())


def test_missing_data_are_reported_before_the_weights_are_read(tmp_path: Path) -> None:
    data = tmp_path / "mine.yaml"
    data.write_text(f"path: {tmp_path / 'mine'}\nval: a\nnames: [a]\nobtain: ask the makers\n")
    options = ("--data", data, "--weights", tmp_path / "absent.pt", "--device", "cpu")
    with pytest.raises(
        UserError,
        match=r"data set .*mine does not exist .*; ask the makers; if you already have it, put",
    ):
        validate(*options)


def test_half_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--half needs a GPU"):
        validate("--half", "--device", "cpu", "--project", tmp_path)


def test_help_is_quick() -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "val.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--save-json" in done.stdout
    assert time.perf_counter() - start < 2  # 0.1 s on an idle machine; importing torch takes 3 s


@requires_shared
@pytest.mark.slow
def test_augmented_metrics_of_coco128(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics that YOLOv5's val.py --augment reports for these options."""
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(SHARED / "datasets"))
    options = ("--data", "coco128.yaml", "--batch-size", 16, "--noplots", "--augment")
    folder = validate(*options, *common(tmp_path))
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    expected = {"precision": 0.641, "recall": 0.496, "map50": 0.545, "map50_95": 0.367}
    assert {name: found[name] for name in METRICS} == pytest.approx(expected, abs=0.003)


class FixedSize:
    """A model that accepts images of one size only; it records their shapes and finds nothing."""

    device, dtype, batch, max_stride = torch.device("cpu"), torch.float32, None, 32

    def __init__(self, size: tuple[int, int], classes: int = 80) -> None:
        self.input_size, self.origin = size, "fixed.onnx"
        self.names = tuple(map(str, range(classes)))
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor, threshold: float) -> list[Tensor]:
        self.shapes.append(tuple(images.shape))
        return [torch.zeros(0, 85)] * len(images)


@requires_shared
def test_a_model_with_a_fixed_size_gets_square_images_of_it(
    two_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = ("--data", two_images, "--imgsz", 320, "--noplots", *common(tmp_path))
    backend = FixedSize((128, 128))
    monkeypatch.setattr("utils.inference.backend.open_backend", lambda *_, **__: backend)
    with caplog.at_level(logging.WARNING, "yolo"):
        folder = validate(*options)
    assert caplog.messages == ["fixed.onnx accepts only one image size; using 128 x 128."]
    assert backend.shapes == [(2, 3, 128, 128)]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["instances"], metrics["map50"]) == (8, 0)
    backend.input_size = (128, 96)
    with pytest.raises(UserError, match=r"fixed\.onnx accepts only images of 128 x 96"):
        validate(*options)
