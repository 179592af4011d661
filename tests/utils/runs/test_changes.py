from typing import Any, cast

import pytest

from tests.utils.solver.test_schedule import plan_of
from utils.checkpoint.format import Config, TrainingCheckpoint
from utils.runs.changes import continued_warmup, data_changes
from utils.solver.schedule import base_segment

DATA: dict[str, str | int] = {
    "file": "a.yaml",
    "train images": 320,
    "train boxes": 9,
    "content": "c",
}
SEQUENCE: dict[str, str | int] = {"train sequence": "t", "val sequence": "v"}


def config(data: dict[str, str | int] | None) -> Config:
    whole: dict[str, Any] = {"options": {"data": "a.yaml", "batch_size": 16}}
    whole["hyp"] = {"warmup_epochs": 20.0}
    return cast("Config", whole if data is None else whole | {"data": data})


@pytest.mark.parametrize(
    ("recorded", "change", "expected"),
    [
        (DATA | SEQUENCE, {"file": "b.yaml"}, []),
        (DATA | SEQUENCE, {"content": "d"}, []),  # one of several folders moved
        (DATA | SEQUENCE, {"train sequence": "u"}, ["the order of its images differs"]),
        (
            DATA | SEQUENCE,
            {"val sequence": "u", "content": "d", "train boxes": 8},
            ["train boxes 9 → 8"],
        ),
        (DATA, {"file": "b.yaml"}, []),
        (DATA, {"content": "d"}, ["names, sizes or labels of its images differ"]),
        (None, {}, []),
        (None, {"file": "b.yaml"}, ["the content of the earlier data set is not recorded"]),
    ],
)
def test_data_changes(
    recorded: dict[str, str | int] | None, change: dict[str, str | int], expected: list[str]
) -> None:
    assert data_changes(config(recorded), DATA | SEQUENCE | change) == expected


@pytest.mark.parametrize(
    ("length", "iteration", "batches", "changes"),
    [
        (400, 40, 20, ()),  # 20 epochs of 20 batches
        (400, 40, 14, ((40, 280),)),
        (400, 40, 3, ((40, 100),)),  # the minimum
        (400, 401, 14, ()),  # over
        (1000, 40, 14, ()),  # the minimum of YOLOv5 v5.0
        (1000, 40, 60, ((40, 1200),)),
    ],
)
@pytest.mark.parametrize("imported", [False, True])
def test_warm_up_with_another_number_of_batches(
    length: int, iteration: int, batches: int, changes: tuple[tuple[int, int], ...], imported: bool
) -> None:
    plan = plan_of(base_segment(30, "linear", 0.1), nw=length)
    content = {
        "plan": plan.to_dict(),
        "config": config(None if imported else DATA),
        "position": {"epoch": iteration // 20, "iteration": iteration},
    }
    found = continued_warmup(cast("TrainingCheckpoint", content), batches)
    assert found.changes == changes
