"""Reads the checkpoints of upstream YOLOv5, v5.0 to today, without running anything in them.

Upstream pickles whole modules. Here the pickle is only described (`pickle_records`), so a module
comes as a record of its parameters, buffers and children, from which the state dict is put together
by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from utils.checkpoint.pickle_records import (
    DAMAGE,
    MAX_NAME_LENGTH,
    Record,
    imported_names,
    refused_name,
    require_type,
)
from utils.checkpoint.plain_data import DATA_KINDS, PlainData
from utils.checkpoint.torch_archive import STORAGE_TYPES, TorchArchive
from utils.checkpoint.zip_members import PROGRAM, read_members
from utils.errors import UserError

DETECTORS = frozenset({"models.yolo.Model", "models.yolo.DetectionModel"})
MODULE_PREFIXES = ("models.common.", "torch.nn.modules.")
CONTAINER_KINDS = {"collections.OrderedDict", "__builtin__.set", "builtins.set"}
ALLOWED = DATA_KINDS | CONTAINER_KINDS | DETECTORS | STORAGE_TYPES.keys() | {"models.yolo.Detect"}
T = TypeVar("T")
MAX_DEPTH = 32  # nesting of modules; a YOLOv5 has fewer than 10 levels
MAX_ENTRIES = 20_000  # modules and tensors; a YOLOv5x6 has under 2,000
MAX_LEVELS = 16


@dataclass(frozen=True)
class UpstreamCheckpoint:
    """What an upstream file holds; None where the file never had it or was stripped of it."""

    weights: dict[str, Tensor]
    """State dict in fp32: the EMA's where there is one, else the model's."""
    model_state: dict[str, Tensor]
    """State dict of the raw model, in the file's precision (fp16)."""
    ema_state: dict[str, Tensor] | None
    """State dict of the EMA, in the file's precision (fp16)."""
    ema_updates: int | None
    epoch: int
    """Last epoch done, 0-based; -1 in a stripped file."""
    best_fitness: float | None
    optimizer: dict[str, object] | None
    """`state` by parameter number and `param_groups`; see `upstream_optimizer` for names."""
    spec: dict[str, object]
    """The model file: nc, depth_multiple, width_multiple, anchors as given, backbone, head."""
    names: tuple[str, ...]
    strides: tuple[int, ...]
    anchors: Tensor | None
    """The anchors really used, [levels, anchors, 2] in units of the level's stride, fp32."""
    options: dict[str, object] | None
    """The training options, from v6.2 on; paths as text."""
    date: str | None
    version: str
    """Best guess: v5.0, v6.0, v6.1, v6.2 or v7.0 (and later)."""
    parameter_names: tuple[str, ...]
    """In the order of the modules, as `named_parameters()` gives them."""
    norm_parameters: frozenset[str]
    """Those of `parameter_names` that belong to normalisation layers."""
    training_results: str | None
    """The text of results.txt, v5.0 only."""

    def anchors_in_pixels(self) -> list[list[float]] | None:
        """The anchors really used, a row w, h, w, h, … per level; None if the file has none.

        AutoAnchor changes these, not the model file that is kept with them.
        """
        if self.anchors is None:
            return None
        rows: list[list[float]] = (
            (self.anchors * torch.tensor(self.strides).view(-1, 1, 1)).flatten(1).tolist()
        )
        return rows


def is_upstream_file(path: Path) -> bool:
    """Whether a file holds pickled modules, as upstream's do, rather than plain data, as ours do.

    False for what is no torch file at all, so that the reader of our own format says what is wrong.
    """
    try:
        program = read_members(path, only=(PROGRAM,))[PROGRAM]
    except UserError:
        return False
    foreign = ("models.", "torch.nn.modules.", "ultralytics.")
    return any(name.startswith(foreign) for name in imported_names(program))


def read_upstream(path: Path) -> UpstreamCheckpoint:
    """Read an upstream detection checkpoint, stripped or not.

    Raises:
        UserError: not such a file, damaged, of another task, fused for inference, or asking for
            anything that a checkpoint has no use for; the sentence names the file and the thing.
    """
    archive = TorchArchive(path)
    content = archive.records(_check_name)
    try:
        return _interpret(archive, content)
    except DAMAGE as error:
        raise UserError(
            f"{path} is not a readable YOLOv5 checkpoint: {str(error)[:100]}."
        ) from error


def _check_name(name: str) -> None:
    known = name in ALLOWED or name.startswith(MODULE_PREFIXES)
    if known and len(name) <= MAX_NAME_LENGTH:
        return
    if name.startswith(("models.", "ultralytics.")):
        shown = ascii(name)[1:-1][:MAX_NAME_LENGTH]
        raise UserError(f"holds a {shown}; only YOLOv5 detection models can be read.")
    raise refused_name(name)


