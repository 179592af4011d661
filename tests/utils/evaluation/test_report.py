import json
import logging
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.datasets.dataset import Batch, Frame
from utils.evaluation.evaluate import ClassResult, Evaluation
from utils.evaluation.metrics import ap_per_class
from utils.evaluation.report import (
    BatchPlots,
    TextFiles,
    log_table,
    save_metrics,
    save_plots,
    text_file_names,
)

# 100 px high, 200 px wide; letterboxed to 200 x 200 without scaling.
FRAME = Frame("images/000000000042.jpg", original=(100, 200), ratio=(1.0, 1.0), pad=(0.0, 50.0))
FOUND = torch.tensor([[20.0, 70.0, 60.0, 90.0, 0.75, 1.0]])


def make_batch(*names: str) -> Batch:
    return Batch(
        images=torch.zeros(len(names), 3, 200, 200, dtype=torch.uint8),
        targets=torch.zeros(0, 6),
        indices=torch.arange(len(names)),
        frames=tuple(FRAME._replace(path=name) for name in names),
    )


@pytest.fixture
def evaluation() -> Evaluation:
    labels = np.array([0, 1])
    metrics = ap_per_class(np.ones((2, 10), bool), np.ones(2), labels, labels, ("cat", "dög"))
    return Evaluation(
        precision=0.58649,
        recall=0.508,
        map50=1.0,
        map50_95=0.0125,
        losses=(0.0, 0.0, 0.0),
        images=128,
        instances=929,
        classes=(ClassResult(1, "dög", 128, 9, 0.5, 0.25, 0.75, 0.125),),
        names=("cat", "dög"),
        curves=metrics.curves,
        confusion=np.eye(3, dtype=np.int64),
        speed_ms=(0.5, 10.25, 1.0),
    )


def test_table(
    evaluation: Evaluation, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="yolo"):
        log_table(evaluation)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        log_table(evaluation, per_class=True)
    header = (
        "                 Class     Images  Instances          P          R      mAP50   mAP50-95"
    )
    every = (
        "                   all        128        929      0.586      0.508          1     0.0125"
    )
    dog = "                   dög        128          9        0.5       0.25       0.75      0.125"
    assert caplog.messages == [header, every, every, dog]


def test_images_without_boxes(
    evaluation: Evaluation, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Five detections of two classes, and a row and a column for the background."""
    confusion = np.array([[0, 0, 3], [0, 0, 2], [0, 0, 0]])
    nothing = replace(evaluation, images=4, instances=0, classes=(), confusion=confusion)
    log_table(nothing)
    assert caplog.messages == [
        "The images have no boxes, so precision, recall and mAP are undefined, and shown as 0; "
        "1.25 false positives per image with a confidence above 0.25."
    ]
    save_metrics(nothing, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["false_positives_per_image"] == 1.25


def test_row_of_a_name_with_a_line_break_is_one_line(
    evaluation: Evaluation, caplog: pytest.LogCaptureFixture
) -> None:
    (result,) = evaluation.classes
    caplog.set_level("INFO", logger="yolo")
    log_table(replace(evaluation, classes=(replace(result, name="a\nb"),)), per_class=True)
    assert caplog.messages[2].split()[:3] == ["a", "b", "128"]
    assert "\n" not in caplog.messages[2]


def test_mean_over_some_classes(evaluation: Evaluation) -> None:
    assert evaluation.map50_95_of(["dög", "cat"]) == 0.125  # cat has no labels
    assert math.isnan(evaluation.map50_95_of(["cat"]))


def test_metrics_file(evaluation: Evaluation, tmp_path: Path) -> None:
    save_metrics(evaluation, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == {
        "precision": 0.58649,
        "recall": 0.508,
        "map50": 1.0,
        "map50_95": 0.0125,
        "images": 128,
        "instances": 929,
        "speed_ms_per_image": {"preprocess": 0.5, "inference": 10.25, "nms": 1.0},
        "classes": [
            {
                "index": 1,
                "name": "dög",
                "images": 128,
                "instances": 9,
                "precision": 0.5,
                "recall": 0.25,
                "map50": 0.75,
                "map50_95": 0.125,
            }
        ],
    }


def test_metrics_of_benchmarks_are_in_the_same_file(evaluation: Evaluation, tmp_path: Path) -> None:
    save_metrics(evaluation, tmp_path / "metrics.json", {"coco": {"AP": 0.5}})
    record = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert (record["map50"], record["coco"]) == (1.0, {"AP": 0.5})


def test_plots(evaluation: Evaluation, tmp_path: Path) -> None:
    save_plots(evaluation, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "F1_curve.png",
        "PR_curve.png",
        "P_curve.png",
        "R_curve.png",
        "confusion_matrix.png",
    ]


@pytest.mark.parametrize(
    ("with_confidence", "line"),
    [(False, "1 0.2 0.3 0.2 0.2\n"), (True, "1 0.2 0.3 0.2 0.2 0.75\n")],
)
def test_label_files(tmp_path: Path, with_confidence: bool, line: str) -> None:
    paths = ("x/a.jpg", "x/empty.jpg")
    write = TextFiles(tmp_path / "labels", paths, with_confidence=with_confidence)
    write(make_batch("x/a.jpg", "x/empty.jpg"), [FOUND, FOUND[:0]])
    assert [path.name for path in (tmp_path / "labels").iterdir()] == ["a.txt"]
    assert (tmp_path / "labels" / "a.txt").read_text() == line


def test_images_of_equal_name_have_a_label_file_each(tmp_path: Path) -> None:
    paths = [f"/d/{name}" for name in ("x/a.jpg", "y/a.jpg", "y/b.jpg", "c.png", "c.jpg")]
    write = TextFiles(tmp_path, paths, with_confidence=False)
    for path in paths[::-1]:
        write(make_batch(path), [FOUND])
    found = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.txt"))
    assert found == ["b.txt", "c.jpg.txt", "c.png.txt", "x/a.txt", "y/a.txt"]
    split = text_file_names(["/d/images/a.jpg", "/e/images/a.jpg"])
    assert sorted(split.values()) == ["d/images/a.txt", "e/images/a.txt"]


def test_three_batches_are_plotted(tmp_path: Path) -> None:
    draw = BatchPlots(tmp_path, ("cat", "dog"))
    for _ in range(4):
        draw(make_batch("a.jpg"), [FOUND])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"val_batch{number}_{kind}.jpg" for number in range(3) for kind in ("labels", "pred")
    ]
