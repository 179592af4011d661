"""The largest step of --multi-scale is tried without a trace; AutoBatch measures what fits."""

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.checkpoints import read_checkpoint
from tests.promises.test_resume import differences
from tests.toy import toy_arguments
from tests.utils.training.test_engine import context_for, toy_batch, toy_state
from train import main, train
from utils.checkpoint.format import Config
from utils.datasets.batch_loader import BatchShape
from utils.options.parser import parse_request
from utils.options.script import run_script
from utils.runtime.distributed import Distributed
from utils.training import memory
from utils.training.engine import train_step
from utils.training.memory import largest_batch, try_largest_size

CONFIG = Config(
    options={}, hyp={}, spec={}, names=[], precision="fp32", processes=1, data={"content": "x"}
)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_largest_size_is_tried_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    state = toy_state()
    context = replace(context_for(state, accumulate=3, precision=precision), multi_scale=True)
    state.model.train()
    state.iteration = 10  # after the warm-up
    train_step(state, context, toy_batch(), last=False)
    state.model.eval()
    assert state.progress.pending == 1  # with gradients, as after a resume in an epoch
    before = copy.deepcopy(state.to_checkpoint(context.plan, CONFIG))
    gradients = [copy.copy(p.grad) for p in state.model.parameters()]
    torch.manual_seed(7)
    rng = torch.get_rng_state(), np.random.get_state(legacy=False)
    shapes: list[torch.Size] = []
    state.model.register_forward_pre_hook(lambda _, images: shapes.append(images[0].shape))

    try_largest_size(state, context, BatchShape(2, 64, 96))

    assert shapes == [(2, 3, 96, 128)]  # 4.5 strides are rounded to 4
    assert differences(before, state.to_checkpoint(context.plan, CONFIG)) == []
    for old, parameter in zip(gradients, state.model.parameters(), strict=True):
        assert old is not None
        assert torch.equal(old, parameter.grad)  # type: ignore[arg-type] # not None
    assert torch.equal(rng[0], torch.get_rng_state())
    assert repr(rng[1]) == repr(np.random.get_state(legacy=False))
    assert not state.model.training


def failing(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")


def error_of(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_too_large_sizes_end_the_run_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "trial_step", failing)
    arguments = toy_arguments(tmp_path, "--multi-scale")
    assert error_of(arguments, monkeypatch, capsys) == (
        "error: out of GPU memory; use a smaller --batch-size or --imgsz."
    )
    assert not (tmp_path / "runs").exists()


def test_lack_of_memory_in_a_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(parse_request(toy_arguments(tmp_path, "--epochs 2 --noval")))
    monkeypatch.setattr("utils.training.engine.images_to_device", failing)
    arguments = ["--resume", str(run), "--extend-epochs", "1", "--noval"]
    assert error_of(arguments, monkeypatch, capsys) == (
        "error: out of GPU memory; use a smaller --batch-size or --imgsz with --allow-change "
        "batch-size,imgsz."
    )


@pytest.mark.parametrize(
    ("used", "budget", "expected"),
    [
        ({1: 3, 2: 5, 4: 9, 8: 17, 16: 33}, 100, 49),  # 1 + 2 * 49 = 99
        ({1: 3, 2: 5, 4: 9, 8: 17, 16: 33}, 33, 16),
        ({1: 3, 2: 5, 4: 9, 8: 17, 16: 33}, 9.5, 4),
        ({1: 3, 2: 5, 4: 9, 8: 17, 16: 33}, 13.5, 6),
        ({1: 3, 2: 5, 4: 9}, 100, 7),  # 8 did not fit
        ({1: 3, 2: 5, 4: 9}, 2, 0),
        ({1: 3}, 100, 1),
        ({1: 3}, 2, 0),
        ({}, 100, 0),
        ({1: 4, 2: 4, 4: 4, 8: 4, 16: 4}, 8, 16),  # too small to differ
    ],
)
def test_largest_batch_is_on_the_line_through_the_measurements(
    used: dict[int, int], budget: float, expected: int
) -> None:
    assert largest_batch(used, budget) == expected


class Gpu:
    """Pretends that a GPU has memory for 12.5 images beside the weights and their copies."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.images = 0
        self.sides: set[int] = set()
        self.measurements = 0
        patch.setattr(memory, "check_batch_size", lambda *_: None)
        patch.setattr(memory, "trial_step", self.step)
        free = 10 * self.used(12.5) / 8
        patch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free), 0))
        patch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
        patch.setattr(torch.cuda, "max_memory_reserved", lambda _: int(self.used(self.images)))
        patch.setattr(memory, "LATER_COPIES", 0)

    @staticmethod
    def used(images: float) -> float:
        return 5e6 + images * 1e6

    def step(self, model: torch.nn.Module, loss: object, precision: object, shape: Any) -> None:
        assert model.training
        self.measurements += 1
        self.images, *sides = shape
        self.sides |= set(sides)


def options_of(run: Path) -> dict[str, Any]:
    options: dict[str, Any] = read_checkpoint(run / "weights" / "last.pt")["config"]["options"]
    return options


def test_measured_batch_size_is_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "yolo")
    plain = toy_arguments(tmp_path, "--epochs 1 --noval --batch-size 9 --name plain")
    given = train(parse_request(plain))
    gpu = Gpu(monkeypatch)
    monkeypatch.setattr(memory, "MAX_USED_FRACTION", 0.8 * 14.5 / 17.5)  # for nine images
    arguments = toy_arguments(tmp_path, "--epochs 1 --noval --name auto")
    run = train(parse_request([*arguments, "--batch-size", "-1"]))
    assert options_of(run)["batch_size"] == 9
    assert gpu.sides == {64}
    assert "AutoBatch: --batch-size 9, of at most 10 images." in caplog.text
    one, two = (read_checkpoint(path / "weights" / "last.pt") for path in (given, run))
    assert differences(one["model"], two["model"]) == []  # measuring left no trace

    measured = gpu.measurements
    for more in ([], ["--batch-size", "-1"]):
        train(parse_request(["--resume", str(run), "--extend-epochs", "1", "--noval", *more]))
        assert options_of(run)["batch_size"] == 9
    assert gpu.measurements == measured


@pytest.mark.parametrize(
    ("processes", "other", "images", "expected"),
    [(1, -99, 100, 12), (2, -99, 100, 24), (2, -5, 100, 10), (4, -99, 40, 40)],
)
def test_processes_agree_on_the_smallest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    other: int,
    images: int,
    expected: int,
) -> None:
    from utils.hyp import Hyp
    from utils.options.train_options import TrainOptions
    from utils.runs.run import Run

    Gpu(monkeypatch)
    monkeypatch.setattr(Distributed, "all_reduce_max", lambda _, own: max(own, other))
    state = toy_state()
    context = context_for(state)
    run = Run(TrainOptions(batch_size=-1), Hyp(), None, None, tmp_path)
    found = memory.with_batch_size(
        run, state.model, context.loss, context.precision, 64, images, Distributed(0, processes)
    )
    assert found.options.batch_size == expected


def test_batch_size_is_not_measured_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*toy_arguments(tmp_path), "--batch-size", "-1"]
    assert error_of(arguments, monkeypatch, capsys) == (
        "error: --batch-size -1 measures the memory of a CUDA GPU, but the device is cpu; give a "
        "number, such as --batch-size 16."
    )
