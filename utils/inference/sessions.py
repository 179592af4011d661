"""Opens the files of exported models with the library that runs each of them."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.errors import UserError
from utils.files.yaml_file import read_yaml

log = logging.getLogger("yolo")

CONFIG_FILE = "config.txt"
"""Metadata in a TorchScript file, JSON."""
METADATA_FILE = "metadata.yaml"
"""Metadata in the folder of an OpenVINO model; some YOLOv5 name it after the model."""
DYNAMIC_KEY = "yolov5_extend.dynamic"
"""Of the metadata: whether the model accepts images of any number and size."""
INPUT_DIMENSIONS = 4
REQUIREMENTS = "requirements-export.txt"


def import_package(name: str, purpose: str) -> Any:  # noqa: ANN401 -- a module
    """Import a package that only exported models need.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs the package {name}, which is not installed; install it with: "
            f"pip install {name} (or all: pip install -r {REQUIREMENTS})"
        ) from error


class Session(NamedTuple):
    """An opened model file."""

    path: Path
    run: Callable[[Tensor], list[Tensor]]
    """Maps images ``[B, 3, H, W]`` of `dtype` on `device` to the outputs."""
    metadata: Mapping[str, Any]
    batch: int | None
    """Number of images of a call; None if it is any."""
    size: tuple[int, int] | None
    """The only (height, width) of images, px; None if it is any."""
    dtype: torch.dtype
    device: torch.device
    errors: tuple[type[Exception], ...]
    """What `run` raises for images that do not suit the model."""


@contextlib.contextmanager
def torchscript_warnings_ignored() -> Iterator[None]:
    """Ignore that newer versions of torch advise against TorchScript, which users ask for."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category)
        yield


def open_session(path: Path, device: torch.device) -> Session:
    """Open a model file; its name decides what runs it.

    Raises:
        UserError: it does not exist, is damaged, or needs a package that is not installed.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; write it with export.py.")
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return _open_onnx(path, device)
    if suffix == ".torchscript":
        return _open_torchscript(path, device)
    return _open_openvino(path, device)


def unreadable(path: Path, kind: str, error: Exception) -> UserError:
    """Return the error to raise for a file that a library refuses."""
    reason = (str(error).strip().splitlines() or ["unknown"])[-1].strip().rstrip(".")[:150]
    return UserError(
        f"{path} cannot be read as {kind} ({reason}); export the model again with export.py."
    )


def _fixed_lengths(shape: Sequence[Any], path: Path) -> tuple[int | None, tuple[int, int] | None]:
    """Return the number and the (height, width) of the images that a model accepts; None: any.

    Raises:
        UserError: the input is no batch of images.
    """
    if len(shape) != INPUT_DIMENSIONS:
        raise UserError(
            f"{path} does not accept a batch of images [B, 3, H, W]; use a model that export.py "
            "has written."
        )
    batch, _, height, width = (side if isinstance(side, int) else None for side in shape)
    return batch, (height, width) if height and width else None


def _on_cpu(device: torch.device, path: Path, remedy: str) -> torch.device:
    if device.type != "cpu":
        log.warning("%s runs on the CPU: %s.", path, remedy)
    return torch.device("cpu")


def _open_onnx(path: Path, device: torch.device) -> Session:
    """Open with ONNX Runtime, which uses CUDA if its package has it."""
    runtime = import_package("onnxruntime", str(path))
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    else:
        _on_cpu(device, path, "onnxruntime has no CUDA here (pip install onnxruntime-gpu)")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, and need not be printed
    options.intra_op_num_threads = torch.get_num_threads()
    errors = (
        *(state.Fail, state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument),
        *(state.NotImplemented, state.NoModel, state.RuntimeException, RuntimeError, ValueError),
    )
    try:
        session = runtime.InferenceSession(str(path), options, providers=providers)
    except errors as error:
        raise unreadable(path, "an ONNX model", error) from error
    inputs = session.get_inputs()
    batch, size = _fixed_lengths(inputs[0].shape if len(inputs) == 1 else (), path)
    images = inputs[0]

    def run(pixels: Tensor) -> list[Tensor]:
        outputs = session.run(None, {images.name: pixels.numpy()})
        return [torch.from_numpy(output) for output in outputs]

    return Session(
        path,
        run,
        session.get_modelmeta().custom_metadata_map,
        batch,
        size,
        torch.float16 if images.type == "tensor(float16)" else torch.float32,
        torch.device("cpu"),
        errors,
    )


def _open_torchscript(path: Path, device: torch.device) -> Session:
    extra = {CONFIG_FILE: ""}
    try:
        with torchscript_warnings_ignored():
            script = torch.jit.load(path, map_location=device, _extra_files=extra).eval()
        metadata = json.loads(extra[CONFIG_FILE] or "{}")
    except (RuntimeError, ValueError) as error:
        raise unreadable(path, "a TorchScript model", error) from error

    def run(pixels: Tensor) -> list[Tensor]:
        outputs = script(pixels)
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        return [output for output in outputs if isinstance(output, Tensor)]

    metadata = metadata if isinstance(metadata, dict) else {}
    free = metadata.get(DYNAMIC_KEY, False) or "shape" not in metadata
    batch, size = (None, None) if free else _fixed_lengths(metadata["shape"], path)
    first = next(script.parameters(), torch.empty(0))
    return Session(
        path,
        run,
        metadata,
        batch,
        size,
        first.dtype,
        device,
        (RuntimeError,),
    )


def _metadata_file(folder: Path, model: Path) -> Path:
    """Return the metadata of an OpenVINO model: metadata.yaml or, of some YOLOv5, best.yaml.

    Raises:
        UserError: there is neither.
    """
    places = folder / METADATA_FILE, model.with_suffix(".yaml")
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"{folder} has neither {places[0].name} nor {places[1].name}, which has the class names; "
        "export the model again with export.py."
    )


def _open_openvino(folder: Path, device: torch.device) -> Session:
    openvino = import_package("openvino", str(folder))
    files = sorted(folder.glob("*.xml"))
    if len(files) != 1:
        raise UserError(
            f"{folder} has {len(files)} .xml files; give a folder that export.py has written."
        )
    metadata = read_yaml(_metadata_file(folder, files[0]))
    try:
        # Without the first hint, OpenVINO computes in bf16 on newer CPUs.
        hints = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        # In a thread of its own, because the model replaces the stack for signals of the thread
        # that compiles it, and may unmap it while it is in use: the next signal ends the process.
        with ThreadPoolExecutor(1) as other:
            core = openvino.Core()
            compiled = other.submit(core.compile_model, files[0], "CPU", hints).result()
    except RuntimeError as error:
        raise unreadable(folder, "an OpenVINO model", error) from error
    shape = compiled.inputs[0].partial_shape
    lengths = () if shape.rank.is_dynamic else [n.is_static and n.get_length() for n in shape]
    batch, size = _fixed_lengths([length or None for length in lengths], folder)

    def run(pixels: Tensor) -> list[Tensor]:
        outputs = compiled(pixels.numpy())
        return [torch.from_numpy(outputs[one]) for one in compiled.outputs]

    return Session(
        folder,
        run,
        metadata if isinstance(metadata, dict) else {},
        batch,
        size,
        torch.float32,
        _on_cpu(device, folder, "OpenVINO does not use this GPU"),
        (RuntimeError,),
    )