def _interpret(archive: TorchArchive, content: object) -> UpstreamCheckpoint:
    if not isinstance(content, dict) or not isinstance(content.get("model"), Record):
        raise UserError(f"{archive.path} holds no YOLOv5 model; give it a training checkpoint.")
    model, ema = content["model"], content.get("ema")
    if model.kind not in DETECTORS:
        raise UserError(
            f"{archive.path} holds a {model.kind}; only YOLOv5 detection models can be read."
        )
    tree = list(_walk(model))
    if any(part.kind == "models.common.Conv" and "bn" not in part.children for part in tree):
        raise UserError(f"{archive.path} was fused for inference; give it the training checkpoint.")
    plain = PlainData(archive)
    raw = _state_dict(archive, tree)
    averaged = _state_dict(archive, list(_walk(ema))) if isinstance(ema, Record) else None
    weights = {
        name: value.float() if value.is_floating_point() else value
        for name, value in (averaged or raw).items()
    }
    attributes = model.state
    names = plain(attributes["names"])  # a list up to v6.1, a dictionary by number since
    names = list(names.values()) if isinstance(names, dict) else require_type(names, list)
    return UpstreamCheckpoint(
        weights=weights,
        model_state=raw,
        ema_state=averaged,
        ema_updates=_optional(int, plain(content.get("updates"))),
        epoch=require_type(plain(content["epoch"]), int),
        best_fitness=_fitness(plain(content.get("best_fitness"))),
        optimizer=_optional(dict, plain(content.get("optimizer"))),
        spec=require_type(plain(attributes["yaml"]), dict),
        names=tuple(require_type(name, str) for name in names),
        strides=_strides(archive.tensor(attributes["stride"])),
        anchors=next((weights[name] for name in weights if name.endswith(".anchors")), None),
        options=_optional(dict, plain(content.get("opt"))),
        date=_optional(str, plain(content.get("date"))),
        version=_version(content, tree),
        parameter_names=tuple(part.prefix + name for part in tree for name in part.parameters),
        norm_parameters=frozenset(
            part.prefix + name
            for part in tree
            if ".batchnorm." in part.kind
            for name in part.parameters
        ),
        training_results=_optional(str, plain(content.get("training_results"))),
    )


class _Module(NamedTuple):
    prefix: str
    kind: str
    parameters: dict[str, Record]
    buffers: dict[str, Record]
    children: dict[str, Record]


def _walk(root: Record) -> Iterator[_Module]:
    """The modules of a model, parents first, in the order of `nn.Module.named_modules()`."""
    pending = [("", root, 0)]
    entries_left = MAX_ENTRIES
    while pending:
        prefix, module, depth = pending.pop()
        state = require_type(module.state, dict)
        volatile = require_type(state.get("_non_persistent_buffers_set", set()), set)
        buffers = require_type(state["_buffers"], dict)
        part = _Module(
            prefix=prefix,
            kind=module.kind,
            parameters=_records(state["_parameters"]),
            buffers=_records({name: buffers[name] for name in buffers if name not in volatile}),
            children=_records(state["_modules"]),
        )
        entries_left -= 1 + sum(map(len, (part.parameters, part.buffers, part.children)))
        if depth > MAX_DEPTH or entries_left < 0:
            raise ValueError("its modules are nested without end")
        yield part
        children = reversed(part.children.items())
        pending.extend((f"{prefix}{name}.", child, depth + 1) for name, child in children)


def _records(entries: object) -> dict[str, Record]:
    """The entries that are set: a module without a bias has a `bias` of None."""
    present = {
        name: entry for name, entry in require_type(entries, dict).items() if entry is not None
    }
    if any(len(require_type(name, str)) > MAX_NAME_LENGTH for name in present):
        raise ValueError("names of modules or tensors too long to be true")
    return {name: require_type(entry, Record) for name, entry in present.items()}


def _state_dict(archive: TorchArchive, tree: list[_Module]) -> dict[str, Tensor]:
    return {
        part.prefix + name: archive.tensor(record)
        for part in tree
        for name, record in (part.parameters | part.buffers).items()
    }


def _strides(values: Tensor) -> tuple[int, ...]:
    if values.dim() != 1 or len(values) > MAX_LEVELS:
        raise ValueError("strides of more levels than a model has")
    return tuple(int(stride) for stride in values.tolist())


def _optional(kind: type[T], value: object) -> T | None:
    return None if value is None else require_type(value, kind)


def _fitness(value: object) -> float | None:
    """A number, or an array of one, as v6.0 and later store it."""
    if isinstance(value, list):
        (value,) = value
    if value is None or isinstance(value, int | float):
        return None if value is None else float(value)
    raise TypeError(f"a fitness that is a {type(value).__name__}")


def _version(content: Mapping[Any, Any], tree: list[_Module]) -> str:
    """By what the versions added, see the docstring of `UpstreamCheckpoint.version`."""
    if "training_results" in content or any(part.kind == "models.common.Focus" for part in tree):
        return "v5.0"
    for version, key in (("v7.0", "git"), ("v6.2", "opt"), ("v6.1", "date")):
        if key in content:
            return version
    return "v6.0"
