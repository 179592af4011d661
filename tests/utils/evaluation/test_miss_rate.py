import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.paths import DATASETS, SHARED_GOLDENS, requires_shared
from utils.evaluation.citypersons_files import (
    PedestrianDetections,
    PedestrianGroundTruth,
    read_detections,
    read_ground_truth,
)
from utils.evaluation.miss_rate import SUBSETS, MissRate, Subset, miss_rates, percentages

Box = tuple[float, float, float, float]  # left, top, width, height
REASONABLE = SUBSETS[:1]


class Person(NamedTuple):
    box: Box
    visibility: float = 1.0
    ignore: bool = False


def truth_of(images: Sequence[Sequence[Person]]) -> PedestrianGroundTruth:
    people = [(i, person) for i, image in enumerate(images) for person in image]
    return PedestrianGroundTruth(
        path=Path("gt.json"),
        image_ids=np.arange(1, len(images) + 1),
        image_names=tuple(f"{i}.png" for i in range(len(images))),
        image=np.array([i for i, _ in people], int),
        boxes=np.array([person.box for _, person in people], float).reshape(-1, 4),
        height=np.array([person.box[3] for _, person in people], float),
        visibility=np.array([person.visibility for _, person in people], float),
        ignore=np.array([person.ignore for _, person in people], bool),
    )


def found_of(images: Sequence[Sequence[tuple[Box, float]]]) -> PedestrianDetections:
    found = [(i, box, score) for i, image in enumerate(images) for box, score in image]
    return PedestrianDetections(
        image=np.array([i for i, _, _ in found], int),
        boxes=np.array([box for _, box, _ in found], float).reshape(-1, 4),
        score=np.array([score for _, _, score in found], float),
    )


def evaluate(
    people: Sequence[Sequence[Person]], found: Sequence[Sequence[tuple[Box, float]]]
) -> MissRate:
    (rate,) = miss_rates(truth_of(people), found_of(found), REASONABLE)
    return rate


def corners(rate: MissRate) -> list[tuple[float, float]]:
    return list(zip(rate.fppi.tolist(), rate.missed.tolist(), strict=True))


TALL = (100.0, 100.0, 40.0, 100.0)
OTHER = (300.0, 100.0, 40.0, 100.0)
AWAY = (500.0, 100.0, 40.0, 100.0)


@requires_shared
def test_results_equal_the_benchmarks() -> None:
    golden = json.loads((SHARED_GOLDENS / "citypersons_mr_a.json").read_text())
    truth = read_ground_truth(DATASETS / "citypersons" / "val_gt.json")
    rates = miss_rates(truth, read_detections(SHARED_GOLDENS / golden["detections"], truth))
    found = percentages(rates)
    expected = golden["log_average_miss_rate_percent"]
    assert found.keys() == expected.keys()
    for subset, value in expected.items():
        assert found[subset] == pytest.approx(value, abs=0.005), subset
    assert [rate.pedestrians for rate in rates] == [1579, 351, 735, 2875]


def test_curve_and_log_average() -> None:
    people = [[Person(TALL), Person(OTHER)], [Person(TALL)], [], []]
    found = [[(TALL, 0.9), (OTHER, 0.3)], [(AWAY, 0.5)], [(AWAY, 0.2)], []]
    rate = evaluate(people, found)
    assert rate.pedestrians == 3
    assert rate.fppi.tolist() == [0, 0, 0.25, 0.5]
    assert rate.missed.tolist() == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])
    # Two of three are missed up to 0.1778 false positives per image, one from 0.3162 on.
    assert rate.log_average == pytest.approx((2 / 3) ** (6 / 9) * (1 / 3) ** (3 / 9))


def test_miss_rate_is_1_below_the_first_point_of_the_curve() -> None:
    # With two images, the first false positive is 0.5 per image.
    rate = evaluate([[Person(TALL), Person(OTHER)], []], [[(AWAY, 0.9), (TALL, 0.5)], []])
    assert corners(rate) == [(0, 1), (0.5, 0.5), (0.5, 0.5)]
    assert rate.log_average == pytest.approx(0.5 ** (2 / 9))


@pytest.mark.parametrize(("found", "expected"), [([[]], 1.0), ([[(TALL, 0.9)]], 0.0)])
def test_none_or_all_detected(found: list[list[tuple[Box, float]]], expected: float) -> None:
    assert evaluate([[Person(TALL)]], found).log_average == expected


def test_no_pedestrian_gives_no_miss_rate() -> None:
    rate = evaluate([[Person(TALL, ignore=True)]], [[(AWAY, 0.9)]])
    assert percentages([rate]) == {"Reasonable": None}
    assert corners(rate) == [(0, 1), (1, 1)]


SMALL_INSIDE = (110.0, 120.0, 20.0, 60.0)
HALF_OUTSIDE = (121.0, 100.0, 40.0, 100.0)


@pytest.mark.parametrize(
    ("box", "false_positives"),
    [
        (SMALL_INSIDE, 0),  # IoU 0.3, but entirely inside
        ((120.0, 100.0, 40.0, 100.0), 0),  # exactly half inside
        (HALF_OUTSIDE, 1),
    ],
)
@pytest.mark.parametrize("why", [{"ignore": True}, {"visibility": 0.64}])
def test_detection_in_an_ignored_box_is_ignored(
    box: Box, false_positives: int, why: dict[str, float]
) -> None:
    rate = evaluate([[Person(TALL, **why), Person(OTHER)]], [[(box, 0.9)]])  # type: ignore[arg-type]
    assert rate.pedestrians == 1
    assert rate.fppi[-1] == false_positives


