"""From a weights file to a model: what the file describes is no more than it holds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.detector import Detector
from models.spec import ModelSpec, load_spec
from tests.checkpoints import save_checkpoint
from tests.utils.checkpoint.tiny_files import tiny_deploy
from utils.errors import UserError
from utils.weights import find_weights, load_model, read_weights


@pytest.fixture
def spec() -> ModelSpec:
    return replace(load_spec("yolov5n.yaml"), width_multiple=0.01, classes=1)


def save(path: Path, spec: ModelSpec, changes: dict[Any, Any]) -> Path:
    """A deploy file of the model, its description changed."""
    weights = {name: tensor.half() for name, tensor in Detector(spec).state_dict().items()}
    save_checkpoint(tiny_deploy(weights=weights, spec=spec.to_dict() | changes), path)
    return path


def test_a_model_comes_back(tmp_path: Path, spec: ModelSpec) -> None:
    path = save(tmp_path / "best.pt", spec, {})
    loaded = load_model(path, torch.device("cpu"))
    assert loaded.names == ("cell",)
    assert loaded.model.spec == spec
    weights = read_weights(path).state
    assert all(torch.equal(t, weights[name]) for name, t in loaded.model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth_multiple": 1e12}, r"a model that cannot be built: it has 50000000000000 layers"),
        ({"depth_multiple": float("inf")}, "cannot be built: cannot convert float infinity"),
        ({"width_multiple": 9.0}, r"a model of \d+ numbers, but holds \d+: tensors of its model"),
        ({"width_multiple": 1e15}, "a model that cannot be built"),
        ({"nc": 10**6}, r"a model of \d+ numbers, but holds \d+: tensors of its model"),
        ({"nc": "one"}, "a model that cannot be built: model spec: nc is 'one'"),
        ({"head": [[-1, 1, "Detect", [[]]]]}, "a model that cannot be built"),
        ({3: 4}, "a model that cannot be built: sequence item 0: expected str"),
    ],
)
def test_a_description_of_something_else_is_refused_before_it_is_built(
    tmp_path: Path, spec: ModelSpec, changes: dict[Any, Any], message: str
) -> None:
    path = save(tmp_path / "best.pt", spec, changes)
    with pytest.raises(UserError, match=message) as refusal:
        read_weights(path)
    assert str(refusal.value).startswith(f"{path} describes ")


def test_published_weights_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str, target: Path) -> None:
        raise UserError(f"{url} cannot be downloaded (no network)")

    monkeypatch.setattr("utils.weights.download_file", fail)
    remedy = (
        r"v7\.0/yolov5n\.pt cannot be downloaded \(no network\); put the file there, or name ano"
    )
    with pytest.raises(UserError, match=remedy):
        find_weights(tmp_path / "yolov5n.pt")
