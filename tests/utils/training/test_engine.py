import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from models.detector import Detector
from models.loss import DetectionLoss, DetectionLosses, build_loss
from models.spec import load_spec
from tests.utils.solver.test_schedule import plan_of
from utils.checkpoint.format import Config
from utils.datasets.dataset import Batch, Frame
from utils.errors import UserError
from utils.evaluation.evaluate import evaluate
from utils.hyp import Hyp
from utils.runtime.device import Precision
from utils.runtime.distributed import SINGLE_PROCESS
from utils.runtime.signals import SignalHandler
from utils.solver.continuation import Extension, extend_plan
from utils.solver.ema import ModelEma
from utils.solver.param_groups import apply_settings, build_optimizer, parameter_groups
from utils.solver.schedule import StepSettings, base_segment
from utils.training.batch_norm import BatchNormStats
from utils.training.engine import TrainContext, finish_epoch, resized, should_stop, train_step
from utils.training.state import TrainingState, require_finite
from utils.training.validation import ValidationResult

CPU = torch.device("cpu")


def toy_state(name: str = "SGD") -> TrainingState:
    torch.manual_seed(0)
    spec = replace(load_spec(Path("yolov5n.yaml")), width_multiple=0.01).with_classes(2)
    model = Detector(spec)
    groups = parameter_groups(model)
    optimizer = build_optimizer(groups, name, lr=0.01, momentum=0.9, weight_decay=0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, ModelEma(model), optimizer, groups.names, scaler)


def context_for(state: TrainingState, accumulate: int = 1, precision: str = "fp32") -> TrainContext:
    loss = build_loss(state.model, Hyp(), image_size=64, label_smoothing=0.0)
    plan = plan_of(base_segment(1000, "linear", 0.1), nw=1, accumulate=accumulate)
    return TrainContext(
        plan=plan,
        loss=loss,
        precision=Precision(precision, "cpu"),
        device=CPU,
        distributed=SINGLE_PROCESS,
        statistics=BatchNormStats(state.model),
        seed=0,
        stride=32,
        multi_scale=False,
        fixed_shapes=True,
        max_gradient_norm=10.0,
        max_bad_steps=3,
        votes=SignalHandler().votes,
    )


def toy_batch() -> Batch:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    targets = torch.tensor([[0, 0, 0.3, 0.4, 0.4, 0.3], [1, 1, 0.6, 0.5, 0.5, 0.4]])
    frames = tuple(Frame(f"{name}.jpg", (64, 64), (1.0, 1.0), (0.0, 0.0)) for name in "ab")
    return Batch(images, targets, torch.arange(2), frames)


def settled_step(state: TrainingState, context: TrainContext, batch: Batch, *, last: bool) -> None:
    """Run `train_step` and read its outcome at once."""
    train_step(state, context, batch, last=last)
    state.settle()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_model_overfits_one_batch(precision: str) -> None:
    state = toy_state()
    context = context_for(state, precision=precision)
    context = replace(context, plan=replace(context.plan, lr0=0.05))
    state.model.train()
    totals = [0.0]
    for _ in range(200):
        settled_step(state, context, toy_batch(), last=True)
        totals.append(state.progress.losses.sum().item())
    assert totals[-1] - totals[-2] < 0.5 * totals[1]
    assert state.iteration == state.ema.updates == 200


def test_optimizer_steps_after_accumulation_or_at_epoch_end() -> None:
    state = toy_state()
    context = context_for(state, accumulate=3)
    state.model.train()
    state.iteration = 10  # after the warm-up
    pending = []
    for number in range(1, 6):
        settled_step(state, context, toy_batch(), last=number == 5)
        pending.append(state.progress.pending)
    assert pending == [1, 2, 0, 1, 0]
    assert state.ema.updates == 2


