"""Files for YOLOv5 have the structure of its own files, and nothing of ours."""

import io
import pickle
import pickletools
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import layers
from models.detector import Detector, fuse
from models.spec import MODEL_FOLDER, ModelSpec, load_spec
from tests.paths import SHARED, SHARED_GOLDENS, requires_shared
from tests.utils.upstream import yolov5_stubs
from utils.errors import UserError
from utils.tools.inspect.inspection import inspect_file
from utils.upstream.reader import read_upstream
from utils.upstream.writer import LAYERS, TrainingFacts, write_upstream
from utils.weights import load_model, read_weights

OFFICIAL = SHARED / "weights" / "yolov5n.pt"
FACTS = TrainingFacts({"imgsz": 320, "batch_size": 4}, {"lr0": 0.01}, 0.25)
CPU = torch.device("cpu")


class Stub:
    """An object of any class in a pickle; each class is a subclass with its `kind`."""

    kind = ""
    arguments: tuple[Any, ...]

    def __new__(cls, *arguments: Any) -> Any:
        made = super().__new__(cls)
        made.arguments = arguments
        return made


class StubUnpickler(pickle.Unpickler):
    """Python's own unpickler; every class is a stub, except for containers."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.BytesIO(member(path, "data.pkl")))
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if module in {"collections", "builtins"}:
            return super().find_class(module, name)
        return type(name, (Stub,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        tag, storage, key, location, count = pid
        return tag, storage.kind, location, count, member(self.path, f"data/{key}")


def member(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        (found,) = (one for one in archive.namelist() if one.endswith(f"/{name}"))
        return archive.read(found)


def read_stubs(path: Path) -> dict[str, Any]:
    return flat(StubUnpickler(path).load())


def flat(value: Any, where: str = "", found: dict[str, Any] | None = None) -> dict[str, Any]:
    """Every value of a file, in order, by its path through containers and attributes."""
    found = {} if found is None else found
    if isinstance(value, Stub):
        found[where] = ("object", value.kind)
        flat(value.arguments, where, found)
        flat({k: v for k, v in vars(value).items() if k != "arguments"}, where, found)
    elif isinstance(value, dict | list | tuple) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            flat(item, f"{where}/{key}", found)
    else:
        found[where] = value
    return found


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The official weights, written by us."""
    source = load_model(OFFICIAL, CPU)
    path = tmp_path / "yolov5n_yolov5.pt"
    write_upstream(path, source.model, source.names, FACTS)
    return path


@requires_shared
def test_the_structure_is_that_of_the_official_file(written: Path) -> None:
    """Every class, attribute, number and tensor, in the same order, with these exceptions only."""
    official, own = read_stubs(OFFICIAL), read_stubs(written)

    def kept(values: dict[str, Any], *unequal: str) -> dict[str, Any]:
        return {name: value for name, value in values.items() if not name.startswith(unequal)}

    grids = tuple(f"/model/_modules/model/_modules/24/{name}/" for name in ("grid", "anchor_grid"))
    of_v7 = ("/opt/", "/git")  # keys that newer files have
    settings = ("/model/hyp", "/date", "/best_fitness", *grids)
    added = tuple(f"/model/_modules/model/_modules/{n}/recompute_scale_factor" for n in (11, 15))
    unused = ("/model/yaml_file", "/model/class_weights", "/wandb_id")
    ours, theirs = kept(own, *settings, *of_v7, *added), kept(official, *settings, *unused)
    assert list(ours) == list(theirs)
    assert ours == theirs
    assert len(ours) > 4000
    assert [own[name] for name in added] == [None, None]  # torch 1.11 and later read it
    assert own["/best_fitness"] == 0.25
    assert own["/model/hyp/lr0"] == 0.01
    assert {name: value for name, value in own.items() if name.startswith(of_v7)} == {
        "/opt/imgsz": 320,
        "/opt/batch_size": 4,
        "/git": None,
    }
    for level in range(3):
        for grid in grids:
            storage = ("torch.HalfStorage", "cpu", 1, b"\0\0")
            assert tuple(own[f"{grid}{level}/0/{n}"] for n in range(1, 5)) == storage


@requires_shared
def test_the_pickle_needs_nothing_that_the_official_file_does_not(written: Path) -> None:
    def opcodes(path: Path) -> list[tuple[str, Any]]:
        return [(op.name, arg) for op, arg, _ in pickletools.genops(member(path, "data.pkl"))]

    own, official = opcodes(written), opcodes(OFFICIAL)
    assert own[0] == ("PROTO", 2)
    assert {name for name, _ in own} <= {name for name, _ in official}
    names = [argument for name, argument in own if name == "GLOBAL"]
    assert len(names) == len(set(names))  # each once, as pickle does
    unused = {"torch DoubleStorage"}  # of the class weights
    assert set(names) == {arg for name, arg in official if name == "GLOBAL"} - unused


