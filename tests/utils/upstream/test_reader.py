"""Upstream's files are read exactly, and nothing in a file is ever executed."""

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.paths import SHARED, requires_shared
from tests.utils.checkpoint.pickle_text import (
    Call,
    Name,
    Persistent,
    Raw,
    program,
    write_archive,
)
from tests.utils.checkpoint.tiny_files import STORAGES, module, tensor, tiny_content, tiny_model
from utils.checkpoint.pickle_records import require_type
from utils.errors import UserError
from utils.upstream.reader import is_upstream_file, read_upstream
from utils.upstream.state import optimizer_state

LEGACY = SHARED / "legacy"
OFFICIAL = SHARED / "weights" / "yolov5n.pt"
MAX_SECONDS = 10  # a refusal takes milliseconds; this allows for a busy machine


def read_content(folder: Path, content: Any) -> Any:
    return read_upstream(write_archive(folder / "file.pt", program(content), STORAGES))


@requires_shared
class TestRealFiles:
    """The expected values were recorded by the program that wrote the files."""

    @pytest.fixture(params=["v5.0", "v7"])
    def version(self, request: pytest.FixtureRequest) -> str:
        return request.param

    def test_unstripped_file_has_upstreams_values(self, version: str) -> None:
        expected = json.loads((LEGACY / version / "epoch1_expected.json").read_text())
        found = read_upstream(LEGACY / version / "epoch1.pt")
        assert found.epoch == expected["epoch"] == 1
        assert found.ema_updates == expected["updates"]
        assert found.best_fitness == expected["best_fitness"]
        assert found.spec["nc"] == expected["nc"]
        assert len(found.names) == expected["nc"]
        assert list(found.names[:5]) == expected["names"]
        pixels = [np.ravel(level).tolist() for level in expected["anchors_px"]]
        assert found.spec["anchors"] == pixels

    def test_every_tensor_of_model_and_ema(self, version: str) -> None:
        expected = json.loads((LEGACY / version / "epoch1_expected.json").read_text())
        found = read_upstream(LEGACY / version / "epoch1.pt")
        assert found.ema_state is not None
        for state, norms in (
            (found.model_state, expected["weight_norm"]),
            (found.ema_state, expected["ema_norm"]),
        ):
            floating = {name: value for name, value in state.items() if value.is_floating_point()}
            assert list(floating) == list(norms)
            for name, value in floating.items():
                assert value.dtype == torch.float16
                assert value.double().norm().item() == pytest.approx(norms[name], rel=1e-12)
        assert found.weights is found.ema_state

    def test_optimizer_buffers_by_name(self, version: str) -> None:
        expected = json.loads((LEGACY / version / "epoch1_expected.json").read_text())
        content = read_upstream(LEGACY / version / "epoch1.pt")
        assert content.optimizer is not None
        groups = require_type(content.optimizer["param_groups"], list)
        for group, row in zip(groups, expected["groups"], strict=True):
            assert len(group["params"]) == row.pop("n")
            assert {key: group[key] for key in row} == row
        state = optimizer_state(content)
        assert state[:3] == tuple(groups[0].get(name) for name in ("lr", "initial_lr", "momentum"))
        buffers = {name: kept["momentum_buffer"] for name, kept in state.buffers.items()}
        assert list(buffers) == list(expected["momentum_buffer_norm_sum"])
        for name, (norm, total) in expected["momentum_buffer_norm_sum"].items():
            assert buffers[name].double().norm().item() == pytest.approx(norm, rel=1e-12)
            assert buffers[name].double().sum().item() == pytest.approx(total, rel=1e-9, abs=1e-12)

    def test_stripped_file_lacks_its_state(self, version: str) -> None:
        found = read_upstream(LEGACY / version / "last_stripped.pt")
        assert found.epoch == -1
        assert found.ema_state is None
        assert found.ema_updates is None
        assert found.optimizer is None
        assert set(found.weights) == set(found.model_state)
        assert optimizer_state(found) == (None, None, None, {})

    def test_values_of_one_version_only(self) -> None:
        old = read_upstream(LEGACY / "v5.0" / "epoch1.pt")
        assert old.version == "v5.0"
        assert old.options is None
        assert old.date is None
        assert old.training_results is not None
        assert old.training_results.split()[:2] == ["0/2", "0G"]
        assert old.model_state["model.24.anchor_grid"].shape == (3, 1, 3, 1, 1, 2)
        new = read_upstream(LEGACY / "v7" / "epoch1.pt")
        assert new.version == "v7.0"
        assert new.options is not None
        assert new.options["save_dir"] == "runs/train/legacy"
        assert new.options["epochs"] == 4
        assert require_type(new.options["hyp"], dict)["lrf"] == 0.01
        assert new.training_results is None
        assert new.date is not None
        assert new.date.startswith("20")

    def test_official_weights(self) -> None:
        found = read_upstream(OFFICIAL)
        names = json.loads((SHARED / "goldens" / "state_dict_yolov5n.json").read_text())
        shapes = {name: tuple(value.shape) for name, value in found.weights.items()}
        assert shapes == {name: tuple(shape) for name, shape in dict(names).items()}
        assert found.version == "v6.1"
        assert found.names[0] == "person"
        assert found.names[79] == "toothbrush"
        assert found.spec["width_multiple"] == 0.25

    def test_upstream_files_are_recognized(self, tmp_path: Path) -> None:
        torch.save({"weights": {"a": torch.ones(2)}}, tmp_path / "ours.pt")
        (tmp_path / "text.pt").write_text("models.yolo")
        for path in (OFFICIAL, *LEGACY.glob("*/*.pt")):
            assert is_upstream_file(path)
        for name in ("ours.pt", "text.pt", "absent.pt"):
            assert not is_upstream_file(tmp_path / name)

    def test_damaged_file_is_read_or_refused(self, version: str, tmp_path: Path) -> None:
        """A truncated file or one with a flipped bit raises a UserError or is read correctly."""
        whole = (LEGACY / version / "last_stripped.pt").read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(6):
            position = int(rng.integers(len(whole)))
            (tmp_path / "cut.pt").write_bytes(whole[:position])
            with pytest.raises(UserError, match=r"cut\.pt"):
                read_upstream(tmp_path / "cut.pt")
            flipped = bytearray(whole)
            flipped[position] ^= 1 << int(rng.integers(8))
            (tmp_path / "flipped.pt").write_bytes(flipped)
            try:
                assert read_upstream(tmp_path / "flipped.pt").epoch == -1  # a bit that is not read
            except UserError as error:
                assert "flipped.pt" in str(error)  # noqa: PT017 - both outcomes are valid