def test_multi_scale_size_is_deterministic_and_a_multiple_of_the_stride() -> None:
    images = torch.rand(1, 3, 320, 320)
    sides = [resized(images, 32, [0, 0, step, 2]).shape[2] for step in range(60)]
    assert sides == [resized(images, 32, [0, 0, step, 2]).shape[2] for step in range(60)]
    assert all(side % 32 == 0 for side in sides)
    assert (min(sides), max(sides)) == (160, 480)


def test_finished_epoch_updates_history_best_and_position() -> None:
    state = toy_state()
    plan = plan_of(base_segment(5, "linear", 0.1))

    empty = evaluate(state.model, [], names=("a", "b"), device=CPU)

    def result(map50: float) -> ValidationResult:
        return ValidationResult(replace(empty, map50=map50, map50_95=map50 / 2), None)

    def close(measured: ValidationResult) -> None:
        state.iteration += 1000
        apply_settings(state.optimizer, plan.settings(state.epoch, state.iteration - 1))
        finish_epoch(state, plan, [0.1, 0.2, 0.3], measured, patience=2)

    for value in (0.2, 0.6, 0.4):
        close(result(value))
    close(ValidationResult(None, None))
    assert state.epoch == 4
    assert state.best_epoch == 1
    assert state.best_fitness == pytest.approx(0.1 * 0.6 + 0.9 * 0.3)
    assert [row["metrics/mAP_0.5"] for row in state.history[:3]] == [0.2, 0.6, 0.4]
    assert math.isnan(state.history[3]["metrics/mAP_0.5"])
    assert not state.stopped_early  # an epoch without validation cannot stop a run
    state.epoch = 3
    close(result(0.5))
    assert state.stopped_early


@pytest.mark.parametrize(
    ("extension", "stops_after"),
    [
        (Extension(9, "restart"), 8),
        (Extension(9, "hold", peak=0.9, rewarm_epochs=1), 8),
        (Extension(9, "hold"), 4),
    ],
    ids=["restart", "peak", "hold"],
)
def test_patience_follows_the_climb_after_a_rise_of_the_rate(
    extension: Extension, stops_after: int
) -> None:
    """The best epoch, 1, is before the seam; epochs 2 to 5 climb, and 6 and 7 do not."""
    state = toy_state()
    plan = extend_plan(plan_of(base_segment(2, "linear", 0.1)), 2, extension)
    measured = evaluate(state.model, [toy_batch()], names=("a", "b"), device=CPU)
    for value in (0.5, 0.9, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4):
        state.iteration += 1000
        apply_settings(state.optimizer, plan.settings(state.epoch, state.iteration - 1))
        result = ValidationResult(replace(measured, map50=value, map50_95=value), None)
        finish_epoch(state, plan, [0.1, 0.2, 0.3], result, patience=2)
        if state.stopped_early:
            break
    assert state.epoch == stops_after
    assert state.best_epoch == 1  # best.pt still has the best weights of all


@pytest.mark.parametrize(
    ("scores", "best", "stops_after"),
    [
        ((0.0, 0.0, 0.0, 0.0), 2, 3),
        ((0.0, 0.0, 0.5, 0.5, 0.5, 0.5), 4, 5),
        ((0.0, 0.5, 0.4, 0.5), 3, 4),
        ((0.5, math.nan, 0.5), 2, 3),
    ],
)
def test_newest_of_equal_epochs_is_the_best_but_no_improvement(
    scores: Sequence[float], best: int, stops_after: int
) -> None:
    state = toy_state()
    plan = plan_of(base_segment(9, "linear", 0.1))
    empty = evaluate(state.model, [], names=("a", "b"), device=CPU)
    for value in scores:
        state.iteration += 1000
        apply_settings(state.optimizer, plan.settings(state.epoch, state.iteration - 1))
        measured = ValidationResult(replace(empty, map50=value, map50_95=value), None)
        finish_epoch(state, plan, [0.1, 0.2, 0.3], measured, patience=2)
        if state.stopped_early:
            break
    assert (state.best_epoch, state.epoch) == (best, stops_after)


