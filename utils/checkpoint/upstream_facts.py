"""The facts of an upstream checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.checkpoint.facts import Facts, model_facts, sorted_parts
from utils.checkpoint.upstream import UpstreamCheckpoint
from utils.upstream_history import parse_text_results

UPSTREAM = "YOLOv5"
ADAM_BUFFER = "exp_avg"


def upstream_facts(content: UpstreamCheckpoint, path: Path) -> Facts:
    """The facts of a file of upstream's, from what is in it alone.

    Args:
        content: what is in it.
        path: the file, for messages.

    Raises:
        UserError: the record in it is damaged.
    """
    stripped = content.epoch < 0
    options = content.options or {}
    text = content.training_results
    record = None if text is None else parse_text_results(text, str(path))
    planned = options.get("epochs", record.planned if record else None)
    return Facts(
        format=UPSTREAM,
        version=content.version,
        kind="deploy" if stripped else "training",
        epoch=None if stripped else content.epoch + 1,
        step=None,
        under_way=None,
        planned=planned if isinstance(planned, int) else None,
        segments=[],
        ema_updates=content.ema_updates if content.ema_state is not None else None,
        optimizer=_optimizer(content, options),
        scaler=None,
        history=len(record.rows) if record else 0,
        best=None if content.best_fitness is None else {"fitness": content.best_fitness},
        model=model_facts(content.model_state, content.spec),
        classes=list(content.names),
        software={"date": content.date} if content.date else {},
        resume=_resume(content, planned=planned is not None),
    )


def _optimizer(content: UpstreamCheckpoint, options: Mapping[str, Any]) -> dict[str, Any] | None:
    if content.optimizer is None:
        return None
    states: Sequence[Mapping[str, Any]] = list(content.optimizer["state"].values())
    buffers = [[name for name, value in s.items() if isinstance(value, Tensor)] for s in states]
    adam = any(ADAM_BUFFER in names for names in buffers)
    return {
        "name": str(options.get("optimizer", "Adam" if adam else "SGD")),
        "buffers": sum(map(len, buffers)),
        "parameters": sum(map(bool, buffers)),
    }


def _resume(content: UpstreamCheckpoint, *, planned: bool) -> dict[str, Any]:
    stripped = content.epoch < 0
    parts = {
        "weights, rounded to fp16": True,
        "raw weights beside the EMA": content.ema_state is not None,
        "EMA counter": content.ema_state is not None and content.ema_updates is not None,
        "optimizer buffers": content.optimizer is not None,
        "position": not stripped,
        "planned total": planned,
        "options": bool(content.options),
        "full precision": False,
        "AMP scaler": False,
        "data order": False,
    }
    how = "--resume: what is missing is worked out or starts afresh"
    if stripped:
        how = "--resume, --allow-partial-state: what it was stripped of starts afresh"
    if not (planned and content.options):
        how += "; the options are looked for in opt.yaml beside it"
    return {"possible": True, "how": how, **sorted_parts(parts)}