@requires_shared
def test_read_back_it_is_equal(written: Path) -> None:
    expected, found = read_upstream(OFFICIAL), read_upstream(written)
    assert list(found.model_state) == list(expected.model_state)
    for name, tensor in expected.model_state.items():
        assert found.model_state[name].dtype == tensor.dtype
        assert torch.equal(found.model_state[name], tensor)
    assert (found.spec, found.names) == (expected.spec, expected.names)
    assert (found.epoch, found.optimizer, found.ema_state) == (-1, None, None)
    assert found.options == {"imgsz": 320, "batch_size": 4}
    facts = inspect_file(written, verify=True)
    assert facts["verified"]["fine"]
    assert (facts["format"], facts["version"], facts["kind"]) == ("YOLOv5", "v7.0", "deploy")
    assert facts["best"] == {"fitness": 0.25}


@requires_shared
def test_loaded_as_yolov5_does_it_predicts_the_same(written: Path) -> None:
    """With classes that know only the attributes in the file."""
    content = yolov5_stubs.load(written)
    assert not any(name.startswith(("models.yolo", "models.common")) for name in sys.modules)
    model = content["model"].float()
    golden = np.load(SHARED_GOLDENS / "forward_yolov5n.npz")
    with torch.inference_mode():
        found = model(torch.from_numpy(golden["image"]))
    torch.testing.assert_close(found, torch.from_numpy(golden["pred"]), rtol=2e-6, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert (model.names[:2], model.nc, model.training) == (["person", "bicycle"], 80, False)
    assert model.state_dict().keys() == load_model(OFFICIAL, CPU).model.state_dict().keys()


def assert_equal_after_loading(model: Detector, path: Path, side: int) -> Any:
    """The file predicts as the model in fp16 does, and is read back equal; returns its content."""
    model = model.half().float().eval()
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    content = yolov5_stubs.load(path)
    with torch.inference_mode():
        expected = torch.stack(model.decode_confident(model(images), -1.0))
        found = content["model"].float()(images)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    state = load_model(path, CPU).model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    return content


@pytest.mark.parametrize("file", sorted(file.name for file in MODEL_FOLDER.glob("*.yaml")))
def test_every_model_with_own_classes_and_anchors(file: str, tmp_path: Path) -> None:
    spec = replace(load_spec(file).with_classes(3), width_multiple=0.03)
    spec = spec.with_anchors([[side * 1.5 for side in row] for row in spec.anchors])
    torch.manual_seed(0)
    model = Detector(spec)
    path = tmp_path / "best_yolov5.pt"
    write_upstream(path, model, ("a", "b", "c"), FACTS)
    content = assert_equal_after_loading(model, path, model.max_stride * 2)
    described = content["model"].yaml
    assert described == spec.to_dict() | {"ch": 3}
    assert ModelSpec.from_dict(described) == spec
    assert read_weights(path).names == ("a", "b", "c")
    head = content["model"].model[-1]
    assert (head.nc, head.no, head.na, head.nl) == (3, 8, 3, len(model.strides))
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in content["model"].model]
    assert [layer.np for layer in content["model"].model] == sizes


@requires_shared
def test_weights_of_v5_0_are_written_for_newer_versions(tmp_path: Path) -> None:
    """They have a Focus layer and an SPP."""
    source = load_model(SHARED / "legacy" / "v5.0" / "last_stripped.pt", CPU)
    path = tmp_path / "v5_yolov5.pt"
    write_upstream(path, source.model, source.names, FACTS)
    assert_equal_after_loading(source.model, path, 64)


def test_every_layer_of_ours_is_described() -> None:
    own = {one for one in vars(layers).values() if isinstance(one, type)}
    assert {one for one in own if one.__module__ == layers.__name__} <= LAYERS.keys()


def test_an_unknown_fitness_and_a_fused_model(tmp_path: Path) -> None:
    spec = replace(load_spec("yolov5n.yaml"), width_multiple=0.01)
    path = tmp_path / "best_yolov5.pt"
    write_upstream(path, Detector(spec), ["x"] * 80, TrainingFacts({}, {}))
    assert read_upstream(path).best_fitness is None
    with pytest.raises(UserError, match="cannot contain Identity"):
        write_upstream(path, fuse(Detector(spec)), ["x"] * 80, FACTS)
    assert read_upstream(path).best_fitness is None  # the file is unchanged
    assert [file.name for file in tmp_path.iterdir()] == ["best_yolov5.pt"]


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    spec = replace(load_spec("yolov5n.yaml"), width_multiple=0.01)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_upstream(tmp_path / "file" / "best_yolov5.pt", Detector(spec), ["x"] * 80, FACTS)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"activation": "nn.ReLU()"}, "ReLU"), ({"layer": "C3Ghost"}, "C3Ghost")],
)
def test_model_that_the_file_cannot_describe_is_refused(
    changes: dict[str, str], named: str, tmp_path: Path
) -> None:
    content = load_spec("yolov5n.yaml").to_dict()
    if "layer" in changes:
        rows: Any = content["backbone"]
        rows[2][2] = changes["layer"]
    else:
        content |= changes
    model = Detector(ModelSpec.from_dict(content))
    with pytest.raises(UserError, match=f"cannot contain .*{named}.* of this model; export it"):
        write_upstream(tmp_path / "a.pt", model, ["a"] * 80, FACTS)
    assert list(tmp_path.iterdir()) == []
