import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from tests.paths import ROOT
from utils.plots.run_curves import SeamMark, save_lr_map, save_results_plot

NAN = float("nan")


def history(rates: list[float], *, validated_every: int = 1) -> list[dict[str, float]]:
    """Return the rows of results.csv of a run, with a warm-up in its first epoch."""
    rows = []
    for epoch, rate in enumerate(rates):
        score = 0.1 + 0.5 * epoch / len(rates) if epoch % validated_every == 0 else NAN
        row = dict.fromkeys(("train/box_loss", "train/obj_loss", "train/cls_loss"), 1 / (epoch + 1))
        row |= dict.fromkeys(("val/box_loss", "val/obj_loss", "val/cls_loss"), 2 / (epoch + 1))
        row |= {"metrics/precision": score, "metrics/recall": score}
        row |= {"metrics/mAP_0.5": score, "metrics/mAP_0.5:0.95": score / 2}
        row |= {"epoch": epoch, "x/lr0": rate if epoch else 0.1, "x/lr1": rate, "x/lr2": rate}
        rows.append(row)
    return rows


def ink(path: Path) -> float:
    """Return the fraction of non-white pixels of an image."""
    image = cv2.imread(str(path))
    assert image is not None
    return float((image < 250).any(2).mean())


@pytest.mark.parametrize(
    ("rates", "trained", "seams"),
    [
        ([0.01, 0.005, 0.001], 3, []),
        ([0.01] * 10, 1, []),  # a single row
        ([0.01] * 10, 0, []),  # before the first epoch
        ([0.01] * 4 + [0.004] * 6, 10, [(4, "hold"), (6, "slope-match"), (8, "restart")]),
        ([0.01] * 300 + [1e-4] * 600, 700, [(300, "hold"), (302, "rebase"), (899, "hold")]),
        ([0.01, 0.005], 2, [(2, "hold")]),  # a seam without epochs after it
        ([0.01, 0.0], 2, [(1, "slope-match")]),  # a rate of zero on a logarithmic axis
    ],
)
def test_lr_map_is_plotted(
    tmp_path: Path, rates: list[float], trained: int, seams: list[tuple[int, str]]
) -> None:
    path = tmp_path / "lr_map.png"
    save_lr_map(history(rates)[:trained], rates, [SeamMark(*seam) for seam in seams], path)
    assert ink(path) > 0.3  # the tinted panels alone are half of the image


def test_lr_map_with_missing_values(tmp_path: Path) -> None:
    rates = [0.01] * 10
    save_lr_map(history(rates, validated_every=3), rates, [], tmp_path / "some.png")
    save_lr_map([{"epoch": 0.0}, {"epoch": 1.0}], rates, [], tmp_path / "none.png")
    assert ink(tmp_path / "some.png") > ink(tmp_path / "none.png") > 0.3


def test_results_are_plotted(tmp_path: Path) -> None:
    save_results_plot(history([0.01] * 10, validated_every=3), tmp_path / "results.png")
    save_results_plot([], tmp_path / "empty.png")
    assert ink(tmp_path / "results.png") > ink(tmp_path / "empty.png") > 0.01


@pytest.mark.parametrize("epochs", [1, 2, 10])
def test_no_label_of_the_results_is_cut(tmp_path: Path, epochs: int) -> None:
    rows = history([0.01] * epochs, validated_every=1)
    small = [{name: v if name == "epoch" else v * 1e-4 for name, v in row.items()} for row in rows]
    save_results_plot(small, tmp_path / "results.png")
    image = cv2.imread(str(tmp_path / "results.png"))
    assert image is not None
    assert (image[:, :4] == 255).all()
    assert (image[:, -4:] == 255).all()


def test_plots_do_not_import_pyplot() -> None:
    code = (
        "import sys, utils.plots.run_curves, utils.evaluation.curves;"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
