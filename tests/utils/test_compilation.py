import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from models.detector import Detector, fuse
from tests.models.test_detector import tiny_spec
from tests.promises.test_resume import differences
from tests.toy import toy_arguments
from train import train
from utils.checkpoint.store import read_checkpoint
from utils.command_line import parse_request
from utils.compilation import compile_forward
from utils.errors import UserError
from utils.solver.ema import ModelEma

CPU = torch.device("cpu")
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def tiny() -> Detector:
    torch.manual_seed(0)
    return Detector(tiny_spec()).train()


def is_compiled(model: torch.nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in model.modules())


@pytest.fixture
def uncompiled_steps() -> Iterator[None]:
    """Let what is to be compiled run as it is, since compiling takes minutes."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.usefixtures("uncompiled_steps")
def test_names_stay_and_copies_are_not_compiled() -> None:
    model = tiny()
    names = list(model.state_dict())
    compile_forward(model, CPU, any_shape=False)
    assert is_compiled(model)
    assert list(model.state_dict()) == names
    for twin in (copy.deepcopy(model), fuse(model), ModelEma(model).model):
        assert not is_compiled(twin)


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCH_LOGS")

    model = tiny()
    monkeypatch.setattr(torch, "compile", refused)
    with pytest.raises(
        UserError, match=r"--compile .*\(.*No working C\+\+ compiler found\): install a C\+\+"
    ) as told:
        compile_forward(model, CPU, any_shape=False)
    assert "TORCH_LOGS" not in str(told.value)
    assert not is_compiled(model)


@pytest.mark.usefixtures("uncompiled_steps")
def test_a_compiled_run_goes_on_compiled_until_it_is_told_not_to(tmp_path: Path) -> None:
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
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compiled_steps_differ_by_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, twin = tiny(), tiny()
    compile_forward(model, CPU, any_shape=False)
    for one in (model, twin):
        sum(level.square().mean() for level in one(IMAGES)).backward()
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad)
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)
