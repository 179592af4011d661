from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import pytest
import torch

from tests.checkpoints import read_checkpoint, save_checkpoint
from tests.utils.solver.test_schedule import plan_of
from tests.utils.training.test_engine import context_for, toy_batch, toy_state, with_infinite_loss
from utils.checkpoint.format import (
    Config,
    ContinuationRecord,
    TrainingCheckpoint,
    validate_checkpoint,
)
from utils.history import AT_SEAM_PREFIX, RAW_MAP_COLUMN
from utils.solver.schedule import base_segment
from utils.solver.seam import EMA_MAP_COLUMN
from utils.training.engine import train_step
from utils.training.state import TrainingState, deploy_checkpoint
from utils.training.summary import seam_changes

CONFIG = Config(options={}, hyp={}, spec={}, names=["a", "b"], precision="fp16")
ROW = {"epoch": 0.0, "metrics/mAP_0.5": 0.5, "metrics/mAP_0.5:0.95": 0.25}


LARGEST = float(torch.finfo(torch.float32).max)


def with_scaler(state: TrainingState, scale: float) -> TrainingState:
    return replace(state, scaler=torch.amp.GradScaler("cpu", init_scale=scale, enabled=True))


def saved(state: TrainingState) -> TrainingCheckpoint:
    plan = plan_of(base_segment(3, "linear", 0.1))
    return state.to_checkpoint(plan, CONFIG)


def test_state_is_restored_from_a_file_with_its_scaler(tmp_path: Path) -> None:
    state = with_scaler(toy_state(), 8.0)
    context = context_for(state)
    state.model.train()
    train_step(state, context, toy_batch(), last=True)
    state.epoch, state.best_fitness, state.best_epoch = 1, 0.3, 0
    state.history = [dict(ROW)]
    save_checkpoint(saved(state), tmp_path / "last.pt")

    other = with_scaler(toy_state(), 2.0)
    other.model.train()
    other.restore(cast("TrainingCheckpoint", read_checkpoint(tmp_path / "last.pt")))
    assert other.scaler.get_scale() == 8.0
    assert (other.epoch, other.iteration, other.ema.updates) == (1, 1, 1)
    assert (other.best_fitness, other.best_epoch, other.history) == (0.3, 0, [ROW])
    for twin in (state, other):
        train_step(twin, context, toy_batch(), last=True)
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


def test_gradient_overflow_skips_the_step_and_lowers_the_scale() -> None:
    state = with_scaler(toy_state(), LARGEST)
    state.model.train()
    before = {name: tensor.clone() for name, tensor in state.model.named_parameters()}
    train_step(state, context_for(state), toy_batch(), last=True)
    assert state.scaler.get_scale() == LARGEST / 2
    for name, tensor in state.model.named_parameters():
        assert torch.equal(tensor, before[name]), name


def test_deploy_checkpoint_contains_ema_weights_in_fp16() -> None:
    state = toy_state()
    state.epoch, state.history = 1, [dict(ROW)]
    deploy = deploy_checkpoint(saved(state))
    validate_checkpoint(deploy, "here")
    assert (deploy["epoch"], deploy["fitness"]) == (0, 0.1 * 0.5 + 0.9 * 0.25)
    for name, tensor in state.ema.model.state_dict().items():
        kept = deploy["weights"][name]
        assert torch.equal(kept, tensor.half() if tensor.is_floating_point() else tensor)


def test_seam_check_is_recorded_beside_the_metrics_of_the_epoch() -> None:
    state = toy_state()
    state.record_seam_check(0.15, 0.1)  # no epoch was trained
    assert state.history == []
    state.history = [dict(ROW), {**ROW, RAW_MAP_COLUMN: 0.2}]
    state.record_seam_check(0.15, 0.1)
    at_seam = {AT_SEAM_PREFIX + EMA_MAP_COLUMN: 0.15, AT_SEAM_PREFIX + RAW_MAP_COLUMN: 0.1}
    assert state.history == [ROW, {**ROW, RAW_MAP_COLUMN: 0.2, **at_seam}]

    state.history = [dict(ROW)]
    state.record_seam_check(None, None)
    assert state.history == [ROW]
    state.record_seam_check(0.15, 0.1)
    assert state.history == [{**ROW, RAW_MAP_COLUMN: 0.1, **at_seam}]


def continuation(
    epoch: int, kind: Literal["extended", "resumed"], *allowed: str
) -> ContinuationRecord:
    return ContinuationRecord(
        epoch=epoch, kind=kind, allowed_changes=[*allowed], audit=[], check={}
    )


def test_replaced_extension_is_removed_from_the_record() -> None:
    state = toy_state()
    first, resumed, second = (
        continuation(3, "extended", "imgsz"),
        continuation(3, "resumed"),
        continuation(5, "extended"),
    )
    for one in (first, resumed, second):
        state.record_continuation(one, replaces=False)
    assert state.continuations == [first, resumed, second]
    other = continuation(5, "extended", "batch_size")
    state.record_continuation(other, replaces=True)
    assert state.continuations == [first, resumed, other]


def test_resumed_state_is_neither_stopped_nor_finalized() -> None:
    state = toy_state()
    state.stopped_early = True
    state.finalize()
    checkpoint = saved(state)
    assert (checkpoint["stopped_early"], checkpoint["closed"]) == (True, True)
    for ended in (False, True):
        other = toy_state()
        other.restore(checkpoint, ended=ended)
        assert (other.stopped_early, other.finalized) == (ended, False)


@pytest.mark.parametrize("scale", [4.0, None])
def test_accumulated_gradients_are_saved_without_loss_scale(scale: float | None) -> None:
    state = with_scaler(toy_state(), 1024.0)
    context = context_for(state, accumulate=3)
    state.model.train()
    state.iteration = 10
    train_step(state, context, toy_batch(), last=False)
    checkpoint = saved(state)
    name = state.parameter_names[0]
    gradient = state.model.get_parameter(name).grad
    assert gradient is not None
    assert torch.equal(checkpoint["progress"]["gradients"][name], gradient / 1024)

    other = toy_state() if scale is None else with_scaler(toy_state(), scale)
    other.model.train()
    other.restore({**checkpoint, "scaler": {}})
    restored = other.model.get_parameter(name).grad
    assert restored is not None
    assert torch.equal(restored, gradient / 1024 * (scale or 1.0))
    # The last batch of the epoch is skipped, but the accumulated gradients are applied.
    train_step(other, with_infinite_loss(context, "box"), toy_batch(), last=True)
    other.settle()
    assert other.progress.pending == 0
    assert other.ema.updates == 1


def test_changes_since_an_epoch_are_found_in_the_record() -> None:
    state = toy_state()
    assert (state.common_classes(0), state.comparable_since()) == ([], 0)
    changed, renamed = continuation(4, "extended", "classes"), continuation(6, "resumed", "classes")
    changed["classes"] = {"kept": ["a"], "new": ["b"], "dropped": [], "renamed": {}}
    renamed["classes"] = {"kept": ["a", "c"], "new": [], "dropped": [], "renamed": {"b": "c"}}
    state.continuations = [continuation(2, "resumed", "imgsz"), changed, renamed]
    state.continuations += [continuation(8, "resumed", "optimizer")]
    assert (state.common_classes(4), state.common_classes(5)) == (["a"], [])
    assert state.comparable_since() == 6
    assert seam_changes(state.continuations)[4] == "classes changed"
