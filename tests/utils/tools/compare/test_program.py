import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.checkpoints import save_checkpoint
from tests.paths import ROOT
from utils.checkpoint.format import no_progress
from utils.errors import UserError
from utils.history import new_row, write_results
from utils.solver.continuation import Extension, extend_plan
from utils.solver.schedule import Plan, WarmUp, base_segment
from utils.tools.compare.__main__ import common_folder, compare, format_table, shortest_unique_names
from utils.tools.compare.recorded_run import read_run

NAN = float("nan")
BASE = Plan(0.01, 0.937, 1, WarmUp(100, 0.1, 0.8), (base_segment(2, "linear", 0.5),))
EXTENDED = extend_plan(BASE, 2, Extension(epochs=2, mode="hold"))


def edited(**changes: Any) -> dict[str, Any]:
    """Return the data of the plan with other values in its only segment."""
    data = BASE.to_dict()
    return {**data, "segments": [data["segments"][0] | changes]}


def history(*scores: float) -> list[dict[str, float]]:
    """Return one row per epoch with these values of mAP50-95; mAP50 is twice as high."""
    return [
        new_row(
            epoch,
            train_losses=(0.1, 0.2, 0.3),
            metrics=(0.5, 0.5, 2 * score, score),
            val_losses=(0.1, 0.2, 0.3),
            rates=(0.1, 0.01, 0.01),
            iteration=3 * (epoch + 1),
        )
        for epoch, score in enumerate(scores)
    ]


def make_run(
    folder: Path,
    plan: Plan,
    rows: list[dict[str, float]],
    /,
    *,
    name: str = "last.pt",
    **changed: Any,
) -> Path:
    """Write a checkpoint without tensors into a run folder; return the folder."""
    checkpoint = {
        "format": "yolov5-extend",
        "version": 1,
        "kind": "training",
        "model": {},
        "ema": {"weights": {}, "updates": 0},
        "optimizer": {"name": "SGD", "buffers": {}},
        "scaler": {},
        "plan": plan.to_dict(),
        "position": {"epoch": len(rows), "iteration": 3 * len(rows)},
        "progress": no_progress(),
        "plan_digest": "",
        "best": {"fitness": 0.0, "epoch": 0},
        "stopped_early": False,
        "closed": True,
        "continuations": [],
        "history": rows,
        "config": {"options": {}, "hyp": {}, "spec": {}, "names": ["car"], "precision": "fp32"},
        "software": {},
    }
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    save_checkpoint(checkpoint | changed, folder / "weights" / name)
    return folder


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_csv_has_one_row_per_run_and_seam(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "runs" / "exp", BASE, history(0.1, 0.2))
    rows = history(0.1, 0.2, 0.15, 0.25)
    rows[1]["raw/mAP_0.5:0.95"], rows[2]["raw/mAP_0.5:0.95"] = 0.2, 0.125
    chain = extend_plan(EXTENDED, 4, Extension(epochs=1, mode="restart"))
    once = make_run(tmp_path / "runs" / "exp-hold", EXTENDED, rows)
    twice = make_run(tmp_path / "runs" / "exp-two", chain, [*rows, *history(*[0.3] * 5)[4:]])
    compare([plain, once, twice], None)

    table = read_table(tmp_path / "runs" / "compare.csv")
    assert [(line["run"], line["seam_epoch"], line["mode"]) for line in table] == [
        ("exp", "", ""),
        ("exp-hold", "2", "hold"),
        ("exp-two", "2", "hold"),
        ("exp-two", "4", "restart"),
    ]
    assert table[0]["best_epoch"] == "1"
    assert {name: float(value) for name, value in list(table[1].items())[1:] if name != "mode"} == (
        pytest.approx(
            {
                "epochs": 4,
                "planned_epochs": 4,
                "best_epoch": 3,
                "best_map50_95": 0.25,
                "best_map50": 0.5,
                "last_map50_95": 0.25,
                "seam_epoch": 2,
                "rate_before": 0.0075,  # linear from 1 to 0.5 in 2 epochs: 0.75 in the second
                "rate_after": 0.0075,
                "rate_ratio": 1,
                "map50_95_before": 0.2,
                "map50_95_lowest": 0.15,
                "map50_95_drop": 0.05,
                "raw_map50_95_before": 0.2,
                "raw_map50_95_lowest": 0.125,
                "raw_map50_95_drop": 0.075,
                "epochs_until_back": 2,
                "best_map50_95_after": 0.25,
                "epochs_after": 2,
                "gain_per_100_epochs": 2.5,
            }
        )
    )
    assert (tmp_path / "runs" / "compare.png").stat().st_size > 10_000


def test_tables_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "yolo")
    run = make_run(tmp_path / "exp", EXTENDED, history(0.1, 0.2, 0.15))
    compare([run], tmp_path / "out")
    lines = "\n".join(record.getMessage() for record in caplog.records).splitlines()
    assert lines[1:3] == [
        "run  epochs  best epoch  mAP50-95   mAP50  last mAP50-95",
        "exp       3           1    0.2000  0.4000         0.1500",
    ]
    assert lines[4].split()[:3] == ["run", "seam", "mode"]
    assert lines[5].split() == (
        ["exp", "2", "hold", "1.00", "0.2000", "0.0500", "-", "-", "0.1500", "-5.0000"]
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"compare.csv", "compare.png"}