def test_tiny_file_is_read(tmp_path: Path) -> None:
    """The content that the hostile files below are made from is valid."""
    found = read_content(tmp_path, tiny_content())
    assert list(found.parameter_kinds.items()) == [
        ("model.0.conv.weight", "weight"),
        ("model.0.bn.weight", "norm"),
        ("model.0.bn.bias", "bias"),
    ]
    assert found.weights["model.0.conv.weight"].tolist() == [[0, 1], [2, 3]]
    assert found.weights["model.1.anchors"].tolist() == [[[1.25, 2]]]
    assert found.spec["anchors"] == [[10, 16]]
    assert found.version == "v6.0"


def test_all_kinds_of_plain_data(tmp_path: Path) -> None:
    order = Call("numpy.dtype", ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    number = Call("_codecs.encode", (np.array([0.5], "<f8").tobytes().decode("latin1"), "latin1"))
    array = Call(
        "numpy._core.multiarray._reconstruct",
        (Name("numpy.ndarray"), (0,), b"b"),
        (1, (1,), order, False, number),
    )
    scalar = Call("numpy.core.multiarray.scalar", (order, number))
    options = {
        "save_dir": Call("pathlib.PosixPath", ("/", "runs", "exp")),
        "weights": Call("pathlib.WindowsPath", ("C:\\", "a.pt")),
        "size": Call("torch.Size", ((640, 480),)),
        "device": Call("torch.device", ("cuda", 0)),
        "scalar": scalar,
        "seen": Call("__builtin__.set", (["b", "a"],)),
        "order": Call("collections.OrderedDict"),
    }
    found = read_content(tmp_path, tiny_content(opt=options, best_fitness=array))
    assert found.best_fitness == 0.5
    assert found.options == {
        "save_dir": "/runs/exp",
        "weights": "C:\\a.pt",
        "size": (640, 480),
        "device": "cuda",
        "scalar": 0.5,
        "seen": ["b", "a"],
        "order": {},
    }


SHELL = "touch executed"
DOUBLING = b"".join(
    b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(1, 99)
)  # each doubles the previous one
HOSTILE = {
    "os.system": (
        Call("posix.system", (SHELL,)),
        "references posix.system, which no checkpoint needs",
    ),
    "eval": (Call("builtins.eval", ("1",)), "references builtins.eval, which no checkpoint needs"),
    "eval, python 2": (
        Call("__builtin__.eval", ("1",)),
        "references __builtin__.eval, which no checkpoint needs",
    ),
    "getattr": (
        Call("builtins.getattr", (Name("torch.Size"), "x")),
        "builtins.getattr, which no checkpoint needs",
    ),
    "attrgetter chain": (
        Call(Call("operator.attrgetter", ("system",)), (Name("os.path"),)),
        "references operator.attrgetter, which no checkpoint needs",
    ),
    "call of a call": (
        Call(Call("torch.Size", ((1,),)), (SHELL,)),
        "found PickleRecord, expected GlobalName",
    ),
    "copyreg": (Call("copyreg._reconstructor", (Name("torch.Size"),)), "copyreg._reconstructor"),
    "torch.load": (
        Call("torch.load", ("other.pt",)),
        "references torch.load, which no checkpoint needs",
    ),
    "torch.hub": (
        Call("torch.hub.load", ("a/b", "c")),
        "references torch.hub.load, which no checkpoint needs",
    ),
    "subprocess": (
        Call("subprocess.Popen", (SHELL,)),
        "references subprocess.Popen, which no checkpoint needs",
    ),
    "terminal codes": (Call("os.\x1b[2J", ()), r"references os.\x1b[2J, which no checkpoint needs"),
    # an allowed prefix does not help: the name is never imported
    "dotted escape": (Call("torch.nn.modules.torch.os.system", (SHELL,)), "expected data"),
    "state of a name": (
        Raw(b"ctorch\nSize\n}X\1\0\0\0aK\1sb"),
        "found GlobalName, expected PickleRecord",
    ),
    "other class": (
        Call("torch.nn.modules.module.Module", (), {"__class__": Name("torch.Size")}),
        "expected data",
    ),
    "reduce in the state": (
        Call("torch.nn.modules.module.Module", (), {"__reduce__": Name("torch.Size")}),
        "expected data",
    ),
    "INST": (Raw(b"(X\1\0\0\0aios\nsystem\n"), "opcode INST"),
    "OBJ": (Raw(b"(ctorch\nSize\nK\1o"), "opcode OBJ"),
    "EXT1": (Raw(b"\x82\1"), "opcode EXT1"),
    # not decoded, since Python would import the module of its codec
    "UNICODE": (Raw(b"V\\u\n"), "opcode UNICODE"),
    "text persistent id": (Raw(b"Pstorage\n"), "opcode PERSID"),
    "persistent id as data": (Persistent(("module", "x")), "expected data"),
    "pointers": (
        Call(
            "numpy.core.multiarray.scalar",
            (Call("numpy.dtype", ("O8", False, True), (3, "|", None)), b"\1" * 8),
        ),
        "an array has an unsupported dtype",
    ),
    "unpacking codec": (
        Call(
            "numpy.core.multiarray.scalar",
            (Call("numpy.dtype", ("i1",), (3, "|")), Call("_codecs.encode", ("x", "zlib"))),
        ),
        "an array has no bytes",
    ),
    "bytes without end": (Raw(b"\x8e" + b"\xff" * 7 + b"\x7f"), "cannot be parsed"),
    "memo slot two billion": (Raw(b"Nr\xff\xff\xff\x7fh\1"), "cannot be parsed"),
    "list in itself": (Raw(b"]q\1h\1a"), "nested too deeply"),
    "doubling lists": (
        Raw(b"](]q\1" + DOUBLING + b"e"),
        "expands to more values than any checkpoint",
    ),
    "deep nesting": (Raw(b"]" * 5000 + b"a" * 4999), "nested too deeply"),
    "tuple as a key": (Raw(b"})Ns"), "a dictionary key is a tuple"),
    "one list in many sets": (
        Raw(b"](](" + b"N" * 2000 + b"eq\1" + b"cbuiltins\nset\nh\1\x85R" * 999 + b"e"),
        "expands to more values than any checkpoint",
    ),
    "absent storage": (tensor("9", 1), "is damaged or not a YOLOv5 checkpoint"),
    "half an element": (tensor("3", 1, kind="Double"), "is damaged or not a YOLOv5 checkpoint"),
    "huge storage": (tensor("0", 1, of=2**31 - 1), "does not have 2147483647 elements"),
    "storage of objects": (
        tensor("0", 4, kind="Object"),
        "references torch.ObjectStorage, which no checkpoint needs",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_content_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = HOSTILE[case]
    began = time.process_time()
    with pytest.raises(UserError, match=r"file\.pt") as refusal:
        read_content(tmp_path, tiny_content(opt={"a": content}))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert time.process_time() - began < MAX_SECONDS
    assert [path.name for path in tmp_path.iterdir()] == ["file.pt"]  # no command was run


def view(offset: Any, size: Any, stride: Any) -> Call:
    storage = Persistent(("storage", Name("torch.FloatStorage"), "0", "cpu", 4))
    return Call("torch._utils._rebuild_tensor_v2", (storage, offset, size, stride, False, {}))


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),  # one element too many
        (4, (1,), (1,)),  # begins after the end
        (0, (2, 2), (3, 2)),  # the corner is element 5
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (3, (2,), (-1,)),
        (0, (2**30, 2**30), (0, 0)),  # an exabyte from one element
        (0, (4,), ()),
        (0, (1,) * 99, (1,) * 99),
        ("0", (1,), (1,)),
        (0, [4], [1]),
        (0, (1.0,), (1,)),
    ],
)
def test_view_beyond_its_storage_is_refused(
    tmp_path: Path, offset: Any, size: Any, stride: Any
) -> None:
    norm = module("torch.nn.modules.x.Y", _parameters={"weight": view(offset, size, stride)})
    model = tiny_model(_modules={"x": norm})
    with pytest.raises(UserError, match="is damaged or not a YOLOv5 checkpoint"):
        read_content(tmp_path, tiny_content(model=model))


