"""Exported models compute what PyTorch does, and have the names and metadata of YOLOv5's."""

import ast
import json
import logging
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import yaml
from torch import Tensor

from export import build_parser, export
from models.nms import non_max_suppression
from tests.paths import ROOT, SHARED, SHARED_GOLDENS, requires_shared
from tests.toy import make_toy_weights
from utils.checkpoint.store import read_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.export.compare import comparison_images, difference
from utils.files.atomic_write import exporting
from utils.inference.backend import open_backend
from utils.inference.model import load_model as load_model_for_python
from utils.inference.sessions import open_session, torchscript_warnings_ignored
from utils.options.arguments import parse_options
from utils.options.export_options import ExportOptions
from utils.upstream.reader import read_upstream
from utils.weights import load_model

CPU = torch.device("cpu")
FORMATS = ("onnx", "torchscript", "openvino")
MADE = {"onnx": "{}.onnx", "torchscript": "{}.torchscript", "openvino": "{}_openvino_model"}
PREFIX = "yolov5_extend."


def run(*arguments: object) -> list[Path]:
    return export(parse_options(build_parser(), ExportOptions, [str(one) for one in arguments]))


def of_format(weights: Path, kind: str) -> Path:
    return weights.with_name(MADE[kind].format(weights.stem))


def detect_all(weights: Path, images: Tensor) -> Tensor:
    """Every box of PyTorch, ``[B, N, 5 + classes]``."""
    model = load_model(weights, CPU).model
    with torch.inference_mode():
        return torch.stack(model.decode_confident(model(images), -1.0))


def assert_close(found: Tensor, expected: Tensor) -> None:
    gaps = (found - expected).abs()
    assert gaps[..., :4].max() < 1e-2  # px
    assert gaps[..., 4:].max() < 1e-4


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data-set file with the seven photographs of the reference results."""
    golden = json.loads((SHARED_GOLDENS / "detect_yolov5n_640.json").read_text(encoding="utf-8"))
    folders = (SHARED / "images", SHARED / "datasets/coco128")
    found = [file for folder in folders for file in sorted(folder.rglob("*.jpg"))]
    photographs = [str(file) for file in found if file.stem in golden["detections"]]
    assert len(photographs) == 7
    folder = tmp_path_factory.mktemp("seven")
    (folder / "seven.txt").write_text("\n".join(photographs))
    names = [f"class {number}" for number in range(80)]
    file = folder / "seven.yaml"
    file.write_text(yaml.safe_dump({"train": "seven.txt", "val": "seven.txt", "names": names}))
    return file


def images_of(seven: Path, size: tuple[int, int]) -> Tensor:
    return torch.cat(comparison_images([seven.with_suffix(".txt")], size, 7))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    return Path(shutil.copyfile(SHARED / "weights" / "yolov5n.pt", folder / "yolov5n.pt"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_weights(tmp_path_factory.mktemp("toy"))


@requires_shared
def test_all_formats_detect_as_pytorch_does(
    official: Path, seven: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model for two images of 256 x 320 px; seven images end with an incomplete batch."""
    with caplog.at_level(logging.INFO, "yolo"):
        made = run(
            *("--weights", official, "--include", "yolov5", *FORMATS, "--imgsz", 256, 320),
            *("--batch-size", 2, "--data", seven),
        )
    assert made == [
        official.with_name("yolov5n_yolov5.pt"),
        *(of_format(official, kind) for kind in FORMATS),
    ]
    table = [line.split() for line in caplog.messages[-5:]]
    assert [line[0] for line in table] == [official.name, *(path.name for path in made)]
    for path, (_, megabytes, boxes, scores, ms) in zip(made, table[1:], strict=True):
        files = [path] if path.is_file() else list(path.iterdir())
        assert float(megabytes) == round(sum(file.stat().st_size for file in files) / 1e6, 1)
        assert float(boxes) < 1e-2
        assert float(scores) < 1e-4
        assert float(ms) > 0
    images = images_of(seven, (256, 320))
    expected = detect_all(official, images)
    assert expected.shape[:2] == (7, 3 * (32 * 40 + 16 * 20 + 8 * 10))
    names = load_model(official, CPU).names
    for path in made:
        backend = open_backend(path, CPU)
        assert_close(torch.stack(backend(images, -1.0)), expected)
        assert (backend.names, backend.max_stride, backend.origin) == (names, 32, str(path))
        if path.suffix != ".pt":
            assert (backend.input_size, backend.batch) == ((256, 320), 2)
    # the weights can be trained with
    assert read_upstream(made[0]).options == {"imgsz": 320, "batch_size": 2}


