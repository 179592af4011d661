"""Checkpoints of a few hundred bytes, in our format and in YOLOv5's."""

from typing import Any

import numpy as np
import torch

from tests.utils.checkpoint.pickle_text import Call, Name, Persistent
from utils.checkpoint.format import FORMAT, VERSION, no_progress
from utils.solver.schedule import Plan, Segment, WarmUp, base_segment


def tiny_training(**changes: Any) -> dict[str, Any]:
    """A run of four epochs, extended by two epochs, one of which is completed."""
    seam = Segment("rebase", start=4, epochs=2, law="linear", lrf=0.01, level=0.2575)
    plan = Plan(0.01, 0.937, 2, WarmUp(100, 0.1, 0.8), (base_segment(4, "linear", 0.01), seam))
    model = {
        "model.0.conv.weight": torch.arange(6.0).view(2, 3),
        "model.0.bn.running_mean": torch.tensor([0.5, -0.5]),
        "model.0.bn.num_batches_tracked": torch.tensor(40),
        "model.1.anchors": torch.ones(1, 2),
    }
    checkpoint = {
        "format": FORMAT,
        "version": VERSION,
        "kind": "training",
        "model": model,
        "ema": {"weights": {name: t.clone() for name, t in model.items()}, "updates": 20},
        "optimizer": {
            "name": "SGD",
            "buffers": {"model.0.conv.weight": {"momentum_buffer": torch.full((2, 3), 0.25)}},
        },
        "scaler": {},
        "plan": plan.to_dict(),
        "position": {"epoch": 5, "iteration": 40},
        "progress": no_progress(),
        "plan_digest": "",
        "best": {"fitness": 0.125, "epoch": 3},
        "stopped_early": False,
        "closed": False,
        "continuations": [],
        "history": [{"epoch": float(epoch)} for epoch in range(5)],
        "config": {
            "options": {"epochs": 4, "freeze": [0]},
            "hyp": {"lr0": 0.01},
            "spec": {"nc": 2, "depth_multiple": 0.33, "width_multiple": 0.25},
            "names": ["red cell", "zebra"],
            "precision": "fp32",
            "data": {"file": "cells.yaml"},
        },
        "software": {"torch": "2.14.0", "python": "3.11.7"},
    }
    return checkpoint | changes


def tiny_deploy(**changes: Any) -> dict[str, Any]:
    checkpoint = {
        "format": FORMAT,
        "version": VERSION,
        "kind": "deploy",
        "weights": {"model.0.conv.weight": torch.ones(2, 3).half()},
        "spec": {"nc": 1, "depth_multiple": 0.33, "width_multiple": 0.5},
        "names": ["cell"],
        "epoch": 7,
        "fitness": 0.5,
    }
    return checkpoint | changes


def tensor(key: str, *size: int, kind: str = "Float", of: int = 0) -> Call:
    """A contiguous tensor over storage `key`; `of` is the number of elements that it claims."""
    strides = tuple(int(np.prod(size[i + 1 :])) for i in range(len(size)))
    count = of or int(np.prod(size))
    storage = Persistent(("storage", Name(f"torch.{kind}Storage"), key, "cpu", count))
    return Call("torch._utils._rebuild_tensor_v2", (storage, 0, size, strides, False, {}))


def module(kind: str, **parts: dict[str, Any]) -> Call:
    return Call(kind, (), {"_parameters": {}, "_buffers": {}, "_modules": {}} | parts)


def tiny_model(**extra: Any) -> Call:
    """A model with a Conv, its batch norm, and a Detect with anchors."""
    norm = module(
        "torch.nn.modules.batchnorm.BatchNorm2d",
        _parameters={"weight": tensor("1", 2), "bias": tensor("1", 2)},
    )
    conv = module("torch.nn.modules.conv.Conv2d", _parameters={"weight": tensor("0", 2, 2)})
    block = module("models.common.Conv", _modules={"conv": conv, "bn": norm})
    head = module("models.yolo.Detect", _buffers={"anchors": tensor("2", 1, 1, 2, kind="Half")})
    layers = module("torch.nn.modules.container.Sequential", _modules={"0": block, "1": head})
    spec = {"nc": 1, "depth_multiple": 0.33, "width_multiple": 0.25}
    attributes = {"yaml": spec, "names": ["cell"], "stride": tensor("3", 1)}
    state = module("", _modules={"model": layers}).state | attributes | extra
    return Call("models.yolo.Model", (), state)


def tiny_content(**changes: Any) -> dict[str, Any]:
    return {"epoch": 4, "best_fitness": 0.5, "model": tiny_model(), "ema": None} | changes


STORAGES = {
    "0": np.arange(4, dtype="<f4").tobytes(),
    "1": np.array([5, 6], "<f4").tobytes(),
    "2": np.array([1.25, 2], "<f2").tobytes(),
    "3": np.array([8], "<f4").tobytes(),
}


def tiny_upstream_run(**changes: Any) -> dict[str, Any]:
    """Content of an unstripped v7.0 file: EMA, counter, optimizer, options."""
    return tiny_content(
        ema=tiny_model(),
        updates=12,
        optimizer={
            "state": {0: {"momentum_buffer": tensor("1", 2)}, 1: {"momentum_buffer": None}},
            "param_groups": [{"lr": 0.01, "params": [0, 1]}],
        },
        opt={"epochs": 9, "optimizer": "SGD", "save_dir": Call("pathlib.PosixPath", ("runs",))},
        git={},
        date="2024-01-01",
        **changes,
    )
