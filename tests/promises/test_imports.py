"""Modules that are slow to import are imported only where they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.toy import toy_arguments

FOR_PLOTS = {"matplotlib", "seaborn"}
RARE = {"torchvision", "torch._dynamo", "torch._inductor", "sympy", "triton", "scipy"} | {
    *("onnx", "onnxruntime", "onnxslim", "openvino")
}
"""Modules that torch and other packages import indirectly, which takes seconds."""

# Trains, validates and detects without plots; exits with the names of imported modules.
WITHOUT_PLOTS = """
import sys, train, val, detect
rare, arguments, data = sys.argv[1].split(), sys.argv[2:], sys.argv[3]
sys.argv[1:] = arguments
train.main()
run = arguments[arguments.index("--project") + 1]
weights = ["--weights", f"{run}/exp/weights/best.pt", "--imgsz", "64", "--project", run]
sys.argv[1:] = [*weights, "--data", data, "--noplots", "--workers", "0"]
val.main()
sys.argv[1:] = [*weights, "--source", data.replace("toy.yaml", "images/val/0.png"), "--nosave"]
detect.main()
sys.exit(" ".join(name for name in rare if name in sys.modules) or 0)
"""

# Trains one batch with plots; exits with the names of imported modules.
FIRST_STEP = """
import sys, train
from utils.training import engine
step, rare = engine.train_step, sys.argv[1].split()

def last_step(*args, **kwargs):
    step(*args, **kwargs)
    sys.exit(" ".join(name for name in rare if name in sys.modules) or 0)

engine.train_step = last_step
sys.argv[1:] = sys.argv[2:]
train.main()
"""


@pytest.mark.parametrize(
    ("program", "plots", "unused"),
    [
        (WITHOUT_PLOTS, False, RARE | FOR_PLOTS),  # results.csv needs pandas after an epoch
        (FIRST_STEP, True, RARE | FOR_PLOTS | {"pandas"}),
    ],
    ids=["a run without plots", "a run to its first step"],
)
def test_rarely_used_modules_are_not_imported(
    program: str, plots: bool, unused: set[str], tmp_path: Path
) -> None:
    arguments = toy_arguments(tmp_path, "--epochs 1")
    if plots:
        arguments.remove("--noplots")
    rare = " ".join(sorted(unused))
    done = subprocess.run(
        [sys.executable, "-c", program, rare, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.splitlines()[-1]
    assert (tmp_path / "runs" / "exp" / "train_batch0.jpg").exists() == plots
