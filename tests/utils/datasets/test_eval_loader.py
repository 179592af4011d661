from pathlib import Path

import numpy as np
import pytest

from tests.paths import SHARED, requires_shared
from tests.utils.datasets.drawn import drawn_index
from tests.utils.datasets.test_loader import SIZES, equal, orders
from utils.datasets.eval_loader import build_eval_loader
from utils.datasets.index import Index, build_index


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return drawn_index(tmp_path, SIZES)


def test_evaluation_has_every_image_once_sorted_by_aspect_ratio(index: Index) -> None:
    loader = build_eval_loader(index, image_size=64, batch_size=3, workers=0, stride=16)
    assert len(loader) == 3
    batches = list(loader)
    aspects = [index.sizes[i, 0] / index.sizes[i, 1] for i in np.concatenate(orders(batches))]
    assert aspects == sorted(aspects)
    assert sorted(np.concatenate(orders(batches)).tolist()) == list(range(9))
    # half a stride is added to 0.75, 1 and 1 / 1.14 times 4 strides before rounding up
    assert [tuple(batch.images.shape[2:]) for batch in batches] == [(64, 80), (80, 80), (80, 64)]
    assert equal(
        build_eval_loader(index, image_size=64, batch_size=3, workers=2, stride=16), batches
    )


def test_evaluation_in_squares(index: Index) -> None:
    loader = build_eval_loader(index, image_size=64, batch_size=4, workers=0, rect=False)
    batches = list(loader)
    assert orders(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert all(batch.images.shape[2:] == (64, 64) for batch in batches)


@requires_shared
def test_rectangular_batches_of_coco128() -> None:
    index = build_index([SHARED / "datasets" / "coco128" / "images"], ["name"] * 80)
    loader = build_eval_loader(index, image_size=160, batch_size=32, workers=0)
    batches = list(loader)
    assert sum(len(batch.targets) for batch in batches) == 929
    assert [tuple(batch.images.shape[2:]) for batch in batches] == [
        (128, 192),
        (160, 192),
        (192, 192),
        (192, 192),
    ]


@pytest.mark.parametrize(
    ("every", "expected"), [(1, [[0, 1, 2, 3], [4, 5, 6, 7], [8]]), (4, [[0, 4, 8]])]
)
def test_squares_are_in_index_order(index: Index, every: int, expected: list[list[int]]) -> None:
    loader = build_eval_loader(
        index, image_size=32, batch_size=4, workers=0, rect=False, every=every
    )
    batches = list(loader)
    assert orders(batches) == expected
    assert {tuple(batch.images.shape[1:]) for batch in batches} == {(3, 32, 32)}


@pytest.mark.parametrize("workers", [0, 1])
def test_shares_have_the_parts_of_all_batches(index: Index, workers: int) -> None:
    loader = build_eval_loader(index, image_size=64, batch_size=4, workers=workers, stride=16)
    batches = list(loader)
    seen = []

    def two(height: int, width: int) -> int:
        seen.append((height, width))
        return 2

    shares = [loader.share(rank, 2, two) for rank in range(2)]
    assert seen[:3] == [tuple(batch.images.shape[2:]) for batch in batches]
    assert [list(share.batch_of) for share in shares] == [[0, 0, 1, 1, 2]] * 2
    assert [len(share) for share in shares] == [3, 2]
    first, second = map(list, shares)
    parts = [first[0], second[0], first[1], second[1], first[2]]
    assert orders(parts) == [
        order[i : i + 2] for order in orders(batches) for i in range(0, len(order), 2)
    ]
    assert [part.images.shape[2:] for part in parts] == [
        batches[n].images.shape[2:] for n in (0, 0, 1, 1, 2)
    ]
    assert equal(loader, batches)  # whole batches again