def test_storage_with_two_dtypes_is_refused(tmp_path: Path) -> None:
    buffers = {"a": tensor("0", 4), "b": tensor("0", 4, kind="Int")}
    with pytest.raises(UserError, match="is used with two dtypes"):
        read_content(tmp_path, tiny_content(model=tiny_model(_buffers=buffers)))


def test_repeated_views_of_one_storage_are_limited(tmp_path: Path) -> None:
    buffers = {f"b{i}": tensor("0", 10_000) for i in range(50)}
    pickled = program(tiny_content(model=tiny_model(_buffers=buffers)))
    path = write_archive(tmp_path / "file.pt", pickled, STORAGES | {"0": b"\0" * 40_000})
    with pytest.raises(UserError, match="larger than the file"):
        read_upstream(path)


def test_cyclic_modules_are_refused(tmp_path: Path) -> None:
    # memo slot 1 is the inner module, which is its own child "a"
    cyclic = Raw(
        b"ctorch.nn.modules.x\nY\n)Rq\1}(X\x0b\0\0\0_parameters}X\x08\0\0\0_buffers}"
        b"X\x08\0\0\0_modules}X\1\0\0\0ah\1sub"
    )
    with pytest.raises(UserError, match="modules are nested too deeply"):
        read_content(tmp_path, tiny_content(model=tiny_model(_modules={"x": cyclic})))


