import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from tests.paths import DATASETS, requires_shared
from tests.utils.tools.convert.cityscapes import Row, draw_images, person, write_annotations
from utils.datasets.ignore_regions import load_ignore_regions
from utils.datasets.index import build_index
from utils.errors import UserError
from utils.tools.convert.__main__ import CityPersonsOptions, main
from utils.tools.convert.annotated import Annotation, Corners
from utils.tools.convert.citypersons import (
    LabelFilter,
    parse_classes,
    read_citypersons,
    read_mat,
    read_mat_here,
)

FILTER = LabelFilter(("pedestrian",), visible=False, min_height=20, min_visibility=0.2)
IMAGE = "aachen_000000_000001_leftImg8bit.png"


@pytest.mark.parametrize(
    ("row", "label_filter", "expected"),
    [
        (person(1, 100, 50, 20), FILTER, Annotation("pedestrian", Corners(100, 50, 108, 70), 0)),
        (
            person(1, 0, 0, 19),
            FILTER,
            Annotation("pedestrian", Corners(0, 0, 8, 19), None, "lower than 20 px"),
        ),
        # A visibility of exactly 0.2 is enough.
        (
            person(1, 0, 0, 100, 0.2),
            FILTER,
            Annotation("pedestrian", Corners(0, 0, 41, 100), 0),
        ),
        (
            person(1, 0, 0, 100, 0.19),
            FILTER,
            Annotation("pedestrian", Corners(0, 0, 41, 100), None, "less than 0.2 visible"),
        ),
        (
            person(0, 0, 0, 100),
            FILTER,
            Annotation("ignore", Corners(0, 0, 41, 100), None, "of class ignore"),
        ),
        (
            person(2, 0, 0, 100),
            FILTER,
            Annotation("rider", Corners(0, 0, 41, 100), None, "of class rider"),
        ),
        (
            person(2, 0, 0, 100, 0.5),
            FILTER._replace(classes=("rider", "pedestrian"), visible=True),
            Annotation("rider", Corners(0, 0, 41, 50), 0),
        ),
        (
            person(1, 0, 0, 100, 0.5),
            FILTER._replace(classes=("rider", "pedestrian")),
            Annotation("pedestrian", Corners(0, 0, 41, 100), 1),
        ),
        # Groups have no separate visible box.
        (
            (5, 10, 20, 60, 50, 0, 0, 0, 0, 0),
            FILTER._replace(classes=("group",), visible=True),
            Annotation("group", Corners(10, 20, 70, 70), 0),
        ),
    ],
)
def test_rows_to_annotations(row: Row, label_filter: LabelFilter, expected: Annotation) -> None:
    assert label_filter.to_annotation(row) == expected


def test_parse_classes() -> None:
    assert parse_classes("rider, pedestrian") == ("rider", "pedestrian")
    for text in ("", "people", "rider,rider", "ignore"):
        with pytest.raises(
            UserError, match="choose from pedestrian, rider, sitting, other, group, each once"
        ):
            parse_classes(text)


def test_conversion_end_to_end(tmp_path: Path) -> None:
    train: dict[str, list[Row]] = {
        IMAGE: [person(1, 1000, 400, 200), person(0, 0, 0, 512), person(1, -20, 400, 100)],
        "ulm_000000_000001_leftImg8bit.png": [],
    }
    val = {"lindau_000000_000001_leftImg8bit.png": [person(1, 0, 0, 512)]}  # a single row
    for split, images in (("train", train), ("val", val)):
        write_annotations(tmp_path / "annotations", split, images)
        draw_images(tmp_path, split, images)
    out = tmp_path / "out"
    source = str(tmp_path / "annotations")
    main(["citypersons", source, "--images", str(tmp_path), "--out", str(out)])

    index = build_index([out / "images/train"], ["pedestrian"])
    assert len(index) == 2
    pixels = index.boxes[:, 1:] * [2048, 1024, 2048, 1024]
    expected = np.array([[1041.0, 500.0, 82.0, 200.0], [10.5, 450.0, 21.0, 100.0]])
    np.testing.assert_allclose(pixels, expected, atol=0.01)
    regions = load_ignore_regions([str(path) for path in index.paths])
    assert regions is not None
    np.testing.assert_allclose(regions.boxes, [[105 / 2048, 0.25, 210 / 2048, 0.5]], atol=1e-6)
    truth = json.loads((out / "annotations/val_gt.json").read_text())
    assert truth["images"] == [
        {"id": 1, "im_name": "lindau_000000_000001_leftImg8bit.png", "height": 1024, "width": 2048}
    ]
    assert "miss_rate_gt: annotations/val_gt.json\n" in (out / "data.yaml").read_text()


