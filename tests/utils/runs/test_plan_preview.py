import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.utils.solver.test_schedule import plan_of
from utils.errors import UserError
from utils.runs.plan_preview import report_plan, table
from utils.solver.continuation import Extension, extend_plan
from utils.solver.preview import plan_previews
from utils.solver.schedule import base_segment

MODES = ("rebase", "slope-match", "hold", "restart")

pytestmark = pytest.mark.usefixtures("four_modes")

PLAN = plan_of(base_segment(300, "linear", 0.01))


def test_table() -> None:
    assert table(plan_previews(PLAN, 300, Extension(300, "hold"))) == [
        "  mode         rate before     after   ratio  final rate  below 1 %      sum",
        "  rebase          0.000133  0.000133   1.000   1.769e-06        376   1.33 %",
        "  slope-match     0.000133  0.000133   1.000   4.433e-07        375   1.32 %",
        "> hold            0.000133  0.000133   1.000    0.000133      never   2.63 %",
        "  restart         0.000133   0.00505  37.970   0.0001165      never  50.99 %",
    ]


def test_report_logs_table_and_warnings_and_writes_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="yolo")
    report_plan(PLAN, 300, Extension(300), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lr_plan.json", "lr_plan.png"]
    messages = caplog.messages
    assert messages[0] == "Learning rates from epoch 300 to a total of 600 epochs:"
    assert messages[1:6] == table(plan_previews(PLAN, 300, Extension(300)))
    assert messages[6].startswith(">: requested by the command line; below 1 %: first epoch with")
    assert [r.getMessage()[:6] for r in caplog.records if r.levelname == "WARNING"] == [
        "rebase",
        "restar",
    ]
    assert messages[-1] == (
        f"Nothing was trained; see {tmp_path / 'lr_plan.png'} and {tmp_path / 'lr_plan.json'}"
    )


@pytest.mark.parametrize(
    ("mode", "rule"),
    [("hold", "best epoch of the whole run"), ("restart", "best epoch since the seam")],
)
def test_report_says_how_patience_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str, rule: str
) -> None:
    caplog.set_level(logging.INFO, "yolo")
    plan = plan_of(base_segment(4, "linear", 0.1))
    report_plan(plan, 4, Extension(4, mode), tmp_path)
    assert f"Patience counts from the {rule}" in caplog.text


def test_json_contains_the_factors_of_the_complete_run(tmp_path: Path) -> None:
    extension = Extension(8, "rebase", peak=0.5, rewarm_epochs=2)
    plan = plan_of(base_segment(4, "linear", 0.2))
    report_plan(plan, 3, extension, tmp_path)
    numbers = json.loads((tmp_path / "lr_plan.json").read_text())
    assert list(numbers)[:5] == [*MODES, "rebase --peak 0.5 --rewarm-epochs 2"]
    assert (
        numbers["rebase --peak 0.5 --rewarm-epochs 2"] == extend_plan(plan, 3, extension).factors()
    )
    assert numbers["hold"] == extend_plan(plan, 3, Extension(8, "hold")).factors()
    assert numbers["hold"] == pytest.approx([1.0, 0.8, 0.6, *[0.6] * 9])


def test_nothing_is_written_if_the_extension_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"--cooldown-epochs 2: must leave at least one of the 2 epochs after the seam",
    ):
        report_plan(PLAN, 300, Extension(2, "hold", cooldown_epochs=2), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["utils.runs.plan_preview", "utils.solver.guard", "utils.solver.preview"]
)
def test_planning_imports_no_torch(name: str) -> None:
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
