import pytest

from utils.early_stopping import should_stop


@pytest.mark.parametrize(
    ("epoch", "best_epoch", "last_seam", "patience", "stop"),
    [
        (12, 10, 0, 3, False),
        (13, 10, 0, 3, True),
        (13, 10, 0, 0, False),  # 0: endless
        (13, 10, 12, 3, False),  # patience starts afresh at a seam
        (14, 10, 12, 3, True),
        (2, -1, 0, 3, True),  # nothing was ever better than nothing
    ],
)
def test_should_stop(
    epoch: int, best_epoch: int, last_seam: int, patience: int, stop: bool
) -> None:
    assert should_stop(epoch, best_epoch, last_seam, patience) is stop