def test_benchmark_ground_truth_does_not_depend_on_the_labels(tmp_path: Path) -> None:
    rows = [person(1, -5, 0, 10, 1 / 3), person(2, 0, 0, 100), (5, 10, 20, 60, 50, 0, 0, 0, 0, 0)]
    write_annotations(tmp_path, "val", {IMAGE: rows})
    conversion = read_citypersons(tmp_path, tmp_path, FILTER)
    truth: Any = conversion.json_files["annotations/val_gt.json"]
    assert truth["annotations"] == [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "ignore": 0,
            "bbox": [-5, 0, 4, 10],
            "vis_bbox": [-5, 0, 4, 3],
            "height": 10,
            "vis_ratio": 0.3,
        },
        {
            "id": 2,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 0,
            "ignore": 1,
            "bbox": [0, 0, 41, 100],
            "vis_bbox": [0, 0, 41, 100],
            "height": 100,
            "vis_ratio": 1.0,
        },
        {
            "id": 3,
            "image_id": 1,
            "category_id": 1,
            "iscrowd": 1,
            "ignore": 1,
            "bbox": [10, 20, 60, 50],
            "vis_bbox": [0, 0, 0, 0],
            "height": 50,
            "vis_ratio": 0.0,
        },
    ]


@requires_shared
def test_published_annotations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = DATASETS / "citypersons"
    with caplog.at_level(logging.INFO, "yolo"):
        main(["citypersons", str(source), "--out", str(tmp_path), "--allow-missing-images"])
    logged = caplog.text
    assert (
        "train: 2975 images, 27770 rows = 6768 ignore + 16526 pedestrian + 1680 rider + "
        "1032 sitting + 417 other + 1347 group" in logged
    )
    assert "val: 500 images, 5795 rows = 1631 ignore + 3157 pedestrian + 509 rider" in logged

    truth = json.loads((source / "val_gt.json").read_text())
    assert json.loads((tmp_path / "annotations" / "val_gt.json").read_text()) == truth
    sides = np.array([2048, 1024, 2048, 1024])
    seen = 0
    for image in truth["images"]:
        name = image["im_name"]
        label = tmp_path / "labels" / "val" / name.split("_")[0] / f"{Path(name).stem}.txt"
        text = label.read_text() if label.is_file() else ""
        found = np.array([line.split()[1:] for line in text.splitlines()], float).reshape(-1, 4)
        corners = np.hstack([found[:, :2] - found[:, 2:] / 2, found[:, :2] + found[:, 2:] / 2])
        boxes = [
            row["bbox"]
            for row in truth["annotations"]
            if row["image_id"] == image["id"]
            and not row["ignore"]
            and row["height"] >= 20
            and row["vis_ratio"] >= 0.2
        ]
        expected = np.array(boxes, float).reshape(-1, 4)
        expected[:, 2:] += expected[:, :2]
        np.testing.assert_allclose(corners * sides, expected.clip(0, sides), atol=0.01)
        seen += len(expected)
    assert seen == 2875


