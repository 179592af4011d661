"""Collects the facts about a checkpoint, ours or upstream's, without executing anything in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from utils.checkpoint.format import FORMAT, LAST, PREVIOUS, DeployCheckpoint, TrainingCheckpoint
from utils.checkpoint.pickle_records import DAMAGE_ERRORS, require_type
from utils.checkpoint.store import read_checkpoint
from utils.checkpoint.zip_members import verify_checksums
from utils.errors import UserError
from utils.solver.optimizers import DEFAULT_OPTIMIZER, optimizer_from_buffers
from utils.solver.schedule import Plan
from utils.upstream.history import parse_text_results
from utils.upstream.reader import UpstreamCheckpoint, is_upstream_file, read_upstream

BUFFER_NAMES = ("running_mean", "running_var", "num_batches_tracked", "anchors", "anchor_grid")
"""Last parts of the names of buffers, which are not trained."""
STRIPPED = (
    *("non-EMA weights", "EMA counter", "optimizer buffers", "learning-rate plan", "position"),
    *("history", "options and hyper-parameters"),
)
"""Parts that a deploy file lacks."""


class InspectedCheckpoint(NamedTuple):
    """Facts and tensors of a file."""

    facts: dict[str, Any]  # plain data, with the keys of `_training_facts`
    tensors: dict[str, Tensor]
    """All tensors, by names such as `ema.weights.model.0.conv.weight`."""


def inspect_file(path: Path, *, verify: bool) -> dict[str, Any]:
    """Return the facts about a file as plain data.

    Args:
        path: the file.
        verify: also verify checksums and tensors. If a checksum is wrong, the result has no facts
            about the content.

    Raises:
        UserError: the file cannot be read. For a last.pt, the message also says whether the
            last_prev.pt is intact.
    """
    try:
        checksums = verify_checksums(path) if verify else None
        damaged = checksums is not None and bool(checksums.wrong)
        content = None if damaged else inspect_checkpoint(path)
    except UserError as error:
        raise UserError(f"{error} {_describe_previous(path)}".rstrip()) from error
    facts = {"file": str(path), "bytes": path.stat().st_size} | (content.facts if content else {})
    if checksums is not None:
        tensors = content.tensors if content else {}
        not_finite = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        facts["verified"] = {
            "fine": not damaged and not not_finite,
            "members": checksums.members,
            "tensors": len(tensors) if content else None,
            "wrong_sums": list(checksums.wrong),
            "not_finite": not_finite,
            "advice": _describe_previous(path) if damaged else "",
        }
    return facts


def _describe_previous(path: Path) -> str:
    """Return a sentence about the last_prev.pt beside a damaged last.pt; empty if there is none."""
    previous = path.with_name(PREVIOUS)
    if path.name != LAST or not previous.is_file():
        return ""
    try:
        facts = inspect_checkpoint(previous).facts
    except UserError as error:
        return f"The previous checkpoint cannot be used either: {error}"
    return f"{previous} is intact: {facts['epoch']} epochs completed, step {facts['step']}."


def inspect_checkpoint(path: Path) -> InspectedCheckpoint:
    """Read a checkpoint and return the facts about its content, and its tensors.

    Raises:
        UserError: the file is missing, damaged, foreign or of another version.
    """
    try:
        if is_upstream_file(path):
            upstream = read_upstream(path)
            parts: Mapping[str, object] = {
                "model": upstream.model_state,
                "ema": upstream.ema_state,
                "optimizer": upstream.optimizer,
            }
            facts = _upstream_facts(upstream, path)
        else:
            parts = checkpoint = read_checkpoint(path)
            if checkpoint["kind"] == "training":
                facts = _training_facts(checkpoint)
            else:
                facts = _deploy_facts(checkpoint)
        return InspectedCheckpoint(facts, dict(_named_tensors(parts)))
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


def _training_facts(checkpoint: TrainingCheckpoint) -> dict[str, Any]:
    plan = Plan.from_dict(checkpoint["plan"])
    position, progress, best = checkpoint["position"], checkpoint["progress"], checkpoint["best"]
    optimizer, mean = checkpoint["optimizer"], checkpoint.get("average")
    return {
        "format": FORMAT,
        "version": checkpoint["version"],
        "kind": checkpoint["kind"],
        "epoch": require_type(position["epoch"], int),
        "step": require_type(position["iteration"], int),
        "under_way": {name: progress.get(name) for name in ("batches", "pending", "skipped")}
        if progress["batches"]
        else None,
        "planned": plan.total_epochs,
        "segments": [
            {
                "mode": segment.mode,
                "start": require_type(segment.start, int),
                "epochs": require_type(segment.epochs, int),
            }
            for segment in plan.segments
        ],
        "ema_updates": require_type(checkpoint["ema"]["updates"], int),
        "averaged_epochs": require_type(mean["updates"], int) if mean else None,
        "optimizer": {
            "name": optimizer["name"],
            "buffers": sum(map(len, optimizer["buffers"].values())),
            "parameters": len(optimizer["buffers"]),
        },
        "scaler": checkpoint["scaler"] or None,
        "history": len(checkpoint["history"]),
        "best": {"fitness": _number(best["fitness"]), "epoch": best["epoch"]}
        if require_type(best["epoch"], int) >= 0
        else None,
        "model": _model_facts(checkpoint["model"], checkpoint["config"]["spec"]),
        "classes": [require_type(name, str) for name in checkpoint["config"]["names"]],
        "software": dict(checkpoint["software"]),
        "resume": _training_resume(checkpoint, plan),
    }


def _training_resume(checkpoint: TrainingCheckpoint, plan: Plan) -> dict[str, Any]:
    config, progress = checkpoint["config"], checkpoint["progress"]
    epoch = checkpoint["position"]["epoch"]
    parts = {
        "non-EMA weights": checkpoint["model"],
        "EMA and its counter": checkpoint["ema"]["weights"],
        "optimizer buffers": checkpoint["optimizer"]["buffers"] or not checkpoint["ema"]["updates"],
        "learning-rate plan": True,
        "position": True,
        "AMP scaler": checkpoint["scaler"] or config["precision"] != "fp16",
        "history": len(checkpoint["history"]) == epoch,
        "options and hyper-parameters": config["options"] and config["hyp"],
        "data-set facts": "data" in config,
    }
    if progress["batches"]:
        parts["unfinished epoch"] = True
        parts["accumulated gradients"] = progress["gradients"] or not progress["pending"]
    over = epoch >= plan.total_epochs or checkpoint["stopped_early"]
    how = "the run has ended; use --resume with --extend-epochs X" if over else "use --resume"
    return _resume_facts(how, parts)


def _deploy_facts(checkpoint: DeployCheckpoint) -> dict[str, Any]:
    epoch = require_type(checkpoint["epoch"], int)
    how = (
        "not possible, the file was stripped for inference; resume from the last.pt in its folder, "
        "or start a new run with --weights"
    )
    parts = {"weights, rounded to fp16": True} | dict.fromkeys(STRIPPED, False)
    return {
        "format": FORMAT,
        "version": checkpoint["version"],
        "kind": checkpoint["kind"],
        "epoch": epoch + 1,
        **dict.fromkeys(("step", "under_way", "planned")),
        "segments": [],
        **dict.fromkeys(("ema_updates", "averaged_epochs", "optimizer", "scaler")),
        "history": 0,
        "best": {"fitness": _number(checkpoint["fitness"]), "epoch": epoch},
        "model": _model_facts(checkpoint["weights"], checkpoint["spec"]),
        "classes": [require_type(name, str) for name in checkpoint["names"]],
        "software": {},
        "resume": _resume_facts(how, parts) | {"possible": False},
    }


def _upstream_facts(content: UpstreamCheckpoint, path: Path) -> dict[str, Any]:
    stripped = content.epoch < 0
    options = content.options or {}
    text = content.training_results
    record = None if text is None else parse_text_results(text, str(path))
    planned = options.get("epochs", record.planned if record else None)
    return {
        "format": "YOLOv5",
        "version": content.version,
        "kind": "deploy" if stripped else "training",
        "epoch": None if stripped else content.epoch + 1,
        **dict.fromkeys(("step", "under_way")),
        "planned": planned if isinstance(planned, int) else None,
        "segments": [],
        "ema_updates": content.ema_updates if content.ema_state is not None else None,
        "averaged_epochs": None,
        "optimizer": _upstream_optimizer(content, options),
        "scaler": None,
        "history": len(record.rows) if record else 0,
        "best": None if content.best_fitness is None else {"fitness": content.best_fitness},
        "model": _model_facts(content.model_state, content.spec),
        "classes": list(content.names),
        "software": {"date": content.date} if content.date else {},
        "resume": _upstream_resume(content, planned=planned is not None),
    }


def _upstream_optimizer(
    content: UpstreamCheckpoint, options: Mapping[str, object]
) -> dict[str, Any] | None:
    if content.optimizer is None:
        return None
    states = require_type(content.optimizer["state"], dict).values()
    buffers = [[name for name, value in s.items() if isinstance(value, Tensor)] for s in states]
    likely = optimizer_from_buffers({name for names in buffers for name in names})
    return {
        "name": str(options.get("optimizer", likely or DEFAULT_OPTIMIZER)),
        "buffers": sum(map(len, buffers)),
        "parameters": sum(map(bool, buffers)),
    }


def _upstream_resume(content: UpstreamCheckpoint, *, planned: bool) -> dict[str, Any]:
    stripped = content.epoch < 0
    parts = {
        "weights, rounded to fp16": True,
        "non-EMA weights": content.ema_state is not None,
        "EMA counter": content.ema_state is not None and content.ema_updates is not None,
        "optimizer buffers": content.optimizer is not None,
        "position": not stripped,
        "planned total": planned,
        "options": bool(content.options),
        "full precision": False,
        "AMP scaler": False,
        "data order": False,
    }
    how = "use --resume; missing parts are computed or reset"
    if stripped:
        how = "use --resume with --allow-partial-state; stripped parts are reset"
    if not (planned and content.options):
        how += "; options are read from the run's opt.yaml"
    return _resume_facts(how, parts)


def _resume_facts(how: str, parts: Mapping[str, object]) -> dict[str, Any]:
    """Return how to resume, and which of the parts of the state are in the file."""
    there = [name for name, part in parts.items() if part]
    missing = [name for name, part in parts.items() if not part]
    return {"possible": True, "how": how, "there": there, "missing": missing}


def _model_facts(state: Mapping[str, Tensor], spec: Mapping[str, object]) -> dict[str, Any]:
    learned = [t for name, t in state.items() if name.rpartition(".")[2] not in BUFFER_NAMES]
    return {
        "parameters": sum(tensor.numel() for tensor in learned),
        "tensors": len(state),
        "number_format": " ".join(sorted({str(t.dtype).removeprefix("torch.") for t in learned})),
        "depth_multiple": spec.get("depth_multiple"),
        "width_multiple": spec.get("width_multiple"),
    }


def _number(value: object) -> float:
    return float(value) if isinstance(value, int) else require_type(value, float)
