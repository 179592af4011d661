"""Converts the options of an upstream run, from its checkpoint or the files of its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.files.yaml_file import read_yaml
from utils.hyp import Hyp
from utils.options.train_options import TrainOptions
from utils.solver.optimizers import (
    DEFAULT_OPTIMIZER,
    OPTIMIZERS,
    optimizer_from_buffers,
    optimizer_from_flags,
)
from utils.upstream.reader import UpstreamCheckpoint

RENAMED_OPTIONS = {
    "img_size": "imgsz",
    "notest": "noval",
    "cache_images": "cache",
    "total_batch_size": "batch_size",  # v5.0 on several GPUs: `batch_size` is per GPU
}
"""Options that were renamed after v5.0, with their current names."""
UNSUPPORTED_OPTIONS = ("image_weights", "quad")
"""Options that affect the training and that this program does not have."""
CACHE_MODES = {True: "ram", "ram": "ram", "disk": "disk"}
DEFAULT_LRF = {"v5.0": 0.2, "v6.0": 0.1}
"""Default `lrf` of the versions whose default differs from ours."""


class ImportedHyp(NamedTuple):
    """Hyper-parameters of a run, and notes on those that are missing."""

    hyp: Hyp
    notes: dict[str, str]
    """Missing or ignored values, and the replacement for each."""


def find_run_file(checkpoint: Path, name: str) -> Path | None:
    """Find a file in the checkpoint's folder or, if that is `weights/`, in its parent folder."""
    folders = [checkpoint.parent]
    if checkpoint.resolve().parent.name == "weights":
        folders.append(checkpoint.resolve().parent.parent)
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def raw_options(checkpoint: Path, content: UpstreamCheckpoint) -> dict[str, object]:
    """Return upstream's options: those of opt.yaml, overridden by those in the checkpoint.

    They have upstream's names; {} if there are none.

    Raises:
        UserError: opt.yaml cannot be read.
    """
    from_file = _mapping(find_run_file(checkpoint, "opt.yaml"))
    from_checkpoint = dict(content.options or {})
    if from_checkpoint.get("batch_size") == -1:
        del from_checkpoint["batch_size"]  # AutoBatch; opt.yaml may have the chosen size
    return {**from_file, **from_checkpoint}


def find_hyp(
    checkpoint: Path, content: UpstreamCheckpoint, options: Mapping[str, object], lr0: float | None
) -> ImportedHyp:
    """Return the hyper-parameters from the options (v6.2 and later), hyp.yaml or the defaults.

    `options` are those of `raw_options`; `lr0` is the initial learning rate of the checkpoint's
    optimizer, the default instead of ours.

    Raises:
        UserError: a value is invalid, or hyp.yaml cannot be read.
    """
    recorded = options.get("hyp")
    file = find_run_file(checkpoint, "hyp.yaml")
    values = recorded if isinstance(recorded, dict) and recorded else _mapping(file)
    notes = {}
    if not values:
        values = {"lrf": DEFAULT_LRF.get(content.version, Hyp().lrf), "lr0": lr0 or Hyp().lr0}
        notes["hyper-parameters"] = (
            "neither in the checkpoint nor in a hyp.yaml of the run; replaced by those of "
            f"hyp.scratch-low with lr0 {values['lr0']:g} and lrf {values['lrf']:g}"
        )
    known = {field.name for field in dataclasses.fields(Hyp)}
    dropped = sorted(str(name) for name in values if name not in known)
    if dropped:
        notes["unknown hyper-parameters"] = f"{', '.join(dropped)}; ignored"
    kept = {str(name): value for name, value in values.items() if name in known}
    return ImportedHyp(Hyp.from_dict(kept, origin=str(checkpoint)), notes)


def _mapping(file: Path | None) -> dict[str, object]:
    if file is None:
        return {}
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a mapping; write one `name: value` per line.")
    return {str(name): value for name, value in content.items()}


def train_options(
    raw: Mapping[str, object],
    checkpoint: Path,
    *,
    data: object,
    epochs: int,
    law: str,
    buffers: Collection[str],
) -> TrainOptions:
    """Convert upstream's options to ours; ignore those that this program does not have.

    `data`, `epochs`, `law` and the optimizer to which the names in `buffers` belong take precedence
    over `raw`, the options of `raw_options`.

    Raises:
        UserError: an option is of the wrong type or has an invalid value, or `data` is unknown.
    """
    if not isinstance(data, str):
        raise UserError(
            f"neither {checkpoint} nor an opt.yaml in its run folder names the data set; "
            "add --data FILE."
        )
    values = {name: raw[name] for name in raw if name != "workers"}  # there of each process
    values |= {new: raw[old] for old, new in RENAMED_OPTIONS.items() if old in raw}
    values |= {"data": data, "epochs": epochs, "cos_lr": law == "cosine"}
    if values.get("batch_size") == -1:
        raise UserError(
            f"{checkpoint} was trained with AutoBatch and the chosen batch size is not recorded; "
            "write it (see the console output of the run) as `batch_size: N` into opt.yaml."
        )
    known = optimizer_from_buffers(buffers, raw.get("optimizer")) or optimizer_from_flags(raw)
    if known:
        values["optimizer"] = known
    values["hyp"] = str(find_run_file(checkpoint, "hyp.yaml") or checkpoint)
    sizes = values.get("imgsz")
    if isinstance(sizes, list | tuple) and sizes:
        values["imgsz"] = sizes[0]  # v5.0: sizes for training and validation
    if isinstance(values.get("freeze"), int):
        values["freeze"] = [values["freeze"]]
    values["cache"] = CACHE_MODES.get(values.get("cache") or "")
    if "," in str(values.get("device", "")):
        values["device"] = ""  # several GPUs
    if values.get("optimizer", DEFAULT_OPTIMIZER) not in OPTIMIZERS:
        raise UserError(
            f"{checkpoint} was trained with optimizer {values['optimizer']}; "
            f"only runs with one of {', '.join(OPTIMIZERS)} can be imported."
        )
    return TrainOptions(**_check_types(values, checkpoint))


def _check_types(values: Mapping[str, object], checkpoint: Path) -> dict[str, Any]:  # checked here
    """Return the values that `TrainOptions` has fields for; check that their types match."""
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
                f"{checkpoint}: option {name} of the run is {value!r}, which is of the wrong type; "
                "correct it in opt.yaml."
            )
        checked[name] = value
    return checked