@pytest.mark.parametrize("kind", ["models.yolo.SegmentationModel", "ultralytics.nn.tasks.X"])
def test_models_of_other_tasks_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(
        UserError, match=rf"holds a {kind}; use the checkpoint of a YOLOv5 detection"
    ):
        read_content(tmp_path, tiny_content(model=Call(kind)))


def test_fused_model_is_refused(tmp_path: Path) -> None:
    fused = module("models.common.Conv", _modules={"conv": module("torch.nn.modules.conv.Conv2d")})
    with pytest.raises(UserError, match="was fused for inference"):
        read_content(tmp_path, tiny_content(model=tiny_model(_modules={"model": fused})))


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"model": None},
        {"model": Call("torch.Size", ((1,),))},
        tiny_content(epoch="four"),
        tiny_content(best_fitness=[1, 2]),
        tiny_content(opt=[1]),
        tiny_content(model=Call("models.yolo.Model")),
        tiny_content(model=tiny_model(yaml=None)),
        tiny_content(model=tiny_model(names=3)),
        tiny_content(model=tiny_model(stride="8")),
        tiny_content(model=tiny_model(_parameters=[])),
        tiny_content(model=tiny_model(_modules={"x" * 5000: tiny_model()})),
        tiny_content(ema=Call("models.yolo.Model", (), {"_parameters": 3})),
    ],
)
def test_unexpected_content_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match=r"file\.pt (holds|is damaged or not a YOLOv5 checkpoint)"):
        read_content(tmp_path, content)


