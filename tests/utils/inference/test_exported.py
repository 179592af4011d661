"""Exported models detect like PyTorch; files that are not ours, or for others, are one sentence."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.helper
import pytest
import torch
from torch import Tensor, nn

from export import build_parser, export
from tests.paths import ROOT, SHARED, requires_shared
from tests.toy import make_toy, make_toy_weights
from utils.errors import UserError
from utils.inference.backend import TorchBackend, open_backend
from utils.inference.exported import ModelFacts, confident, open_exported
from utils.inference.sessions import torchscript_warnings_ignored
from utils.options.arguments import parse_options
from utils.options.export_options import ExportOptions
from utils.options.val_options import ValOptions
from val import build_parser as val_parser
from val import validate

CPU = torch.device("cpu")
KINDS = ("toy.onnx", "toy.torchscript", "toy_openvino_model")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of toy.pt and its exports, for two images of 64 x 96 px."""
    weights = make_toy_weights(tmp_path_factory.mktemp("toy"))
    arguments = "--include onnx torchscript openvino --imgsz 64 96 --batch-size 2"
    export(
        parse_options(
            build_parser(), ExportOptions, ["--weights", str(weights), *arguments.split()]
        )
    )
    return weights.parent


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_images_in_any_memory_format(kind: str, toy: Path, images: Tensor) -> None:
    backend, torch_backend = open_backend(toy / kind, CPU), open_backend(toy / "toy.pt", CPU)
    with torch.inference_mode():
        expected = torch_backend(images, 1e-5)
    for given in (images, images.double(), images.contiguous(memory_format=torch.channels_last)):
        found = backend(given, 1e-5)
        assert [len(rows) for rows in found] == [len(rows) for rows in expected]
        for rows, others in zip(found, expected, strict=True):
            torch.testing.assert_close(rows, others, rtol=1e-4, atol=1e-4)
    assert len(backend(images[:1], 0.0)) == 1
    assert [tuple(rows.shape) for rows in backend(images, 1.0)] == [(0, 7)] * 5
    assert (backend.names, backend.max_stride) == (("green", "red"), 32)
    assert (backend.device, backend.dtype, backend.batch) == (CPU, torch.float32, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_another_image_size_is_one_sentence(kind: str, toy: Path) -> None:
    backend = open_backend(toy / kind, CPU)
    with pytest.raises(UserError, match=rf"{kind} accepts images of 64 x 96 pixels only, not 96 x"):
        backend(torch.zeros(1, 3, 96, 64), 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_another_number_of_classes_is_one_sentence(kind: str, toy: Path, tmp_path: Path) -> None:
    data = make_toy(tmp_path / "data", images=1)
    data.write_text(data.read_text().replace("[green, red]", "[green, red, blue]"))
    arguments = ["--weights", str(toy / kind), "--data", str(data)]
    with pytest.raises(UserError, match=rf"has 3 classes, but .*{kind} detects 2; use matching"):
        validate(parse_options(val_parser(), ValOptions, arguments))


@requires_shared
def test_val_measures_the_map_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Path(shutil.copy(SHARED / "weights" / "yolov5n.pt", tmp_path))
    arguments = "--include onnx torchscript openvino --imgsz 256"
    exported = export(
        parse_options(
            build_parser(), ExportOptions, ["--weights", str(weights), *arguments.split()]
        )
    )
    images = sorted((SHARED / "datasets" / "coco128").rglob("*.jpg"))[:24]
    (tmp_path / "val.txt").write_text("\n".join(map(str, images)))
    names = list(open_backend(weights, CPU).names)
    (tmp_path / "data.yaml").write_text(
        json.dumps({"val": "val.txt", "train": "val.txt", "names": names})
    )
    found = []
    monkeypatch.setattr(TorchBackend, "input_size", (256, 256))  # square images, as for a file
    for path in (weights, *exported):
        arguments = f"--weights {path} --data {tmp_path / 'data.yaml'} --noplots --workers 0"
        options = parse_options(
            val_parser(), ValOptions, [*arguments.split(), "--project", str(tmp_path / "runs")]
        )
        metrics = json.loads((validate(options) / "metrics.json").read_text())
        found.append([metrics[name] for name in ("map50", "map50_95")])
    assert found[0][1] > 0.2
    for own in found[1:]:
        assert own == pytest.approx(found[0], abs=0.001)


def test_half_needs_a_file_in_fp16(toy: Path) -> None:
    for kind in KINDS:
        with pytest.raises(
            UserError, match=rf"{kind} computes in fp32; omit --half, or export the"
        ):
            open_exported(toy / kind, CPU, half=True)


def damage(path: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("toy.onnx", Path.unlink, "does not exist; write it with export.py"),
        ("toy.onnx", damage, r"cannot be read as an ONNX model \(.+\); export the model again"),
        ("toy.onnx", lambda path: path.write_text("x"), "cannot be read as an ONNX model"),
        ("toy.torchscript", damage, r"cannot be read as a TorchScript model \(.+\); export the"),
        ("toy.torchscript", lambda path: path.write_text("x"), "cannot be read as a TorchScript"),
        ("toy_openvino_model", lambda path: damage(path / "toy.xml"), "be read as an OpenVINO mod"),
        (
            "toy_openvino_model",
            lambda path: (path / "toy.bin").unlink(),
            "be read as an OpenVINO m",
        ),
        (
            "toy_openvino_model",
            lambda path: (path / "toy.xml").unlink(),
            "has 0 .xml files; give a",
        ),
        ("toy_openvino_model", lambda path: (path / "metadata.yaml").unlink(), "metadata.yaml"),
        (
            "toy_openvino_model",
            lambda path: (path / "metadata.yaml").write_text("[1]"),
            "has no class names and stride in its metadata; export the model with export.py, or",
        ),
    ],
)
def test_a_damaged_file_is_one_sentence(
    kind: str, change: Callable[[Path], object], message: str, toy: Path, tmp_path: Path
) -> None:
    source, path = toy / kind, tmp_path / kind
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copyfile(source, path)
    change(path)
    with pytest.raises(UserError, match=message) as raised:
        open_backend(path, CPU)
    assert kind in str(raised.value)
    assert "\n" not in str(raised.value)


class Other(nn.Module):
    """A model with another output than a detector."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean() + self.bias


def foreign_onnx(
    path: Path,
    shape: tuple[int, ...],
    metadata: dict[str, str],
    image: tuple[int, ...] = (1, 3, 32, 32),
) -> Path:
    """An ONNX model that returns the mean of an image as often as a shape says."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("images", kind, image)]
    outputs = [helper.make_tensor_value_info("output0", kind, shape)]
    zeros = helper.make_tensor("zeros", kind, shape, [0.0] * torch.Size(shape).numel())
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "zeros"], ["output0"]),
    ]
    graph = helper.make_graph(nodes, "other", inputs, outputs, [zeros])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


