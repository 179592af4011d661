"""Runs exported models: ONNX, TorchScript and OpenVINO, of this program and of YOLOv5."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.head import BOX_FIELDS
from utils.errors import UserError
from utils.files.yaml_file import read_yaml

log = logging.getLogger("yolo")

CONFIG_FILE = "config.txt"
"""Metadata in a TorchScript file, JSON."""
METADATA_FILE = "metadata.yaml"
"""Metadata in the folder of an OpenVINO model."""
PREFIX = "yolov5_extend."
"""Of metadata that files of YOLOv5 do not have."""
DECODED = "decoded"
DECODED_DIMENSIONS = 3
INPUT_DIMENSIONS = 4
TRIAL_SIDE = 2
"""Strides; side of the image that a model of any size is tried with."""
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


@dataclass(frozen=True)
class ModelFacts:
    """What the metadata of a file say about its model."""

    names: tuple[str, ...]
    stride: int
    """Largest stride, px."""
    heads: str = DECODED
    """decoded, raw or sigmoid; see `utils.export.heads.with_export_head`."""
    nms: bool = False
    """Whether the model suppresses boxes itself."""
    dynamic: bool = False
    """Whether it accepts images of any number and size."""

    def to_metadata(self) -> dict[str, Any]:
        """Return plain data: YOLOv5's keys `stride` and `names`, and our own."""
        own = {"heads": self.heads, "nms": self.nms, "dynamic": self.dynamic}
        shared = {"stride": self.stride, "names": dict(enumerate(self.names))}
        return shared | {PREFIX + name: value for name, value in own.items()}

    @staticmethod
    def from_metadata(found: Mapping[str, Any], path: Path) -> ModelFacts:
        """Read metadata, whose values may be texts.

        Raises:
            UserError: class names or stride are missing or invalid.
        """
        try:
            names = found["names"]
            names = ast.literal_eval(names) if isinstance(names, str) else names
            if isinstance(names, Mapping):
                names = [names[key] for key in sorted(names, key=int)]
            stride = int(found["stride"])
            if stride < 1 or not names:
                raise ValueError("no stride or no names")  # reported below
            return ModelFacts(
                names=tuple(map(str, names)),
                stride=stride,
                heads=str(found.get(f"{PREFIX}heads", DECODED)),
                nms=str(found.get(f"{PREFIX}nms")) == "True",
                dynamic=str(found.get(f"{PREFIX}dynamic")) == "True",
            )
        except (LookupError, TypeError, ValueError, SyntaxError, MemoryError) as error:
            raise UserError(
                f"{path} has no class names and stride in its metadata; export the model with "
                "export.py, or use its .pt file."
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
    if path.suffix == ".onnx":
        return _open_onnx(path, device)
    if path.suffix == ".torchscript":
        return _open_torchscript(path, device)
    return _open_openvino(path, device)


def _unreadable(path: Path, kind: str, error: Exception) -> UserError:
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
        raise _unreadable(path, "an ONNX model", error) from error
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
        raise _unreadable(path, "a TorchScript model", error) from error

    def run(pixels: Tensor) -> list[Tensor]:
        outputs = script(pixels)
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        return [output for output in outputs if isinstance(output, Tensor)]

    metadata = metadata if isinstance(metadata, dict) else {}
    free = metadata.get(f"{PREFIX}dynamic", False) or "shape" not in metadata
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


def _open_openvino(folder: Path, device: torch.device) -> Session:
    openvino = import_package("openvino", str(folder))
    files = sorted(folder.glob("*.xml"))
    if len(files) != 1:
        raise UserError(
            f"{folder} has {len(files)} .xml files; give a folder that export.py has written."
        )
    metadata = read_yaml(folder / METADATA_FILE)
    try:
        # Without the first hint, OpenVINO computes in bf16 on newer CPUs.
        hints = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.Core().compile_model(files[0], "CPU", hints)
    except RuntimeError as error:
        raise _unreadable(folder, "an OpenVINO model", error) from error
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


class ExportedBackend:
    """Runs an exported model with decoded boxes; see `utils.inference.backend.Backend`.

    Args:
        session: the opened file.

    Raises:
        UserError: the model has no class names, has other outputs, or fails on an empty image.
    """

    def __init__(self, session: Session) -> None:
        facts = ModelFacts.from_metadata(session.metadata, session.path)
        self._session = session
        self.names = facts.names
        self.origin = str(session.path)
        self.max_stride = facts.stride
        self.input_size = session.size
        self.batch = session.batch
        self.device = session.device
        self.dtype = session.dtype
        if facts.heads != DECODED or facts.nms:
            how = "--nms" if facts.nms else f"--heads {facts.heads}"
            raise UserError(
                f"{self.origin} was exported for other programs, with {how}; "
                "to run it here, export the model again without that option."
            )
        side = self.max_stride * TRIAL_SIDE
        try:
            self(torch.zeros(session.batch or 1, 3, *(session.size or (side, side))), 0)
        except session.errors as error:
            raise _unreadable(session.path, "a detector", error) from error

    def __call__(self, images: Tensor, threshold: float) -> list[Tensor]:
        """Return the boxes above a threshold; see `utils.inference.backend.Backend`.

        Raises:
            UserError: the images have another size than the model accepts.
        """
        height, width = images.shape[2:]
        if self.input_size is not None and (height, width) != self.input_size:
            raise UserError(
                f"{self.origin} accepts images of {self.input_size[0]} x {self.input_size[1]} "
                f"pixels only, not {height} x {width}; use this --imgsz, or export the model with "
                "--dynamic."
            )
        images = images.to(self.device, self.dtype).contiguous()
        found: list[Tensor] = []
        for part in images.split(self.batch or len(images)):
            missing = (self.batch or len(part)) - len(part)
            filled = torch.cat((part, part.new_zeros(missing, 3, height, width)))
            found += [confident(rows, threshold) for rows in self._boxes(filled)[: len(part)]]
        return found

    def _boxes(self, images: Tensor) -> Tensor:
        """Return all boxes ``[B, N, 5 + classes]``, float32."""
        with torch.inference_mode():
            boxes = next(iter(self._session.run(images)), images.new_zeros(0))
        fields = BOX_FIELDS + len(self.names)
        if boxes.dim() != DECODED_DIMENSIONS or boxes.shape[2] != fields:
            raise UserError(
                f"{self.origin} returns values of shape {list(boxes.shape)}, not boxes with "
                f"{fields} values for its {len(self.names)} classes; use a model that export.py "
                "has written."
            )
        return boxes.float()


def confident(boxes: Tensor, threshold: float) -> Tensor:
    """Return the boxes ``[N, 5 + classes]`` whose best score is above a threshold."""
    boxes = boxes[boxes[:, BOX_FIELDS - 1] > threshold]
    return boxes[boxes[:, BOX_FIELDS:].amax(1) * boxes[:, BOX_FIELDS - 1] > threshold]


def open_exported(path: Path, device: torch.device, *, half: bool = False) -> ExportedBackend:
    """Open an exported model to detect with it.

    Raises:
        UserError: the file cannot be opened, is no detector, or computes in fp32 with `half`.
    """
    session = open_session(path, device)
    if half and session.dtype != torch.float16:
        raise UserError(f"{path} computes in fp32; omit --half, or export the model with --half.")
    return ExportedBackend(session)
