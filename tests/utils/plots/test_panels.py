import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from utils.plots.panels import (
    Panel,
    epoch_ticks,
    marker_size,
    scale_rate_axis,
    stack_panels,
    tint_segments,
    write_title,
)


def test_panels_are_stacked_over_one_axis() -> None:
    figure, (upper, lower) = stack_panels(
        [Panel("a", 2, 1), Panel("b", 3, 0.5)], 10, bottom_margin=0.8
    )
    assert figure.get_size_inches().tolist() == pytest.approx([12, 0.7 + 1 + 2 + 0.5 + 3 + 0.8])
    # left, bottom, width, height in inches; margins of 1.1 at the left and 0.3 at the right
    inches = [12, 8, 12, 8]
    assert lower.get_position().bounds * np.array(inches) == pytest.approx([1.1, 0.8, 10.6, 3])
    assert upper.get_position().bounds * np.array(inches) == pytest.approx([1.1, 4.3, 10.6, 2])
    assert upper.get_xlim() == lower.get_xlim() == (-0.5, 9.5)
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("a", "b", "epoch")


def test_ticks_for_a_single_epoch() -> None:
    assert list(epoch_ticks(min_ticks=1).tick_values(-0.4, 0.4)) == [-1, 0, 1]
    assert 0.5 in epoch_ticks().tick_values(-0.6, 0.6)


def test_position_of_the_title() -> None:
    figure = Figure(figsize=(12, 7))
    assert write_title(figure, "title", "subtitle") == pytest.approx(1 - 0.35 / 7)
    assert [text.get_text() for text in figure.texts] == ["title", "subtitle"]
    write_title(figure, "title only")
    assert len(figure.texts) == 3


def test_segments_have_alternating_tints() -> None:
    axes = Figure().subplots()
    tint_segments([axes], [0, 2, 3, 7])
    spans = [
        patch.get_window_extent().transformed(axes.transData.inverted()) for patch in axes.patches
    ]
    assert [span.x0 for span in spans] == pytest.approx([-0.5, 1.5, 2.5])
    assert [to_hex(patch.get_facecolor()) for patch in axes.patches] == [
        "#f4f6f9",
        "#fdf4e7",
        "#f4f6f9",
    ]


def test_marker_size_decreases_within_limits() -> None:
    assert [marker_size(epochs) for epochs in (0, 120, 200, 300, 1000)] == [5.0, 5.0, 3.0, 2.0, 1.8]


@pytest.mark.parametrize(
    ("peaks", "scale", "limits", "label"),
    [
        ([0.01, 0.001], "linear", (0, 0.0108), "rate"),
        ([0.01, 0.0009], "log", (0.0002 / 1.5, 0.015), "rate (log scale)"),
        ([], "log", (0.0002 / 1.5, 0.015), "rate (log scale)"),
    ],
)
def test_low_segment_requires_a_logarithmic_scale(
    peaks: list[float], scale: str, limits: tuple[float, float], label: str
) -> None:
    axes = Figure().subplots()
    scale_rate_axis(axes, np.array([0.01, 0.0, 0.0002]), peaks, 0.1, "rate")
    assert (axes.get_yscale(), axes.get_ylabel()) == (scale, label)
    assert axes.get_ylim() == pytest.approx(limits)
