"""Results files of YOLOv5 are read as rows of our history."""

import math
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.history import COLUMNS
from utils.upstream.history import (
    TRAIN_LOSSES,
    best_epoch,
    best_recorded_epoch,
    build_history,
    parse_text_results,
    read_csv_results,
)

TEXT = """
   0/2     0G 0.1319 0.02135 0.1056 0.2588   123   160   0 0 0 0 0 0 0
   1/2  3.46G  0.129 0.02429 0.1048 0.2581   218   160   .5 .4 .3 .2 .1 .01 .2
"""


def row(epoch: int, loss: float = 0.1, score: float = 0.5) -> dict[str, float]:
    losses = dict.fromkeys(TRAIN_LOSSES, loss)
    return dict.fromkeys(COLUMNS, score) | losses | {"epoch": float(epoch)}


def test_results_txt_of_v5() -> None:
    rows, planned = parse_text_results(TEXT, "results.txt")
    assert planned == 3
    assert list(rows[1]) == list(COLUMNS)
    assert list(rows[1].values())[:11] == [
        *(1, 0.129, 0.02429, 0.1048),  # epoch, box, obj, cls
        *(0.5, 0.4, 0.3, 0.2),  # P, R, mAP50, mAP50-95
        *(0.1, 0.01, 0.2),
    ]
    assert all(math.isnan(rows[1][rate]) for rate in ("x/lr0", "x/lr1", "x/lr2"))


def test_zeros_of_an_unvalidated_epoch_become_nan() -> None:
    first = parse_text_results(TEXT, "results.txt").rows[0]
    assert first["train/box_loss"] == 0.1319
    assert all(math.isnan(first[name]) for name in COLUMNS[4:])


def test_empty_results_txt() -> None:
    assert parse_text_results("\n", "results.txt") == ([], None)


@pytest.mark.parametrize("line", ["0/2 0G 0.1", "epoch " * 15, "x/y" + " 0" * 14])
def test_invalid_line_is_refused(line: str) -> None:
    with pytest.raises(UserError, match=r"results\.txt is damaged \(.* is not a line"):
        parse_text_results(line, "results.txt")


class TestCsv:
    HEADER = ",".join(f"{name:>20}" for name in COLUMNS)

    def test_rates_in_the_old_group_order_are_reordered(self, tmp_path: Path) -> None:
        file = tmp_path / "results.csv"
        file.write_text(f"{self.HEADER}\n 0,1,2,3,.1,.2,.3,.4,5,6,7, .01,.02,.09\n")
        (new,) = read_csv_results(file, biases_last=False)
        (old,) = read_csv_results(file, biases_last=True)
        assert [new[rate] for rate in COLUMNS[11:]] == [0.01, 0.02, 0.09]
        assert [old[rate] for rate in COLUMNS[11:]] == [0.09, 0.02, 0.01]
        assert old["metrics/mAP_0.5:0.95"] == 0.4

    def test_only_our_columns_are_kept(self, tmp_path: Path) -> None:
        file = tmp_path / "results.csv"
        file.write_text("epoch, extra, train/box_loss, metrics/mAP_0.5\n0, 9, 0.5, 0.25\n")
        (found,) = read_csv_results(file, biases_last=False)
        assert list(found) == list(COLUMNS)
        assert (found["train/box_loss"], found["metrics/mAP_0.5"]) == (0.5, 0.25)
        assert math.isnan(found["x/lr0"])

    @pytest.mark.parametrize("line", ["0,1", "a" + ",1" * 13, "0" + ",1" * 14])
    def test_invalid_row_is_refused(self, tmp_path: Path, line: str) -> None:
        file = tmp_path / "results.csv"
        file.write_text(f"{self.HEADER}\n{line}\n")
        with pytest.raises(
            UserError, match=r"results\.csv is damaged \(.*\); correct or remove the file"
        ):
            read_csv_results(file, biases_last=False)


class TestHistory:
    def test_epochs_after_the_checkpoint_are_dropped(self) -> None:
        found = build_history([row(0), row(1), row(2)], 2)
        assert [line["epoch"] for line in found] == [0, 1]

    def test_last_row_of_an_epoch_trained_twice_counts(self) -> None:
        found = build_history([row(0), row(1, loss=0.3), row(1, loss=0.2, score=0.6)], 2)
        assert found[1]["train/box_loss"] == 0.2
        assert found[1]["metrics/mAP_0.5"] == 0.6

    def test_second_validation_of_the_last_epoch_is_dropped(self) -> None:
        found = build_history([row(0), row(1, score=0.4), row(1, score=0.6)], 2)
        assert found[1]["metrics/mAP_0.5"] == 0.4

    def test_epochs_without_a_row(self) -> None:
        found = build_history([row(1)], 3)
        assert [line["epoch"] for line in found] == [0, 1, 2]
        assert all(math.isnan(found[0][name]) for name in COLUMNS[1:])


def test_best_epoch_is_the_last_of_equal_epochs() -> None:
    rows = [row(0, score=0.5), row(1, score=0.5), row(2, score=0.25), row(3, score=math.nan)]
    assert best_epoch(rows) == (1, 0.5)


def test_no_best_epoch_without_validation() -> None:
    assert best_epoch([row(0, score=math.nan)]) is None


def test_best_recorded_epoch_counts_each_epoch_once() -> None:
    """The second row of epoch 2 is the validation of best.pt, the weights of epoch 1."""
    rows = [row(0, loss=0.3), row(1, score=0.6), row(2, loss=0.2, score=0.4)]
    assert best_recorded_epoch([*rows, row(2, loss=0.2, score=0.61)]) == (1, pytest.approx(0.6))
    assert best_recorded_epoch([]) is None