def test_rate_that_differs_from_the_plan_stops_the_run() -> None:
    state = toy_state()
    plan = plan_of(base_segment(5, "linear", 0.1))
    state.iteration = 1000
    apply_settings(state.optimizer, StepSettings(0.02, 0.02, 0.9, 1))
    with pytest.raises(
        UserError, match="the optimizer's learning rates were changed outside the plan"
    ):
        finish_epoch(state, plan, [0.1, 0.2, 0.3], ValidationResult(None, None), patience=2)


class InfiniteLoss:
    """Wraps a loss and makes one of its parts infinite."""

    def __init__(self, loss: DetectionLoss, part: str) -> None:
        self._loss = loss
        self._part = part

    def __call__(self, *inputs: Any, **options: Any) -> DetectionLosses:
        losses = self._loss(*inputs, **options)
        return losses._replace(**{self._part: getattr(losses, self._part) * math.inf})


def with_infinite_loss(context: TrainContext, part: str) -> TrainContext:
    return replace(context, loss=cast("DetectionLoss", InfiniteLoss(context.loss, part)))


def all_tensors(state: TrainingState) -> dict[str, torch.Tensor]:
    buffers = state.optimizer.state_dict()["state"]
    tensors = {
        **{f"model/{name}": t for name, t in state.model.state_dict().items()},
        **{f"ema/{name}": t for name, t in state.ema.model.state_dict().items()},
        **{
            f"grad/{name}": p.grad
            for name, p in state.model.named_parameters()
            if p.grad is not None
        },
        **{f"{i}/{name}": t for i, b in buffers.items() for name, t in b.items()},
        "losses": state.progress.losses,
    }
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_batch_with_non_finite_loss_changes_nothing() -> None:
    state = toy_state()
    context = context_for(state, accumulate=3)
    state.model.train()
    state.iteration = 10
    settled_step(state, context, toy_batch(), last=True)
    settled_step(state, context, toy_batch(), last=False)
    before = all_tensors(state)
    settled_step(state, with_infinite_loss(context, "box"), toy_batch(), last=False)
    assert_equal(before, all_tensors(state))
    assert (state.progress.batches, state.progress.counted) == (3, 2)
    assert (state.progress.pending, state.progress.skipped, state.bad_losses) == (1, 1, 1)
    assert state.iteration == 13
    settled_step(state, context, toy_batch(), last=True)
    assert state.bad_losses == 0
    assert state.ema.updates == 2


BAD = {"loss": "box", "gradient": "total"}


def test_optimizer_that_cannot_skip_a_step_is_not_called() -> None:
    """As on Metal, where optimizers are not fused."""
    state = toy_state()
    for group in (*state.optimizer.param_groups, state.optimizer.defaults):
        group["fused"] = False
    context = context_for(state)
    state.model.train()
    before = all_tensors(state)
    settled_step(state, with_infinite_loss(context, "total"), toy_batch(), last=True)
    after = all_tensors(state)
    assert all(torch.equal(before[n], after[n]) for n in before if "weight" in n or "bias" in n)
    settled_step(state, context, toy_batch(), last=True)
    assert state.ema.updates == 1


@pytest.mark.parametrize("bad", [None, *BAD])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
def test_outcome_that_is_read_late_changes_nothing(
    bad: str | None, optimizer: str, first: bool
) -> None:
    """Four steps, of which the third, or the first one of all, may be bad."""
    results = []
    for step in (train_step, settled_step):
        state = toy_state(optimizer)
        context = context_for(state)
        state.model.train()
        for number in range(4):
            own = context
            if bad and number == (0 if first else 2):
                own = with_infinite_loss(context, BAD[bad])
            step(state, own, toy_batch(), last=False)
            assert state.ema.updates == number + (step is settled_step) - (
                bad is not None and number > (0 if first else 2) - (step is settled_step)
            )
        state.settle()
        results.append((all_tensors(state), state.ema.updates, state.progress.skipped))
    (late, *counts), (at_once, *expected) = results
    assert_equal(late, at_once)
    assert counts == expected == [4 - bool(bad), int(bool(bad))]
    assert all(tensor.isfinite().all() for tensor in late.values())


