import math
from pathlib import Path

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


@requires_shared
def test_results_layout_equals_yolov5(tmp_path: Path) -> None:
    original = SHARED / "legacy" / "v7" / "results.csv"
    write_results(read_results(original), tmp_path / "results.csv")
    assert (tmp_path / "results.csv").read_text() == original.read_text()
