"""Runs the programs on COCO128 at 64 px: train, extend with each mode, validate, detect, export.

Usage: python -m tests.smoke [--weights yolov5n.pt] [--project runs/smoke]

It downloads COCO128 and the weights where they are missing, and takes a minute or two on a CPU. The
exit code is that of the first command that fails.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT
from utils.history import read_results
from utils.solver.modes import CONTINUATIONS

MODES = [mode.name for mode in CONTINUATIONS]

SIZE = "--imgsz 64"
DATA = "--data coco128.yaml"


def commands(weights: Path, project: Path) -> Iterator[str]:
    """Yield the command lines."""
    base = project / "base"
    where = f"--project {project}"
    yield (
        f"train.py {DATA} --weights {weights} {SIZE} --batch-size 16 --epochs 1 --workers 2 "
        f"{where} --name base"
    )
    for mode in MODES:
        how = f"--lr-continuation {mode} --name {mode} --noplots"
        yield f"train.py --resume {base} --extend-epochs 1 {how}"
    best = project / "rebase" / "weights" / "best.pt"
    yield f"val.py --weights {best} {DATA} {SIZE} {where} --name val"
    yield f"export.py --weights {best} {SIZE} --include yolov5 onnx torchscript"
    exported = best.with_suffix(".onnx")
    yield f"val.py --weights {exported} {DATA} {SIZE} --noplots {where} --name val-onnx"
    pictures = project / "val" / "val_batch0_pred.jpg"
    for name, file in (("pt", best), ("yolov5", best.with_name("best_yolov5.pt"))):
        yield (
            f"detect.py --weights {file} --source {pictures} {SIZE} --conf-thres 0.01 "
            f"{where} --name detect-{name}"
        )


def check(project: Path) -> None:
    """Check that the runs have what they should have."""
    for mode in MODES:
        rows = read_results(project / mode / "results.csv")
        assert [row["epoch"] for row in rows] == [0, 1], mode
        (seam,) = json.loads((project / mode / "seams.json").read_text())["seams"]
        assert seam["mode"] == mode
    for name in ("val", "val-onnx"):
        assert json.loads((project / name / "metrics.json").read_text())["images"] > 0
    for name in ("detect-pt", "detect-yolov5"):
        assert (project / name / "val_batch0_pred.jpg").is_file()


def main() -> int:
    """Run all commands; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, default=Path("yolov5n.pt"), help="initial weights")
    parser.add_argument("--project", type=Path, default=Path("runs/smoke"), help="output folder")
    options = parser.parse_args()
    weights, project = options.weights.resolve(), options.project.resolve()
    shutil.rmtree(project, ignore_errors=True)
    began = time.monotonic()
    for command in commands(weights, project):
        print(f"\n$ python {command}", flush=True)  # noqa: T201
        done = subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT, check=False)
        if done.returncode:
            print(f"failed with exit code {done.returncode}")  # noqa: T201
            return done.returncode
    check(project)
    print(f"\nAll commands passed in {time.monotonic() - began:.0f} s.")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
