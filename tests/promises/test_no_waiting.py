"""A training step and a validation leave the device alone: what the host reads is counted.

See `tests.simulated_device`; a GPU would finish all its work at each of these reads, and then idle.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.loss import build_loss
from tests.simulated_device import DEVICE, SimulatedDevice, to_simulated
from tests.utils.training.test_engine import context_for, toy_batch, toy_state
from utils.evaluation.evaluate import EvalSettings, collect
from utils.hyp import Hyp
from utils.runtime.distributed import Distributed
from utils.solver.ema import ModelEma
from utils.solver.param_groups import build_optimizer, parameter_groups
from utils.training import batch_norm
from utils.training.batch_norm import convert_sync_batchnorm
from utils.training.engine import TrainContext, train_step
from utils.training.state import TrainingState

OUTCOME = "_to_copy in device.py:__init__"  # of HostCopy: it begins in one step, and is read later


class TwoProcesses(Distributed):
    """Two processes with equal tensors; sums are computed on the device."""

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return twice the tensor."""
        return tensor * 2

    def start_sum(self, tensor: Tensor) -> Callable[[], None]:
        """Double a tensor."""
        tensor.mul_(2)
        return lambda: None


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedDevice]:
    sgd = sys.modules[torch.optim.SGD.__module__]
    monkeypatch.setattr(sgd, "_device_dtype_check_for_fused", lambda *_, **__: None)
    monkeypatch.setattr(batch_norm, "all_reduce_sum", lambda tensor: tensor * 2)
    monkeypatch.setattr(batch_norm, "all_gather", lambda tensor: torch.stack((tensor, tensor)))
    with SimulatedDevice() as simulated:
        yield simulated


def on_device(distributed: Distributed | None = None) -> tuple[TrainingState, TrainContext]:
    cpu = toy_state()
    model = copy.deepcopy(cpu.model)
    if distributed is not None:
        model = convert_sync_batchnorm(model)
    to_simulated(model)
    groups = parameter_groups(model)
    optimizer = build_optimizer(groups, "SGD", lr=0.01, momentum=0.9, weight_decay=0.0)
    state = TrainingState(model.train(), ModelEma(model), optimizer, groups.names, cpu.scaler)
    context = replace(context_for(state), device=DEVICE)
    if distributed is not None:
        loss = context.loss.for_partial_batches(distributed.all_reduce_sum)
        context = replace(context, loss=loss, distributed=distributed)
    return state, context


REGIONS = torch.tensor([[0, 0.2, 0.2, 0.3, 0.3], [1, 0.8, 0.7, 0.2, 0.2]])
CASES = ["plain", "ignore regions", "no boxes", "bf16", "multi-scale", "two processes, --sync-bn"]


def steps(device: SimulatedDevice, case: str) -> list[list[str]]:
    """Train three steps; returns what the host reads in each."""
    state, context = on_device(TwoProcesses(0, 2) if case.startswith("two") else None)
    batch = toy_batch()
    if case == "ignore regions":
        batch = batch._replace(ignored=REGIONS)
    if case == "no boxes":
        batch = batch._replace(targets=batch.targets[:0])
    if case == "multi-scale":
        context = replace(context, multi_scale=True)
    if case == "bf16":  # autocast does not know this device
        forward = state.model.forward
        state.model.forward = lambda images: [m.bfloat16() for m in forward(images)]  # type: ignore[method-assign]
    found = []
    for _ in range(3):
        device.reads.clear()
        train_step(state, context, batch, last=False)
        found.append(list(device.reads))
    state.settle()
    assert state.ema.updates == 3
    assert state.progress.mean_losses()[1] > 0
    return found


@pytest.mark.parametrize("case", CASES)
def test_training_step_has_one_copy_that_is_read_a_step_later(
    device: SimulatedDevice, case: str
) -> None:
    assert steps(device, case) == [[OUTCOME]] * 3


def test_steps_equal_those_of_the_cpu(device: SimulatedDevice) -> None:
    """So the simulated device computes, and does not only count."""
    state, context = on_device()
    twin = toy_state()
    twin.model.train()
    own = context_for(twin)
    for _ in range(3):
        train_step(state, context, toy_batch(), last=False)
        train_step(twin, own, toy_batch(), last=False)
    for one in (state, twin):
        one.settle()
    for name, tensor in twin.ema.model.state_dict().items():
        assert torch.equal(state.ema.model.state_dict()[name].cpu(), tensor), name


@pytest.mark.parametrize("kind", ["item", "bool", "mask", "nonzero", "to the device"])
def test_one_more_read_is_found(
    device: SimulatedDevice, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(x: Tensor) -> Tensor:
        if kind == "item":
            assert x.sum().item() >= 0
        elif kind == "bool":
            assert x.sum() >= 0
        elif kind == "mask":
            assert len(x[x > 2]) == 0
        elif kind == "nonzero":
            assert len((x > 2).nonzero()) == 0
        else:
            torch.ones(3).to(DEVICE)
        return x

    images_to_device = train_step.__globals__["images_to_device"]
    monkeypatch.setitem(
        train_step.__globals__, "images_to_device", lambda *a: wait(images_to_device(*a))
    )
    for reads in steps(device, "plain"):
        assert len(reads) > 1
        assert reads[-1] == OUTCOME


@pytest.mark.parametrize("images", [2, 8])
def test_reads_of_a_validation_batch_do_not_depend_on_the_images(
    device: SimulatedDevice, images: int
) -> None:
    state, _ = on_device()
    batch = toy_batch()
    many = [torch.cat([part] * (images // 2)) for part in (batch.images, batch.indices)]
    shifted = [batch.targets + torch.tensor([2.0 * n, 0, 0, 0, 0, 0]) for n in range(images // 2)]
    frames = batch.frames * (images // 2)
    batch = batch._replace(
        images=many[0], targets=torch.cat(shifted), indices=many[1], frames=frames
    )
    loss = build_loss(state.model, Hyp(), image_size=64, label_smoothing=0.0)
    device.reads.clear()
    collected = collect(
        state.model,
        [batch],
        names=("a", "b"),
        device=DEVICE,
        loss=loss,
        settings=EvalSettings(conf_thres=0.0),
        progress=False,
    )
    levels = len(state.model.strides)
    of_losses = [read for read in device.reads if "collected.py" in read]
    others = [read for read in device.reads if read not in of_losses]
    assert [read.rpartition(" ")[2] for read in others] == (
        ["head.py:decode_confident"] * (2 * levels + 1)
        + ["nms.py:_candidates", "nms.py:best_candidates"]
    )
    assert len(of_losses) == 2
    assert len(collected.batches[0].matches) == images
