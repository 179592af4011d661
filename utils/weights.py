"""Loads models from weights files of this program or of YOLOv5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch
from torch import Tensor

from models.detector import Detector, transfer_weights
from models.spec import ModelSpec
from utils.checkpoint.pickle_records import DAMAGE_ERRORS
from utils.checkpoint.store import read_checkpoint
from utils.errors import UserError
from utils.files.download import download_file, is_url, without_secrets
from utils.upstream.reader import is_upstream_file, read_upstream
from utils.upstream.writer import TrainingFacts

RELEASE_URL = "https://github.com/ultralytics/yolov5/releases/download/v7.0"
MAX_BLOCKS = 2_000
"""Layers, repetitions included; a YOLOv5x6 has 79."""
RELEASED_FILES = frozenset(f"yolov5{size}{levels}.pt" for size in "nsmlx" for levels in ("", "6"))


@dataclass(frozen=True)
class Weights:
    """Content of a weights file, for a new model: the EMA weights if there are any, in fp32."""

    state: dict[str, Tensor]
    spec: ModelSpec
    names: tuple[str, ...]
    origin: str
    training: TrainingFacts
    """What the file says about the training; a file for inference says little."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, ready for inference."""

    model: Detector
    names: tuple[str, ...]
    origin: str
    training: TrainingFacts
    """What the file says about the training; a file for inference says little."""


def find_weights(weights: str | Path) -> Path:
    """Return the file given by `--weights`; download a published model if it does not exist.

    A URL is downloaded to a file of its name in the working directory, if there is none.

    Raises:
        UserError: the file does not exist and is not a published model, or the download fails.
    """
    text = str(weights)
    if is_url(text):
        url, path = text, _file_of(text)
    else:
        url, path = f"{RELEASE_URL}/{Path(text).name}", Path(weights)
    if path.is_file():
        return path
    if is_url(text) or path.name in RELEASED_FILES:
        try:
            download_file(url, path)
        except UserError as error:
            raise UserError(
                f"{error}; download the file yourself, or give another weights file."
            ) from error
        return path
    if path.is_dir():
        raise UserError(
            f"weights file {weights} is a folder; give a .pt file, e.g. {path / 'weights/best.pt'}."
        )
    raise UserError(
        f"weights file {weights} does not exist; give a .pt file or one of the published models "
        f"{', '.join(sorted(RELEASED_FILES))}."
    )


def _file_of(url: str) -> Path:
    """Return the file in the working directory to which a URL is downloaded.

    Raises:
        UserError: the URL does not name a file.
    """
    try:
        name = Path(unquote(urlsplit(url).path)).name
    except ValueError:  # malformed
        name = ""
    if not name.endswith(".pt"):
        raise UserError(
            f"--weights {without_secrets(url)}: the URL does not end with the name of a .pt file."
        )
    return Path(name)


def read_weights(path: Path) -> Weights:
    """Read a checkpoint of ours (training or deploy) or of upstream without executing anything.

    Raises:
        UserError: the file is neither, or is damaged.
    """
    if is_upstream_file(path):
        upstream = read_upstream(path)
        state, described, names = upstream.weights, upstream.spec, list(upstream.names)
        training = TrainingFacts(upstream.options or {}, upstream.hyp, upstream.best_fitness)
    else:
        data = read_checkpoint(path)
        if data["kind"] == "deploy":
            state, described, names = data["weights"], data["spec"], data["names"]
            training = TrainingFacts({}, {}, data["fitness"])
        else:
            config = data["config"]
            state, described, names = data["ema"]["weights"], config["spec"], config["names"]
            training = TrainingFacts(config["options"], config["hyp"])
    spec = spec_from_checkpoint(described, state, path)
    fp32 = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    return Weights(fp32, spec, tuple(names), str(path), training)


def spec_from_checkpoint(
    described: Mapping[str, object], state: Mapping[str, Tensor], path: Path
) -> ModelSpec:
    """Return the model specification in a file after checking it against the size of the weights.

    A specification of a few bytes may describe a huge model. To measure it without allocating
    memory, it is built on the meta device.

    Args:
        described: the specification as plain data, in the schema of the model files.
        state: the weights in the file.
        path: the file, for messages.

    Raises:
        UserError: the specification is invalid, or the model is larger than the weights.
    """
    try:
        spec = ModelSpec.from_dict(described)
        blocks = sum(max(round(row.repeats * spec.depth_multiple), 1) for row in spec.layers)
        if blocks > MAX_BLOCKS:
            raise ValueError(f"it has {blocks} layers")
        with torch.device("meta"):
            described_size = _size(Detector(spec).state_dict())
    except (*DAMAGE_ERRORS, AttributeError, RuntimeError, UserError) as error:
        reason = str(error).splitlines()[0][:200].rstrip(".")
        raise UserError(
            f"{path} is damaged (its model cannot be built: {reason}); use another checkpoint."
        ) from error
    held = _size(state)
    if described_size > held:
        raise UserError(
            f"{path} is damaged (its model has {described_size} values, its tensors {held}); "
            "use another checkpoint."
        )
    return spec


def _size(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in state.values())


def load_model(weights: str | Path, device: torch.device) -> LoadedModel:
    """Build the model of a weights file and load all of its tensors.

    Raises:
        UserError: the file cannot be read, or lacks a tensor of its model.
    """
    path = find_weights(weights)
    loaded = read_weights(path)
    model = Detector(loaded.spec)
    transfer = transfer_weights(model, loaded.state)
    if transfer.missing:
        raise UserError(
            f"{path} lacks {len(transfer.missing)} tensors of its model "
            f"({transfer.missing[0]}, …); use another checkpoint."
        )
    return LoadedModel(model.to(device).eval(), loaded.names, loaded.origin, loaded.training)