def test_damaged_pickles_are_refused_or_read(tmp_path: Path) -> None:
    """The checksums are correct, so the damaged pickle reaches the parser."""
    whole = program(tiny_content(opt={"a": [1.5, "b"]}))
    rng = np.random.default_rng(1)
    damaged = [whole[:end] for end in range(0, len(whole), 5)]
    for _ in range(400):
        flipped = bytearray(whole)
        flipped[int(rng.integers(len(whole)))] = int(rng.integers(256))
        damaged.append(bytes(flipped))
    refused = 0
    for program_bytes in damaged:
        try:
            read_upstream(write_archive(tmp_path / "file.pt", program_bytes, STORAGES))
        except UserError:
            refused += 1
    assert refused > len(damaged) // 2
    assert [path.name for path in tmp_path.iterdir()] == ["file.pt"]


class TestInvalidArchives:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is not a checkpoint, it is empty"),
            (b"hello\n" * 99, "is not a checkpoint, it is a text file"),
            (b"PK\3\4" + b"\0" * 99, "is not a checkpoint, or it is truncated"),
            (b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "before 1.6; save it again"),
            (b"\x80\4K\1.", "is not a checkpoint, it is a bare pickle"),
            (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "is not a checkpoint, it is an image"),
            (b"\0" * 99, "is not a checkpoint, it is not a file that torch writes"),
        ],
        ids=["empty", "text", "truncated zip", "old torch", "pickle", "image", "zeros"],
    )
    def test_refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "file.pt").write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_upstream(tmp_path / "file.pt")

    def test_missing_file_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="does not exist"):
            read_upstream(tmp_path / "absent.pt")
        with pytest.raises(UserError, match="is not a checkpoint"):
            read_upstream(tmp_path)

    def test_other_zip(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "file.pt", "w") as archive:
            archive.writestr("a/readme.txt", "hello")
        with pytest.raises(UserError, match=r"it is a zip file without data\.pkl"):
            read_upstream(tmp_path / "file.pt")

    def test_zip_bomb(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "file.pt", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"." * 10_000_000)
        with pytest.raises(UserError, match="compressed members"):
            read_upstream(tmp_path / "file.pt")

    def test_wrong_checksum(self, tmp_path: Path) -> None:
        path = write_archive(tmp_path / "file.pt", program(tiny_content()), STORAGES)
        content = path.read_bytes().replace(b"best_fitness", b"best_fitnesS", 1)
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged \(the checksum of data\.pkl is wrong\)"):
            read_upstream(path)

    def test_pickle_too_long(self, tmp_path: Path) -> None:
        path = write_archive(tmp_path / "file.pt", b"N" * (16 * 2**20 + 1))
        with pytest.raises(UserError, match="more than the limit of 16777216"):
            read_upstream(path)
