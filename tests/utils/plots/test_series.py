import numpy as np

from utils.plots.series import best_epoch, history_table, smoothed

NAN = float("nan")


def test_missing_and_infinite_values_are_nan() -> None:
    rows = [{"epoch": 0.0, "x/lr0": 0.1}, {"epoch": 1.0}, {"epoch": 2.0, "x/lr0": float("inf")}]
    table = history_table(rows)
    np.testing.assert_array_equal(table["x/lr0"], [0.1, NAN, NAN])
    np.testing.assert_array_equal(table["raw/mAP_0.5:0.95"], [NAN] * 3)
    assert len(history_table([])) == 0


def test_best_epoch_is_the_last_validated_epoch_of_highest_fitness() -> None:
    def best(*scores: float) -> tuple[float, ...] | None:
        names = ("metrics/mAP_0.5", "metrics/mAP_0.5:0.95")
        rows = [
            {"epoch": 5.0 + number, names[0]: score, names[1]: score / 2}
            for number, score in enumerate(scores)
        ]
        found = best_epoch(history_table(rows))
        return None if found is None else (found.name, *found[["epoch", *names]])

    assert best(NAN, 0.4, 0.6, 0.5, 0.6, NAN) == (4, 9, 0.6, 0.3)
    assert best(NAN) is None
    assert best() is None


def test_smoothing_keeps_a_straight_line_and_flattens_a_zigzag() -> None:
    epochs = np.arange(40.0)
    np.testing.assert_allclose(smoothed(epochs, 2 - 0.01 * epochs), 2 - 0.01 * epochs)
    zigzag = smoothed(epochs, epochs % 2)
    assert np.ptp(zigzag[5:-5]) < 0.1
    assert smoothed(np.array([3.0]), np.array([7.0])).tolist() == [7.0]
