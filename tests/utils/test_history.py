import math
from pathlib import Path

import pytest

from tests.paths import SHARED, requires_shared
from utils.history import COLUMNS, new_row, read_results, write_results

ROW = new_row(
    1,
    train_losses=(0.1, 0.2, 0.3),
    metrics=(0.4, 0.5, 0.6, 0.7123456),
    val_losses=(0.8, 0.9, math.nan),
    rates=(0.01, 0.02, 0.03),
    iteration=16,
)


def test_row_has_the_columns_in_order() -> None:
    assert list(ROW) == [*COLUMNS, "iteration"]
    assert ROW["iteration"] == 16
    assert ROW["epoch"] == 1.0
    assert ROW["metrics/mAP_0.5:0.95"] == 0.7123456
    assert ROW["x/lr2"] == 0.03


def test_results_are_written_with_five_digits_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    write_results([ROW, ROW], file)
    rows = read_results(file)
    assert len(rows) == 2
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0]["metrics/mAP_0.5:0.95"] == 0.71235
    assert math.isnan(rows[0]["val/cls_loss"])
    assert [f.name for f in tmp_path.iterdir()] == ["results.csv"]


def test_layout_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    write_results([], file)
    header = file.read_text()
    assert header == ",".join(f"{name:>20}" for name in COLUMNS) + "\n"
    write_results([ROW | {"val/obj_loss": math.inf, "x/lr0": 1e-7}], file)
    cells = ["1", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.71235", "0.8"]
    cells += ["inf", "nan", "1e-07", "0.02", "0.03"]
    assert file.read_text() == header + ",".join(f"{cell:>20}" for cell in cells) + "\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("epoch,x\n0\n", "could not convert string to float: ''"),
        ("epoch,x\n0,high\n", "could not convert string to float: 'high'"),
        ("epoch,x\n0,1,2\n", "a row has more cells than the header"),
        ("epoch,x\n0,1\n0,1,2\n", "Expected 2 fields in line 3, saw 3$"),
    ],
)
def test_damaged_file_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_results(file)


def test_numbers_are_read_to_the_last_digit(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    file.write_text(" epoch , x\n\n 0 , 0.1234567890123456789 \n 1,nan")
    first, second = read_results(file)
    assert first == {"epoch": 0.0, "x": 0.12345678901234568}
    assert math.isnan(second["x"])
    file.write_text("")
    assert read_results(file) == []


@requires_shared
def test_results_layout_equals_yolov5(tmp_path: Path) -> None:
    original = SHARED / "legacy" / "v7" / "results.csv"
    write_results(read_results(original), tmp_path / "results.csv")
    assert (tmp_path / "results.csv").read_text() == original.read_text()
