"""Reads the checkpoints of upstream YOLOv5, v5.0 and later, without executing anything in them.

Upstream pickles whole modules. Here the pickle is only parsed (`pickle_records`): a module is a
record of its parameters, buffers and children, from which the state dict is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from utils.checkpoint.pickle_records import (
    DAMAGE_ERRORS,
    MAX_NAME_LENGTH,
    PickleRecord,
    imported_names,
    require_type,
)
from utils.checkpoint.torch_archive import DATA_NAMES, TorchArchive
from utils.checkpoint.zip_members import PICKLE_MEMBER, read_members
from utils.errors import UserError

DETECTOR_CLASSES = frozenset({"models.yolo.Model", "models.yolo.DetectionModel"})
MODULE_PREFIXES = ("models.", "torch.nn.modules.", "ultralytics.")
"""Packages of the classes that upstream pickles; such a class is a name here and never imported."""
T = TypeVar("T")
MAX_DEPTH = 32  # nesting levels of modules; a YOLOv5 has fewer than 10
MAX_ENTRIES = 20_000  # modules and tensors; a YOLOv5x6 has fewer than 2,000
ANCHOR_DIMENSIONS = 3  # levels, anchors, and width and height in units of the level's stride


@dataclass(frozen=True)
class UpstreamCheckpoint:
    """Content of an upstream file; a field is None if the file does not have it or was stripped."""

    model_state: dict[str, Tensor]
    """State dict of the non-EMA model, in the file's precision (fp16)."""
    ema_state: dict[str, Tensor] | None
    """State dict of the EMA, in the file's precision (fp16)."""
    ema_updates: int | None
    """Number of EMA updates; None without EMA weights."""
    epoch: int
    """Last completed epoch, 0-based; -1 in a stripped file."""
    best_fitness: float | None
    optimizer: dict[str, Any] | None
    """`state` by parameter number, and `param_groups`; see `utils.upstream.state` for names."""
    spec: dict[str, object]
    """The model file: nc, depth_multiple, width_multiple, backbone, head, and the anchors in use.

    AutoAnchor changes the anchors of the model, not those of the model file in the checkpoint."""
    names: tuple[str, ...]
    hyp: dict[str, float]
    """Hyper-parameters, an attribute of the model; empty if it has none."""
    options: dict[str, object] | None
    """Training options, since v6.2; paths are strings."""
    date: str | None
    version: str
    """Estimated version: v5.0, v6.0, v6.1, v6.2 or v7.0 (and later)."""
    parameter_kinds: dict[str, str]
    """`bias`, `norm` (of a normalization layer) or `weight` by name, as `named_parameters()`."""
    training_results: str | None
    """Text of results.txt, v5.0 only."""
    is_ours: bool = False
    """Whether `utils.upstream.writer` has written it: it uses the class name of all versions, and
    keys of v7.0, which itself has another class name."""

    @property
    def weights(self) -> dict[str, Tensor]:
        """State dict of the EMA if there is one, else that of the model."""
        return self.ema_state or self.model_state


def is_upstream_file(path: Path) -> bool:
    """Return whether a file holds pickled modules (upstream's format), not plain data (ours).

    False if it is not a torch file, so that the reader of our format reports what is wrong.
    """
    try:
        pickled = read_members(path, only=(PICKLE_MEMBER,))[PICKLE_MEMBER]
    except UserError:
        return False
    return any(name.startswith(MODULE_PREFIXES) for name in imported_names(pickled))


def read_upstream(path: Path) -> UpstreamCheckpoint:
    """Read an upstream detection checkpoint, stripped or not.

    Raises:
        UserError: the file is not an upstream checkpoint, is damaged, is of another task, was fused
            for inference, or references anything that no checkpoint needs. The message names the
            file and the reason.
    """
    archive = TorchArchive(path, _is_allowed)
    try:
        return _interpret(path, archive)
    except DAMAGE_ERRORS as error:
        raise UserError(
            f"{path} is damaged or not a YOLOv5 checkpoint ({str(error)[:100]}); "
            "use another checkpoint."
        ) from error


def _is_allowed(name: str) -> bool:
    return name in DATA_NAMES or (name.startswith(MODULE_PREFIXES) and name.isprintable())