NAMED = {"stride": "32", "names": "{0: 'green', 1: 'red'}"}


@pytest.mark.parametrize(
    ("shape", "metadata", "message"),
    [
        ((1, 1000), {}, "has no class names and stride in its metadata"),
        ((1, 5, 7), {"stride": "32"}, "has no class names and stride in its metadata"),
        ((1, 5, 7), NAMED | {"names": "__import__('os')"}, "has no class names and stride in its"),
        ((1, 5, 7), NAMED | {"stride": "0"}, "has no class names and stride in its metadata"),
        ((1, 5, 5), NAMED | {"names": "{}"}, "has no class names and stride in its metadata"),
        ((1, 5, 7), NAMED | {"stride": "x"}, "has no class names and stride in its metadata"),
        (
            (1, 1000),
            NAMED,
            r"returns values of shape \[1, 1000\], not boxes with 7 values for its ",
        ),
        # another generation of detectors: no objectness, and boxes last
        (
            (1, 6, 84),
            NAMED,
            r"returns values of shape \[1, 6, 84\], not boxes with 7 values for it",
        ),
        (
            (1, 5, 6),
            NAMED,
            r"returns values of shape \[1, 5, 6\], not boxes with 7 values for its 2",
        ),
    ],
)
def test_a_model_that_is_not_ours_is_one_sentence(
    shape: tuple[int, ...], metadata: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        open_backend(foreign_onnx(tmp_path / "other.onnx", shape, metadata), CPU)


@pytest.mark.parametrize("image", [(1, 10), (1, 3, 32), ()])
def test_a_model_that_takes_no_images_is_one_sentence(
    image: tuple[int, ...], tmp_path: Path
) -> None:
    path = foreign_onnx(tmp_path / "other.onnx", (1, 5, 7), NAMED, image)
    with pytest.raises(UserError, match=r"does not accept a batch of images \[B, 3, H, W\]; use a"):
        open_backend(path, CPU)


def test_a_model_for_grey_images_is_one_sentence(tmp_path: Path) -> None:
    path = foreign_onnx(tmp_path / "grey.onnx", (1, 5, 7), NAMED, (1, 1, 32, 32))
    with pytest.raises(UserError, match=r"grey.onnx cannot be read as a detector \(.+\); export"):
        open_backend(path, CPU)


def test_folders_and_files_with_the_wrong_suffix_are_one_sentence(
    toy: Path, tmp_path: Path
) -> None:
    for name in ("folder.onnx", "folder.torchscript"):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=rf"{name} cannot be read as"):
            open_backend(tmp_path / name, CPU)
    for source, name in (("toy.pt", "a.torchscript"), ("toy.onnx", "b.torchscript")):
        shutil.copyfile(toy / source, tmp_path / name)
        with pytest.raises(UserError, match=rf"{name} cannot be read as a TorchScript model"):
            open_backend(tmp_path / name, CPU)
    (tmp_path / "x_openvino_model").write_text("")
    with pytest.raises(UserError, match=r"x_openvino_model has 0 .xml files; give a folder that"):
        open_backend(tmp_path / "x_openvino_model", CPU)


