import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.paths import SHARED, SHARED_GOLDENS, requires_shared
from tests.toy import make_toy_weights
from tests.utils.inference.test_backend import CPU, Fake
from utils.errors import UserError
from utils.inference.backend import Ensemble, open_backend
from utils.inference.model import Model, load_model
from utils.inference.results import Results

WEIGHTS = SHARED / "weights" / "yolov5n.pt"


@pytest.fixture(scope="module")
def yolov5n() -> Model:
    return Model(open_backend(WEIGHTS, CPU))


@pytest.fixture
def toy(tmp_path: Path) -> Model:
    model = Model(open_backend(make_toy_weights(tmp_path), CPU))
    model.conf = 0.001
    return model


def detect(model: Model, *arguments: Any, **options: Any) -> Results:
    results = model(*arguments, **options)
    assert isinstance(results, Results)
    return results


def picture(name: str) -> Image.Image:
    return Image.open(SHARED / "images" / f"{name}.jpg")


def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((SHARED_GOLDENS / "hub_yolov5n.json").read_text("utf-8"))
    return content


BUS, ZIDANE = ["bus"], ["zidane"]


@requires_shared
@pytest.mark.parametrize(
    ("key", "names", "attributes", "options", "shape"),
    [
        ("list_640", ["bus", "zidane"], {}, {}, (2, 3, 640, 640)),
        ("bus_320", BUS, {}, {"size": 320}, (1, 3, 320, 256)),
        ("zidane_conf_.5_class_0", ZIDANE, {"conf": 0.5, "classes": [0]}, {}, (1, 3, 384, 640)),
        ("bus_agnostic_max3", BUS, {"agnostic": True, "max_det": 3}, {}, (1, 3, 640, 480)),
        ("bus_augment", BUS, {}, {"augment": True}, (1, 3, 640, 480)),
    ],
)
def test_the_detections_are_those_of_the_original(
    yolov5n: Model,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    names: list[str],
    attributes: dict[str, Any],
    options: dict[str, Any],
    shape: tuple[int, ...],
) -> None:
    for name, value in attributes.items():
        monkeypatch.setattr(yolov5n, name, value)
    results = detect(yolov5n, [picture(name) for name in names], **options)
    assert results.s == shape
    for found, expected in zip(results.xyxy, golden()[key], strict=True):
        assert found.numpy() == pytest.approx(np.array(expected), abs=1e-3)


@requires_shared
def test_grey_and_empty_images(yolov5n: Model) -> None:
    grey = picture("zidane").convert("L")
    expected = np.array(golden()["zidane_grey"][0])
    for image in (grey, np.array(grey)):
        assert detect(yolov5n, image).xyxy[0].numpy() == pytest.approx(expected, abs=1e-3)
    results = detect(yolov5n, np.zeros((48, 64, 3), np.uint8))
    assert results.xyxy[0].shape == (0, 6)
    assert str(results).splitlines()[0] == golden()["empty_str"].splitlines()[0]
    assert results.s == (1, 3, 480, 640)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("conf", 25, r"model\.conf 25: must be between 0 and 1"),
        ("conf", "x", r"model\.conf x: must be between 0 and 1"),
        ("iou", None, r"model\.iou None: must be between 0 and 1"),
        ("conf", float("nan"), r"model\.conf nan: must be between 0 and 1"),
        ("max_det", "many", r"model\.max_det many: must be at least 1"),
        ("classes", "person", r"model\.classes person: must be between 0 and 1"),
        ("classes", np.array([0.5]), r"model\.classes 0\.5: must be between 0 and 1"),
        ("classes", [[0]], r"model\.classes \[0\]: must be between 0 and 1"),
        ("iou", -0.1, r"model\.iou -0\.1: must be between 0 and 1"),
        ("max_det", 0, r"model\.max_det 0: must be at least 1"),
        ("classes", [0, 2], r"model\.classes 2: must be between 0 and 1"),
    ],
)
def test_attributes_are_checked(toy: Model, name: str, value: object, sentence: str) -> None:
    setattr(toy, name, value)
    with pytest.raises(UserError, match=sentence):
        toy(np.zeros((64, 64, 3), np.uint8))


def test_attributes_select_detections(toy: Model) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    toy.iou = 1.0

    def labels() -> list[int]:
        return detect(toy, image, 64).xyxy[0][:, 5].int().tolist()

    one_label = labels()
    assert set(one_label) == {0, 1}
    kinds: list[Any] = [1, [1], (1,), {1}, range(1, 2), np.array([1]), np.int64(1), [np.int64(1)]]
    for one in kinds:
        toy.classes = one
        assert labels() == [1] * one_label.count(1)
    for tensor in (torch.tensor([1]), torch.tensor(1)):
        toy.classes = tensor
        assert labels() == [1] * one_label.count(1)
    toy.classes = np.array([0, 1])
    assert labels() == one_label
    toy.classes, toy.multi_label = None, True
    assert len(labels()) > len(one_label)
    toy.max_det = 3
    assert len(labels()) == 3


