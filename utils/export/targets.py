"""The files that an export writes; it replaces only files that an earlier one has written."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

from utils.errors import UserError
from utils.files.yaml_file import read_yaml
from utils.inference.backend import OPENVINO_FOLDER
from utils.inference.exported import HEADS_KEY
from utils.inference.sessions import METADATA_FILE
from utils.upstream.reader import read_upstream
from utils.upstream.writer import upstream_path

ANCHORS = "anchors.txt"
PACKAGES = {"onnx": ("onnx",), "openvino": ("onnx", "openvino")}
"""Packages that writing a format needs; OpenVINO models are converted from ONNX."""


def target_of(weights: Path, kind: str) -> Path:
    """Return the file or folder of a format, beside the weights."""
    if kind == "yolov5":
        return upstream_path(weights)
    if kind == "openvino":
        return weights.with_name(weights.stem + OPENVINO_FOLDER)
    return weights.with_suffix(f".{kind}")


def check_replaceable(targets: Iterable[Path]) -> None:
    """Check that nothing is lost when the targets are written.

    Raises:
        UserError: one exists, and no export has written it, or its folder has other files.
    """
    for target in targets:
        if target.is_symlink() or target.exists():
            what = _foreign_part(target)
            if what is not None:
                raise UserError(
                    f"{what} would be lost: export.py replaces only what it has written; move or "
                    "delete it, or copy the weights to another folder."
                )


def _foreign_part(target: Path) -> Path | None:
    """Return what no export has written: the target, or a file in its folder; None: nothing."""
    if target.name.endswith(OPENVINO_FOLDER):
        if not target.is_dir() or target.is_symlink():
            return target
        name = target.name.removesuffix(OPENVINO_FOLDER)
        own = {f"{name}.xml", f"{name}.bin", METADATA_FILE}
        others = (file for file in sorted(target.iterdir()) if file.name not in own)
        foreign = next(others, None)
        if foreign is None and any(target.iterdir()) and not _has_our_metadata(target):
            return target
        return foreign
    return None if target.is_file() and _is_own_file(target) else target


def _is_own_file(file: Path) -> bool:
    try:
        if file.suffix == ".pt":
            return read_upstream(file).is_ours
        if file.name == ANCHORS:
            return all(float(line) > 0 for line in file.read_text().splitlines())
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as m:
            return m.find(HEADS_KEY.encode()) >= 0
    except (OSError, ValueError, UserError):
        return False


def _has_our_metadata(folder: Path) -> bool:
    try:
        metadata = read_yaml(folder / METADATA_FILE)
    except UserError:
        return False
    return isinstance(metadata, dict) and HEADS_KEY in metadata
