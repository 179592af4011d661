from utils.plots.flags import place_flags, rows_height


def test_flags_without_overlap_share_a_row() -> None:
    flags = place_flags([(0.1, "epoch 1: hold"), (0.6, "epoch 6: hold")], 10.0)
    assert [(flag.row, flag.left_of_pole) for flag in flags] == [(0, False), (0, False)]


def test_overlapping_flags_are_stacked_and_the_last_one_is_left_of_its_pole() -> None:
    flags = place_flags([(0.5, "epoch 5: hold"), (0.51, "epoch 6: hold"), (0.99, "end")], 10.0)
    assert [(flag.row, flag.left_of_pole) for flag in flags] == [(1, False), (0, False), (0, True)]


def test_height_is_proportional_to_the_rows() -> None:
    assert rows_height([]) == 0
    upper, lower = place_flags([(0.5, "a"), (0.501, "b")], 10.0)
    assert rows_height([lower]) > 0
    assert rows_height([upper, lower]) == 2 * rows_height([lower])


def test_no_pole_crosses_a_label() -> None:
    flags = place_flags([(0.5, "a seam with a long label"), (0.6, "the next"), (0.7, "third")], 6.0)
    assert [flag.row for flag in flags] == [2, 1, 0]


def test_label_without_room_loses_its_last_parts() -> None:
    text = "epoch 5: hold, classes changed, kept classes dropped 0.1; best 0.3, +0.02 in 3 epochs"
    [flag] = place_flags([(0.5, text)], panel_width=5.0)
    assert text.startswith(flag.text)
    assert flag.text == "epoch 5: hold, classes changed"
    [whole] = place_flags([(0.5, text)], panel_width=20.0)
    assert whole.text == text
