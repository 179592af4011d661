import json
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageShow

from tests.paths import SHARED_GOLDENS, requires_shared
from utils.errors import UserError
from utils.inference.outputs import crop_box
from utils.inference.predictor import Speed
from utils.inference.results import Results
from utils.inference.sources import SourceImage

NAMES = {0: "person", 1: "bus"}
FOUND = np.array([[20, 20, 60, 40, 0.9, 1], [0, 10, 10, 30, 0.5, 0], [2, 2, 8, 6, 0.4, 0]])
SPEED = Speed(1.25, 47.04, 0.9)


@pytest.fixture
def results() -> Results:
    """Of an image of 80 x 100 pixels with three boxes, and of one of 50 x 40 without."""
    rng = np.random.default_rng(0)
    images = [
        SourceImage(name, "image", rng.integers(0, 256, (*size, 3), np.uint8), network, *scale)
        for name, size in (("x/a.jpg", (80, 100)), ("image1.jpg", (50, 40)))
        for network, scale in [(np.zeros((96, 128, 3), np.uint8), ((1.0, 1.0), (0.0, 0.0)))]
    ]
    found = FOUND.astype(np.float32)
    return Results(images, [found, found[:0]], NAMES, SPEED)


def test_boxes(results: Results) -> None:
    assert results.xyxy[0].numpy() == pytest.approx(FOUND)
    centres = [[40, 30, 40, 20], [5, 20, 10, 20], [5, 4, 6, 4]]
    assert results.xywh[0][:, :4].tolist() == centres
    assert results.xyxyn[0][0, :4].tolist() == pytest.approx([0.2, 0.25, 0.6, 0.5])
    assert results.xywhn[0][0, :4].tolist() == pytest.approx([0.4, 0.375, 0.4, 0.25])
    for key in ("xyxy", "xywh", "xyxyn", "xywhn"):
        one, other = getattr(results, key)
        assert one[:, 4:].tolist() == results.xyxy[0][:, 4:].tolist()
        assert other.shape == (0, 6)
    assert results.pred is results.xyxy


def test_facts(results: Results) -> None:
    assert (len(results), results.n, results.s) == (2, 2, (2, 3, 96, 128))
    assert (results.files, results.names) == (["a.jpg", "image1.jpg"], NAMES)
    assert results.t == (1.25, 47.04, 0.9)
    assert results.times == pytest.approx((0.0025, 0.09408, 0.0018))
    assert [image.shape for image in results.ims] == [(80, 100, 3), (50, 40, 3)]


