import torch

from tests.utils.training.test_engine import toy_batch
from utils.datasets.prefetch import one_ahead, prefetched


def test_next_item_is_begun_before_one_is_yielded() -> None:
    for count in range(4):
        done: list[str] = []

        def begin(item: int, done: list[str] = done) -> int:
            done.append(f"begin {item}")
            return -item

        def finish(begun: int, done: list[str] = done) -> int:
            done.append(f"finish {-begun}")
            return -begun

        for item in one_ahead(range(count), begin, finish):
            done.append(f"use {item}")
        uses = [word for word in done if word.startswith("use")]
        assert uses == [f"use {item}" for item in range(count)]
        for item in range(1, count):
            assert done.index(f"begin {item}") < done.index(f"finish {item - 1}")
        for item in range(2, count):
            assert done.index(f"use {item - 2}") < done.index(f"begin {item}")


def test_batches_for_a_cpu_stay_as_they_are() -> None:
    batches = [toy_batch(), toy_batch()]
    found = list(prefetched(iter(batches), torch.device("cpu")))
    assert all(one is other for one, other in zip(found, batches, strict=True))
