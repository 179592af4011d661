"""Facts about a checkpoint, and their output as text or JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from utils.checkpoint.pickle_records import require_type
from utils.options.script import printable_line
from utils.solver.optimizers import DEFAULT_OPTIMIZER, optimizer_from_buffers
from utils.upstream.history import parse_text_results
from utils.upstream.reader import UpstreamCheckpoint

BUFFER_NAMES = ("running_mean", "running_var", "num_batches_tracked", "anchors", "anchor_grid")
"""Last parts of the names of buffers, which are not trained."""
TITLE_WIDTH = 11
UNKNOWN = "not in the file"
MAX_NAMED_CLASSES = 10
UPSTREAM = "YOLOv5"


class UnfinishedEpoch(TypedDict):
    """An unfinished epoch: batches done, batches whose gradients are pending, batches skipped."""

    batches: int
    pending: int
    skipped: int


class SegmentFacts(TypedDict):
    """A segment of the learning-rate plan: mode, first epoch and planned length."""

    mode: str
    start: int
    epochs: int


class OptimizerFacts(TypedDict):
    """An optimizer: name, number of buffers, and number of parameters that have buffers."""

    name: str
    buffers: int
    parameters: int


class ModelFacts(TypedDict):
    """Size and dtypes (`number_format`) of a model."""

    parameters: int
    tensors: int
    number_format: str
    depth_multiple: object
    width_multiple: object


class ResumeFacts(TypedDict):
    """Whether and how a run can be resumed from the file, and which parts it has or lacks."""

    possible: bool
    how: str
    there: list[str]
    missing: list[str]


@dataclass(frozen=True)
class CheckpointFacts:
    """Facts about a checkpoint; None if unknown."""

    format: str
    """`yolov5-extend`, or `YOLOv5` for upstream's."""
    version: str | int
    """Version of our format, or upstream's release that wrote the file (v7.0: or a later one)."""
    kind: str
    """`training`, or `deploy` (stripped for inference)."""
    epoch: int | None
    """Completed epochs; also the 0-based index of the next epoch."""
    step: int | None
    """Batches trained since the start of the run."""
    under_way: UnfinishedEpoch | None
    planned: int | None
    """Epochs planned for the whole run."""
    segments: list[SegmentFacts]
    ema_updates: int | None
    """Number of EMA updates."""
    optimizer: OptimizerFacts | None
    scaler: Mapping[str, object] | None
    """State of the AMP scaler; None if there is none."""
    history: int
    """Number of epochs in the recorded history."""
    best: dict[str, float] | None
    """Fitness and, if known, epoch of the best weights so far; in a deploy file, of its weights."""
    model: ModelFacts
    classes: list[str]
    software: dict[str, str]
    resume: ResumeFacts

    def __post_init__(self) -> None:
        """Check the types of values from the file; raise TypeError if one is wrong."""
        for number in (self.epoch, self.step, self.planned, self.ema_updates):
            require_type(number or 0, int)
        for segment in self.segments:
            require_type(segment["start"], int)
            require_type(segment["epochs"], int)
        for value in (self.best or {}).values():
            require_type(value, float if isinstance(value, float) else int)
        for name in (*self.classes, *self.software.values()):
            require_type(name, str)


def to_json(facts: CheckpointFacts) -> dict[str, object]:
    """Return the facts as plain data; infinity and NaN, which JSON does not have, become None."""
    return {name: _plain(value) for name, value in dataclasses.asdict(facts).items()}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def model_facts(state: Mapping[str, Tensor], spec: Mapping[str, object]) -> ModelFacts:
    """Return size and dtypes of a model from its state dict and its model specification."""
    learned = [t for name, t in state.items() if name.rpartition(".")[2] not in BUFFER_NAMES]
    formats = sorted({str(t.dtype).removeprefix("torch.") for t in learned})
    return ModelFacts(
        parameters=sum(tensor.numel() for tensor in learned),
        tensors=len(state),
        number_format=" ".join(formats),
        depth_multiple=spec.get("depth_multiple"),
        width_multiple=spec.get("width_multiple"),
    )


def resume_facts(how: str, parts: Mapping[str, bool]) -> ResumeFacts:
    """Return the facts for a file that a run can be resumed from.

    Args:
        how: instruction for the user.
        parts: whether each part of the state is in the file.
    """
    return ResumeFacts(
        possible=True,
        how=how,
        there=[name for name, there in parts.items() if there],
        missing=[name for name, there in parts.items() if not there],
    )


def format_lines(facts: CheckpointFacts) -> Iterator[str]:
    """Yield one line for each fact, with control characters from the file escaped."""
    for title, text in _parts(facts):
        yield f"  {title:<{TITLE_WIDTH}} {printable_line(text)}"


