"""What there is to tell of a checkpoint, as plain facts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from utils.checkpoint.pickle_records import require_type
from utils.solver.optimizers import DEFAULT_OPTIMIZER, optimizer_from_buffers
from utils.upstream.history import parse_text_results
from utils.upstream.reader import UpstreamCheckpoint

NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked", "anchors", "anchor_grid")
"""Last parts of the names of what a model holds and does not learn."""
WIDTH = 11
UNKNOWN = "not in the file"
MAX_CLASSES = 10
UPSTREAM = "YOLOv5"


class UnderWay(TypedDict):
    """An epoch that was not finished: its batches, those not yet applied, those left out."""

    batches: int
    pending: int
    skipped: int


class SegmentFacts(TypedDict):
    """A segment of the learning-rate plan: mode, first epoch and planned length."""

    mode: str
    start: int
    epochs: int


class OptimizerFacts(TypedDict):
    """An optimizer: its name, how many buffers it has, and of how many parameters."""

    name: str
    buffers: int
    parameters: int


class ModelFacts(TypedDict):
    """Size and number format of a model."""

    parameters: int
    tensors: int
    number_format: str
    depth_multiple: object
    width_multiple: object


class ResumeFacts(TypedDict):
    """Whether a run can be resumed from the file, how, what is there and what is missing."""

    possible: bool
    how: str
    there: list[str]
    missing: list[str]


@dataclass(frozen=True)
class CheckpointFacts:
    """What a file says of itself; None where it does not say it."""

    format: str
    """yolov5-extend, or YOLOv5 for upstream's."""
    version: str | int
    """Of our format; of upstream the release that wrote the file, v7.0 standing for later ones."""
    kind: str
    """training; deploy, stripped for use."""
    epoch: int | None
    """Completed epochs, which is also the 0-based number of the one that comes next."""
    step: int | None
    """Batches trained since the start of the run."""
    under_way: UnderWay | None
    planned: int | None
    """Epochs planned for the whole run."""
    segments: list[SegmentFacts]
    ema_updates: int | None
    """The EMA's counter."""
    optimizer: OptimizerFacts | None
    scaler: Mapping[str, object] | None
    """State of the AMP scaler; None if there is none."""
    history: int
    """Epochs on record in the file."""
    best: dict[str, float] | None
    """Fitness and, where it is known, epoch of the best weights so far; of a deploy file's own."""
    model: ModelFacts
    classes: list[str]
    software: dict[str, str]
    resume: ResumeFacts

    def __post_init__(self) -> None:
        """What a file calls a number or a name need not be one; TypeError if it is not."""
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
    """The facts as plain data; a number that JSON does not have becomes None."""
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
    """Size and number format of a model, of its state dict and the model file kept with it."""
    learned = [t for name, t in state.items() if name.rpartition(".")[2] not in NO_PARAMETERS]
    formats = sorted({str(t.dtype).removeprefix("torch.") for t in learned})
    return ModelFacts(
        parameters=sum(tensor.numel() for tensor in learned),
        tensors=len(state),
        number_format=" ".join(formats),
        depth_multiple=spec.get("depth_multiple"),
        width_multiple=spec.get("width_multiple"),
    )


def resume_facts(how: str, parts: Mapping[str, bool]) -> ResumeFacts:
    """How to resume from a file that can be resumed from, and which parts it holds."""
    return ResumeFacts(
        possible=True,
        how=how,
        there=[name for name, there in parts.items() if there],
        missing=[name for name, there in parts.items() if not there],
    )


def lines(facts: CheckpointFacts) -> Iterator[str]:
    """A line for each part; what comes from the file is shown without control characters."""
    for title, text in _parts(facts):
        yield f"  {title:<{WIDTH}} {printable(text)}"


def printable(text: str) -> str:
    """The text with everything escaped that could move a cursor or break a line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


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
    more = ", …" if len(facts.classes) > MAX_CLASSES else ""
    yield "classes", f"{len(facts.classes)}: {', '.join(facts.classes[:MAX_CLASSES])}{more}"
    software = ", ".join(f"{name} {version}" for name, version in facts.software.items())
    yield "software", software or UNKNOWN
    yield "to go on", resume["how"]
    yield "  there", ", ".join(resume["there"]) or "nothing"
    yield "  missing", ", ".join(resume["missing"]) or "nothing"


def _version(version: str | int) -> str:
    return f"version {version}" if isinstance(version, int) else version


def _epochs(facts: CheckpointFacts) -> str:
    done = "an unknown number" if facts.epoch is None else str(facts.epoch)
    planned = "" if facts.planned is None else f" of {facts.planned}"
    text = f"{done}{planned} completed"
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
        return "not known"
    epoch = f" in epoch {facts.best['epoch']}" if "epoch" in facts.best else ""
    return f"fitness {facts.best['fitness']:.5g}{epoch}"


def upstream_facts(content: UpstreamCheckpoint, path: Path) -> CheckpointFacts:
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
    return resume_facts(how, parts)
