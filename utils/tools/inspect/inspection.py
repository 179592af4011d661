"""Collects the facts about a checkpoint, ours or upstream's, without executing anything in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from utils.checkpoint.format import FORMAT, DeployCheckpoint, TrainingCheckpoint
from utils.checkpoint.pickle_records import DAMAGE_ERRORS
from utils.checkpoint.store import read_checkpoint
from utils.errors import UserError
from utils.solver.schedule import Plan
from utils.tools.inspect.facts import (
    CheckpointFacts,
    OptimizerFacts,
    ResumeFacts,
    SegmentFacts,
    UnfinishedEpoch,
    model_facts,
    resume_facts,
    upstream_facts,
)
from utils.upstream.reader import is_upstream_file, read_upstream

STRIPPED = (
    *("non-EMA weights", "EMA counter", "optimizer buffers", "learning-rate plan", "position"),
    *("history", "options and hyper-parameters"),
)
"""Parts that a deploy file lacks."""


class InspectedCheckpoint(NamedTuple):
    """Facts and tensors of a file."""

    facts: CheckpointFacts
    tensors: dict[str, Tensor]
    """All tensors, by names such as `ema.weights.model.0.conv.weight`."""


def inspect_checkpoint(path: Path) -> InspectedCheckpoint:
    """Read a checkpoint and return its facts and tensors.

    Raises:
        UserError: the file is missing, damaged, foreign or of another version.
    """
    try:
        if is_upstream_file(path):
            upstream = read_upstream(path)
            parts = {
                "model": upstream.model_state,
                "ema": upstream.ema_state,
                "optimizer": upstream.optimizer,
            }
            return InspectedCheckpoint(upstream_facts(upstream, path), dict(_named_tensors(parts)))
        checkpoint = read_checkpoint(path)
        if checkpoint["kind"] == "training":
            facts = _training_facts(checkpoint)
        else:
            facts = _deploy_facts(checkpoint)
        return InspectedCheckpoint(facts, dict(_named_tensors(checkpoint)))
    except (*DAMAGE_ERRORS, AttributeError) as error:
        raise UserError(
            f"{path} is damaged (a value is of the wrong type: {str(error)[:100]}); "
            "use another checkpoint."
        ) from error


def _named_tensors(value: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _named_tensors(part, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _named_tensors(part, f"{prefix}.{number}")


def _training_facts(checkpoint: TrainingCheckpoint) -> CheckpointFacts:
    plan = Plan.from_dict(checkpoint["plan"])
    config, progress = checkpoint["config"], checkpoint["progress"]
    best = checkpoint["best"]
    return CheckpointFacts(
        format=FORMAT,
        version=checkpoint["version"],
        kind=checkpoint["kind"],
        epoch=checkpoint["position"]["epoch"],
        step=checkpoint["position"]["iteration"],
        under_way=UnfinishedEpoch(
            batches=progress["batches"], pending=progress["pending"], skipped=progress["skipped"]
        )
        if progress["batches"]
        else None,
        planned=plan.total_epochs,
        segments=[SegmentFacts(mode=s.mode, start=s.start, epochs=s.epochs) for s in plan.segments],
        ema_updates=checkpoint["ema"]["updates"],
        optimizer=OptimizerFacts(
            name=checkpoint["optimizer"]["name"],
            buffers=sum(map(len, checkpoint["optimizer"]["buffers"].values())),
            parameters=len(checkpoint["optimizer"]["buffers"]),
        ),
        scaler=checkpoint["scaler"] or None,
        history=len(checkpoint["history"]),
        best={"fitness": best["fitness"], "epoch": best["epoch"]} if best["epoch"] >= 0 else None,
        model=model_facts(checkpoint["model"], config["spec"]),
        classes=list(config["names"]),
        software=dict(checkpoint["software"]),
        resume=_training_resume(checkpoint, plan),
    )


def _training_resume(checkpoint: TrainingCheckpoint, plan: Plan) -> ResumeFacts:
    updates, config = checkpoint["ema"]["updates"], checkpoint["config"]
    parts = {
        "non-EMA weights": bool(checkpoint["model"]),
        "EMA and its counter": bool(checkpoint["ema"]["weights"]),
        "optimizer buffers": bool(checkpoint["optimizer"]["buffers"]) or updates == 0,
        "learning-rate plan": True,
        "position": True,
        "AMP scaler": bool(checkpoint["scaler"]) or config["precision"] != "fp16",
        "history": len(checkpoint["history"]) == checkpoint["position"]["epoch"],
        "options and hyper-parameters": bool(config["options"] and config["hyp"]),
        "data-set facts": "data" in config,
    }
    if checkpoint["progress"]["batches"]:
        pending = checkpoint["progress"]["pending"]
        parts["unfinished epoch"] = True
        parts["accumulated gradients"] = bool(checkpoint["progress"]["gradients"]) or not pending
    over = checkpoint["position"]["epoch"] >= plan.total_epochs or checkpoint["stopped_early"]
    how = "the run has ended; use --resume with --extend-epochs X" if over else "use --resume"
    return resume_facts(how, parts)


def _deploy_facts(checkpoint: DeployCheckpoint) -> CheckpointFacts:
    return CheckpointFacts(
        format=FORMAT,
        version=checkpoint["version"],
        kind=checkpoint["kind"],
        epoch=checkpoint["epoch"] + 1,
        step=None,
        under_way=None,
        planned=None,
        segments=[],
        ema_updates=None,
        optimizer=None,
        scaler=None,
        history=0,
        best={"fitness": checkpoint["fitness"], "epoch": checkpoint["epoch"]},
        model=model_facts(checkpoint["weights"], checkpoint["spec"]),
        classes=list(checkpoint["names"]),
        software={},
        resume={
            "possible": False,
            "how": "not possible, the file was stripped for inference; resume from the last.pt in "
            "its folder, or start a new run with --weights",
            "there": ["EMA weights, rounded to fp16"],
            "missing": list(STRIPPED),
        },
    )