def test_bad_step_of_fused_sgd_leaves_no_trace_in_momentum() -> None:
    states = [toy_state(), toy_state()]
    for state in states:
        state.model.train()
    context = [context_for(state) for state in states]
    settled_step(states[0], with_infinite_loss(context[0], "total"), toy_batch(), last=True)
    states[1].model.load_state_dict(states[0].model.state_dict())
    for state, own in zip(states, context, strict=True):
        state.iteration = 1
        settled_step(state, own, toy_batch(), last=True)
    buffers = [state.optimizer.state_dict()["state"] for state in states]
    for index, one in buffers[0].items():
        assert torch.equal(one["momentum_buffer"], buffers[1][index]["momentum_buffer"])


def test_save_reads_the_outcome_first() -> None:
    state = toy_state()
    context = context_for(state)
    train_step(state, context, toy_batch(), last=False)
    assert state.ema.updates == state.progress.counted == 0
    config = Config(options={}, hyp={}, spec={}, names=[], precision="fp32")
    checkpoint = state.to_checkpoint(context.plan, config)
    assert checkpoint["ema"]["updates"] == checkpoint["progress"]["counted"] == 1


def test_overflow_in_fp16_lowers_the_scale_and_is_no_bad_step() -> None:
    state = toy_state()
    state = replace(state, scaler=torch.amp.GradScaler("cpu", init_scale=2.0**127))
    context = context_for(state)
    state.model.train()
    weights = [parameter.clone() for parameter in state.model.parameters()]
    settled_step(state, context, toy_batch(), last=True)
    assert state.scaler.get_scale() == 2.0**126
    assert (state.ema.updates, state.bad_gradients, state.progress.skipped) == (0, 0, 0)
    assert all(map(torch.equal, weights, state.model.parameters()))
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    settled_step(state, context, toy_batch(), last=True)
    assert state.ema.updates == 1


def test_votes_of_all_processes_are_read_with_the_outcome() -> None:
    state = toy_state()
    context = replace(context_for(state), votes=lambda: torch.tensor([0.0, 1.0]))
    settled_step(state, context, toy_batch(), last=True)
    assert state.votes == [0, 1]
    accumulating = replace(context_for(state, accumulate=3), votes=lambda: torch.tensor([2.0]))
    state.iteration = 10  # after the warm-up
    train_step(state, accumulating, toy_batch(), last=False)
    assert state.votes == [2]


def test_non_finite_gradient_changes_no_weight() -> None:
    state = toy_state()
    context = context_for(state)
    state.model.train()
    settled_step(state, context, toy_batch(), last=False)
    before = all_tensors(state)
    settled_step(state, with_infinite_loss(context, "total"), toy_batch(), last=False)
    after = all_tensors(state)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("running" in name or "num_batches" in name for name in changed - {"losses"})
    assert state.ema.updates == 1
    assert (state.progress.pending, state.progress.skipped, state.bad_gradients) == (0, 1, 1)


@pytest.mark.parametrize(("part", "what"), [("box", "loss"), ("total", "gradient")])
def test_too_many_consecutive_bad_steps_abort_and_name_the_files(part: str, what: str) -> None:
    state = toy_state()
    context = with_infinite_loss(context_for(state), part)
    state.model.train()
    for _ in range(2):
        settled_step(state, context, toy_batch(), last=False)
    with pytest.raises(
        UserError, match=rf"3 consecutive steps had a non-finite {what}.* with a\.jpg, b\.jpg;"
    ):
        settled_step(state, context, toy_batch(), last=False)


