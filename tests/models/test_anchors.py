import numpy as np
import pytest

from models.anchors import best_possible_recall, fit_anchors
from utils.errors import UserError


def test_recall_counts_boxes_with_a_fitting_anchor() -> None:
    anchors = np.array([[10.0, 10.0], [20.0, 20.0]])
    sizes = np.array(
        [
            [10.0, 10.0],  # both anchors fit
            [39.0, 10.0],  # both: the width is 3.9 times the first's
            [79.0, 79.0],  # only the second fits
            [10.0, 90.0],  # none fits: the height is 4.5 times the second's
        ]
    )
    fit = best_possible_recall(sizes, anchors, ratio_limit=4.0)
    assert fit.recall == 0.75
    assert fit.anchors_per_target == 1.25


def test_ratio_limit_applies_to_smaller_boxes() -> None:
    fit = best_possible_recall(np.array([[3.0, 3.0], [2.0, 2.0]]), np.array([[10.0, 10.0]]), 4.0)
    assert fit.recall == 0.5


def test_no_anchor_fits_a_box_of_zero_area() -> None:
    assert best_possible_recall(np.array([[0.0, 8.0]]), np.array([[8.0, 8.0]]), 4.0).recall == 0


def clusters() -> np.ndarray:
    """Return 30 sizes near each of three sizes, with a deviation of up to two percent."""
    rng = np.random.default_rng(5)
    centres = np.repeat([[200.0, 100.0], [10.0, 20.0], [50.0, 50.0]], 30, axis=0)
    return centres * rng.uniform(0.98, 1.02, centres.shape)


@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_found_and_sorted_by_area(seed: int) -> None:
    anchors = fit_anchors(clusters(), 3, 4.0, seed)
    np.testing.assert_allclose(anchors, [[10, 20], [50, 50], [200, 100]], rtol=0.02)


def test_result_is_deterministic() -> None:
    first = fit_anchors(clusters(), 4, 4.0, seed=0, generations=50)
    np.testing.assert_array_equal(fit_anchors(clusters(), 4, 4.0, seed=0, generations=50), first)
    assert not np.array_equal(fit_anchors(clusters(), 4, 4.0, seed=1, generations=50), first)


def test_refinement_improves_the_fit() -> None:
    sizes = np.exp(np.random.default_rng(6).uniform(np.log(3), np.log(500), (200, 2)))
    plain = best_possible_recall(sizes, fit_anchors(sizes, 4, 3.0, 0, generations=0), 3.0)
    refined = best_possible_recall(sizes, fit_anchors(sizes, 4, 3.0, 0, generations=500), 3.0)
    assert refined.recall > plain.recall


def test_boxes_below_two_pixels_are_not_used() -> None:
    sizes = np.concatenate((clusters(), np.full((500, 2), 1.9)))
    assert fit_anchors(sizes, 3, 4.0, seed=0).min() > 9


def test_equal_boxes_give_equal_anchors() -> None:
    anchors = fit_anchors(np.full((9, 2), 30.0), 2, 4.0, seed=0, generations=20)
    np.testing.assert_allclose(anchors, 30.0)


def test_large_data_set_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.anchors.MAX_SAMPLE", 45)
    anchors = fit_anchors(clusters(), 3, 4.0, seed=0)
    np.testing.assert_allclose(anchors, [[10, 20], [50, 50], [200, 100]], rtol=0.02)


def test_too_few_boxes_are_refused() -> None:
    with pytest.raises(UserError, match="cannot fit 9 anchors to 3 boxes"):
        fit_anchors(np.full((3, 2), 30.0), 9, 4.0, seed=0)