def test_a_tensor_gives_predictions_before_suppression(toy: Model) -> None:
    images = torch.rand(2, 3, 64, 96, requires_grad=True)
    predictions, raw = toy(images)
    assert predictions.shape == (2, 3 * 12 * (64 + 16 + 4) // 8, 7)
    assert [tuple(level.shape[2:4]) for level in raw] == [(8, 12), (4, 6), (2, 3)]
    predictions[..., 4].sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    augmented, nothing = toy(images.detach(), augment=True)
    assert augmented.shape[1] > predictions.shape[1]
    assert nothing == []


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (torch.zeros(3, 64, 64), r"the tensor is torch\.float32 \[3, 64, 64\]; give"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"torch\.uint8 .*numbers from 0 to 1"),
        (torch.zeros(1, 3, 60, 64), "60 x 64; make both sides multiples of 32"),
    ],
)
def test_what_is_no_batch_is_refused(toy: Model, tensor: torch.Tensor, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        toy(tensor)


def test_the_model_moves_and_converts(toy: Model) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    before = detect(toy, image).xyxy[0]
    assert toy.to("cpu") is toy
    assert sum(p.numel() for p in toy.parameters()) > 1000
    assert toy.half().backend.dtype == torch.float16
    half = detect(toy, image).xyxy[0]
    assert half.dtype == torch.float32
    assert half[0, 4] == pytest.approx(before[0, 4].item(), abs=1e-2)
    assert toy.to("meta").backend.device.type == "meta"


def test_an_exported_model_stays_where_it_is() -> None:
    for backend in (Fake(), Ensemble([Fake(), Fake(0.7)])):
        model = Model(backend)
        assert model.to("cpu").float() is model
        for change in ("meta", torch.float16):
            with pytest.raises(UserError, match=r"0\.5\.onnx is an exported model, which stays"):
                model.to(change)


def test_a_fixed_input_size_is_used(toy: Model) -> None:
    toy.backend.input_size = (96, 160)  # type: ignore[misc]
    assert detect(toy, np.zeros((48, 64, 3), np.uint8), size=640).s == (1, 3, 96, 160)


def test_profile_prints_a_table(toy: Model, capsys: pytest.CaptureFixture[str]) -> None:
    detect(toy, np.zeros((48, 64, 3), np.uint8), 64, profile=True)
    assert "aten::conv2d" in capsys.readouterr().out


def test_without_autoshape_the_detector_can_be_trained(tmp_path: Path) -> None:
    path = make_toy_weights(tmp_path)
    detector = load_model(path, CPU, autoshape=False)
    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert len(detector(torch.zeros(1, 3, 64, 64))) == 3
    for weights in ([path, path], "a.onnx"):
        with pytest.raises(UserError, match=r"autoshape=False needs one \.pt file"):
            load_model(weights, CPU, autoshape=False)


def test_several_files_are_an_ensemble(tmp_path: Path) -> None:
    path = make_toy_weights(tmp_path)
    model = load_model([path, path], CPU)
    assert isinstance(model, Model)
    assert model.names == {0: "green", 1: "red"}
    assert len(model.model) == 2
    model.conf, model.iou = 0.001, 1.0
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 9, np.uint8))
    both = detect(model, tmp_path / "a.png", 64)
    model = load_model(path, CPU)
    assert isinstance(model, Model)
    model.conf, model.iou = 0.001, 1.0
    assert both.xyxy[0].shape[0] == 2 * detect(model, tmp_path / "a.png", 64).xyxy[0].shape[0] > 0


def test_facts_of_the_model(toy: Model) -> None:
    assert (toy.nc, toy.device, toy.stride) == (2, torch.device("cpu"), 32)
    assert toy.yaml is not None
    assert toy.yaml["nc"] == 2
    assert toy.to("meta").device.type == "meta"
    exported = Model(Fake())
    assert (exported.yaml, exported.device) == (None, torch.device("cpu"))


@pytest.mark.parametrize("weights", [[], None, 5])
def test_no_weights_are_one_sentence(weights: Any) -> None:
    with pytest.raises(UserError, match=r"the weights are .*; give a model file, or a list of"):
        load_model(weights, CPU)


@pytest.mark.parametrize("size", ["x", None, [], [64, 64, 64], 0, float("inf"), [[64]]])
def test_what_is_no_size_is_one_sentence(toy: Model, size: Any) -> None:
    with pytest.raises(
        UserError, match=r"give one side in pixels, at least 1, or \(height, width\)"
    ):
        toy(np.zeros((64, 64, 3), np.uint8), size)


def test_an_empty_list_is_refused(toy: Model) -> None:
    with pytest.raises(UserError, match="the list of images is empty"):
        toy([])