@requires_shared
@pytest.mark.parametrize("simplify", [False, True])
def test_dynamic_models_accept_all_multiples_of_the_stride(
    official: Path, seven: Path, simplify: bool
) -> None:
    kinds = ("onnx",) if simplify else FORMATS
    run(
        *("--weights", official, "--include", *kinds, "--imgsz", 128, "--dynamic"),
        *("--data", seven, *["--simplify"] * simplify),
    )
    for size, count in (((64, 64), 1), ((128, 320), 7), ((352, 32), 2), ((192, 416), 3)):
        images = images_of(seven, size)[:count]
        expected = detect_all(official, images)
        for kind in kinds:
            backend = open_backend(of_format(official, kind), CPU)
            assert (backend.input_size, backend.batch) == (None, None)
            assert_close(torch.stack(backend(images, -1.0)), expected)
            confident = backend(images, 0.3)
            assert [len(rows) for rows in confident] == [
                int((rows[:, 4] * rows[:, 5:].amax(1) > 0.3).sum()) for rows in expected
            ]


@requires_shared
def test_models_of_v5_0_are_exported(tmp_path: Path) -> None:
    """They have a Focus layer and an SPP."""
    source = SHARED / "legacy" / "v5.0" / "last_stripped.pt"
    weights = Path(shutil.copyfile(source, tmp_path / "v5.pt"))
    made = run("--weights", weights, "--include", *FORMATS, "--imgsz", 64, "--dynamic")
    images = torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    for path in made:
        found = torch.stack(open_backend(path, CPU)(images, -1.0))
        assert_close(found, detect_all(weights, images))


@requires_shared
@pytest.mark.parametrize("dynamic", [False, True])
def test_onnx_with_nms_returns_the_detections_of_pytorch(
    official: Path, seven: Path, dynamic: bool
) -> None:
    (path,) = run(
        *("--weights", official, "--include", "onnx", "--imgsz", 320, "--nms", "--batch-size", 7),
        *("--conf-thres", 0.2, "--iou-thres", 0.5, "--data", seven, *["--dynamic"] * dynamic),
    )
    images = images_of(seven, (192, 256) if dynamic else (320, 320))
    boxes = detect_all(official, images)
    expected = non_max_suppression(boxes, conf_thres=0.2, iou_thres=0.5, multi_label=True)
    [found] = open_session(path, CPU).run(images)
    assert len(found) == sum(map(len, expected)) > 10
    for number, rows in enumerate(expected):
        own = found[found[:, 0] == number][:, 1:]
        own = own[own[:, 4].argsort(descending=True, stable=True)]
        assert own[:, 5].tolist() == rows[:, 5].tolist()
        torch.testing.assert_close(own[:, :5], rows[:, :5], rtol=0, atol=1e-2)
    model = onnx.load(path)
    assert [one.name for one in model.graph.output] == ["detections"]
    with pytest.raises(UserError, match=r"was exported for other programs, with --nms; to run it"):
        open_backend(path, CPU)


def onnx_shape(value: Any) -> list[object]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_onnx_has_the_names_and_metadata_of_yolov5(toy: Path) -> None:
    (path,) = run("--weights", toy, "--include", "onnx", "--imgsz", 64, 96, "--batch-size", 3)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    (images,), (output,) = model.graph.input, model.graph.output
    assert (images.name, output.name) == ("images", "output0")
    assert onnx_shape(images) == [3, 3, 64, 96]
    assert onnx_shape(output) == [3, 3 * (8 * 12 + 4 * 6 + 2 * 3), 7]
    metadata = {one.key: one.value for one in model.metadata_props}
    assert metadata == {
        "stride": "32",
        "names": "{0: 'green', 1: 'red'}",
        f"{PREFIX}heads": "decoded",
        f"{PREFIX}dynamic": "False",
    }
    assert ast.literal_eval(metadata["names"]) == {0: "green", 1: "red"}
    arguments = ("--weights", toy, "--include", "onnx", "--imgsz", 64, "--opset", 13)
    (path,) = run(*arguments, "--dynamic")
    model = onnx.load(path)
    assert model.opset_import[0].version == 13
    assert onnx_shape(model.graph.input[0]) == ["batch", 3, "height", "width"]
    assert onnx_shape(model.graph.output[0]) == ["batch", "anchors", 7]