def test_files_of_yolov5_without_our_metadata_are_run(tmp_path: Path) -> None:
    backend = open_backend(foreign_onnx(tmp_path / "yolov5.onnx", (1, 5, 7), NAMED), CPU)
    assert (backend.names, backend.input_size, backend.batch) == (("green", "red"), (32, 32), 1)
    (found,) = backend(torch.full((1, 3, 32, 32), 0.5), 0.2)
    assert torch.equal(found, torch.full((5, 7), 0.5))
    path = tmp_path / "yolov5.torchscript"
    config = {"shape": [1, 3, 32, 32], "stride": 32, "names": {"1": "red", "0": "green"}}
    with torchscript_warnings_ignored():
        script = torch.jit.trace(Other(1, 5, 7), torch.rand(1, 3, 32, 32))
        script.save(path, _extra_files={"config.txt": json.dumps(config)})
    backend = open_backend(path, CPU)
    assert (backend.names, backend.input_size, backend.batch) == (("green", "red"), (32, 32), 1)
    (found,) = backend(torch.full((1, 3, 32, 32), 0.5), 0.2)
    assert torch.equal(found, torch.full((5, 7), 0.5))


def test_a_torchscript_without_metadata_or_with_another_task_is_one_sentence(
    tmp_path: Path,
) -> None:
    path = tmp_path / "other.torchscript"
    with torchscript_warnings_ignored():
        torch.jit.trace(nn.Linear(3, 4), torch.rand(3)).save(path)
        with pytest.raises(UserError, match="has no class names and stride in its metadata"):
            open_backend(path, CPU)
        config = {"shape": [1, 3, 32, 32], "stride": 32, "names": ["a"]}
        script = torch.jit.trace(nn.Linear(3, 4), torch.rand(3))
        script.save(path, _extra_files={"config.txt": json.dumps(config)})
    with pytest.raises(UserError, match=r"cannot be read as a detector \(.+\); export the model"):
        open_backend(path, CPU)
    for text, message in (
        ("[1]", "has no class names and stride in its metadata"),
        ("{", "cannot be read as a TorchScript model"),
        (json.dumps(config | {"shape": [3]}), "does not accept a batch of images"),
    ):
        script.save(path, _extra_files={"config.txt": text})
        with pytest.raises(UserError, match=message):
            open_backend(path, CPU)


def test_metadata_are_read_back(tmp_path: Path) -> None:
    facts = ModelFacts(("it's", "ü"), 64, heads="raw", dynamic=True)
    texts = {name: str(value) for name, value in facts.to_metadata().items()}
    assert ModelFacts.from_metadata(texts, tmp_path) == facts
    assert ModelFacts.from_metadata(json.loads(json.dumps(facts.to_metadata())), tmp_path) == facts
    many = ModelFacts(tuple(map(str, range(12))), 32)
    assert ModelFacts.from_metadata(json.loads(json.dumps(many.to_metadata())), tmp_path) == many


def test_confident_boxes_need_objectness_and_a_class_above_the_threshold() -> None:
    boxes = torch.zeros(5, 7)
    boxes[:, 4:] = torch.tensor(
        [[0.5, 0.5, 0], [0.9, 0.2, 0.4], [0.9, 0.2, 0.9], [0.3, 1, 1], [0.31, 1, 0]]
    )
    assert confident(boxes, 0.3)[:, 4].tolist() == pytest.approx([0.9, 0.9, 0.31])
    assert len(confident(boxes, -1.0)) == 5


SIGNALLED = """
import signal, subprocess, sys
from pathlib import Path
import torch
from utils.inference.backend import open_backend

signal.signal(signal.SIGCHLD, lambda *_: None)  # as the loader of torch does
models = [open_backend(Path(sys.argv[1]), torch.device("cpu")) for _ in range(2)]
del models[0]
del models[0]
subprocess.run([sys.executable, "-c", ""], check=True)
"""


def test_process_survives_a_signal_after_openvino_models_are_freed(toy: Path) -> None:
    arguments = [sys.executable, "-c", SIGNALLED, str(toy / "toy_openvino_model")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
