import numpy as np

from utils.plots.series import column, smoothed

NAN = float("nan")


def test_missing_values_are_nan() -> None:
    values = column([{"epoch": 0.0, "x/lr0": 0.1}, {"epoch": 1.0}], "x/lr0")
    np.testing.assert_array_equal(values, [0.1, NAN])


def test_smoothing_keeps_a_straight_line_and_flattens_a_zigzag() -> None:
    epochs = np.arange(40.0)
    np.testing.assert_allclose(smoothed(epochs, 2 - 0.01 * epochs), 2 - 0.01 * epochs)
    zigzag = smoothed(epochs, epochs % 2)
    assert np.ptp(zigzag[5:-5]) < 0.1
    assert smoothed(np.array([3.0]), np.array([7.0])).tolist() == [7.0]
