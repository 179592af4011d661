"""From a weights file, ours or upstream's, to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.detector import Detector, transfer_weights
from models.spec import ModelSpec
from utils.checkpoint.pickle_records import DAMAGE
from utils.checkpoint.store import read_checkpoint
from utils.errors import UserError
from utils.files.download import download_file
from utils.upstream.reader import is_upstream_file, read_upstream

RELEASE = "https://github.com/ultralytics/yolov5/releases/download/v7.0"
MAX_BLOCKS = 2_000
"""Layers with their repetitions; a YOLOv5x6 has 79."""
RELEASED = frozenset(f"yolov5{size}{levels}.pt" for size in "nsmlx" for levels in ("", "6"))


@dataclass(frozen=True)
class Weights:
    """What a weights file gives to a new model: the averaged weights where there are any, fp32."""

    state: dict[str, Tensor]
    spec: ModelSpec
    names: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to predict, in eval mode."""

    model: Detector
    names: tuple[str, ...]
    origin: str


def find_weights(weights: str | Path) -> Path:
    """The file meant by `--weights`; a published name that is not there is downloaded.

    Raises:
        UserError: no such file, and not a published name, or it cannot be downloaded.
    """
    path = Path(weights)
    if path.is_file():
        return path
    if path.name in RELEASED:
        try:
            download_file(f"{RELEASE}/{path.name}", path)
        except UserError as error:
            raise UserError(
                f"{error}; put the file there, or name another with --weights."
            ) from error
        return path
    if path.is_dir():
        raise UserError(
            f"--weights {weights} is a folder; name a .pt file, e.g. {path / 'weights/best.pt'}."
        )
    raise UserError(
        f"there is no weights file {weights}; published names are {', '.join(sorted(RELEASED))}."
    )


def read_weights(path: Path) -> Weights:
    """Read a file of ours (training or deploy) or of upstream's, without executing anything in it.

    Raises:
        UserError: the file is neither, or damaged.
    """
    if is_upstream_file(path):
        upstream = read_upstream(path)
        spec = spec_from_checkpoint(upstream.spec, upstream.weights, path)
        anchors = upstream.anchors_in_pixels()
        spec = spec if anchors is None else spec.with_anchors(anchors)
        return Weights(upstream.weights, spec, upstream.names, str(path))
    data = read_checkpoint(path)
    if data["kind"] == "deploy":
        state, described, names = data["weights"], data["spec"], data["names"]
    else:
        config = data["config"]
        state, described, names = data["ema"]["weights"], config["spec"], config["names"]
    return Weights(
        {name: t.float() if t.is_floating_point() else t for name, t in state.items()},
        spec_from_checkpoint(described, state, path),
        tuple(names),
        str(path),
    )


def spec_from_checkpoint(
    described: Mapping[str, object], state: Mapping[str, Tensor], path: Path
) -> ModelSpec:
    """The model that a file describes, once it is sure that it is no larger than its weights.

    A description of a few bytes may be of a model without end; it is built without memory here.

    Args:
        described: as plain data, in the schema of the model files.
        state: the weights in the file.
        path: the file, for messages.

    Raises:
        UserError: it is no model, or a larger one.
    """
    try:
        spec = ModelSpec.from_dict(described)
        blocks = sum(max(round(row.repeats * spec.depth_multiple), 1) for row in spec.layers)
        if blocks > MAX_BLOCKS:
            raise ValueError(f"it has {blocks} layers")
        with torch.device("meta"):
            described_size = _size(Detector(spec).state_dict())
    except (*DAMAGE, AttributeError, RuntimeError, UserError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path} describes a model that cannot be built: {reason}") from error
    held = _size(state)
    if described_size > held:
        raise UserError(
            f"{path} describes a model of {described_size} numbers, but holds {held}: tensors of "
            "its model are absent or of another shape; use another file."
        )
    return spec


def _size(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in state.values())


def load_model(weights: str | Path, device: torch.device) -> LoadedModel:
    """Build the model that a file describes and fill in every one of its tensors.

    Raises:
        UserError: the file cannot be read, or lacks a tensor of its own model.
    """
    path = find_weights(weights)
    loaded = read_weights(path)
    model = Detector(loaded.spec)
    transfer = transfer_weights(model, loaded.state)
    if transfer.missing:
        raise UserError(
            f"{path} lacks {len(transfer.missing)} tensors of its model: {transfer.missing[0]}, …"
        )
    return LoadedModel(model.to(device).eval(), loaded.names, loaded.origin)