def _interpret(path: Path, archive: TorchArchive) -> UpstreamCheckpoint:
    plain = archive.plain
    content = archive.content if isinstance(archive.content, dict) else {}
    model = content.get("model")
    if not isinstance(model, PickleRecord) or model.kind not in DETECTOR_CLASSES:
        held = f"a {model.kind}" if isinstance(model, PickleRecord) else "no YOLOv5 model"
        raise UserError(f"{path} holds {held}; use the checkpoint of a YOLOv5 detection model.")
    tree = list(_walk(archive, model))
    if any(part.kind == "models.common.Conv" and "bn" not in part.children for part in tree):
        raise UserError(f"{path} was fused for inference; use the training checkpoint.")
    model_state, ema_state = _state_dict(archive, tree), None
    if isinstance(content.get("ema"), PickleRecord):
        ema_state = _state_dict(archive, _walk(archive, content["ema"]))
    attributes = model.state
    names = plain(attributes["names"])  # a list up to v6.1, later a dict by class index
    names = list(names.values()) if isinstance(names, dict) else require_type(names, list)
    return UpstreamCheckpoint(
        model_state=model_state,
        ema_state=ema_state,
        ema_updates=_optional(int, plain(content.get("updates") if ema_state else None)),
        epoch=require_type(plain(content["epoch"]), int),
        best_fitness=_fitness(plain(content.get("best_fitness"))),
        optimizer=_optional(dict, plain(content.get("optimizer"))),
        spec=require_type(plain(attributes["yaml"]), dict)
        | _anchors_in_pixels(ema_state or model_state, archive.tensor(attributes["stride"])),
        names=tuple(require_type(name, str) for name in names),
        hyp=numbers(plain(attributes.get("hyp"))),
        options=_optional(dict, plain(content.get("opt"))),
        date=_optional(str, plain(content.get("date"))),
        version=_version(content, tree),
        parameter_kinds={
            part.prefix + name: _parameter_kind(name, part)
            for part in tree
            for name in part.parameters
        },
        training_results=_optional(str, plain(content.get("training_results"))),
        is_ours=model.kind == "models.yolo.Model" and "git" in content,
    )


class _Module(NamedTuple):
    prefix: str
    kind: str
    parameters: dict[str, PickleRecord]
    buffers: dict[str, PickleRecord]
    children: dict[str, PickleRecord]


def _walk(archive: TorchArchive, root: PickleRecord) -> Iterator[_Module]:
    """Yield the modules of a model in the order of `nn.Module.named_modules()`."""
    pending = [("", root, 0)]
    entries_left = MAX_ENTRIES
    while pending:
        prefix, module, depth = pending.pop()
        state = require_type(module.state, dict)
        volatile = archive.plain(state.get("_non_persistent_buffers_set", []))
        volatile = {require_type(name, str) for name in require_type(volatile, list)}
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
            raise ValueError("its modules are nested too deeply or too many")
        yield part
        children = reversed(part.children.items())
        pending.extend((f"{prefix}{name}.", child, depth + 1) for name, child in children)


def _records(entries: object) -> dict[str, PickleRecord]:
    """Return the entries that are not None; a module without a bias has a `bias` of None."""
    present = {
        name: entry for name, entry in require_type(entries, dict).items() if entry is not None
    }
    if any(len(require_type(name, str)) > MAX_NAME_LENGTH for name in present):
        raise ValueError("a name of a module or tensor is too long")
    return {name: require_type(entry, PickleRecord) for name, entry in present.items()}


def _state_dict(archive: TorchArchive, tree: Iterable[_Module]) -> dict[str, Tensor]:
    return {
        part.prefix + name: archive.tensor(record)
        for part in tree
        for name, record in (part.parameters | part.buffers).items()
    }


def _parameter_kind(name: str, module: _Module) -> str:
    if name == "bias":
        return "bias"
    return "norm" if ".batchnorm." in module.kind else "weight"


def _anchors_in_pixels(state: dict[str, Tensor], strides: Tensor) -> dict[str, list[list[float]]]:
    """Return the anchors in use, one row w, h, w, h, … per level; {} if the model has none."""
    anchors = next((state[name] for name in state if name.endswith(".anchors")), None)
    if anchors is None:
        return {}
    if anchors.dim() != ANCHOR_DIMENSIONS or strides.shape != anchors.shape[:1]:
        raise ValueError("its strides do not match its anchors")
    return {"anchors": (anchors.float() * strides.view(-1, 1, 1)).flatten(1).tolist()}


def _optional(kind: type[T], value: object) -> T | None:
    return None if value is None else require_type(value, kind)


def _fitness(value: object) -> float | None:
    """Return a fitness as a number; v6.0 and later store an array of one element."""
    if isinstance(value, list):
        (value,) = value
    return optional_number(value)


def numbers(values: object) -> dict[str, float]:
    """Return the numbers of a mapping by name; empty if it is none."""
    items = values.items() if isinstance(values, Mapping) else ()
    return {
        str(name): value
        for name, value in items
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def optional_number(value: object) -> float | None:
    """Return a number that may be absent.

    Raises:
        TypeError: it is anything else.
    """
    if value is None or isinstance(value, int | float):
        return None if value is None else float(value)
    raise TypeError(f"found {type(value).__name__}, expected a number")


def _version(content: Mapping[Any, Any], tree: list[_Module]) -> str:
    """Estimate the version from the keys and layers that each version added or removed."""
    if "training_results" in content or any(part.kind == "models.common.Focus" for part in tree):
        return "v5.0"
    for version, key in (("v7.0", "git"), ("v6.2", "opt"), ("v6.1", "date")):
        if key in content:
            return version
    return "v6.0"
