"""The state audit reports every part of a state as restored, changed or missing."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.utils.solver.test_schedule import plan_of
from tests.utils.training.test_engine import context_for, toy_batch, toy_state
from tests.utils.training.test_state import with_scaler
from utils.checkpoint.format import Config
from utils.errors import UserError
from utils.history import ITERATION_COLUMN
from utils.hyp import Hyp
from utils.options.parser import parse_request
from utils.options.train_options import TrainOptions
from utils.runs.resume import ResumePoint
from utils.runs.run import Run
from utils.solver.continuation import Extension, extend_plan
from utils.solver.schedule import base_segment
from utils.solver.seam import EMA_MAP_COLUMN
from utils.training.audit import AuditItem, audit_state
from utils.training.engine import train_step
from utils.training.state import TrainingState
from utils.training.step_outcome import EpochProgress

PLAN = plan_of(base_segment(3, "linear", 0.1))
DATA = {
    **{"file": "toy.yaml", "train images": 8, "train boxes": 20, "val images": 4, "val boxes": 9},
    "content": "aaa",
}


def config(**changes: Any) -> Config:
    whole = {
        "options": TrainOptions().to_dict(),
        "hyp": Hyp().to_dict(),
        "spec": {},
        "names": ["a", "b"],
        "precision": "fp32",
        "processes": 1,
        "data": DATA,
    }
    return cast("Config", whole | changes)


def trained() -> TrainingState:
    """A state after one epoch of one step."""
    state = toy_state()
    state.model.train()
    train_step(state, context_for(state), toy_batch(), last=True)
    state.settle()
    state.epoch, state.progress = 1, EpochProgress()
    state.history = [{"epoch": 0.0, EMA_MAP_COLUMN: 0.25}]
    state.best_fitness, state.best_epoch = 0.3, 0
    return state


def resume_point_of(state: TrainingState, saved: Config, **changes: Any) -> ResumePoint:
    path, checkpoint = Path("last.pt"), state.to_checkpoint(PLAN, saved)
    point = ResumePoint(
        path, path.parent, 0, checkpoint, PLAN, PLAN, 1, None, False, False, False, None
    )
    return replace(point, **changes)


def audited(
    state: TrainingState, saved: Config, now: Config, **changes: Any
) -> dict[str, AuditItem]:
    resume_point = resume_point_of(state, saved, **changes)
    run = Run(TrainOptions(**now["options"]), Hyp(), resume_point, None, Path())
    return {item.part: item for item in audit_state(run, resume_point, state, now)}


def test_unchanged_run_is_restored_in_every_part() -> None:
    items = audited(trained(), config(), config())
    assert {item.status for item in items.values()} == {"restored"}
    assert list(items) == [
        *("weights", "EMA", "optimizer", "history", "learning-rate plan", "AMP scaler"),
        "best fitness",
        *("patience", "data order", "batch size", "image size", "precision", "processes"),
        *("software", "hyper-parameters", "data set"),
    ]
    parameters = len(trained().parameter_names)
    assert items["optimizer"].detail == f"SGD, buffers of {parameters} of {parameters} parameters"
    assert items["AMP scaler"].detail == "none, fp32 needs none"
    assert items["EMA"].detail.endswith("tensors, counter 1")


def test_changed_items_show_old_and_new_values() -> None:
    options = TrainOptions(optimizer="AdamW", batch_size=8, imgsz=320, seed=3, patience=7).to_dict()
    now = config(options=options, precision="bf16", processes=2, data=DATA | {"content": "bbb"})
    items = audited(trained(), config(), now)
    assert {part: item.detail for part, item in items.items() if item.status == "changed"} == {
        "optimizer": "SGD → AdamW, buffers reset",
        "patience": "100 → 7",
        "data order": "seed 0 → 3",
        "batch size": "16 → 8",
        "effective batch": "64 (16 × 4) → 32 (8 × 4)",
        "weight decay": "0.0005 → 0.00025",
        "image size": "640 → 320",
        "precision": "fp32 → bf16",
        "processes": "1 → 2",
        "data set": "names, sizes or labels of its images differ",
    }
    assert {item.status for item in items.values()} == {"restored", "changed"}


def test_at_a_seam_plan_and_patience_change() -> None:
    extension = Extension(2, "hold")
    longer = extend_plan(PLAN, 1, extension)
    options = TrainOptions(patience=7).to_dict()
    now = config(options=options)
    items = audited(trained(), config(), now, plan=longer, extension=extension)
    assert items["learning-rate plan"].detail == "3 → 5 epochs, hold from epoch 1"
    assert items["patience"].detail == "100 → 7 epochs, restarts at the seam"
    assert {i.part for i in items.values() if i.status == "changed"} == {
        "learning-rate plan",
        "patience",
    }


@pytest.mark.parametrize(
    ("old", "new", "saved_precision", "status", "detail"),
    [
        (8.0, 8.0, "fp16", "restored", "scale 8"),
        (8.0, None, "fp16", "changed", "scale 8 → none, bf16 needs none"),
        (None, 8.0, "bf16", "changed", "none → scale 8"),
        (None, 8.0, "fp16", "missing", "scale 8, the initial value"),
    ],
)
def test_loss_scaling(
    old: float | None, new: float | None, saved_precision: str, status: str, detail: str
) -> None:
    state = trained()
    saved = resume_point_of(
        with_scaler(state, old) if old else state, config(precision=saved_precision)
    )
    now = config(precision="fp16" if new else "bf16")
    state = with_scaler(state, new) if new else state
    run = Run(TrainOptions(), Hyp(), saved, None, Path())
    items = {item.part: item for item in audit_state(run, saved, state, now)}
    assert items["AMP scaler"] == ("AMP scaler", status, detail)


def test_damaged_state_is_reported() -> None:
    state = trained()
    state.ema.updates = 0
    assert audited(state, config(), config())["EMA"].status == "missing"
    buffers = resume_point_of(state, config()).checkpoint["optimizer"]["buffers"]
    state.optimizer.state.clear()
    assert audited(state, config(), config())["optimizer"].detail == (
        f"SGD, buffers of 0 of {len(buffers)} parameters"
    )
    state.ema.updates, state.history = state.iteration + 1, []
    items = audited(state, config(), config())
    assert items["EMA"].detail.endswith(f"which does not fit {state.iteration} batches")
    assert (items["history"].status, items["history"].detail) == ("missing", "0 of 1 epochs")
    state.history = [{"epoch": 0.0, ITERATION_COLUMN: 9.0}]
    assert audited(state, config(), config())["history"].detail == (
        f"ends at iteration 9, the weights are of iteration {state.iteration}"
    )


def test_number_of_threads_and_versions_are_compared() -> None:
    state, saved = trained(), config()
    point = resume_point_of(state, saved)
    point.checkpoint["software"]["threads"] = "99"
    run = Run(TrainOptions(), Hyp(), point, None, Path())
    (item,) = [i for i in audit_state(run, point, state, saved) if i.part == "software"]
    assert (item.status, item.detail) == ("changed", f"threads 99 → {torch.get_num_threads()}")


def test_parameters_that_were_frozen_have_no_buffers_to_lose() -> None:
    state, saved = trained(), config(options=TrainOptions(freeze=[1]).to_dict())
    point = resume_point_of(state, saved)
    buffers = point.checkpoint["optimizer"]["buffers"]
    for name in [name for name in buffers if name.startswith("model.0.")]:
        del buffers[name]
    run = Run(TrainOptions(), Hyp(), point, None, Path())
    (item,) = [i for i in audit_state(run, point, state, config()) if i.part == "optimizer"]
    assert item.status == "changed"
    assert item.detail.endswith("parameters; the others were frozen")


def test_absent_optimizer_buffers_are_missing() -> None:
    state = trained()
    resume_point = resume_point_of(state, config())
    del resume_point.checkpoint["optimizer"]["buffers"][state.parameter_names[0]]
    run = Run(TrainOptions(), Hyp(), resume_point, None, Path())
    items = {item.part: item for item in audit_state(run, resume_point, state, config())}
    parameters = len(state.parameter_names)
    assert items["optimizer"].status == "missing"
    assert f"{parameters - 1} of {parameters}" in items["optimizer"].detail


def test_optimizer_is_restored_before_the_first_step() -> None:
    items = audited(toy_state(), config(), config())
    assert items["optimizer"] == ("optimizer", "restored", "no step yet")
    assert items["best fitness"].status == "missing"


def test_older_checkpoints_without_digest_and_processes() -> None:
    """Without a digest of the data, the counts are compared; processes defaults to one."""
    without = {name: value for name, value in DATA.items() if name != "content"}
    old = {name: value for name, value in config().items() if name != "processes"}
    saved = cast("Config", old | {"data": without})
    items = audited(trained(), saved, config())
    assert items["data set"] == ("data set", "restored", "toy.yaml, 8 + 4 images")
    assert items["processes"].status == "restored"
    more = config(data=DATA | {"train boxes": 21})
    assert audited(trained(), saved, more)["data set"].detail == "train boxes 20 → 21"
    del saved["data"]
    assert audited(trained(), saved, config())["data set"].status == "missing"


def test_epoch_under_way_is_reported() -> None:
    state = trained()
    state.progress = EpochProgress(batches=2, pending=1)
    items = audited(trained(), config(), config())
    assert "epoch under way" not in items
    item = audited(state, config(), config())["epoch under way"]
    assert item == (
        "epoch under way",
        "restored",
        "2 batches done, gradients of 1 accumulated for the next step",
    )


def test_single_class_run_has_no_classes_that_change() -> None:
    point, options = (
        resume_point_of(trained(), config(names=["item"])),
        TrainOptions(single_cls=True),
    )
    run = Run(options, Hyp(), point, None, Path())
    assert run.with_names(["cat"]) is run
    how = parse_request(["--resume", "a", "--rename-class", "item=cat"]).continuation
    with pytest.raises(UserError, match=r"treats all classes as one \(--single-cls\)"):
        replace(run, continuation=how).with_names(["cat"])


def test_ended_run_cannot_get_other_classes() -> None:
    how = parse_request(["--resume", "a", "--allow-change", "classes"]).continuation
    point = resume_point_of(trained(), config(), ended=True)
    run = Run(TrainOptions(), Hyp(), point, None, Path(), continuation=how)
    with pytest.raises(UserError, match=r"last\.pt has no epoch left to train; add --extend"):
        run.with_names(["a", "b", "c"])
    renamed = parse_request(["--resume", "a", "--rename-class", "a=x"]).continuation
    change = replace(run, continuation=renamed).with_names(["x", "b"]).classes
    assert change is not None
    assert change.only_renames
