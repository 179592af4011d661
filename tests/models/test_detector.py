import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.cost import gflops
from models.detector import (
    Detector,
    count_parameters,
    fuse,
    transfer_weights,
)
from models.spec import ModelSpec, load_spec
from tests.paths import GOLDENS, SHARED, SHARED_GOLDENS, requires_shared
from utils.upstream.reader import read_upstream

PUBLISHED = [f"yolov5{size}{levels}.yaml" for size in "nsmlx" for levels in ("", "6")]
OTHERS = [
    *(f"yolov3{kind}.yaml" for kind in ("", "-spp", "-tiny")),
    *(f"yolov5-{kind}.yaml" for kind in ("bifpn", "fpn", "panet", "p2", "p6", "p7")),
    *(f"yolov5s-{kind}.yaml" for kind in ("LeakyReLU", "ghost", "transformer")),
]


def assert_predictions_close(found: Tensor, expected: np.ndarray) -> None:
    """Compare with a tolerance: the last of float32's seven digits depend on the kernels."""
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=2e-6, atol=1e-4)


def tiny_spec() -> ModelSpec:
    return ModelSpec.from_dict(
        {
            "nc": 3,
            "depth_multiple": 1.0,
            "width_multiple": 1.0,
            "anchors": [[8, 8], [16, 16]],
            "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
            "head": [[[0, 1], 1, "Detect", ["nc", "anchors"]]],
        }
    )


def predict(model: Detector, images: Tensor) -> Tensor:
    """Return every box of images, ``[B, N, 5 + classes]``."""
    return torch.stack(model.decode_confident(model(images), threshold=-1.0))


@pytest.fixture(scope="module")
def pretrained() -> Detector:
    model = Detector(load_spec(Path("yolov5n.yaml"))).eval()
    transfer = transfer_weights(model, read_upstream(SHARED / "weights" / "yolov5n.pt").weights)
    assert transfer.missing == []
    return model


def test_properties() -> None:
    model = Detector(tiny_spec())
    assert (model.classes, model.strides, model.max_stride) == (3, (2, 4), 4)
    assert model.spec == tiny_spec()


def test_raw_maps_have_the_same_shape_in_train_and_eval_mode() -> None:
    model = Detector(tiny_spec())
    images = torch.zeros(2, 3, 8, 12)
    for mode in (True, False):
        shapes = [tuple(level.shape) for level in model.train(mode)(images)]
        assert shapes == [(2, 1, 4, 6, 8), (2, 1, 2, 3, 8)]


def test_other_image_channels() -> None:
    assert len(Detector(tiny_spec(), channels=1)(torch.zeros(1, 1, 8, 8))) == 2


def test_fuse_does_not_change_the_original() -> None:
    model = Detector(tiny_spec()).train()
    names = list(model.state_dict())
    fused = fuse(model)
    assert list(model.state_dict()) == names
    assert model.training
    assert not fused.training
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


def test_transfer_copies_matching_tensors_and_names_the_others() -> None:
    model = Detector(tiny_spec())
    state = {name: torch.ones_like(value) for name, value in model.state_dict().items()}
    state["model.2.m.0.weight"] = torch.ones(1, 8, 1, 1)  # another number of classes
    del state["model.2.m.1.bias"]
    state["model.2.anchor_grid"] = torch.ones(2)  # in files of v5.0
    transfer = transfer_weights(model, state, exclude=["anchors"])
    assert transfer.missing == ["model.2.anchors", "model.2.m.0.weight", "model.2.m.1.bias"]
    assert (transfer.matched, transfer.total) == (14, 17)
    assert (model.state_dict()["model.0.conv.weight"] == 1).all()
    assert model.head.anchors.flatten().tolist() == [4, 4, 4, 4]


def test_transfer_converts_the_dtype() -> None:
    model = Detector(tiny_spec())
    half = {name: value.half() for name, value in model.state_dict().items()}
    assert transfer_weights(model, half).missing == []
    assert model.state_dict()["model.0.conv.weight"].dtype == torch.float32


def test_state_names_and_shapes_equal_upstreams() -> None:
    expected = json.loads((GOLDENS / "state_dict_yolov5n.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        state = Detector(load_spec(Path("yolov5n.yaml"))).state_dict()
    assert [(name, list(value.shape)) for name, value in state.items()] == list(expected.items())


@pytest.mark.parametrize("name", PUBLISHED + OTHERS)
def test_model_zoo(name: str) -> None:
    zoo = json.loads((GOLDENS / "model_zoo.json").read_text(encoding="utf-8"))
    specs = json.loads((GOLDENS / "model_specs.json").read_text(encoding="utf-8"))
    expected = next(row for row in zoo if row["cfg"] == name)
    with torch.device("meta"):
        model = Detector(ModelSpec.from_dict(specs[name]))
    assert count_parameters(model) == expected["params"]
    assert list(model.strides) == expected["strides"]
    # The reference is rounded to one decimal.
    assert gflops(model) == pytest.approx(expected["gflops_640"], abs=0.1)


@requires_shared
def test_raw_maps_equal_upstreams(pretrained: Detector) -> None:
    golden = np.load(SHARED_GOLDENS / "forward_yolov5n.npz")
    with torch.no_grad():
        raw = pretrained(torch.from_numpy(golden["image"]))
    for level, maps in enumerate(raw):
        np.testing.assert_allclose(maps, golden[f"raw{level}"], rtol=0, atol=1e-4)


@requires_shared
def test_predictions_equal_upstreams(pretrained: Detector) -> None:
    golden = np.load(SHARED_GOLDENS / "forward_yolov5n.npz")
    image = torch.from_numpy(golden["image"])
    with torch.no_grad():
        assert_predictions_close(predict(pretrained, image), golden["pred"])
        fused = predict(fuse(pretrained), image)
    assert_predictions_close(fused, golden["pred_fused"])


@requires_shared
def test_models_of_v5_0_with_focus_and_spp_predict_as_upstream() -> None:
    checkpoint = read_upstream(SHARED / "legacy" / "v5.0" / "epoch1.pt")
    model = Detector(ModelSpec.from_dict(checkpoint.spec)).eval()
    assert [layer.kind for layer in model.spec.layers[:9:8]] == ["Focus", "SPP"]
    assert transfer_weights(model, checkpoint.weights).missing == []
    golden = np.load(SHARED / "legacy" / "v5.0" / "epoch1_expected_forward.npz")
    with torch.no_grad():
        prediction = predict(model, torch.from_numpy(golden["image"]))
    assert_predictions_close(prediction, golden["ema_pred"])


@requires_shared
def test_images_are_multiples_of_the_largest_inner_stride() -> None:
    """This model detects on levels 3 and 4, but has a layer of stride 32."""
    specs = json.loads((GOLDENS / "model_specs.json").read_text(encoding="utf-8"))
    model = Detector(ModelSpec.from_dict(specs["yolov5-p34.yaml"])).eval()
    assert (model.strides, model.max_stride) == ((8, 16), 32)
    with torch.no_grad():
        raw = model(torch.zeros(1, 3, 32, 96))
    assert [maps.shape[2:4] for maps in raw] == [(4, 12), (2, 6)]
