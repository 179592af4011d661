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
    from collections.abc import Callable, Sequence

    import torch
    from torch import nn

    from utils.export.compare import Row, Run
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
    from utils.export.heads import NmsSettings, with_export_head
    from utils.export.targets import ANCHORS, PACKAGES, check_replaceable, target_of
    from utils.files.atomic_write import exporting
    from utils.files.writable import is_writable
    from utils.inference.backend import TorchBackend, is_exported, network_size
    from utils.inference.sessions import import_package
    from utils.runtime.device import select_device
    from utils.weights import load_model

    kinds = list(dict.fromkeys(options.include))
    for kind in kinds:  # before anything is written
        for package in PACKAGES.get(kind, ()):
            import_package(package, f"--include {kind}")
    if options.simplify:
        import_package("onnxslim", "--simplify")
    weights = Path(options.weights)
    if is_exported(weights):
        raise UserError(f"{weights} is an exported model; give the .pt file that it was made from.")
    loaded = load_model(weights, select_device(options.device))
    if not is_writable(weights.parent):
        raise UserError(
            f"the folder of {options.weights} is read-only; copy the weights to another folder."
        )
    backend = TorchBackend(loaded.model, loaded.names, loaded.origin)
    size = network_size(options.imgsz, backend)
    batches = comparison_images(image_sources(options), size, options.batch_size)
    nms = NmsSettings(options.conf_thres, options.iou_thres, options.topk_per_class)
    module = partial(with_export_head, loaded.model, options.outputs, settings=nms)
    has_maps = options.heads != "decoded"
    anchors = [weights.with_name(ANCHORS)] * has_maps
    check_replaceable([*(target_of(weights, kind) for kind in kinds), *anchors])
    with exporting(weights.parent):
        paths = [write(options, kind, loaded, module, batches[0]) for kind in kinds]
        if has_maps:
            write_anchors(options, loaded)
    log_table(compare(options, paths, nms, batches))
    return paths


def image_sources(options: ExportOptions) -> tuple[Path, ...]:
    """The validation images of --data; empty without it."""
    from utils.datasets.description import ensure_available, load_description

    if not options.data:
        return ()
    description = load_description(options.data)
    ensure_available(description, ("val",))
    return description.split("val")


def write(
    options: ExportOptions,
    kind: str,
    loaded: LoadedModel,
    module: Callable[..., nn.Module],
    images: torch.Tensor,
) -> Path:
    """Write the model in one format; returns the file or folder.

    `module` is `with_export_head` without the size of the images and `half`.
    """
    from utils.export import formats
    from utils.export.targets import target_of
    from utils.inference.exported import ModelFacts
    from utils.upstream.facts import complete_facts
    from utils.upstream.writer import write_upstream

    weights, model = Path(options.weights), loaded.model
    target = target_of(weights, kind)
    size = None if options.dynamic else (images.shape[2], images.shape[3])
    facts = ModelFacts(loaded.names, model.max_stride, options.outputs, options.dynamic)

    def traced(*, half: bool) -> formats.Traced:
        exported = module(size=size, half=half)
        first = next(exported.parameters())
        pixels = images.to(first.device, first.dtype)
        return formats.Traced(exported, pixels, facts, len(model.strides))

    if kind == "yolov5":
        own = {"imgsz": max(options.imgsz), "batch_size": options.batch_size}
        known = complete_facts(loaded.training, weights, target, model, loaded.names)
        training = known._replace(options=own | {**known.options})
        write_upstream(target, model, loaded.names, training)
    elif kind == "onnx":
        model_file = traced(half=options.half)
        formats.write_onnx(model_file, target, options.opset, simplify=options.simplify)
    elif kind == "torchscript":
        formats.write_torchscript(traced(half=options.half), target, optimize=options.optimize)
    else:  # OpenVINO converts its weights to fp16 itself
        formats.write_openvino(traced(half=False), target, options.opset, half=options.half)
    log.info("%s", target)
    return target


def write_anchors(options: ExportOptions, loaded: LoadedModel) -> None:
    """Write anchors.txt: width and height of each anchor in pixels, one number per line."""
    from utils.export.targets import ANCHORS
    from utils.files.atomic_write import atomic_write_text

    sides = [side for level in loaded.model.spec.anchors for side in level]
    target = Path(options.weights).with_name(ANCHORS)
    atomic_write_text(target, "".join(f"{side}\n" for side in sides))
    log.info("%s", target)


def compare(
    options: ExportOptions,
    paths: Sequence[Path],
    nms: NmsSettings,
    batches: Sequence[torch.Tensor],
) -> list[Row]:
    """The rows of the table: PyTorch with fused layers, and each file."""
    from utils.export.compare import Row, difference, measure, torch_run
    from utils.export.heads import with_export_head
    from utils.inference.backend import is_exported
    from utils.inference.sessions import open_session
    from utils.runtime.device import select_device
    from utils.weights import load_model

    device = select_device(options.device)

    def run_of(path: Path) -> Run:
        if not is_exported(path):
            model = load_model(path, device).model
            return partial(torch_run, with_export_head(model, options.outputs, None, nms))
        session = open_session(path, device)
        return lambda images: session.run(images.to(session.device, session.dtype))

    expected, ms = measure(run_of(Path(options.weights)), batches)
    rows = [Row(Path(options.weights), None, ms)]
    for path in paths:
        try:
            found, ms = measure(run_of(path), batches)
            gap = difference(found, expected, options.outputs)
            rows.append(Row(path, gap, ms))
        except UserError as error:
            log.warning("%s was written, but not compared: %s", path, error)
            rows.append(Row(path, None, math.nan))
    return rows


if __name__ == "__main__":
    run_script(main)
