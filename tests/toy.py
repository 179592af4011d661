"""A data set of squares on grey and a model of 12,000 parameters, small enough for tests."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import yaml

from models.detector import Detector
from models.spec import load_spec
from tests.checkpoints import save_checkpoint
from utils.checkpoint.format import FORMAT, VERSION

SIDE = 64
OPTIONS = "--imgsz 64 --batch-size 4 --workers 0 --noautoanchor --noplots"


def make_toy(root: Path, images: int = 10) -> Path:
    """Write images with one or two bright squares each, and labels; returns the data-set file."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        images_folder, labels = root / "images" / split, root / "labels" / split
        images_folder.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(images):
            image = rng.integers(90, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            lines = []
            for _ in range(1 + number % 2):
                side = int(rng.integers(12, 28))
                x, y = (int(v) for v in rng.integers(0, SIDE - side, 2))
                kind = int(rng.integers(2))
                image[y : y + side, x : x + side] = (230, 40, 40) if kind else (40, 230, 40)
                centre = ((x + side / 2) / SIDE, (y + side / 2) / SIDE)
                lines.append(f"{kind} {centre[0]} {centre[1]} {side / SIDE} {side / SIDE}")
            cv2.imwrite(str(images_folder / f"{number}.png"), image)
            (labels / f"{number}.txt").write_text("\n".join(lines))
    file = root / "toy.yaml"
    file.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [green, red]\n")
    return file


def make_toy_model(folder: Path) -> Path:
    """Write the smallest model: the layers of yolov5n with the fewest channels."""
    spec = replace(load_spec(Path("yolov5n.yaml")), width_multiple=0.01)
    file = folder / "toy_model.yaml"
    file.write_text(yaml.safe_dump(spec.to_dict()))
    return file


def toy_arguments(folder: Path, more: str = "") -> list[str]:
    """Arguments of train.py for a run of the toy model from scratch in `folder/runs/exp`."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data" / "toy.yaml"
    if not data.exists():
        make_toy(folder / "data")
    model = make_toy_model(folder)
    files = ["--data", str(data), "--cfg", str(model), "--weights", "", "--project"]
    return [*files, str(folder / "runs"), *shlex.split(OPTIONS), *shlex.split(more)]


def make_toy_weights(folder: Path) -> Path:
    """Write a weights file of the toy model, with random weights and two classes."""
    spec = load_spec(make_toy_model(folder)).with_classes(2)
    path = folder / "toy.pt"
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": "deploy",
        "weights": Detector(spec).state_dict(),
        "spec": spec.to_dict(),
        "names": ["green", "red"],
        "epoch": 0,
        "fitness": 0.0,
    }
    save_checkpoint(content, path)
    return path
