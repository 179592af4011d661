"""Rows of the head move with their classes, in weights, EMA weights and optimizer buffers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.detector import Detector
from tests.paths import SHARED, requires_shared
from tests.promises.test_resume import differences
from tests.utils.solver.test_schedule import plan_of
from tests.utils.training.test_audit import config
from tests.utils.training.test_engine import context_for, toy_batch, toy_state
from utils.checkpoint.format import TrainingCheckpoint
from utils.runs.classes import ClassChange
from utils.solver.param_groups import build_optimizer, parameter_groups
from utils.solver.schedule import base_segment
from utils.training.class_rows import with_classes
from utils.training.engine import train_step
from utils.weights import load_model

ANCHORS, BOX = 3, 5
GROWN = ClassChange(("a", "b"), ("c", "b", "d", "a"), (None, 1, None, 0))


def trained(optimizer: str) -> tuple[Detector, TrainingCheckpoint]:
    """The model and the checkpoint of a toy run of two classes after one step."""
    state = toy_state()
    groups = parameter_groups(state.model)
    state.optimizer = build_optimizer(groups, optimizer, lr=0.01, momentum=0.9, weight_decay=0.0)
    train_step(state, context_for(state), toy_batch(), last=True)
    state.replace_best(0.5, 0)
    state.add_to_average()
    plan = plan_of(base_segment(3, "linear", 0.1))
    return state.model, state.to_checkpoint(plan, config())


def fields(tensor: Tensor) -> Tensor:
    return tensor.reshape(ANCHORS, -1, *tensor.shape[1:])


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_rows_of_kept_classes_move_and_others_begin(optimizer: str) -> None:
    model, before = trained(optimizer)
    assert model.classes == 2
    copy = {name: tensor.clone() for name, tensor in before["model"].items()}
    fresh = Detector(replace(model.spec, classes=4))
    after = with_classes(before, GROWN, fresh)
    assert differences(before["model"], copy) == []  # the given checkpoint is not changed
    head = [f"model.24.m.{level}.{kind}" for level in range(3) for kind in ("weight", "bias")]
    pairs = [(before["model"], after["model"], True)]
    pairs += [(before["ema"]["weights"], after["ema"]["weights"], True)]
    pairs += [(before["average"]["weights"], after["average"]["weights"], True)]
    keys = {"SGD": ["momentum_buffer"], "AdamW": ["exp_avg", "exp_avg_sq"]}[optimizer]
    buffers = [c["optimizer"]["buffers"] for c in (before, after)]
    for key in keys:
        old, new = ({name: b[name][key] for name in b} for b in buffers)
        pairs.append((old, new, False))
    for old, new, weights in pairs:
        assert old.keys() == new.keys()
        for name in old:
            if name not in head:
                assert new[name] is old[name]
                continue
            was, now = fields(old[name]), fields(new[name])
            assert torch.equal(now[:, :BOX], was[:, :BOX])
            assert torch.equal(now[:, BOX + 1], was[:, BOX + 1])  # b
            assert torch.equal(now[:, BOX + 3], was[:, BOX + 0])  # a
            for number in (0, 2):  # c and d
                found = now[:, BOX + number]
                if not weights:
                    assert not found.any()
                elif name.endswith("bias"):
                    assert found.tolist() == pytest.approx([math.log(0.6 / (4 - 0.99999))] * 3)
                else:
                    assert torch.equal(found, fields(fresh.state_dict()[name])[:, BOX + number])
    if optimizer == "AdamW":
        assert {float(b["step"]) for b in buffers[1].values()} == {1.0}
    assert after["best"] == {"fitness": -math.inf, "epoch": -1}
    fresh.load_state_dict(after["model"])


def test_renaming_changes_nothing() -> None:
    model, before = trained("SGD")
    assert with_classes(before, ClassChange(("a", "b"), ("x", "b"), (0, 1)), model) is before


@requires_shared
def test_detections_of_kept_classes_stay() -> None:
    """COCO's classes in another order, without four of them and with two new ones."""
    loaded = load_model(SHARED / "weights" / "yolov5n.pt", torch.device("cpu"))
    kept = [*range(40, 80), *range(36)]
    new = ("first", *(loaded.names[i] for i in kept), "last")
    change = ClassChange(loaded.names, new, (None, *kept, None))
    _, blank = trained("SGD")
    weights = loaded.model.state_dict()
    blank |= {"model": weights, "ema": {"weights": weights, "updates": 1}}
    blank["optimizer"] = {"name": "SGD", "buffers": {}}
    grown = Detector(loaded.model.spec.with_classes(len(new))).eval()
    grown.load_state_dict(with_classes(blank, change, grown)["model"])
    images = torch.rand(2, 3, 256, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (m.decode_confident(m(images), -1.0) for m in (loaded.model, grown))
    for one, two in zip(before, after, strict=True):
        assert (one[:, :4] - two[:, :4]).abs().max() <= 1e-3
        scores = [BOX - 1, *(BOX + source for source in kept)]
        assert (one[:, scores] - two[:, [BOX - 1, *range(BOX + 1, BOX + 77)]]).abs().max() <= 1e-5