def test_miss_rate_needs_pedestrians(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("yolo"), "propagate", True)
    write_annotations(tmp_path, "val", {IMAGE: []})
    riders = FILTER._replace(classes=("rider",), visible=True)
    assert read_citypersons(tmp_path, tmp_path, riders).entries == {}
    assert caplog.messages == []
    both = read_citypersons(tmp_path, tmp_path, riders._replace(classes=("rider", "pedestrian")))
    assert both.entries == {"miss_rate_gt": "annotations/val_gt.json"}
    assert caplog.messages == ["The miss rate is evaluated with full boxes, as in the benchmark."]


def test_missing_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(UserError, match=r"anno_val\.mat needs SciPy, .*: pip install scipy$"):
        read_mat_here(tmp_path / "anno_val.mat", "val")


def test_file_that_crashes_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SciPy 1.17 reads out of bounds if the size of a struct field is damaged."""
    monkeypatch.setattr("utils.tools.convert.citypersons.read_mat_here", _end)
    with pytest.raises(UserError, match=r"anno_val\.mat is damaged \(it crashed the reader\)"):
        read_mat(tmp_path / "anno_val.mat", "val")


def _end(file: Path, split: str) -> None:
    os.abort()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged ."),
        (b"MATLAB 5.0 MAT-file" + b" " * 200, "is damaged ."),
        ({"other": 1}, "has no cell array anno_val_aligned"),
        ({"anno_val_aligned": 7}, "has no cell array anno_val_aligned"),
        ({"anno_val_aligned": np.ones((1, 3))}, "has no .* images with cityname, im_name, and bbs"),
        ({"anno_val_aligned": np.empty((1, 0), object)}, "has no cell array anno_val_aligned"),
        ({"anno_val_aligned": {"cityname": "ulm", "im_name": "a.png"}}, "has no cell array"),
    ],
)
def test_invalid_files(tmp_path: Path, content: bytes | dict[str, object], message: str) -> None:
    file = tmp_path / "anno_val.mat"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        savemat(file, content)
    with pytest.raises(UserError, match=message) as caught:
        read_mat_here(file, "val")
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    "boxes", [np.ones((2, 9)), "text", np.full((1, 10), np.nan), np.full((1, 10), 1e300)]
)
def test_invalid_boxes(tmp_path: Path, boxes: object) -> None:
    file = tmp_path / "anno_val.mat"
    savemat(file, {"anno_val_aligned": {"cityname": "ulm", "im_name": "a.png", "bbs": boxes}})
    with pytest.raises(UserError, match=r"bbs with rows of 10 coordinates; give CityPersons' own"):
        read_mat_here(file, "val")


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("aachen", person(1, 0, 0, 50), "has an unknown suffix"),
        (IMAGE, (6, 0, 0, 9, 9, 0, 0, 0, 9, 9), f"class 6 of image {IMAGE} is out of range"),
    ],
)
def test_invalid_images(tmp_path: Path, name: str, row: Row, message: str) -> None:
    write_annotations(tmp_path, "val", {name: [row]})
    with pytest.raises(UserError, match=message):
        read_citypersons(tmp_path, tmp_path, FILTER)


def test_missing_files_and_invalid_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has neither anno_train\.mat nor anno_val\.mat; get"):
        read_citypersons(tmp_path, tmp_path, FILTER)
    with pytest.raises(UserError, match=r"--min-visibility 65: must be between 0 and 1"):
        CityPersonsOptions(tmp_path, min_visibility=65)
    with pytest.raises(UserError, match=r"--min-height -1: must be at least 0"):
        CityPersonsOptions(tmp_path, min_height=-1)


def test_missing_images_error_names_the_download(tmp_path: Path) -> None:
    write_annotations(tmp_path, "val", {IMAGE: []})
    message = (
        r"leftImg8bit/val/aachen/.* download leftImg8bit_trainvaltest\.zip from .* with --images"
    )
    with pytest.raises(UserError, match=message):
        main(["citypersons", str(tmp_path), "--out", str(tmp_path / "out")])