def test_text(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    results.print()
    expected = (
        "image 1/2: 80x100 2 persons, 1 bus\n"
        "image 2/2: 50x40 (no detections)\n"
        "Speed: 1.2ms pre-process, 47.0ms inference, 0.9ms NMS per image at shape (2, 3, 96, 128)"
    )
    assert capsys.readouterr().out == f"{expected}\n"
    assert str(results) == expected


@requires_shared
def test_tables_have_the_columns_of_the_original(results: Results) -> None:
    golden = json.loads((SHARED_GOLDENS / "hub_yolov5n.json").read_text("utf-8"))
    tables = results.pandas()
    for key, columns in (("xyxy", "columns"), ("xywhn", "columns_xywhn")):
        for table in getattr(tables, key):
            assert list(table.columns) == golden[columns]
    first, second = tables.xyxy
    assert first.to_dict("records")[0] == {
        **dict(zip(("xmin", "ymin", "xmax", "ymax"), (20.0, 20.0, 60.0, 40.0), strict=True)),
        **{"confidence": pytest.approx(0.9), "class": 1, "name": "bus"},
    }
    assert first["class"].dtype == np.int64
    assert len(second) == 0
    assert tables.xywh[0]["xcenter"].tolist() == [40.0, 5.0, 5.0]
    assert tables.xyxyn[0]["ymin"].tolist() == pytest.approx([0.25, 0.125, 0.025])


def test_list_of_single_images(results: Results) -> None:
    first, second = results.tolist()
    assert (first.n, second.n, first.s, second.files) == (1, 1, (1, 3, 96, 128), ["image1.jpg"])
    assert torch.equal(first.xyxy[0], results.xyxy[0])
    assert str(second).startswith("image 1/1: 50x40 (no detections)\nSpeed: 1.2ms")


def test_render_draws_into_the_images(results: Results) -> None:
    before = [image.copy() for image in results.ims]
    drawn = results.render()
    assert drawn is results.ims
    assert (drawn[0][20, 20:60] != before[0][20, 20:60]).any()
    assert np.array_equal(drawn[0][60:], before[0][60:])
    assert np.array_equal(drawn[1], before[1])
    captions = drawn[0][:18, 30:80].copy()
    results.render(labels=False)
    assert not np.array_equal(results.ims[0][:18, 30:80], captions)


def test_save(results: Results, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "exp"
    assert results.save(save_dir=folder) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["a.jpg", "image1.jpg"]
    written = cv2.imread(str(folder / "image1.jpg"))
    assert written is not None
    rgb = written[..., ::-1].astype(int)  # noise, which JPEG changes
    assert np.abs(rgb - results.ims[1]).mean() < np.abs(rgb[..., ::-1] - results.ims[1]).mean()
    assert results.save(save_dir=folder).name == "exp2"
    assert results.save(save_dir=folder, exist_ok=True) == folder


def test_crop(results: Results, tmp_path: Path) -> None:
    crops = results.crop(save_dir=tmp_path / "exp")
    assert [crop["label"] for crop in crops] == ["person 0.40", "person 0.50", "bus 0.90"]
    assert [crop["cls"].item() for crop in crops] == [0, 0, 1]
    assert [value.item() for value in crops[2]["box"]] == [20, 20, 60, 40]
    assert crops[2]["conf"].item() == pytest.approx(0.9)
    expected = crop_box(np.ascontiguousarray(results.ims[0][..., ::-1]), FOUND[0, :4])
    assert np.array_equal(crops[2]["im"], expected)
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.jpg"))
    assert files == ["exp/crops/bus/a3.jpg", "exp/crops/person/a.jpg", "exp/crops/person/a2.jpg"]
    assert len(results.crop(save=False)) == 3
    assert not (tmp_path / "exp2").exists()


def test_equally_named_images_are_written_one_by_one(results: Results, tmp_path: Path) -> None:
    """As of y.png and y.jpg, and of images 1 and 12, whose crops end with numbers."""
    images = [results._images[0]._replace(path=f"A/{name}.jpg") for name in ("y", "y", "1", "12")]
    found = [results._detections[0]] * 4
    same = Results(images, found, NAMES, SPEED)
    folder = same.save(save_dir=tmp_path / "save")
    assert sorted(file.name for file in folder.iterdir()) == ["1.jpg", "12.jpg", "y.jpg", "y2.jpg"]
    assert len(same.crop(save_dir=tmp_path / "crop")) == 12
    assert len(list((tmp_path / "crop").rglob("*.jpg"))) == 12


def test_show_in_a_viewer(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []

    def show(image: Image.Image) -> bool:
        shown.append(image)
        return len(shown) == 1

    monkeypatch.setattr(ImageShow, "show", show)
    with pytest.raises(UserError, match=r"no program to show images; use save\(\)"):
        results.show()
    assert np.array_equal(np.asarray(shown[0]), results.ims[0])
    assert len(shown) == 2


def test_show_in_a_notebook(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    display = SimpleNamespace(display=shown.append)
    modules = {"ipykernel": None, "IPython": SimpleNamespace(display=display)}
    for name, module in {**modules, "IPython.display": display}.items():
        monkeypatch.setitem(sys.modules, name, module)
    results.show()
    assert len(shown) == 2