def _parts(facts: CheckpointFacts) -> Iterator[tuple[str, str]]:
    model, resume = facts.model, facts.resume
    yield "kind", f"{facts.kind}, {facts.format} {_version(facts.version)}"
    yield "epochs", _epochs(facts)
    for segment in facts.segments:
        first, last = segment["start"], segment["start"] + segment["epochs"] - 1
        yield "segment", f"{segment['mode']}, {segment['epochs']} epochs: {first} … {last}"
    yield "EMA", UNKNOWN if facts.ema_updates is None else f"counter {facts.ema_updates}"
    yield "optimizer", _optimizer(facts)
    yield "AMP scaler", f"scale {facts.scaler.get('scale')}" if facts.scaler else "none"
    yield "history", f"{facts.history} epochs"
    yield "best", _best(facts)
    yield (
        "model",
        f"{model['parameters']:,} parameters, {model['tensors']} tensors, "
        f"{model['number_format']}, depth {model['depth_multiple']}, "
        f"width {model['width_multiple']}",
    )
    more = ", …" if len(facts.classes) > MAX_NAMED_CLASSES else ""
    yield "classes", f"{len(facts.classes)}: {', '.join(facts.classes[:MAX_NAMED_CLASSES])}{more}"
    software = ", ".join(f"{name} {version}" for name, version in facts.software.items())
    yield "software", software or UNKNOWN
    yield "resume", resume["how"]
    yield "  present", ", ".join(resume["there"]) or "nothing"
    yield "  missing", ", ".join(resume["missing"]) or "nothing"


def _version(version: str | int) -> str:
    return f"version {version}" if isinstance(version, int) else version


def _epochs(facts: CheckpointFacts) -> str:
    if facts.epoch is None:
        return "completed unknown" + ("" if facts.planned is None else f", {facts.planned} planned")
    planned = "" if facts.planned is None else f" of {facts.planned}"
    text = f"{facts.epoch}{planned} completed"
    if facts.step is not None:
        text += f", step {facts.step}"
    if facts.under_way:
        text += (
            f"; {facts.under_way['batches']} batches into the next one, "
            f"{facts.under_way['pending']} of them not yet applied"
        )
    return text


def _optimizer(facts: CheckpointFacts) -> str:
    if facts.optimizer is None:
        return UNKNOWN
    name, buffers, parameters = (facts.optimizer[key] for key in ("name", "buffers", "parameters"))
    return f"{name}, {buffers} buffers of {parameters} parameters"


def _best(facts: CheckpointFacts) -> str:
    if facts.best is None:
        return "unknown"
    epoch = f" in epoch {facts.best['epoch']}" if "epoch" in facts.best else ""
    return f"fitness {facts.best['fitness']:.5g}{epoch}"


def upstream_facts(content: UpstreamCheckpoint, path: Path) -> CheckpointFacts:
    """Return the facts of an upstream file, from the file alone.

    Args:
        content: content of the file.
        path: the file, for messages.

    Raises:
        UserError: the results in the file are damaged.
    """
    stripped = content.epoch < 0
    options = content.options or {}
    text = content.training_results
    record = None if text is None else parse_text_results(text, str(path))
    planned = options.get("epochs", record.planned if record else None)
    return CheckpointFacts(
        format=UPSTREAM,
        version=content.version,
        kind="deploy" if stripped else "training",
        epoch=None if stripped else content.epoch + 1,
        step=None,
        under_way=None,
        planned=planned if isinstance(planned, int) else None,
        segments=[],
        ema_updates=content.ema_updates if content.ema_state is not None else None,
        optimizer=_upstream_optimizer(content, options),
        scaler=None,
        history=len(record.rows) if record else 0,
        best=None if content.best_fitness is None else {"fitness": content.best_fitness},
        model=model_facts(content.model_state, content.spec),
        classes=list(content.names),
        software={"date": content.date} if content.date else {},
        resume=_resume(content, planned=planned is not None),
    )


def _upstream_optimizer(
    content: UpstreamCheckpoint, options: Mapping[str, object]
) -> OptimizerFacts | None:
    if content.optimizer is None:
        return None
    states = require_type(content.optimizer["state"], dict).values()
    buffers = [[name for name, value in s.items() if isinstance(value, Tensor)] for s in states]
    likely = optimizer_from_buffers({name for names in buffers for name in names})
    return OptimizerFacts(
        name=str(options.get("optimizer", likely or DEFAULT_OPTIMIZER)),
        buffers=sum(map(len, buffers)),
        parameters=sum(map(bool, buffers)),
    )


def _resume(content: UpstreamCheckpoint, *, planned: bool) -> ResumeFacts:
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
    return resume_facts(how, parts)