def test_table_with_missing_values() -> None:
    columns = (("run", "run", ""), ("mAP", "map", ".2f"))
    cells = pd.DataFrame([{"run": "a", "map": None}, {"run": "long"}, {"run": "b", "map": 0.5}])
    assert format_table(columns, cells) == "run    mAP\na        -\nlong     -\nb     0.50"


def test_run_with_results_csv_only(tmp_path: Path) -> None:
    write_results(history(0.1, NAN), tmp_path / "results.csv")
    run = read_run(tmp_path)
    assert (run.path, run.plan, run.names, run.seams) == (tmp_path, None, None, [])
    assert run.history[0]["metrics/mAP_0.5:0.95"] == 0.1
    compare([tmp_path], tmp_path / "out")
    (line,) = read_table(tmp_path / "out" / "compare.csv")
    assert (line["best_map50_95"], line["last_map50_95"]) == ("0.1", "")


def test_unreadable_checkpoint_next_to_results_csv_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "last.pt").write_bytes(b"not ours")
    with pytest.raises(UserError, match=r"last.pt is not a checkpoint"):
        read_run(tmp_path)
    write_results(history(0.1), tmp_path / "results.csv")
    assert len(read_run(tmp_path).history) == 1
    assert "which has no plan and no seams" in caplog.text


def test_checkpoint_of_yolov5_is_rejected_by_name(tmp_path: Path) -> None:
    path = tmp_path / "epoch1.pt"
    torch.save({"model": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(
        UserError, match=r"epoch1\.pt is a checkpoint of YOLOv5; use the folder of its"
    ):
        read_run(path)


def test_checkpoint_other_than_the_last_is_a_separate_run(tmp_path: Path) -> None:
    make_run(tmp_path / "exp", EXTENDED, history(0.1, 0.2, 0.3))
    make_run(tmp_path / "exp", BASE, history(0.1, 0.2), name="seam_2.pt")
    weights = tmp_path / "exp" / "weights"
    assert read_run(weights / "last.pt") == read_run(tmp_path / "exp")
    assert read_run(weights / "seam_2.pt").path == tmp_path / "exp" / "seam_2"


def test_runs_with_different_classes_cause_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"options": {}, "hyp": {}, "spec": {}, "names": ["cat"], "precision": "fp32"}
    runs = [
        make_run(tmp_path / "a", BASE, history(0.1)),
        make_run(tmp_path / "b", BASE, history(0.2), config=config),
    ]
    compare(runs, None)
    assert "mAP values are not comparable" in caplog.text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"history": []}, "no completed epoch"),
        ({"plan": {}}, "its plan is unreadable"),
        ({"plan": {**BASE.to_dict(), "segments": []}}, "its plan is unreadable"),
        ({"plan": edited(mode="leap")}, "its plan is unreadable: .*unknown continuation mode"),
        ({"plan": edited(epochs=0)}, "its plan of 0 epochs ends before its history"),
        (
            {"kind": "deploy", "weights": {}, "spec": {}, "names": [], "epoch": 1, "fitness": 0.5},
            "has no history; use the folder of its run",
        ),
    ],
)
def test_invalid_checkpoints_are_rejected(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    run = make_run(tmp_path, BASE, history(0.1), **change)
    with pytest.raises(UserError, match=reason):
        read_run(run)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no epochs with mAP"),
        ("epoch,x/lr0\n0,0.1\n", "no epochs with mAP"),
        ("epoch,metrics/mAP_0.5\n0,high\n", r"cannot read .*results\.csv: "),
        ("epoch,metrics/mAP_0.5\n0\n", r"cannot read .*results\.csv: "),
    ],
)
def test_invalid_results_csv_is_rejected(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "results.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=reason):
        read_run(tmp_path)


def test_unwritable_output_folder_is_rejected(tmp_path: Path) -> None:
    run = make_run(tmp_path / "exp", BASE, history(0.1))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="another folder with --out"):
        compare([run], tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/runs/a", "/runs/b"], ["a", "b"]),
        (["/voc/exp", "/coco/exp", "/coco/exp2"], ["voc/exp", "coco/exp", "exp2"]),
        (["/x/a/exp", "/y/a/exp"], ["x/a/exp", "y/a/exp"]),
        (["/exp", "/a/exp"], ["/exp", "a/exp"]),
        (["/runs/a"], ["a"]),
    ],
)
def test_names_are_as_short_as_possible(paths: list[str], names: list[str]) -> None:
    assert shortest_unique_names([Path(path) for path in paths]) == names


def test_run_given_twice_is_rejected() -> None:
    with pytest.raises(UserError, match="/runs/a is given twice"):
        shortest_unique_names([Path("/runs/a"), Path("/runs/b"), Path("/runs/a")])


def test_common_parent_folder() -> None:
    assert common_folder([Path("/data/runs/a")]) == Path("/data/runs")
    assert common_folder([Path("/data/runs/a"), Path("/data/runs/b/c")]) == Path("/data/runs")
    with pytest.raises(UserError, match="--out FOLDER"):
        common_folder([Path("/data/a"), Path("/tmp/b")])  # noqa: S108 - nothing is written


def test_command_line_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "utils.tools.compare", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path} contains neither weights/last.pt nor results.csv; use the folder of a "
        "run.\n"
    )


def test_parser_imports_neither_torch_nor_numpy() -> None:
    module = "utils.tools.compare.__main__"
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'numpy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
