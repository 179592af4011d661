import copy
import importlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.detector import Detector, fuse
from tests.checkpoints import read_checkpoint
from tests.models.test_detector import tiny_spec
from tests.promises.test_resume import differences
from tests.toy import toy_arguments
from train import train
from utils.errors import UserError
from utils.options.parser import parse_request
from utils.options.script import run_script
from utils.runtime.device import (
    Precision,
    choose_precision,
    compile_forward,
    images_to_device,
    keep_freed_memory,
    memory_in_use,
    out_of_memory_as_user_error,
    select_device,
)
from utils.runtime.distributed import SINGLE_PROCESS, Distributed
from utils.solver.ema import ModelEma

CPU = torch.device("cpu")


class Gpus:
    """Pretends that the machine has GPUs; records which one is made the current one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.current: object = None
        patch.setattr(torch.cuda, "is_available", lambda: self.count > 0)
        patch.setattr(torch.cuda, "device_count", lambda: self.count)
        patch.setattr(torch.cuda, "set_device", lambda device: setattr(self, "current", device))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    return Gpus(monkeypatch)


@pytest.mark.parametrize("distributed", [None, SINGLE_PROCESS])
@pytest.mark.parametrize(
    ("text", "count", "device"),
    [
        ("", 0, "cpu"),
        ("", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("CPU", 0, "cpu"),
        ("1", 2, "cuda:1"),
        ("cuda:1", 2, "cuda:1"),
        ("cuda", 1, "cuda:0"),
    ],
)
def test_select_device(
    gpus: Gpus, text: str, count: int, device: str, distributed: Distributed | None
) -> None:
    gpus.count = count
    selected = select_device(text, distributed)
    assert str(selected) == device
    assert gpus.current == (selected if selected.type == "cuda" else None)


@pytest.mark.parametrize(
    ("text", "count", "shown", "devices"),
    [
        ("", 2, None, ["cuda:0", "cuda:1"]),
        ("cuda", 4, None, ["cuda:0", "cuda:1"]),
        ("0,2", 4, None, ["cuda:0", "cuda:2"]),
        ("cuda:3, cuda:1", 4, "0,1,2,3", ["cuda:3", "cuda:1"]),
        ("cpu", 2, None, ["cpu", "cpu"]),
        # The scheduler gives each process one GPU of its own, which is its first one.
        ("", 1, "1", ["cuda:0", "cuda:0"]),
        ("cuda", 1, "GPU-8932f937", ["cuda:0", "cuda:0"]),
        ("cuda:1", 1, "1", ["cuda:0", "cuda:0"]),
        ("1", 1, "1", ["cuda:0", "cuda:0"]),
        ("0,1", 1, "1", ["cuda:0", "cuda:0"]),
    ],
)
def test_devices_of_two_processes(
    gpus: Gpus,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    count: int,
    shown: str | None,
    devices: list[str],
) -> None:
    gpus.count = count
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    ranks = [Distributed(rank, 2, rank, 2) for rank in (0, 1)]
    assert [str(select_device(text, rank)) for rank in ranks] == devices


@pytest.mark.parametrize(
    ("text", "count", "distributed", "message"),
    [
        ("1", 1, None, "--device 1: this machine has 1 visible GPUs, counted from 0; use one of"),
        ("7", 0, None, "--device 7: this machine has 0 visible GPUs.*; use --device cpu"),
        ("cuda", 0, None, "--device cuda: this machine has 0 visible GPUs"),
        ("tpu", 1, None, "--device tpu: choose one of cpu, mps or the index of a GPU"),
        ("0,1", 1, SINGLE_PROCESS, "--device 0,1: this machine has 1 visible GPUs"),
        ("0,1", 2, None, "--device 0,1: this program uses one GPU; give one of"),
        (
            "0,1",
            2,
            SINGLE_PROCESS,
            "--device 0,1 needs one process per GPU; start them with: "
            "torchrun --nproc_per_node 2 train.py --data 'my data.yaml' --device 0,1$",
        ),
        ("1", 2, Distributed(1, 2, 1, 2), "--device 1: there are 1 GPUs for 2 processes"),
        ("", 1, Distributed(1, 2, 1, 2), "--device : there are 1 GPUs for 2 processes"),
    ],
)
def test_unavailable_devices(
    gpus: Gpus,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    count: int,
    distributed: Distributed | None,
    message: str,
) -> None:
    gpus.count = count
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "my data.yaml", "--device", "0,1"])
    with pytest.raises(UserError, match=message):
        select_device(text, distributed)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "GPU"),
        (RuntimeError("MPS backend out of memory"), "GPU"),
        (MemoryError(), "CPU"),
        (None, "CPU"),
    ],
)
def test_lack_of_memory_is_a_user_error(error: Exception | None, memory: str) -> None:
    expected = pytest.raises(UserError, match=f"^out of {memory} memory; use less.$")
    with expected, out_of_memory_as_user_error("use less"):
        if error is not None:
            raise error
        torch.empty(1 << 50, dtype=torch.uint8)  # more than a processor can address


def test_other_errors_are_not_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_as_user_error("use less"):
        torch.zeros(2).view(3)


@pytest.mark.parametrize(
    ("amp", "bf16", "name"),
    [
        ("off", True, "fp32"),
        ("bf16", False, "bf16"),
        ("auto", True, "bf16"),
        ("auto", False, "fp32"),
    ],
)
def test_precision_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, amp: str, bf16: bool, name: str
) -> None:
    monkeypatch.setattr("utils.runtime.device._cpu_multiplies_bf16", lambda: bf16)
    precision = choose_precision(amp, CPU)
    assert precision.name == name
    assert not precision.needs_scaler
    with precision.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if name == "bf16" else torch.float32)


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_precision_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    precision = choose_precision("auto", torch.device("cuda:0"))
    assert precision.name == name
    assert precision.needs_scaler == (name == "fp16")


def test_fp16_on_a_cpu_raises() -> None:
    with pytest.raises(UserError, match="--amp fp16 needs a GPU"):
        choose_precision("fp16", CPU)


def test_memory_in_use_is_in_gigabytes() -> None:
    assert 0.01 < memory_in_use(CPU) < 100


def test_images_to_device_scales_and_uses_channels_last() -> None:
    images = images_to_device(torch.full((2, 3, 4, 6), 255, dtype=torch.uint8), CPU)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("name", "device", "evaluated"),
    [("bf16", "cpu", "fp32"), ("fp32", "cuda", "fp32"), ("bf16", "cuda", "fp16")],
)
def test_evaluation_does_not_use_bf16(name: str, device: str, evaluated: str) -> None:
    assert Precision(name, device).eval_precision == evaluated


FAULTS = """
import resource, sys
import torch
from utils.runtime.device import keep_freed_memory