def test_torchscript_and_openvino_have_the_metadata_of_yolov5(toy: Path) -> None:
    script, folder = run(
        *("--weights", toy, "--include", "torchscript", "openvino", "--imgsz", 96),
    )
    own = {f"{PREFIX}heads": "decoded", f"{PREFIX}dynamic": False}
    extra = {"config.txt": ""}
    with torchscript_warnings_ignored():
        torch.jit.load(script, _extra_files=extra)
    config = json.loads(extra["config.txt"])
    assert (
        config
        == {
            "shape": [1, 3, 96, 96],
            "stride": 32,
            "names": {"0": "green", "1": "red"},
        }
        | own
    )
    assert sorted(file.name for file in folder.iterdir()) == [
        *("metadata.yaml", "toy.bin", "toy.xml"),
    ]
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    assert metadata == {"stride": 32, "names": {0: "green", 1: "red"}} | own


@pytest.mark.parametrize("heads", ["raw", "sigmoid"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_one_map_per_level_and_the_anchors(heads: str, dynamic: bool, toy: Path) -> None:
    run(
        *("--weights", toy, "--include", *FORMATS, "--imgsz", 64, 96, "--heads", heads),
        *["--dynamic"] * dynamic,
    )
    model = load_model(toy, CPU).model
    size = (128, 32) if dynamic else (64, 96)
    images = torch.rand(2 if dynamic else 1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = model(images)  # [B, A, h, w, 7]
    expected = [level.permute(0, 1, 4, 2, 3).flatten(1, 2) for level in maps]
    assert [level.shape[1:] for level in expected] == [
        (21, size[0] // stride, size[1] // stride) for stride in (8, 16, 32)
    ]
    for kind in FORMATS:
        session = open_session(of_format(toy, kind), CPU)
        with torch.inference_mode():
            found = session.run(images)
        for own, level in zip(found, expected, strict=True):
            values = level.sigmoid() if heads == "sigmoid" else level
            torch.testing.assert_close(own, values, rtol=1e-4, atol=1e-4)
        with pytest.raises(UserError, match=f"with --heads {heads}; to run it here, export the"):
            open_backend(of_format(toy, kind), CPU)
    anchors = toy.with_name("anchors.txt").read_text().splitlines()
    assert [float(side) for side in anchors] == [
        *(10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)
    ]


@pytest.mark.parametrize("dynamic", [False, True])
def test_torchscript_can_move_to_another_device(dynamic: bool, toy: Path) -> None:
    """The meta device stands for a GPU: tensors on it cannot be combined with those on the CPU."""
    arguments = ["--dynamic"] * dynamic
    (path,) = run("--weights", toy, "--include", "torchscript", "--imgsz", 64, *arguments)
    with torchscript_warnings_ignored():
        script = torch.jit.load(path)
    for module in script.modules():
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in tensors:  # ScriptModule.to does not know this device
            module._c.setattr(name, tensor.detach().to("meta"))
    with torch.inference_mode():
        boxes = script(torch.zeros(1, 3, 64, 64, device="meta"))
    assert boxes.device.type == "meta"
    assert boxes.shape == (1, 3 * (64 + 16 + 4), 7)


def test_half_precision_computes_in_fp16_but_keeps_pixels(toy: Path) -> None:
    made = run("--weights", toy, "--include", *FORMATS, "--imgsz", 64, "--half")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = detect_all(toy, images)
    for path, dtype in zip(made, (torch.float16, torch.float16, torch.float32), strict=True):
        backend = open_backend(path, CPU)
        assert backend.dtype == dtype
        (found,) = backend(images, -1.0)
        assert found.dtype == torch.float32
        gaps = (found - expected[0]).abs()
        assert 0 < gaps[:, 4:].max() < 1e-2
        assert gaps[:, :4].max() < 1
    weights = onnx.load(made[0]).graph.initializer
    assert {one.data_type for one in weights if len(one.dims) == 4} == {onnx.TensorProto.FLOAT16}
    with torchscript_warnings_ignored():
        script = torch.jit.load(made[1]).state_dict()
    assert {one.dtype for name, one in script.items() if "conv" in name} == {torch.float16}


# Exports each format in a process of its own, which is killed just before the complete new file or
# folder gets its final name.
KILL = """
import os, signal, sys
from pathlib import Path
import torch
import export

def kill(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

for kind in ("yolov5", "onnx", "torchscript", "openvino"):
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        Path.replace = kill
        sys.argv = ["export.py", "--weights", sys.argv[1], "--include", kind, "--imgsz", "32"]
        export.main()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, kind
"""


def test_a_kill_leaves_the_earlier_files_or_none(toy: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copy(toy, tmp_path))
    command = [sys.executable, "-c", KILL, str(weights)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    def complete() -> dict[str, bytes]:
        visible = [file for file in tmp_path.iterdir() if not file.name.startswith(".")]
        files = [file for one in visible for file in ([one] if one.is_file() else one.iterdir())]
        return {str(file): file.read_bytes() for file in files}

    assert list(complete()) == [str(weights)]
    run("--weights", weights, "--include", "yolov5", *FORMATS, "--imgsz", 32)
    before = complete()
    assert len(before) == 1 + 3 + 3  # the folder has three files
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert complete() == before

    def left() -> set[str]:
        return {file.name for file in tmp_path.iterdir() if file.name.startswith(".")}

    assert [name[:20] for name in left()] == [".toy_openvino_model."]  # of the last kill
    others = {f".toy.{'0' * 12}.pt", f".toy.{'0' * 12}", ".toy.onnx", ".toy.123.onnx"}
    for name in others:
        (tmp_path / name).touch()
    with exporting(tmp_path):  # another process exports into the folder
        code = "import sys; from pathlib import Path; from utils.files.atomic_write import *\n"
        code += "with exporting(Path(sys.argv[1])): pass"
        command = [sys.executable, "-c", code, str(tmp_path)]
        before_cleaning = left()
        subprocess.run(command, cwd=ROOT, check=True)
        assert left() == before_cleaning
    run("--weights", weights, "--include", "openvino", "--imgsz", 64)  # replaces the folder
    assert left() == others
    assert open_backend(of_format(weights, "openvino"), CPU).input_size == (64, 64)
    assert complete().keys() == before.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--include yolov5 --nms", "--nms has no effect on yolov5; omit it, or add onnx to --incl"),
        ("--include yolov5 --half", "--half has no effect on yolov5; omit it, or add onnx or torc"),
        ("--include openvino --simplify", "--simplify has no effect on openvino; omit it, or add"),
        ("--include torchscript --opset 13", "--opset has no effect on torchscript; omit it, or a"),
        ("--include onnx openvino --optimize", "--optimize has no effect on onnx and openvino; om"),
        ("--include onnx torchscript --nms", "--nms is for ONNX models with decoded boxes; export"),
        ("--include onnx --nms --heads raw", "--nms is for ONNX models with decoded boxes; export"),
        ("--include onnx --conf-thres 0.1", "--conf-thres needs --nms; add --nms or omit it"),
        ("--include torchscript --optimize --half", "--optimize is for CPUs; use it with --device"),
        ("--include onnx --imgsz 32 32 32", "--imgsz 32 32 32: give one size, or the height and"),
        ("--include onnx --opset 11", "--opset 11: must be between 12 and 20"),
        (
            "--include onnx --weights none.pt",
            "none.pt does not exist; give a .pt file or one of the",
        ),
    ],
)
def test_wrong_options_are_one_sentence(arguments: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments.split())


@pytest.mark.parametrize(
    ("package", "arguments", "remedy"),
    [
        ("onnx", "--include yolov5 onnx", "--include onnx needs the package onnx, which is not "),
        ("onnxslim", "--include onnx --simplify", "--simplify needs the package onnxslim, which"),
        ("openvino", "--include torchscript openvino", "--include openvino needs the package op"),
        ("onnx", "--include torchscript openvino", "--include openvino needs the package onnx, wh"),
    ],
)
def test_a_missing_package_is_named_before_anything_is_written(
    package: str,
    arguments: str,
    remedy: str,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = Path(shutil.copy(toy, tmp_path))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"{remedy}.*pip install {package} "):
        run("--weights", weights, *arguments.split())
    assert list(tmp_path.iterdir()) == [weights]


def test_a_file_that_cannot_be_run_here_is_written_anyway(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = Path(shutil.copy(toy, tmp_path))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with caplog.at_level(logging.INFO, "yolo"):
        (path,) = run("--weights", weights, "--include", "onnx", "--imgsz", 32)
    assert path.is_file()
    assert "was written, but not compared: " in caplog.text
    assert "pip install onnxruntime " in caplog.text
    assert caplog.messages[-1].split()[2:] == ["-", "-", "-"]


@pytest.mark.parametrize(("kind", "package"), [("yolov5", "onnx"), ("torchscript", "onnx")])
def test_other_formats_need_no_package(
    kind: str, package: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Path(shutil.copy(toy, tmp_path))
    for name in (package, "openvino", "onnxslim", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    (path,) = run("--weights", weights, "--include", kind, "--imgsz", 32)
    assert path.is_file()


@pytest.mark.parametrize("name", ["best.pth", "x.PT", "best"])
def test_any_other_suffix_is_that_of_weights(
    name: str, toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = Path(shutil.copy(toy, tmp_path / name))
    made = run("--weights", weights, "--include", "yolov5", *FORMATS, "--imgsz", 32)
    stem = weights.stem
    expected = [f"{stem}_yolov5.pt", *(MADE[kind].format(stem) for kind in FORMATS)]
    assert [path.name for path in made] == expected
    assert not caplog.messages  # all are compared
    assert not load_model_for_python(weights, CPU, autoshape=False).training
    assert load_model_for_python(weights, CPU).names == {0: "green", 1: "red"}
    upper = made[1].rename(tmp_path / "upper.ONNX")
    assert open_backend(upper, CPU).names == ("green", "red")
    for one in (upper, made[3]):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError, match=r"is an exported model; give the \.pt file that"):
            run("--weights", one, "--include", "torchscript")
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("target", ["toy_yolov5.pt", *(MADE[k].format("toy") for k in FORMATS)])
def test_what_no_export_wrote_is_never_replaced(target: str, toy: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copy(toy, tmp_path))
    kinds = ("yolov5", *FORMATS)
    run("--weights", weights, "--include", *kinds, "--imgsz", 32)
    run("--weights", weights, "--include", *kinds, "--imgsz", 32)  # its own files are replaced
    path = tmp_path / target
    foreign = path / "notes.txt" if path.is_dir() else path
    if path.is_file():
        path.unlink()
    foreign.write_bytes(b"mine")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=f"{foreign.name} would be lost: export.py replaces only"):
        run("--weights", weights, "--include", *kinds, "--imgsz", 32)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
        (path / "toy.xml").write_bytes(b"mine")  # of another program: without our metadata
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(UserError, match=f"{path.name} would be lost"):
        run("--weights", weights, "--include", *kinds, "--imgsz", 32)


def test_foreign_anchors_and_weights_of_yolov5_are_never_replaced(
    toy: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copy(toy, tmp_path))
    anchors = tmp_path / "anchors.txt"
    anchors.write_text("10,13, 16,30")
    arguments = ("--weights", weights, "--include", "onnx", "--imgsz", 32, "--heads", "raw")
    with pytest.raises(UserError, match=r"anchors.txt would be lost"):
        run(*arguments)
    assert sorted(tmp_path.iterdir()) == [anchors, weights]
    anchors.unlink()
    run(*arguments)
    assert run(*arguments) == [weights.with_suffix(".onnx")]
    if SHARED.is_dir():
        target = Path(
            shutil.copy(SHARED / "legacy/v7/last_stripped.pt", tmp_path / "toy_yolov5.pt")
        )
        before = target.read_bytes()
        with pytest.raises(UserError, match=r"toy_yolov5.pt would be lost"):
            run("--weights", weights, "--include", "yolov5", "--imgsz", 32)
        assert target.read_bytes() == before


def facts_of(path: Path) -> tuple[dict[str, object], dict[str, float]]:
    content = read_upstream(path)
    return content.options or {}, content.hyp


def test_the_file_for_yolov5_has_what_is_known_of_the_training(tmp_path: Path) -> None:
    """Of a kept run: in its last.pt, else in opt.yaml and hyp.yaml, else in an earlier export."""
    folder = Path(shutil.copytree(ROOT / "tests/kept_runs/version_1/finished", tmp_path / "run"))
    best, last = folder / "weights/best.pt", folder / "weights/last.pt"
    arguments = ("--include", "yolov5", "--imgsz", 32)
    config = read_checkpoint(last)["config"]  # type: ignore[typeddict-item]
    options = {"imgsz": 32, "batch_size": 1} | config["options"]
    (path,) = run("--weights", best, *arguments)
    assert facts_of(path) == (options, config["hyp"])
    assert options["imgsz"] == 64
    path.unlink()
    last.unlink()
    (path,) = run("--weights", best, *arguments)
    written, hyp = facts_of(path)
    assert (written["seed"], written["imgsz"], hyp) == (7, 64, config["hyp"])
    for name in ("opt.yaml", "hyp.yaml"):
        (folder / name).unlink()
    run("--weights", best, *arguments)
    assert facts_of(path) == (written, hyp)
    other = read_checkpoint(best)
    other["weights"]["model.0.bn.bias"] += 1  # type: ignore[typeddict-item]
    save_checkpoint(other, best)
    run("--weights", best, *arguments)  # of other weights, the earlier export says nothing
    assert facts_of(path) == ({"imgsz": 32, "batch_size": 1}, {})


@requires_shared
@pytest.mark.parametrize("name", ["weights/yolov5n.pt", "legacy/v7/last_stripped.pt"])
def test_facts_of_yolov5_are_kept(name: str, tmp_path: Path) -> None:
    weights = Path(shutil.copy(SHARED / name, tmp_path))
    (path,) = run("--weights", weights, "--include", "yolov5", "--imgsz", 32)
    options, hyp = facts_of(weights)
    assert facts_of(path) == ({"imgsz": 32, "batch_size": 1} | options, hyp)
    assert hyp["momentum"] == 0.937


@pytest.mark.parametrize("name", ["metadata.yaml", "toy.yaml"])
def test_openvino_metadata_may_have_the_name_of_the_model(
    name: str, toy: Path, tmp_path: Path
) -> None:
    weights = Path(shutil.copy(toy, tmp_path))
    (folder,) = run("--weights", weights, "--include", "openvino", "--imgsz", 32)
    (folder / "metadata.yaml").rename(folder / name)
    assert open_backend(folder, CPU).names == ("green", "red")
    (folder / name).unlink()
    with pytest.raises(UserError, match=r"has neither metadata.yaml nor toy.yaml, which has the"):
        open_backend(folder, CPU)


def test_a_read_only_folder_is_one_sentence(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    weights = Path(shutil.copy(toy, folder))
    folder.chmod(0o555)
    with pytest.raises(UserError, match=r"the folder of .*toy.pt is read-only; copy the weights"):
        run("--weights", weights, "--include", "yolov5")
    assert list(folder.iterdir()) == [weights]


def test_optimize_is_possible_or_one_sentence(toy: Path, tmp_path: Path) -> None:
    weights = Path(shutil.copy(toy, tmp_path))
    arguments = ("--weights", weights, "--include", "torchscript", "--imgsz", 32, "--optimize")
    try:
        (path,) = run(*arguments)
    except UserError as error:
        assert str(error).startswith("--optimize needs a torch that was built with XNNPACK")  # noqa: PT017
        assert list(tmp_path.iterdir()) == [weights]
    else:
        images = torch.rand(1, 3, 32, 32)
        assert_close(
            torch.stack(open_backend(path, CPU)(images, -1.0)), detect_all(weights, images)
        )


def test_differences_are_the_largest_ones() -> None:
    boxes = torch.tensor([[[1.0, 2, 3, 4, 0.5, 0.25]], [[5, 6, 7, 8, 0.5, 0.75]]])
    moved = boxes + torch.tensor([0, -0.25, 0, 0, 0, 0.125])
    assert difference([[boxes], [moved]], [[boxes], [boxes]], "decoded") == (0.25, 0.125)
    assert difference([[boxes]], [[boxes[:1]]], "decoded") == (float("inf"), float("inf"))
    maps = difference([[boxes, boxes]], [[boxes, boxes + 0.5]], "raw")
    assert math.isnan(maps.boxes)
    assert maps.scores == 0.5
    # image, corners, score, class: the nearest of the same image and class, in any order
    found = torch.tensor(
        [[0.0, 1, 2, 3, 4, 0.5, 7], [1, 1, 2, 3, 4, 0.5, 7], [1, 1, 2, 3, 4, 0.5, 8]]
    )
    other = found[[2, 0, 1]] + torch.tensor([0, 0, 0.5, 0, 0, 0.25, 0])
    assert difference([[found]], [[other]], "nms") == (0.5, 0.25)
    assert difference([[found]], [[other[1:]]], "nms") == (float("inf"), float("inf"))
    assert difference([[found[:1]]], [[other[:1]]], "nms").boxes == float("inf")
    assert difference([[found[:0]]], [[found[:0]]], "nms") == (0, 0)


def test_images_without_a_data_set_are_drawn_and_fill_batches() -> None:
    batches = comparison_images((), (64, 96), 4)
    assert [batch.shape for batch in batches] == [(4, 3, 64, 96)] * 2
    assert torch.equal(batches[1][3], batches[0][0])
    assert not torch.equal(batches[0][1], batches[0][0])
    assert batches[0].max() <= 1
    assert len(torch.cat(comparison_images((), (32, 32), 9))) == 9
