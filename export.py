"""Export a model for YOLOv5 and the tools that read its files, ONNX, TorchScript or OpenVINO.

Usage:
    python export.py --weights runs/train/exp/weights/best.pt --include yolov5 onnx
"""

from __future__ import annotations

import argparse
import logging
import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.options.arguments import add_options, parse_options
from utils.options.export_options import ExportOptions
from utils.options.script import OptionParser, run_script

# Heavy modules are imported where they are used, so that --help is printed at once.
if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from utils.export.compare import Row, Run
    from utils.export.formats import Traced
    from utils.export.heads import NmsSettings
    from utils.weights import LoadedModel

log = logging.getLogger("yolo")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `export.py`."""
    parser = OptionParser(
        prog="export.py",
        description="Export a model for YOLOv5 and the tools that read its files, ONNX, "
        "TorchScript or OpenVINO; docs/export.md lists what other programs need.",
    )
    add_options(parser, ExportOptions)
    return parser


def main() -> None:
    """Parse the command line and export."""
    options = parse_options(build_parser(), ExportOptions)
    from utils.runtime.device import out_of_memory_as_user_error

    with out_of_memory_as_user_error("use a smaller --batch-size or --imgsz"):
        export(options)


def export(options: ExportOptions) -> list[Path]:
    """Write the model in all formats beside its weights, compare them, and return their paths.

    Raises:
        UserError: an option or a file is invalid, or a package is not installed.
    """
    from utils.export.compare import comparison_images, log_table
    from utils.files.writable import is_writable
    from utils.inference.backend import TorchBackend, network_size
    from utils.runtime.device import select_device
    from utils.weights import load_model

    require_packages(options)
    loaded = load_model(options.weights, select_device(options.device))
    if not is_writable(Path(options.weights).parent):
        raise UserError(
            f"the folder of {options.weights} is read-only; copy the weights to another folder."
        )
    backend = TorchBackend(loaded.model, loaded.names, loaded.origin)
    size = network_size(options.imgsz, backend)
    batches = comparison_images(image_sources(options), size, options.batch_size)
    paths = [write(options, kind, loaded, batches[0]) for kind in dict.fromkeys(options.include)]
    if options.heads != "decoded":
        write_anchors(options, loaded)
    log_table(compare(options, loaded, paths, batches))
    return paths


def require_packages(options: ExportOptions) -> None:
    """Check that the packages of all formats are installed, before anything is written.

    Raises:
        UserError: one is not.
    """
    from utils.inference.exported import import_package

    for name in ("onnx", "openvino"):
        if name in options.include:
            import_package(name, f"--include {name}")
    if options.simplify:
        import_package("onnxslim", "--simplify")


def image_sources(options: ExportOptions) -> tuple[Path, ...]:
    """The validation images of --data; empty without it."""
    from utils.datasets.description import ensure_available, load_description

    if not options.data:
        return ()
    description = load_description(options.data)
    ensure_available(description, ("val",))
    return description.split("val")


def nms_settings(options: ExportOptions) -> NmsSettings | None:
    """The settings of the suppression in the model; None without --nms."""
    from utils.export.heads import NmsSettings

    values = (options.conf_thres, options.iou_thres, options.topk_per_class)
    return NmsSettings(*values) if options.nms else None


def build_traced(
    options: ExportOptions, loaded: LoadedModel, images: torch.Tensor, *, half: bool
) -> Traced:
    """The model with the outputs that the options ask for, and images to trace it with."""
    from utils.export.formats import Traced
    from utils.export.heads import with_export_head
    from utils.inference.exported import ModelFacts

    model, nms = loaded.model, nms_settings(options)
    size = None if options.dynamic else (images.shape[2], images.shape[3])
    module = with_export_head(model, options.heads, size, nms, half=half)
    facts = ModelFacts(loaded.names, model.max_stride, options.heads, options.nms, options.dynamic)
    first = next(module.parameters())
    return Traced(module, images.to(first.device, first.dtype), facts, len(model.strides))


def write(options: ExportOptions, kind: str, loaded: LoadedModel, images: torch.Tensor) -> Path:
    """Write the model in one format; returns the file or folder."""
    from utils.export import formats
    from utils.inference.backend import OPENVINO_FOLDER
    from utils.upstream.writer import upstream_path, write_upstream

    weights = Path(options.weights)
    target = weights.with_suffix(f".{kind}")
    half = options.half and kind in {"onnx", "torchscript"}  # OpenVINO converts its weights itself
    traced = partial(build_traced, options, loaded, images, half=half)
    if kind == "yolov5":
        target = upstream_path(weights)
        own = {"imgsz": max(options.imgsz), "batch_size": options.batch_size}
        training = loaded.training._replace(options=own | {**loaded.training.options})
        write_upstream(target, loaded.model, loaded.names, training)
    elif kind == "onnx":
        formats.write_onnx(traced(), target, options.opset, simplify=options.simplify)
    elif kind == "torchscript":
        formats.write_torchscript(traced(), target, optimize=options.optimize)
    else:
        target = weights.with_name(weights.stem + OPENVINO_FOLDER)
        formats.write_openvino(traced(), target, options.opset, half=options.half)
    log.info("%s", target)
    return target


def write_anchors(options: ExportOptions, loaded: LoadedModel) -> None:
    """Write anchors.txt: width and height of each anchor in pixels, one number per line."""
    from utils.files.atomic_write import atomic_write_text

    sides = [side for level in loaded.model.spec.anchors for side in level]
    target = Path(options.weights).with_name("anchors.txt")
    atomic_write_text(target, "".join(f"{side}\n" for side in sides))
    log.info("%s", target)


def compare(
    options: ExportOptions,
    loaded: LoadedModel,
    paths: Sequence[Path],
    batches: Sequence[torch.Tensor],
) -> list[Row]:
    """The rows of the table: PyTorch with fused layers, and each file."""
    from utils.export.compare import Row, difference, measure, torch_run
    from utils.export.heads import with_export_head
    from utils.inference.exported import open_session
    from utils.weights import load_model

    device, nms = next(loaded.model.parameters()).device, nms_settings(options)

    def run_of(path: Path) -> Run:
        if path.suffix != ".pt":
            session = open_session(path, device)
            return lambda images: session.run(images.to(session.device, session.dtype))
        model = loaded.model if path == Path(options.weights) else load_model(path, device).model
        return partial(torch_run, with_export_head(model, options.heads, None, nms))

    expected, ms = measure(run_of(Path(options.weights)), batches)
    rows = [Row(Path(options.weights), None, ms)]
    for path in paths:
        try:
            found, ms = measure(run_of(path), batches)
            gap = difference(found, expected, "nms" if options.nms else options.heads)
            rows.append(Row(path, gap, ms))
        except UserError as error:
            log.warning("%s was written, but not compared: %s", path, error)
            rows.append(Row(path, None, math.nan))
    return rows


if __name__ == "__main__":
    run_script(main)