def test_ignored_box_matches_any_number_of_detections() -> None:
    found = [[(TALL, 0.9), (SMALL_INSIDE, 0.8), (TALL, 0.7)]]
    assert evaluate([[Person(TALL, ignore=True), Person(OTHER)]], found).fppi[-1] == 0


def test_pedestrian_has_priority_over_ignored_box() -> None:
    people = [[Person(TALL, ignore=True), Person((110.0, 100.0, 40.0, 100.0))]]
    assert evaluate(people, [[(TALL, 0.9)]]).missed[-1] == 0


def test_pedestrian_matches_only_the_most_confident_detection() -> None:
    shifted = (104.0, 100.0, 40.0, 100.0)
    rate = evaluate([[Person(TALL)]], [[(TALL, 0.5), (shifted, 0.9)]])
    assert corners(rate) == [(0, 1), (0, 0), (1, 0)]


def test_detection_matches_the_best_unmatched_pedestrian() -> None:
    # Both have the highest IoU with the left one; the less confident one gets the right one.
    left, right = Person((100.0, 100.0, 40.0, 100.0)), Person((112.0, 100.0, 40.0, 100.0))
    found = [[((100.0, 100.0, 40.0, 100.0), 0.9), ((104.0, 100.0, 40.0, 100.0), 0.8)]]
    assert corners(evaluate([[left, right]], found)) == [(0, 1), (0, 0.5), (0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("height", "false_positives"), [(39.9, 0), (40.0, 1), (93.7, 1), (93.75, 0)]
)
def test_detections_outside_the_height_limits_are_ignored(
    height: float, false_positives: int
) -> None:
    small = Subset("small", (50, 75), (0, 1))
    found = found_of([[((0.0, 0.0, 20.0, height), 0.5)]])
    (rate,) = miss_rates(truth_of([[Person((100.0, 100.0, 20.0, 60.0))]]), found, [small])
    assert rate.fppi[-1] == false_positives


def test_subset_limits_are_inclusive() -> None:
    people = [[Person((0.0, 0.0, 30.0, 50.0), 0.65), Person((0.0, 0.0, 30.0, 75.0), 0.65)]]
    rates = miss_rates(truth_of(people), found_of([[]]))
    assert [rate.pedestrians for rate in rates] == [2, 2, 2, 2]


def test_only_the_1000_most_confident_detections_of_an_image_count() -> None:
    found = [[(AWAY, 0.5)] * 1000 + [(TALL, 0.4)], [(TALL, 0.4)]]
    rate = evaluate([[Person(TALL)], [Person(TALL)]], found)
    assert (rate.fppi[-1], rate.missed[-1]) == (500, 0.5)


def naive_curve(
    truth: PedestrianGroundTruth, found: PedestrianDetections, subset: Subset
) -> list[bool]:
    """Return in plain loops which counted detections are true positives, most confident first."""
    verdicts: list[bool] = []
    taken: set[int] = set()
    ignored = {
        i
        for i in range(len(truth.image))
        if truth.ignore[i]
        or not subset.heights[0] <= truth.height[i] <= subset.heights[1]
        or not subset.visibilities[0] <= truth.visibility[i] <= subset.visibilities[1]
    }
    for d in np.argsort(-found.score, kind="stable"):
        x, y, width, height = found.boxes[d]
        if not subset.heights[0] / 1.25 <= height < subset.heights[1] * 1.25:
            continue
        best, chosen, neutral = 0.5, -1, False
        for i in np.flatnonzero(truth.image == found.image[d]).tolist():
            a, b, c, e = truth.boxes[i]
            shared = max(min(x + width, a + c) - max(x, a), 0)
            shared *= max(min(y + height, b + e) - max(y, b), 0)
            if i in ignored:
                neutral |= shared >= 0.5 * width * height
            elif i not in taken and shared / (width * height + c * e - shared) >= best:
                best, chosen = shared / (width * height + c * e - shared), i
        if chosen >= 0 or not neutral:
            verdicts.append(chosen >= 0)
        taken.add(chosen)
    return verdicts


@pytest.mark.parametrize("seed", range(5))
def test_result_equals_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = [
        [
            Person((*rng.integers(0, 60, 2), *rng.integers(20, 90, 2)), rng.random(), bool(ignore))
            for ignore in rng.random(8) < 0.2
        ]
        for _ in range(5)
    ]
    truth = truth_of(people)
    of = rng.integers(0, 40, 200)
    boxes = truth.boxes[of] + rng.integers(-8, 9, (200, 4))
    found = PedestrianDetections(truth.image[of], boxes, rng.permutation(200) / 200)
    for subset, rate in zip(SUBSETS, miss_rates(truth, found), strict=True):
        verdicts = np.array(naive_curve(truth, found, subset))
        assert verdicts.any(), "no true positives; the test proves nothing"
        assert len(rate.fppi) == verdicts.sum() + 2
        assert rate.fppi[1:-1].tolist() == ((~verdicts).cumsum()[verdicts] / 5).tolist()
        assert rate.fppi[-1] == (~verdicts).sum() / 5
