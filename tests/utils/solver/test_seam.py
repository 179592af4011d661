import math

import pytest

from tests.utils.solver.test_schedule import plan_of
from utils.history import AT_SEAM_PREFIX, COMMON_PREFIX, RAW_MAP_COLUMN
from utils.solver.continuation import Extension, extend_plan
from utils.solver.schedule import Plan, base_segment
from utils.solver.seam import EMA_MAP_COLUMN, SeamMetrics, seam_metrics

NAN = math.nan


def extended(*modes: str) -> Plan:
    """Return the plan of four epochs and four more in each mode: seams at 4, 8, …"""
    plan = plan_of(base_segment(4, "linear", 0.2))
    for mode in modes:
        plan = extend_plan(plan, plan.total_epochs, Extension(4, mode))
    return plan


def history(ema: list[float], raw: dict[int, float] | None = None) -> list[dict[str, float]]:
    rows = [{"epoch": float(epoch), EMA_MAP_COLUMN: value} for epoch, value in enumerate(ema)]
    for epoch, value in (raw or {}).items():
        rows[epoch][RAW_MAP_COLUMN] = value
    return rows


def metrics_of_seam(after: list[float], before: float = 0.5) -> SeamMetrics:
    """Return the metrics of a single seam."""
    (found,) = seam_metrics(extended("hold"), history([0.1, 0.2, 0.3, before, *after]))
    return found


def test_run_without_seams() -> None:
    assert seam_metrics(extended(), history([0.1, 0.2])) == []


def test_drop_and_recovery() -> None:
    rows = history([0.1, 0.2, 0.3, 0.48, 0.40, 0.47, 0.485, 0.5], {3: 0.46, 4: 0.3, 5: 0.35})
    (seam,) = seam_metrics(extended("restart"), rows)
    assert (seam.epoch, seam.mode, seam.epochs) == (4, "restart", 4)
    assert (seam.rate_before, seam.rate_after) == pytest.approx((0.004, 0.006))
    assert seam.ratio == pytest.approx(1.5)
    assert (seam.ema_before, seam.ema_lowest, seam.best) == (0.48, 0.40, 0.5)
    assert seam.ema_drop == pytest.approx(0.08)
    assert (seam.raw_before, seam.raw_lowest) == (0.46, 0.3)
    assert seam.raw_drop == pytest.approx(0.16)
    assert seam.back_after == 3  # 0.485 is the first value of at least 0.48
    assert seam.gain_per_100_epochs == pytest.approx(0.02 / 4 * 100)


@pytest.mark.parametrize(
    ("after", "back_after", "drop"),
    [
        ([0.5, 0.51, 0.52, 0.53], 0, 0.0),  # never below 0.5
        ([0.5, 0.4, 0.45, 0.5], 4, 0.1),  # only values after the lowest one count
        ([0.49, 0.5, 0.6, 0.6], 2, 0.01),  # an equal value is enough
        ([0.4, 0.3, 0.45, 0.49], None, 0.2),  # not back yet
        ([], None, None),  # not started
        ([NAN, NAN], None, None),  # not validated
        ([0.4, NAN, 0.5, NAN], 3, 0.1),  # validated every other epoch
    ],
)
def test_epochs_until_the_value_before_the_seam_is_reached_again(
    after: list[float], back_after: int | None, drop: float | None
) -> None:
    found = metrics_of_seam(after)
    assert found.back_after == back_after
    assert found.ema_drop == (None if drop is None else pytest.approx(drop))


def test_value_before_the_seam_not_measured() -> None:
    found = metrics_of_seam([0.4, 0.5], before=NAN)
    assert (found.ema_before, found.ema_drop, found.back_after, found.gain_per_100_epochs) == (
        None,
    ) * 4
    assert (found.ema_lowest, found.best) == (0.4, 0.5)
    assert (found.raw_before, found.raw_lowest, found.raw_drop) == (None,) * 3


def test_value_measured_at_the_seam_takes_precedence() -> None:
    """The epoch before the seam was validated on other images; relative to it, there is no drop."""
    rows = history([0.1, 0.2, 0.3, 0.4, 0.45, 0.5], {3: 0.35, 4: 0.3})
    rows[3] |= {AT_SEAM_PREFIX + EMA_MAP_COLUMN: 0.5, AT_SEAM_PREFIX + RAW_MAP_COLUMN: 0.48}
    (seam,) = seam_metrics(extended("hold"), rows)
    assert (seam.ema_before, seam.raw_before) == (0.5, 0.48)
    assert seam.ema_drop == pytest.approx(0.05)
    assert seam.raw_drop == pytest.approx(0.18)
    assert seam.back_after == 2
    assert seam.gain_per_100_epochs == 0.0


def test_each_seam_uses_only_its_own_epochs() -> None:
    plan = extended("rebase", "hold", "restart")
    first, second, third = seam_metrics(plan, history([0.1] * 3 + [0.2] * 5 + [0.3] * 4 + [0.4]))
    assert [seam.epoch for seam in (first, second, third)] == [4, 8, 12]
    assert [seam.mode for seam in (first, second, third)] == ["rebase", "hold", "restart"]
    assert [seam.epochs for seam in (first, second, third)] == [4, 4, 1]
    assert [seam.ema_before for seam in (first, second, third)] == [0.2, 0.2, 0.3]
    assert [seam.best for seam in (first, second, third)] == [0.2, 0.3, 0.4]


def test_seam_before_the_planned_end() -> None:
    plan = extend_plan(extended(), 2, Extension(4, "hold"))
    (seam,) = seam_metrics(plan, history([0.1, 0.2, 0.15]))
    assert (seam.epoch, seam.ema_before, seam.ema_lowest, seam.epochs) == (2, 0.2, 0.15, 1)


def test_to_dict() -> None:
    data = metrics_of_seam([0.4, 0.6]).to_dict()
    assert data["epoch"] == 4
    assert data["ratio"] == 1.0
    assert data["ema_drop"] == pytest.approx(0.1)
    assert data["raw_drop"] is None
    assert data["gain_per_100_epochs"] == pytest.approx(5.0)


def test_seam_where_classes_changed_compares_the_common_ones() -> None:
    rows = history([0.1, 0.2, 0.3, 0.5, 0.2, 0.3, 0.35, 0.36], {3: 0.4, 4: 0.2})
    common = [COMMON_PREFIX + EMA_MAP_COLUMN, COMMON_PREFIX + RAW_MAP_COLUMN]
    rows[3] |= {AT_SEAM_PREFIX + EMA_MAP_COLUMN: 0.25}  # over all classes
    rows[3] |= {AT_SEAM_PREFIX + common[0]: 0.48, AT_SEAM_PREFIX + common[1]: 0.47}
    for row, value in zip(rows[4:], [0.44, 0.47, 0.49, 0.5], strict=True):
        row[common[0]] = value
    rows[4][common[1]] = 0.41
    (seam,) = seam_metrics(extended("hold"), rows)
    assert seam.common
    assert (seam.ema_before, seam.ema_lowest, seam.best, seam.back_after) == (0.48, 0.44, 0.5, 3)
    assert (seam.raw_before, seam.raw_lowest) == (0.47, 0.41)
    del rows[3][AT_SEAM_PREFIX + common[0]]  # not validated at the seam, as with --noval
    (seam,) = seam_metrics(extended("hold"), rows)
    assert (seam.common, seam.ema_before, seam.ema_lowest) == (True, None, 0.44)