@pytest.mark.parametrize(("limit", "clipped"), [(0.0, False), (0.01, True)])
def test_gradients_are_clipped(limit: float, clipped: bool) -> None:
    moved = []
    for norm in (limit, 1e9):
        state = toy_state()
        context = replace(context_for(state), max_gradient_norm=norm)
        state.model.train()
        state.iteration = 10  # after the warm-up, which starts with a rate of 0
        before = state.model.get_parameter("model.0.conv.weight").clone()
        settled_step(state, context, toy_batch(), last=True)
        moved.append((state.model.get_parameter("model.0.conv.weight") - before).norm().item())
    assert (moved[0] < 0.5 * moved[1]) == clipped
    assert (moved[0] == moved[1]) != clipped


def test_good_batch_resets_the_count_of_bad_ones() -> None:
    state = toy_state()
    context = context_for(state, accumulate=100)
    state.model.train()
    state.iteration = 10
    for _ in range(4):
        settled_step(state, with_infinite_loss(context, "box"), toy_batch(), last=False)
        settled_step(state, context, toy_batch(), last=False)
    assert (state.progress.skipped, state.progress.pending, state.bad_losses) == (4, 4, 0)


def test_batch_with_overflowing_variance_is_skipped() -> None:
    state = toy_state()
    context = context_for(state)
    state.model.train()
    before = all_tensors(state)
    with torch.no_grad():
        state.model.get_parameter("model.0.conv.weight").mul_(1e30)
    settled_step(state, context, toy_batch(), last=True)
    assert state.bad_losses == 1
    after = all_tensors(state)
    before["model/model.0.conv.weight"] = after["model/model.0.conv.weight"]
    assert_equal(before, after)


def test_non_finite_checkpoint_is_not_saved() -> None:
    state = toy_state()
    plan = plan_of(base_segment(5, "linear", 0.1))
    config = Config(options={}, hyp={}, spec={}, names=[], precision="fp32")
    checkpoint = state.to_checkpoint(plan, config)
    require_finite(checkpoint)
    checkpoint["ema"]["weights"]["model.1.bn.running_var"][0] = math.inf
    with pytest.raises(UserError, match=r"the EMA weights are no longer finite \(model.1.bn"):
        require_finite(checkpoint)


def test_skipped_batches_and_an_early_stop_are_recorded_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "yolo")
    state = toy_state()
    plan = plan_of(base_segment(5, "linear", 0.1))
    state.iteration = 1000
    state.progress.skipped = 2
    apply_settings(state.optimizer, plan.settings(0, 999))
    finish_epoch(state, plan, [0.1, 0.2, 0.3], ValidationResult(None, None), patience=2)
    assert state.history[0]["skipped"] == 2
    assert state.progress.skipped == state.progress.batches == 0
    assert caplog.messages == ["Epoch 0: skipped 2 batches."]
    caplog.clear()
    state.best_fitness, state.best_epoch = 1.0, 0
    apply_settings(state.optimizer, plan.settings(1, 999))
    result = evaluate(state.model, [toy_batch()], names=("a", "b"), device=CPU)
    finish_epoch(state, plan, [0.1, 0.2, 0.3], ValidationResult(result, None), patience=1)
    assert "skipped" not in state.history[1]
    assert state.stopped_early
    assert caplog.messages == ["No improvement since epoch 0: stopping early after 2 epochs."]


@pytest.mark.parametrize(
    ("epoch", "best_epoch", "last_seam", "patience", "stop"),
    [
        (12, 10, 0, 3, False),
        (13, 10, 0, 3, True),
        (13, 10, 0, 0, False),  # 0 disables the early stop
        (13, 10, 12, 3, False),  # patience restarts at a seam
        (14, 10, 12, 3, True),
        (2, -1, 0, 3, True),  # no epoch had a fitness
    ],
)
def test_should_stop(
    epoch: int, best_epoch: int, last_seam: int, patience: int, stop: bool
) -> None:
    assert should_stop(epoch, best_epoch, last_seam, patience) is stop
