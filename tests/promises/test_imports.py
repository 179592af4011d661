"""What takes long to import is imported by what uses it, and by nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.toy import toy_arguments

FOR_PICTURES = {"matplotlib", "seaborn", "pandas"}
SELDOM = {"torchvision", "torch._dynamo", "torch._inductor", "sympy", "triton", "scipy"}
"""What torch and others would pull in behind one's back, for seconds."""

# Trains, validates and detects without a picture, and tells which of some modules were imported.
WITHOUT_PICTURES = """
import sys, train, val, detect
seldom, arguments, data = sys.argv[1].split(), sys.argv[2:], sys.argv[3]
sys.argv[1:] = arguments
train.main()
run = arguments[arguments.index("--project") + 1]
weights = ["--weights", f"{run}/exp/weights/best.pt", "--imgsz", "64", "--project", run]
sys.argv[1:] = [*weights, "--data", data, "--noplots", "--workers", "0"]
val.main()
sys.argv[1:] = [*weights, "--source", data.replace("toy.yaml", "images/val/0.png"), "--nosave"]
detect.main()
sys.exit(" ".join(name for name in seldom if name in sys.modules) or 0)
"""

# Trains one batch, of which it draws a picture, and tells the same.
FIRST_STEP = """
import sys, train
from utils.training import engine
step, seldom = engine.train_step, sys.argv[1].split()

def last_step(*args, **kwargs):
    step(*args, **kwargs)
    sys.exit(" ".join(name for name in seldom if name in sys.modules) or 0)

engine.train_step = last_step
sys.argv[1:] = sys.argv[2:]
train.main()
"""


@pytest.mark.parametrize(
    ("program", "pictures"),
    [(WITHOUT_PICTURES, False), (FIRST_STEP, True)],
    ids=["a run without pictures", "a run to its first step"],
)
def test_what_is_seldom_used_is_not_imported(program: str, pictures: bool, tmp_path: Path) -> None:
    arguments = toy_arguments(tmp_path, "--epochs 1")
    if pictures:
        arguments.remove("--noplots")
    seldom = " ".join(sorted(FOR_PICTURES | SELDOM))
    done = subprocess.run(
        [sys.executable, "-c", program, seldom, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.splitlines()[-1]
    assert (tmp_path / "runs" / "exp" / "train_batch0.jpg").exists() == pictures
