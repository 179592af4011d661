import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from matplotlib.figure import Figure

from tests.paths import ROOT
from utils.plots.run_curves import SeamMark
from utils.plots.series import history_table
from utils.tools.compare.plot import RunCurves, run_curves, save_comparison, shared_rows

NAN = float("nan")
Row = dict[str, float]


def row(epoch: int, score: float, *, loss: float = 0.5, rate: float = 0.01) -> Row:
    return {
        "epoch": float(epoch),
        "train/box_loss": loss,
        "metrics/mAP_0.5": score,
        "metrics/mAP_0.5:0.95": score / 2,
        "x/lr1": rate,
    }


def history(*scores: float, rate: float = 0.01) -> list[Row]:
    return [row(epoch, score, rate=rate) for epoch, score in enumerate(scores)]


def drawn(runs: list[RunCurves], folder: Path) -> tuple[int, float]:
    """Return the height of the plot in pixels, and the fraction of non-white pixels."""
    path = folder / "compare.png"
    save_comparison(runs, path)
    plot = cv2.imread(str(path))
    assert plot is not None
    return plot.shape[0], float((plot < 250).any(2).mean())


@pytest.mark.parametrize(
    ("theirs", "shared"),
    [
        (history(0.1, 0.2, 0.3), 3),  # the same run
        (history(0.1, 0.2), 2),  # the run before the extension
        (history(0.1, 0.2, 0.4), 2),  # another branch of the run
        (history(0.10000001, 0.2, 0.3), 3),  # read from results.csv, which has five digits
        (history(0.9, 0.2, 0.3), 0),
        (history(0.1, NAN, 0.3), 1),
        (history(0.1, 0.2, 0.3, rate=0.001), 3),  # rates are not compared: one may be planned
        ([row(0, 0.1, loss=0.7)], 0),  # not a branch, although mAP is equal
        ([], 0),
    ],
)
def test_shared_rows(theirs: list[Row], shared: int) -> None:
    tables = history_table(history(0.1, 0.2, 0.3)), history_table(theirs)
    assert shared_rows(*tables) == shared
    assert shared_rows(*reversed(tables)) == shared


def test_epochs_without_validation_are_shared() -> None:
    one, two = (history_table(history(NAN, NAN, score)) for score in (0.3, 0.4))
    assert shared_rows(one, two) == 2


def test_rates_are_planned_for_trained_epochs_otherwise_recorded() -> None:
    rows = history(0.1, 0.2)
    assert run_curves("planned", rows, [0.3, 0.2, 0.1]).table["rate"].tolist() == [0.3, 0.2]
    assert run_curves("recorded", rows).table["rate"].tolist() == [0.01, 0.01]


def test_branches_have_an_enlarged_panel(tmp_path: Path) -> None:
    seam = [SeamMark(2, "hold")]
    branches = [
        run_curves("a", history(0.1, 0.2, 0.3), [0.01] * 3, seam),
        run_curves("b", history(0.1, 0.2, 0.4), [0.01] * 3, seam),
    ]
    unrelated = [branches[0], run_curves("b", history(0.5, 0.6, 0.7), [0.01] * 3, seam)]
    tall, _ = drawn(branches, tmp_path)
    low, _ = drawn(unrelated, tmp_path)
    assert tall - low == pytest.approx(150 * (3.1 + 0.25), abs=1)  # the panel and a gap, at 150 dpi


def test_a_run_that_is_no_branch_does_not_widen_the_enlarged_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(
        "utils.tools.compare.plot.save_figure", lambda figure, _: figures.append(figure)
    )
    branches = [
        run_curves(name, history(0.1, 0.6, score)) for name, score in (("a", 0.7), ("b", 0.8))
    ]
    stranger = run_curves("c", history(0.0, 0.2, 0.3))
    save_comparison([*branches, stranger], tmp_path / "compare.png")
    enlarged = next(axes for axes in figures[0].axes if "enlarged" in axes.get_ylabel())
    # From the last shared row, with an mAP50-95 of 0.3, to 0.4, and a margin of 12 %.
    assert enlarged.get_ylim() == pytest.approx((0.3 - 0.012, 0.4 + 0.012))


@pytest.mark.parametrize(
    "runs",
    [
        [run_curves("one", history(0.1, 0.2))],
        [run_curves("no metrics", [{"epoch": 0.0}, {"epoch": 1.0}])],
        [run_curves("one epoch", history(0.1)), run_curves("three", history(0.1, 0.2, 0.3))],
        [run_curves("same", history(0.1, 0.2)), run_curves("same", history(0.1, 0.2))],
        [run_curves("gaps", history(0.1, NAN, NAN)), run_curves("b", history(0.1, NAN, 0.3))],
        [  # a rate of zero, and one far below the other run's: a logarithmic axis
            run_curves("slope", history(0.1, 0.2), [0.01, 0.0], [SeamMark(1, "slope-match")]),
            run_curves("low", history(0.3, 0.4), [1e-5, 1e-6]),
        ],
        [  # extended, but not yet trained further
            run_curves("seam", history(0.1, 0.2), [0.01] * 4, [SeamMark(2, "hold")])
        ],
        [  # more runs than colors, more seams than the table lists
            run_curves(
                f"run {number}",
                history(*[0.1] * 6, 0.2 + number / 50),
                [0.01] * 9,
                [SeamMark(epoch, "hold") for epoch in range(1, 7)],
            )
            for number in range(8)
        ],
    ],
    ids=lambda runs: runs[0].label,
)
def test_comparison_is_plotted(tmp_path: Path, runs: list[RunCurves]) -> None:
    height, ink = drawn(runs, tmp_path)
    assert height > 1200
    assert ink > 0.4  # the tinted panels alone


def test_shared_history_hides_no_branch(tmp_path: Path) -> None:
    """Runs that differ only in the last epoch all appear in their color."""
    labels = ("a", "b", "c", "d")
    runs = [run_curves(n, history(0.1, 0.2, 0.3 + i / 10)) for i, n in enumerate(labels)]
    save_comparison([run_curves("parent", history(0.1, 0.2)), *runs], tmp_path / "compare.png")
    plot = cv2.imread(str(tmp_path / "compare.png"))
    assert plot is not None
    panels = plot[: -int(150 * 0.26 * 7)]  # without the table, which has every color
    for color in ("0072B2", "E69F00", "009E73", "CC79A7", "56B4E9", "9aa0a6"):
        blue_green_red = list(bytes.fromhex(color)[::-1])
        assert (panels == blue_green_red).all(2).sum() > 100, color


def test_end_of_a_run_that_another_run_continues_is_marked(tmp_path: Path) -> None:
    """In a long run too, where not every epoch has a marker."""
    scores = [0.1 + epoch / 200 for epoch in range(90)]
    runs = [run_curves("long", history(*scores)), run_curves("start", history(*scores[:50]))]
    save_comparison(runs, tmp_path / "compare.png")
    plot = cv2.imread(str(tmp_path / "compare.png"))
    assert plot is not None
    panels = plot[: -int(150 * 0.26 * 4)]  # without the table, which has every color
    assert (panels == list(bytes.fromhex("E69F00")[::-1])).all(2).sum() > 100


def test_comparison_imports_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, utils.tools.compare.plot;"
        "sys.exit(bool({'torch', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
