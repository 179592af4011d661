"""The configuration of an upstream run, from its checkpoint or the files beside it, as ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.files.yaml_file import read_yaml
from utils.hyp import Hyp
from utils.options.train_options import TrainOptions
from utils.solver.optimizers import DEFAULT_OPTIMIZER, OPTIMIZERS, optimizer_from_flags
from utils.upstream.reader import UpstreamCheckpoint

RENAMED = {
    "img_size": "imgsz",
    "notest": "noval",
    "cache_images": "cache",
    "total_batch_size": "batch_size",  # v5.0 on several GPUs: `batch_size` is what each one got
}
"""Options of v5.0 under their later names."""
WITHOUT_COUNTERPART = ("image_weights", "quad")
"""Options that changed the training and that this program does not have."""
CACHES = {True: "ram", "ram": "ram", "disk": "disk"}
DEFAULT_LRF = {"v5.0": 0.2, "v6.0": 0.1}
"""Final fraction in the default hyper-parameters of the versions that differ from ours."""


class HypFound(NamedTuple):
    """Hyper-parameters, and what of them is lost."""

    hyp: Hyp
    notes: dict[str, str]
    """What was not to be found, and what stands in for it."""


def file_beside(checkpoint: Path, name: str) -> Path | None:
    """A file of the checkpoint's run: in its own folder or in the one above `weights/`."""
    folders = [checkpoint.parent]
    if checkpoint.resolve().parent.name == "weights":
        folders.append(checkpoint.resolve().parent.parent)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def raw_options(checkpoint: Path, content: UpstreamCheckpoint) -> dict[str, object]:
    """The options as upstream wrote them: opt.yaml beside, with those in the file on top; or {}.

    Raises:
        UserError: opt.yaml is not readable.
    """
    beside = _mapping(file_beside(checkpoint, "opt.yaml"))
    inside = dict(content.options or {})
    if inside.get("batch_size") == -1:
        del inside["batch_size"]  # AutoBatch; opt.yaml may say what it chose
    return {**beside, **inside}


def find_hyp(
    checkpoint: Path, content: UpstreamCheckpoint, options: Mapping[str, object], lr0: float | None
) -> HypFound:
    """The hyper-parameters: in the options (v6.2 and later), else hyp.yaml, else the defaults.

    Args:
        checkpoint: the file, beside which hyp.yaml is looked for.
        content: what is in it.
        options: as `raw_options` gives them.
        lr0: the initial rate in the file's optimizer, where it has one.

    Raises:
        UserError: a value is impossible, or hyp.yaml is not readable.
    """
    inside = options.get("hyp")
    file = file_beside(checkpoint, "hyp.yaml")
    values = inside if isinstance(inside, dict) and inside else _mapping(file)
    notes = {}
    if not values:
        values = {"lrf": DEFAULT_LRF.get(content.version, Hyp().lrf), "lr0": lr0 or Hyp().lr0}
        notes["hyper-parameters"] = (
            "neither in the file nor in a hyp.yaml beside it; those of hyp.scratch-low with lr0 "
            f"{values['lr0']:g} and lrf {values['lrf']:g} take their place"
        )
    known = {field.name for field in dataclasses.fields(Hyp)}
    dropped = sorted(str(name) for name in values if name not in known)
    if dropped:
        notes["hyper-parameters not known here"] = f"{', '.join(dropped)}; left out"
    kept = {str(name): value for name, value in values.items() if name in known}
    return HypFound(Hyp.from_dict(kept, origin=str(checkpoint)), notes)


def _mapping(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold `name: value` lines.")
    return {str(name): value for name, value in content.items()}


def train_options(raw: Mapping[str, object], checkpoint: Path, **settled: object) -> TrainOptions:
    """Upstream's options as ours; those that this program does not have are left out.

    Args:
        raw: as `raw_options` gives them.
        checkpoint: names the source in messages.
        settled: options decided elsewhere; they take precedence.

    Raises:
        UserError: an option is of the wrong type or has an impossible value.
    """
    values = {name: value for name, value in raw.items() if name not in RENAMED}
    values |= {RENAMED[name]: value for name, value in raw.items() if name in RENAMED}
    if values.get("batch_size") == -1:
        raise UserError(
            f"{checkpoint} was trained with AutoBatch; write the batch size that it chose, which "
            "the run's console shows, as `batch_size` into opt.yaml beside it."
        )
    if flagged := optimizer_from_flags(raw):
        values["optimizer"] = flagged
    values["hyp"] = str(file_beside(checkpoint, "hyp.yaml") or checkpoint)
    sizes = values.get("imgsz")
    if isinstance(sizes, list | tuple) and sizes:
        values["imgsz"] = sizes[0]  # v5.0: of training and of validation
    if isinstance(values.get("freeze"), int):
        values["freeze"] = [values["freeze"]]
    values["cache"] = CACHES.get(values.get("cache") or "")
    if "," in str(values.get("device", "")):
        values["device"] = ""  # several GPUs
    values |= settled
    if values.get("optimizer", DEFAULT_OPTIMIZER) not in OPTIMIZERS:
        raise UserError(f"{checkpoint} was trained with {values['optimizer']}, which is not known.")
    return TrainOptions(**_checked(values, checkpoint))


def _checked(values: Mapping[str, object], checkpoint: Path) -> dict[str, Any]:
    """The values that `TrainOptions` has a field for, each checked to be of its default's type."""
    checked = {}
    defaults = TrainOptions().to_dict()
    for name, default in defaults.items():
        value = values.get(name)
        if value is None:
            continue
        accepted = (int, float) if isinstance(default, float) else type(default)
        wrong_flag = isinstance(value, bool) != isinstance(default, bool)
        if default is not None and (wrong_flag or not isinstance(value, accepted)):
            raise UserError(
                f"{checkpoint}: the run's option {name} is {value!r}; correct opt.yaml."
            )
        checked[name] = value
    return checked