assert keep_freed_memory(torch.device(sys.argv[1])) == (sys.argv[1] == "cpu")
for _ in range(10):
    torch.zeros(32 << 20, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(32 << 20, dtype=torch.uint8)
sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
"""


def faults(device: str) -> int:
    command = [sys.executable, "-c", FAULTS, device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is at issue")
def test_freed_memory_is_reused() -> None:
    pages = 10 * (32 << 20) // 4096
    assert faults("meta") > pages / 2  # without the setting; allows for larger pages
    assert faults("cpu") < pages / 4  # allows for small blocks


def test_allocator_is_not_changed_on_a_gpu() -> None:
    assert not keep_freed_memory(torch.device("cuda", 0))


CPU = torch.device("cpu")
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def tiny() -> Detector:
    torch.manual_seed(0)
    return Detector(tiny_spec()).train()


def is_compiled(model: torch.nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in model.modules())


@pytest.fixture
def uncompiled_steps() -> Iterator[None]:
    """Run compiled functions eagerly, because compiling takes minutes."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("uncompiled_steps")
def test_compiling_keeps_names_and_does_not_affect_copies() -> None:
    model = tiny()
    names = list(model.state_dict())
    compile_forward(model, CPU, dynamic=False)
    assert is_compiled(model)
    assert list(model.state_dict()) == names
    for twin in (copy.deepcopy(model), fuse(model), ModelEma(model).model):
        assert not is_compiled(twin)


def test_missing_compiler_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCH_LOGS")

    model = tiny()
    monkeypatch.setattr(torch, "compile", refused)
    with pytest.raises(
        UserError, match=r"--compile: .*\(.*No working C\+\+ compiler found\); install a C\+\+"
    ) as raised:
        compile_forward(model, CPU, dynamic=False)
    assert "TORCH_LOGS" not in str(raised.value)
    assert not is_compiled(model)


@pytest.mark.usefixtures("uncompiled_steps")
def test_extended_run_stays_compiled_unless_disabled(tmp_path: Path) -> None:
    def last(run: Path) -> dict[str, Any]:
        return read_checkpoint(run / "weights" / "last.pt")

    plain = train(parse_request(toy_arguments(tmp_path, "--epochs 1 --name plain")))
    run = train(parse_request(toy_arguments(tmp_path, "--epochs 1 --name compiled --compile")))
    assert differences(last(plain)["model"], last(run)["model"]) == []
    for more, status, detail in (
        ([], "restored", "compiled"),
        (["--no-compile"], "changed", "compiled → not compiled"),
    ):
        train(parse_request(["--resume", str(run), "--extend-epochs", "1", "--noplots", *more]))
        audit = last(run)["continuations"][-1]["audit"]
        assert {"part": "forward pass", "status": status, "detail": detail} in audit


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
@pytest.mark.filterwarnings("default")  # allow warnings of the compiler
def test_compiled_steps_differ_by_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, twin = tiny(), tiny()
    compile_forward(model, CPU, dynamic=False)
    for one in (model, twin):
        sum(level.square().mean() for level in one(IMAGES)).backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad)
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


def error_of(program: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *arguments])
    written: list[str] = []
    monkeypatch.setattr(sys.stderr, "write", written.append)
    with pytest.raises(SystemExit) as stop:
        run_script(importlib.import_module(program).main)
    assert stop.value.code == 2
    return "".join(written).splitlines()[-1]


@pytest.mark.parametrize(
    ("program", "function"),
    [("val", "validate"), ("detect", "detect")],
)
def test_programs_report_a_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch, program: str, function: str
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(f"{program}.{function}", fail)
    expected = "error: out of GPU memory; use a smaller --batch-size or --imgsz."
    assert error_of(program, monkeypatch) == expected


@pytest.mark.parametrize("program", ["train", "val", "detect"])
def test_programs_check_nms_before_they_read_files(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("models.torchvision_operators.nms", fail)
    found = error_of(program, monkeypatch, "--data", "absent.yaml", "--weights", "absent.pt")
    assert found.startswith("error: torchvision's NMS does not work (operator torchvision::nms")
