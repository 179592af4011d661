"""Writes ONNX, TorchScript and OpenVINO models, each atomically."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.files.atomic_write import atomic_write, atomic_write_folder
from utils.files.yaml_file import write_yaml
from utils.inference.exported import DECODED, ModelFacts
from utils.inference.sessions import (
    CONFIG_FILE,
    METADATA_FILE,
    import_package,
    torchscript_warnings_ignored,
)

INPUT = "images"


class Traced(NamedTuple):
    """A model to write, with an input to trace it with."""

    module: nn.Module
    images: Tensor
    """``[B, 3, H, W]``, in the dtype of the model."""
    facts: ModelFacts
    levels: int
    """Number of detection levels."""

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        if self.facts.heads == "nms":
            return ["detections"]
        return [f"output{n}" for n in range(1 if self.facts.heads == DECODED else self.levels)]

    @property
    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """Names of the axes without a fixed length, by input and output."""
        heads = self.facts.heads
        fixed = {"detections": {0: "detections"}} if heads == "nms" else {}
        if not self.facts.dynamic:
            return fixed
        outputs = {
            name: {0: "batch", 1: "anchors"}
            if heads == DECODED
            else {0: "batch", 2: f"height{number}", 3: f"width{number}"}
            for number, name in enumerate(self.outputs)
        }
        return {INPUT: {0: "batch", 2: "height", 3: "width"}} | outputs | fixed


def write_onnx(traced: Traced, target: Path, opset: int, *, simplify: bool) -> None:
    """Write an ONNX model with the names of inputs and outputs, and the metadata, of YOLOv5's.

    Raises:
        UserError: a package is missing, or the file cannot be written.
    """
    onnx = import_package("onnx", "--include onnx")
    slim = import_package("onnxslim", "--simplify") if simplify else None

    def write(part: Path) -> None:
        _trace_onnx(traced, part, opset)
        model = onnx.load(part)
        _set_lengths(traced, model.graph.output)
        if slim:
            model = slim.slim(model)
        entries = {name: str(value) for name, value in traced.facts.to_metadata().items()}
        onnx.helper.set_model_props(model, entries)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, part)

    atomic_write(target, write)


def _set_lengths(traced: Traced, outputs: Any) -> None:  # noqa: ANN401 -- of the package onnx
    """Set the lengths of the axes that are fixed; torch does not infer all of them."""
    with torch.no_grad():
        found = traced.module(traced.images)
    for value, tensor in zip(outputs, [found] if isinstance(found, Tensor) else found, strict=True):
        named = traced.dynamic_axes.get(value.name, {})
        for axis, length in enumerate(tensor.shape):
            if axis not in named:
                value.type.tensor_type.shape.dim[axis].dim_value = length


def _trace_onnx(traced: Traced, path: Path, opset: int) -> None:
    """Write an ONNX model without metadata.

    This is torch's exporter that is based on TorchScript. Its successor, based on torch.export,
    writes opset 18 and later, and converts down, which may fail; it also needs onnxscript, takes
    seconds rather than tenths of a second, and does not keep the names of the axes.
    """
    with torchscript_warnings_ignored(), torch.no_grad():
        torch.onnx.export(
            traced.module,
            (traced.images,),
            str(path),
            input_names=[INPUT],
            output_names=traced.outputs,
            dynamic_axes=traced.dynamic_axes,
            opset_version=opset,
            dynamo=False,
        )


def write_torchscript(traced: Traced, target: Path, *, optimize: bool) -> None:
    """Write a TorchScript model, with config.txt inside it, as YOLOv5 does.

    Raises:
        UserError: the file cannot be written, or this torch cannot optimize it.
    """
    with torchscript_warnings_ignored(), torch.no_grad():
        script = torch.jit.trace(traced.module, traced.images, strict=False, check_trace=False)
    config = {"shape": list(traced.images.shape)} | traced.facts.to_metadata()
    extra = {CONFIG_FILE: json.dumps(config)}

    if optimize:
        script = _optimized(script)

    def write(part: Path) -> None:
        save = script._save_for_lite_interpreter if optimize else script.save
        save(str(part), _extra_files=extra)

    atomic_write(target, write)


def _optimized(script: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """Optimize for the CPUs of phones.

    Raises:
        UserError: this torch was built without it.
    """
    try:
        from torch.utils.mobile_optimizer import optimize_for_mobile

        return optimize_for_mobile(script)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "--optimize needs a torch that was built with XNNPACK, unlike the one that is "
            "installed; omit it, or use an earlier version of torch."
        ) from error


def write_openvino(traced: Traced, target: Path, opset: int, *, half: bool) -> None:
    """Write a folder with an OpenVINO model (`.xml`, `.bin`) and metadata.yaml.

    Args:
        traced: the model in fp32; it is converted from ONNX.
        target: the folder `*_openvino_model`.
        opset: of the ONNX model.
        half: write the weights in fp16.

    Raises:
        UserError: a package is missing, or the folder cannot be written.
    """
    openvino: Any = import_package("openvino", "--include openvino")
    name = target.name.removesuffix("_openvino_model")

    def write(part: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary) / "model.onnx"
            _trace_onnx(traced, source, opset)
            model = openvino.Core().read_model(source)  # convert_model sends telemetry
        openvino.save_model(model, part / f"{name}.xml", compress_to_fp16=half)
        write_yaml(traced.facts.to_metadata(), part / METADATA_FILE)

    atomic_write_folder(target, write)
