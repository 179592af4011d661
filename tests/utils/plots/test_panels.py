import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from utils.plots.figure import text_width
from utils.plots.panels import (
    Panel,
    marker_size,
    scale_rate_axis,
    stack_panels,
    table_height,
    tint_segments,
    write_table,
    write_title,
)


def test_panels_are_stacked_over_one_axis() -> None:
    """With a row of flags (0.21 inches) above the upper panel, and a gap (0.25) between both."""
    stack = [Panel("a", 2, [(4, "hold")]), Panel("b", 3, [(4, "")])]
    figure, (upper, lower) = stack_panels(stack, 10, bottom_margin=0.8)
    height = 0.7 + 0.21 + 2 + 0.25 + 3 + 0.8
    assert figure.get_size_inches().tolist() == pytest.approx([12, height])
    # left, bottom, width, height in inches; margins of 1.1 at the left and 0.3 at the right
    inches = [12, height, 12, height]
    assert lower.get_position().bounds * np.array(inches) == pytest.approx([1.1, 0.8, 10.6, 3])
    assert upper.get_position().bounds * np.array(inches) == pytest.approx([1.1, 4.05, 10.6, 2])
    assert upper.get_xlim() == lower.get_xlim() == (-0.5, 9.5)
    assert (upper.get_ylabel(), lower.get_ylabel(), lower.get_xlabel()) == ("a", "b", "epoch")
    # The poles stand at the seam; the lower one ends at the upper panel.
    for axes, top in ((upper, 1 + 0.21 / 2), (lower, 1 + 0.25 / 3)):
        (pole,) = axes.lines
        assert pole.get_xydata() == pytest.approx(np.array([[0.4, 0], [0.4, top]]))
    assert [text.get_text() for text in upper.texts] == ["hold"]


def test_an_axis_of_a_single_epoch_has_no_fractions() -> None:
    _, (axes,) = stack_panels([Panel("a", 2)], 1, 0.8)
    assert [tick for tick in axes.get_xticks() if -0.5 < tick < 0.5] == [0]


def test_table_has_a_sample_of_the_line_before_each_row() -> None:
    figure, _ = stack_panels([Panel("a", 2)], 9, 0.8 + table_height(2))
    columns = {"run": ["a", "long name"], "mAP": ["0.1", "-"]}
    write_table(
        figure, columns, [{"color": "red"}, {"color": "blue"}], left_aligned=["run"], bold=[1]
    )
    table = figure.axes[1]
    assert table.get_position().height * figure.get_figheight() == pytest.approx(0.26 * 3.5)
    assert [(text.get_text(), text.get_position()[1]) for text in table.texts] == [
        *(("run", 0), ("a", 1), ("long name", 2)),
        *(("mAP", 0), ("0.1", 1), ("-", 2)),
    ]
    edges = {text.get_horizontalalignment(): text.get_position()[0] for text in table.texts}
    assert edges["left"] == 0.55
    assert edges["right"] > 0.55 + text_width("long name", 9) + text_width("mAP", 9)
    assert [text.get_fontweight() for text in table.texts] == [400, 400, 700] * 2
    assert [line.get_color() for line in table.lines] == ["red", "blue"]


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
