import numpy as np
import pytest

from utils.datasets.rect_batches import plan_batches


def test_square_batches_keep_the_order_and_a_smaller_last_batch() -> None:
    plan = plan_batches(np.full((5, 2), 9), 2, 64, rect=False)
    assert [batch.tolist() for batch in plan.batches] == [[0, 1], [2, 3], [4]]
    assert plan.shapes.tolist() == [[64, 64]] * 5


def test_images_are_sorted_by_aspect_ratio() -> None:
    sizes = np.array([[100, 50], [50, 100], [80, 80], [60, 100], [100, 60], [70, 80]])
    plan = plan_batches(sizes, 2, 64, rect=True, stride=16)
    assert [batch.tolist() for batch in plan.batches] == [[1, 3], [5, 2], [4, 0]]
    # aspects 0.5 and 0.6: 0.6 * 4 strides high; 0.875 and 1: square; 1.67 and 2: 0.6 * 4 wide
    high, wide, square = [64, 48], [48, 64], [64, 64]
    assert plan.shapes.tolist() == [high, wide, square, wide, high, square]


@pytest.mark.parametrize(
    ("sizes", "pad", "shape"),
    [
        ([(320, 640), (480, 640)], 0.0, [480, 640]),  # wide images: the highest decides
        ([(320, 640), (481, 640)], 0.0, [512, 640]),
        ([(320, 640), (480, 640)], 0.5, [512, 672]),
        ([(640, 320), (640, 480)], 0.0, [640, 480]),  # high images: the widest decides
        ([(640, 320), (640, 480)], 0.5, [672, 512]),
        ([(480, 640), (640, 480)], 0.0, [640, 640]),  # both kinds
        ([(480, 640), (640, 640)], 0.5, [672, 672]),
    ],
)
def test_smallest_shape_that_fits(
    sizes: list[tuple[int, int]], pad: float, shape: list[int]
) -> None:
    plan = plan_batches(np.array(sizes), 2, 640, rect=True, pad=pad)
    assert plan.shapes.tolist() == [shape, shape]


def test_every_image_is_in_exactly_one_batch() -> None:
    sizes = np.array([[480, 640]] * 30 + [[640, 480]] * 7)
    plan = plan_batches(sizes, 8, 320, rect=True, stride=64, pad=0.5)
    assert sorted(np.concatenate(plan.batches).tolist()) == list(range(37))
    assert [len(batch) for batch in plan.batches] == [8, 8, 8, 8, 5]
    assert (plan.shapes % 64 == 0).all()
