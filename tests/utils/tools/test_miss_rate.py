import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options with the files of one pedestrian and two detections, one of which is correct."""
    person = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 100]}
    person |= {"height": 100, "vis_ratio": 1.0, "ignore": 0}
    images = [{"id": 7, "im_name": "a.png"}]
    gt, dt = tmp_path / "gt.json", tmp_path / "dt.json"
    gt.write_text(json.dumps({"images": images, "annotations": [person]}))
    found = {"image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 98.5], "score": 0.5}
    dt.write_text(json.dumps([found, {**found, "bbox": [500, 10, 40, 100], "score": 0.25}]))
    return ["--gt", str(gt), "--dt", str(dt)]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "utils.tools.miss_rate", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_output_as_json_plot_and_table(files: list[str], tmp_path: Path) -> None:
    done = run(*files, "--json", "--plot", str(tmp_path / "curves.png"))
    assert json.loads(done.stdout) == {
        "images": 1,
        "detections": 2,
        "log_average_miss_rate_percent": {
            "Reasonable": 0.0,
            "Reasonable_small": None,
            "Reasonable_occ=heavy": None,
            "All": 0.0,
        },
    }
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    lines = run(*files).stdout.splitlines()
    assert lines[0].split() == ["Subset", "Pedestrians", "MR^-2", "%"]
    assert lines[1].split() == ["Reasonable", "1", "0.00"]
    assert lines[2].split() == ["Reasonable_small", "0", "-"]


def test_errors_are_one_line(files: list[str], tmp_path: Path) -> None:
    done = run(*files, "--plot", str(tmp_path / "nowhere" / "curves.png"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "error: cannot write" in done.stderr
    done = run("--gt", "nothing.json", "--dt", "nothing.json")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
