import numpy as np
import pytest

from tests.paths import GOLDENS
from utils.evaluation.metrics import (
    ap_per_class,
    average_precision,
    count_confusion,
    fraction_inside,
    greedy_pairs,
    match_detections,
    smooth,
)
from utils.history import fitness

NONE = np.zeros(0, dtype=int)


def matched(iou: list[list[float]], labels: list[int], detections: list[int]) -> list[int]:
    """Return at how many of the ten thresholds each detection is a true positive."""
    tp = match_detections(np.array(iou), np.array(labels), np.array(detections))
    assert tp.shape == (len(detections), 10)
    return tp.sum(1).tolist()


def test_detection_is_a_true_positive_up_to_its_iou() -> None:
    # 0.5, 0.55, 0.6, 0.65, 0.7 are reached by 0.72; 0.95 by 0.96; 0.49 reaches none.
    assert matched([[0.72, 0, 0], [0, 0.96, 0], [0, 0, 0.49]], [0, 0, 0], [0, 0, 0]) == [5, 10, 0]


def test_class_must_match() -> None:
    assert matched([[0.9, 0.8]], [3], [2, 3]) == [0, 7]


def test_label_matches_only_the_most_confident_detection() -> None:
    # The second detection has a higher IoU and matches where the first is below the threshold:
    # at 0.65, 0.7, 0.75 and 0.8.
    assert matched([[0.62, 0.81]], [0], [0, 0]) == [3, 4]


def test_detection_matches_only_the_label_of_highest_iou() -> None:
    # Both detections have the highest IoU with the first label; the second label is missed.
    assert matched([[0.9, 0.8], [0.0, 0.7]], [0, 0], [0, 0]) == [9, 0]


def test_matching_without_labels_or_detections() -> None:
    assert (
        match_detections(np.zeros((0, 3)), NONE, np.array([0, 0, 0])).tolist() == [[False] * 10] * 3
    )
    assert match_detections(np.zeros((2, 0)), np.array([0, 0]), NONE).shape == (0, 10)


def test_matching_equals_a_loop_over_detections() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        iou = rng.random((6, 9))
        labels, detections = rng.integers(0, 2, 6), rng.integers(0, 2, 9)
        expected = np.zeros((9, 10), bool)
        for column, threshold in enumerate(np.linspace(0.5, 0.95, 10)):
            found = set()
            for row, overlaps in enumerate(iou.T * (detections[:, None] == labels)):
                best = overlaps.argmax()
                expected[row, column] = overlaps[best] >= threshold and best not in found
                found |= {best} if expected[row, column] else set()
        assert (match_detections(iou, labels, detections) == expected).all()


def test_metrics_equal_the_reference() -> None:
    golden = np.load(GOLDENS / "ap.npz")
    result = ap_per_class(golden["tp"], golden["conf"], golden["pred_cls"], golden["target_cls"])
    assert result.classes.tolist() == golden["out_cls"].tolist()
    np.testing.assert_allclose(result.ap, golden["out_ap"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.precision, golden["out_p"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.recall, golden["out_r"], rtol=0, atol=1e-9)
    best = smooth(result.curves.f1.mean(0)).argmax()
    np.testing.assert_allclose(result.curves.f1[:, best], golden["out_f1"], rtol=0, atol=1e-9)


def test_perfect_detections() -> None:
    # Class 4 has two labels, class 7 has one; all are detected and nothing else.
    result = ap_per_class(
        np.ones((3, 10), bool), np.array([0.9, 0.8, 0.7]), np.array([4, 7, 4]), np.array([4, 4, 7])
    )
    assert result.classes.tolist() == [4, 7]
    assert result.instances.tolist() == [2, 1]
    # The envelope falls from 1 to 0 between recall 1 and the sentinel: the last of 101 points is 1.
    assert result.ap == pytest.approx(np.full((2, 10), 0.995), abs=1e-9)
    assert result.precision.tolist() == [1, 1]
    assert result.recall.tolist() == [1, 1]


def test_undetected_class_has_zero_metrics() -> None:
    result = ap_per_class(np.ones((1, 10), bool), np.array([0.9]), np.array([0]), np.array([0, 1]))
    assert result.ap[1].tolist() == [0] * 10
    assert result.recall.tolist() == [1, 0]
    assert result.curves.names == ("0", "1")


def test_no_labels() -> None:
    result = ap_per_class(np.zeros((4, 10), bool), np.ones(4), np.array([0, 0, 0, 0]), NONE)
    assert result.ap.shape == (0, 10)
    assert result.precision.shape == (0,)
    assert result.curves.f1.shape == (0, 1000)


def test_curves_have_class_names() -> None:
    tp = np.ones((1, 10), bool)
    result = ap_per_class(tp, np.array([0.9]), np.array([2]), np.array([2]), ("a", "b", "c"))
    assert result.curves.names == ("c",)


def test_average_precision_is_the_area() -> None:
    # Precision is 1 up to recall 0.5, then falls linearly to 0 at recall 1.
    assert average_precision(np.array([0, 0.5, 1]), np.array([1, 1, 0])) == pytest.approx(0.75)


def test_smoothing_averages_a_tenth_of_the_curve() -> None:
    step = np.repeat([0.0, 101.0], 500)
    result = smooth(step)
    assert result.shape == (1000,)
    assert result[[0, 449, 450, 499, 500, 549, 550, 999]] == pytest.approx(
        [0, 0, 1, 50, 51, 100, 101, 101]
    )


def test_confusion_matrix() -> None:
    # Labels of classes 0, 1, 1. Detections: class 0 on the first label, class 0 on the second,
    # class 1 on no label, and one below the confidence threshold on the third, which is missed.
    counts = np.zeros((3, 3), np.int64)
    iou = np.array([[0.9, 0, 0, 0], [0, 0.6, 0.44, 0], [0, 0, 0, 0.9]])
    labels, detections = np.array([0, 1, 1]), np.array([0, 0, 1, 1])
    count_confusion(counts, iou, labels, detections, np.array([0.9, 0.5, 0.4, 0.25]))
    assert counts.tolist() == [
        [1, 1, 0],  # predicted 0
        [0, 0, 1],  # predicted 1
        [0, 1, 0],  # missed
    ]


def test_confusion_matrix_without_labels_or_detections() -> None:
    counts = np.zeros((2, 2), np.int64)
    count_confusion(counts, np.zeros((0, 2)), NONE, np.array([0, 0]), np.array([0.9, 0.9]))
    count_confusion(counts, np.zeros((3, 0)), np.array([0, 0, 0]), NONE, np.zeros(0))
    assert counts.tolist() == [[0, 2], [3, 0]]


def test_fitness_weighs_map50_95() -> None:
    assert fitness(1.0, 0.0) == pytest.approx(0.1)
    assert fitness(0.5, 0.3) == pytest.approx(0.32)


def test_fraction_inside_is_the_maximum_over_regions() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30], [5, 5, 5, 9]])
    regions = np.array([[0.0, 0, 5, 10], [4, 0, 10, 10]])
    assert fraction_inside(boxes, regions).tolist() == [0.6, 0, 0]
    assert fraction_inside(boxes, regions[:0]).tolist() == [0, 0, 0]


def test_greedy_pairs_follow_the_order_of_candidates() -> None:
    rows, columns = np.array([0, 1, 1, 0, 2, 2]), np.array([5, 5, 6, 7, 6, 9])
    assert greedy_pairs(rows, columns).tolist() == [True, False, True, False, False, True]
    assert greedy_pairs(rows[:0], columns[:0]).tolist() == []
