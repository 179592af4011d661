"""Loading a model from a weights file, whose model must match its tensors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.detector import Detector
from models.spec import ModelSpec, load_spec
from tests.checkpoints import save_checkpoint
from tests.paths import SHARED, requires_shared
from tests.utils.checkpoint.tiny_files import tiny_deploy
from tests.utils.datasets.web import serving
from utils.errors import UserError
from utils.upstream.reader import read_upstream
from utils.weights import find_weights, load_model, read_weights


@pytest.fixture
def spec() -> ModelSpec:
    return replace(load_spec("yolov5n.yaml"), width_multiple=0.01, classes=1)


def save(path: Path, spec: ModelSpec, changes: dict[Any, Any]) -> Path:
    """Save a deploy file of the model, with changes in its specification."""
    weights = {name: tensor.half() for name, tensor in Detector(spec).state_dict().items()}
    save_checkpoint(tiny_deploy(weights=weights, spec=spec.to_dict() | changes), path)
    return path


def test_saved_model_is_loaded(tmp_path: Path, spec: ModelSpec) -> None:
    path = save(tmp_path / "best.pt", spec, {})
    loaded = load_model(path, torch.device("cpu"))
    assert loaded.names == ("cell",)
    assert loaded.model.spec == spec
    weights = read_weights(path).state
    assert all(torch.equal(t, weights[name]) for name, t in loaded.model.state_dict().items())


@requires_shared
@pytest.mark.parametrize("version", ["v5.0", "v7"])
def test_weights_of_upstream_are_those_of_the_ema_in_fp32(version: str) -> None:
    path = SHARED / "legacy" / version / "epoch1.pt"
    ema = read_upstream(path).ema_state
    assert ema is not None
    weights = read_weights(path)
    assert list(weights.state) == list(ema)
    for name, value in weights.state.items():
        assert value.dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(value, ema[name].to(value.dtype))
    assert [list(row) for row in weights.spec.anchors] == read_upstream(path).spec["anchors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth_multiple": 1e12}, r"its model cannot be built: it has 50000000000000 layers"),
        ({"depth_multiple": float("inf")}, "cannot be built: cannot convert float infinity"),
        ({"width_multiple": 9.0}, r"its model has \d+ values, its tensors \d+\); use another"),
        ({"width_multiple": 1e15}, "its model cannot be built"),
        ({"nc": 10**6}, r"its model has \d+ values, its tensors \d+\); use another"),
        ({"nc": "one"}, "its model cannot be built: model spec: nc is 'one'"),
        ({"head": [[-1, 1, "Detect", [[]]]]}, "its model cannot be built"),
        ({3: 4}, "its model cannot be built: model spec: unknown key 3"),
    ],
)
def test_invalid_specification_is_refused_before_it_is_built(
    tmp_path: Path, spec: ModelSpec, changes: dict[Any, Any], message: str
) -> None:
    path = save(tmp_path / "best.pt", spec, changes)
    with pytest.raises(UserError, match=message) as refusal:
        read_weights(path)
    assert str(refusal.value).startswith(f"{path} is damaged (its model ")


def test_published_weights_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, target: Path) -> None:
        raise UserError(f"{url} cannot be downloaded (no network)")

    monkeypatch.setattr("utils.weights.download_file", fail)
    remedy = (
        r"v7\.0/yolov5n\.pt cannot be downloaded \(no network\); download the file yourself, "
        r"or give another weights file"
    )
    with pytest.raises(UserError, match=remedy):
        find_weights(tmp_path / "yolov5n.pt")


def test_weights_of_a_url_are_downloaded_once(
    tmp_path: Path, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "here").mkdir()
    save(tmp_path / "site" / "my net.pt", spec, {})
    monkeypatch.chdir(tmp_path / "here")
    with serving(tmp_path / "site") as address:
        loaded = load_model(f"{address}/my%20net.pt?download=1", torch.device("cpu"))
    assert loaded.names == ("cell",)
    assert find_weights(f"{address}/my%20net.pt") == Path("my net.pt")  # the server is gone
    with pytest.raises(UserError, match=r"other\.pt cannot be downloaded .*; download the file"):
        find_weights(f"{address}/other.pt")
    for url in ("https://host", "https://host/..", "https://host/a.zip", "https://[bad/a.pt"):
        with pytest.raises(UserError, match=r"the URL does not end with the name of a \.pt file"):
            find_weights(url)
    assert [file.name for file in Path().iterdir()] == ["my net.pt"]
