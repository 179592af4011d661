import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.detector import Detector
from models.loss import build_loss
from models.spec import load_spec
from tests.utils.solver.test_schedule import plan_of
from utils.config import Hyp
from utils.datasets.dataset import Batch
from utils.engine import Rules, close_epoch, resized, train_step
from utils.errors import UserError
from utils.evaluation.evaluate import evaluate
from utils.observers import Figures
from utils.runtime import Precision
from utils.solver.ema import ModelEma
from utils.solver.param_groups import apply_settings, build_optimizer, parameter_groups
from utils.solver.schedule import StepSettings, base_segment
from utils.training_state import TrainingState

CPU = torch.device("cpu")


def toy_state() -> TrainingState:
    torch.manual_seed(0)
    spec = replace(load_spec(Path("yolov5n.yaml")), width_multiple=0.01).with_classes(2)
    model = Detector(spec)
    groups = parameter_groups(model)
    optimizer = build_optimizer(groups, "SGD", lr=0.01, momentum=0.9, weight_decay=0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, ModelEma(model), optimizer, groups.names, scaler)


def rules_for(state: TrainingState, accumulate: int = 1, precision: str = "fp32") -> Rules:
    loss = build_loss(state.model, Hyp(), image_size=64, label_smoothing=0.0)
    plan = plan_of(base_segment(1000, "linear", 0.1), nw=1, accumulate=accumulate)
    return Rules(plan, loss, Precision(precision, "cpu"), CPU, 0, 32, multi_scale=False)


def toy_batch() -> Batch:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    targets = torch.tensor([[0, 0, 0.3, 0.4, 0.4, 0.3], [1, 1, 0.6, 0.5, 0.5, 0.4]])
    return Batch(images, targets, torch.arange(2), ())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_batch_can_be_learned_by_heart(precision: str) -> None:
    state = toy_state()
    rules = rules_for(state, precision=precision)
    rules = replace(rules, plan=replace(rules.plan, lr0=0.05))
    state.model.train()
    losses = [train_step(state, rules, toy_batch(), last=True).sum().item() for _ in range(200)]
    assert losses[-1] < 0.5 * losses[0]
    assert state.iteration == state.ema.updates == 200


def test_a_step_is_made_when_enough_is_summed_or_the_epoch_ends() -> None:
    state = toy_state()
    rules = rules_for(state, accumulate=3)
    state.model.train()
    state.iteration = 10  # behind the warm-up
    pending = []
    for number in range(1, 6):
        train_step(state, rules, toy_batch(), last=number == 5)
        pending.append(state.pending)
    assert pending == [1, 2, 0, 1, 0]
    assert state.ema.updates == 2


def test_multi_scale_depends_on_its_position_alone_and_keeps_to_the_stride() -> None:
    images = torch.rand(1, 3, 320, 320)
    sides = [resized(images, 32, [0, 0, step, 2]).shape[2] for step in range(60)]
    assert sides == [resized(images, 32, [0, 0, step, 2]).shape[2] for step in range(60)]
    assert all(side % 32 == 0 for side in sides)
    assert (min(sides), max(sides)) == (160, 480)


def test_a_closed_epoch_enters_history_best_and_position() -> None:
    state = toy_state()
    plan = plan_of(base_segment(5, "linear", 0.1))

    nothing = evaluate(state.model, [], names=("a", "b"), device=CPU)

    def figures(map50: float) -> Figures:
        return Figures(replace(nothing, map50=map50, map50_95=map50 / 2), None)

    def close(measured: Figures) -> None:
        state.iteration += 1000
        apply_settings(state.optimizer, plan.settings(state.epoch, state.iteration - 1))
        close_epoch(state, plan, [0.1, 0.2, 0.3], measured, patience=2)

    for value in (0.2, 0.6, 0.4):
        close(figures(value))
    close(Figures(None, None))
    assert state.epoch == 4
    assert state.best_epoch == 1
    assert state.best_fitness == pytest.approx(0.1 * 0.6 + 0.9 * 0.3)
    assert [row["metrics/mAP_0.5"] for row in state.history[:3]] == [0.2, 0.6, 0.4]
    assert math.isnan(state.history[3]["metrics/mAP_0.5"])
    assert not state.stopped_early  # what was not validated cannot stop a run
    state.epoch = 3
    close(figures(0.5))
    assert state.stopped_early


def test_a_rate_that_is_not_the_plan_s_stops_the_run() -> None:
    state = toy_state()
    plan = plan_of(base_segment(5, "linear", 0.1))
    state.iteration = 1000
    apply_settings(state.optimizer, StepSettings(0.02, 0.02, 0.9, 1))
    with pytest.raises(UserError, match="something other than the plan sets the optimizer's rates"):
        close_epoch(state, plan, [0.1, 0.2, 0.3], Figures(None, None), patience=2)
