import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.utils.datasets.drawn import drawn_index
from utils.datasets.dataset import Batch, BatchRequest
from utils.datasets.eval_loader import build_eval_loader
from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.image_files import read_image
from utils.datasets.index import Index
from utils.datasets.loader import EpochSampler, TrainLoader, build_train_loader
from utils.datasets.packed_strings import PackedStrings
from utils.datasets.rect_batches import plan_batches
from utils.errors import UserError
from utils.hyp import Hyp

SIZES = [(64, 64), (48, 64), (64, 40), (50, 64), (30, 64), (64, 64), (64, 32), (64, 56), (32, 64)]
HYP = Hyp(degrees=5, mixup=0.3, flipud=0.2)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return drawn_index(tmp_path, SIZES)


def train_loader(index: Index, **changes: object) -> TrainLoader:
    options: dict[str, object] = {
        "image_size": 64,
        "batch_size": 4,
        "hyp": HYP,
        "seed": 0,
        "workers": 0,
        "cache": None,
        **changes,
    }
    return build_train_loader(index, **options)  # type: ignore[arg-type]


def equal(a: Iterable[Batch], b: Iterable[Batch]) -> bool:
    return all(
        torch.equal(x.images, y.images)
        and torch.equal(x.targets, y.targets)
        and torch.equal(x.ignored, y.ignored)
        and torch.equal(x.indices, y.indices)
        and x.frames == y.frames
        for x, y in zip(a, b, strict=True)
    )


def orders(batches: Iterable[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def test_epoch_has_every_image_once_and_a_smaller_last_batch(index: Index) -> None:
    loader = train_loader(index)
    assert len(loader) == 3
    batches = list(loader.batches(0))
    assert [len(batch.images) for batch in batches] == [4, 4, 1]
    assert sorted(np.concatenate(orders(batches)).tolist()) == list(range(9))
    for batch in batches:
        assert batch.images.shape[1:] == (3, 64, 64)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_order_depends_only_on_epoch_and_seed(index: Index) -> None:
    loader = train_loader(index)
    first, second = orders(loader.batches(0)), orders(loader.batches(1))
    assert first != second
    assert orders(loader.batches(0)) == first
    assert orders(train_loader(index, seed=1).batches(0)) != first


def test_workers_do_not_change_the_batches(index: Index) -> None:
    expected = [list(train_loader(index).batches(epoch)) for epoch in range(2)]
    for workers in (1, 2):
        loader = train_loader(index, workers=workers)
        for epoch in range(2):
            assert equal(loader.batches(epoch), expected[epoch])


def test_worker_batches_are_in_shared_memory_and_channels_last(index: Index) -> None:
    for loader in (
        train_loader(index, workers=1).batches(0),
        build_eval_loader(index, image_size=64, batch_size=4, workers=1),
    ):
        for batch in loader:
            assert batch.images.is_shared()
            assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_can_start_at_any_batch(index: Index, workers: int) -> None:
    loader = train_loader(index, batch_size=2, workers=workers)
    whole = list(loader.batches(3))
    for start in (0, 2, 4, 5):
        assert equal(loader.batches(3, start), whole[start:])


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_can_be_abandoned(index: Index, workers: int) -> None:
    loader = train_loader(index, batch_size=2, workers=workers)
    expected = list(train_loader(index, batch_size=2).batches(1))
    next(loader.batches(0))
    assert equal(loader.batches(1), expected)


def test_workers_persist_between_epochs(index: Index) -> None:
    loader = train_loader(index, workers=1)
    inner = loader._loader
    list(loader.batches(0))
    iterator = inner._iterator
    list(loader.batches(1))
    assert iterator is not None
    assert inner._iterator is iterator


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_caches_do_not_change_the_batches(index: Index, cache: str, workers: int) -> None:
    expected = list(train_loader(index).batches(0))
    assert equal(train_loader(index, cache=cache, workers=workers).batches(0), expected)


@pytest.mark.parametrize("rect", [False, True])
def test_batches_contain_ignore_regions(index: Index, rect: bool) -> None:
    index = replace(index, ignored=IgnoreRegions(index.boxes[:, 1:], index.offsets))
    hyp = Hyp(translate=0, scale=0)  # so that no box is dropped
    expected = list(train_loader(index, rect=rect, hyp=hyp).batches(0))
    for batch in expected:
        rows = batch.targets[:, [0, 2, 3, 4, 5]].tolist()
        assert [row for row in rows if row not in batch.ignored.tolist()] == []
    assert sum(len(batch.ignored) for batch in expected) >= len(index)
    for changes in ({"workers": 2}, {"cache": "ram"}, {"cache": "disk", "workers": 1}):
        loader = train_loader(index, rect=rect, hyp=hyp, **changes)
        assert equal(loader.batches(0), expected)
    for batch in build_eval_loader(index, image_size=64, batch_size=3, workers=0, rect=rect):
        assert torch.equal(batch.ignored, batch.targets[:, [0, 2, 3, 4, 5]])


def test_rectangular_training_shuffles_whole_batches(index: Index) -> None:
    hyp = Hyp(hsv_h=0, hsv_s=0, hsv_v=0, mosaic=1)
    loader = train_loader(index, rect=True, batch_size=3, hyp=hyp)
    groups = {tuple(batch.indices.tolist()): batch.images.shape for batch in loader.batches(0)}
    # height over width: 4, 8: 0.5; 1: 0.75; 3: 0.78; 0, 5: 1; 7: 1.14; 2: 1.6; 6: 2
    assert {tuple(sorted(group)): tuple(shape[2:]) for group, shape in groups.items()} == {
        (1, 4, 8): (64, 64),
        (0, 3, 5): (64, 64),
        (2, 6, 7): (64, 64),
    }
    assert {tuple(order) for order in orders(loader.batches(1))} == set(groups)
    epochs = [orders(loader.batches(epoch)) for epoch in range(4)]
    assert any(epoch != epochs[0] for epoch in epochs)


def test_rectangular_training_uses_no_mosaics(tmp_path: Path) -> None:
    index = drawn_index(tmp_path, [(32, 64)] * 2 + [(64, 32)] * 2)
    hyp = Hyp(hsv_h=0, hsv_s=0, hsv_v=0, scale=0, translate=0, fliplr=0, mosaic=1)
    for batch in train_loader(index, rect=True, batch_size=2, hyp=hyp).batches(0):
        assert tuple(batch.images.shape[2:]) in {(32, 64), (64, 32)}
        assert batch.targets[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_without_mosaic_is_that_of_a_run_without_mosaics(index: Index, workers: int) -> None:
    loader = train_loader(index, workers=workers)
    mosaics = list(loader.batches(1))
    plain = list(train_loader(index, hyp=replace(HYP, mosaic=0.0)).batches(1))
    assert equal(loader.batches(1, mosaic=False), plain)
    assert not equal(mosaics, plain)
    assert equal(loader.batches(1), mosaics)


def sampler_of(
    count: int, batch_size: int, neighbourhood: int, shard: slice = slice(None)
) -> EpochSampler:
    batches = plan_batches(np.ones((count, 2)), batch_size, 64, rect=False).batches
    return EpochSampler(batches, 0, False, neighbourhood, shard, epoch=2)


def requests(*arguments: Any, **changes: Any) -> list[BatchRequest]:
    return list(sampler_of(*arguments, **changes))


@pytest.mark.parametrize(("gpu", "niceness"), [(True, 0), (False, 5)])
def test_batches_are_pinned_for_a_gpu_and_workers_nice_for_a_cpu(
    index: Index, monkeypatch: pytest.MonkeyPatch, gpu: bool, niceness: int
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # the run may not use the GPU
    loader = train_loader(index, for_gpu=gpu)._loader
    assert isinstance(loader.worker_init_fn, partial)
    assert loader.worker_init_fn.keywords == {"niceness": niceness}
    assert loader.pin_memory == gpu
    evaluated = build_eval_loader(
        index, image_size=64, batch_size=4, workers=0, for_gpu=gpu
    )._loader
    assert evaluated.pin_memory == gpu


def test_largest_batch_of_a_process(index: Index) -> None:
    shard = slice(1, None, 2)
    assert train_loader(index, shard=shard).largest_batch == (2, 64, 64)
    loader = train_loader(index, batch_size=2, rect=True, stride=8)
    shapes = [tuple(batch.images.shape) for batch in loader.batches(0)]
    images, height, width = loader.largest_batch
    assert (images, 3, height, width) == max(shapes, key=math.prod)


def test_too_little_shared_memory_is_reported_before_the_workers_start(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = 4 * 64 * 64 * 3
    message = "free shared memory, but the loader workers need .* --shm-size or with --ipc=host"
    monkeypatch.setattr("utils.datasets.workers.processors", lambda: 4)
    # A worker prepares two batches, while one is in use.
    for free, workers, processes in ((3 * one, 1, 1), (5 * one, 2, 1), (6 * one, 2, 2)):
        monkeypatch.setattr("utils.datasets.batch_loader.free_disk", lambda _, free=free: free)
        train_loader(index, workers=workers, local_processes=processes)
        monkeypatch.setattr("utils.datasets.batch_loader.free_disk", lambda _, free=free: free - 1)
        with pytest.raises(UserError, match=message):
            train_loader(index, workers=workers, local_processes=processes)
        train_loader(index, workers=0)
    with pytest.raises(UserError, match=message):
        build_eval_loader(index, image_size=64, batch_size=8, workers=2, rect=False)


def test_neighbourhoods_divide_the_order_and_the_last_is_extended_backwards() -> None:
    found = requests(21, 2, 8)
    order = [i for request in found for i in request.indices]
    assert sorted(order) == list(range(21))
    expected = [order[:8]] * 4 + [order[8:16]] * 4 + [order[13:]] * 3
    assert [request.neighbours.tolist() for request in found] == expected
    for request in found:
        assert set(request.indices) <= set(request.neighbours.tolist())
        assert request.epoch == 2


def test_small_data_sets_have_one_neighbourhood() -> None:
    found = requests(5, 2, 8)
    order = [i for request in found for i in request.indices]
    assert [request.neighbours.tolist() for request in found] == [order] * 3
    assert [len(request.neighbours) for request in requests(5, 2, 0)] == [0, 0, 0]


def test_neighbourhoods_do_not_depend_on_shard_or_start() -> None:
    whole = [request.neighbours.tolist() for request in requests(21, 3, 9)]
    for shard in (slice(0, None, 2), slice(1, None, 2), slice(3, None, 4)):
        assert [r.neighbours.tolist() for r in requests(21, 3, 9, shard=shard)] == whole
    sampler = sampler_of(21, 3, 9)
    sampler.start = 4
    assert [request.neighbours.tolist() for request in sampler] == whole[4:]


@pytest.mark.parametrize(
    ("mosaic_batches", "batch_size", "expected"),
    [
        *((8, 1, 64), (8, 5, 65), (8, 16, 128), (8, 24, 192), (8, 64, 512)),
        *((None, 1, 64), (None, 16, 64), (None, 24, 72), (None, 64, 64), (None, 100, 100)),
    ],
)
def test_neighbourhood_is_a_multiple_of_the_batch_size(
    index: Index, mosaic_batches: int | None, batch_size: int, expected: int
) -> None:
    many = replace(index, **repeated(index, 600))
    loader = train_loader(many, batch_size=batch_size, mosaic_batches=mosaic_batches)
    assert {len(request.neighbours) for request in loader._sampler} == {expected}


def repeated(index: Index, count: int) -> dict[str, Any]:
    """Return index arrays that repeat the first image, which has one box."""
    return {
        "paths": PackedStrings.of([str(index.paths[0])] * count),
        "sizes": index.sizes[:1].repeat(count, axis=0),
        "boxes": index.boxes[:1].repeat(count, axis=0),
        "offsets": np.arange(count + 1),
    }


def test_each_image_is_decoded_once_per_epoch(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def decode(path: str) -> np.ndarray:
        decoded.append(path)
        return read_image(path)

    monkeypatch.setattr("utils.datasets.image_cache.read_image", decode)
    batches = list(train_loader(index, batch_size=2, hyp=Hyp(mosaic=1)).batches(0))
    assert len(batches) == 5
    assert len(decoded) == len(set(decoded)) <= 9


def test_copy_paste_logs_a_warning(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "yolo"):
        train_loader(index, hyp=Hyp(copy_paste=0.1))
    (message,) = caplog.messages
    assert message.startswith("copy_paste has no effect")


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_report_missing_images_as_user_errors(index: Index, workers: int) -> None:
    Path(str(index.paths[4])).unlink()
    for loader in (
        train_loader(index, workers=workers).batches(0),
        build_eval_loader(index, image_size=64, batch_size=4, workers=workers),
    ):
        with pytest.raises(UserError) as caught:
            list(loader)
        assert str(caught.value).startswith(f"{index.paths[4]} changed during the run (")
        assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("rect", [False, True])
@pytest.mark.parametrize("processes", [2, 3])
def test_shards_of_all_processes_form_the_whole_batches(
    index: Index, processes: int, rect: bool
) -> None:
    whole = orders(train_loader(index, rect=rect).batches(1))
    parts = [
        list(train_loader(index, rect=rect, shard=slice(rank, None, processes)).batches(1))
        for rank in range(processes)
    ]
    for number, order in enumerate(whole):
        batches = [shard[number] for shard in parts]
        assert [batch.indices.tolist() for batch in batches] == [
            order[rank::processes] for rank in range(processes)
        ]
        for batch in batches:  # placeholders have an image but no targets
            assert len(batch.images) == max(len(batch.indices), 1)
            assert len(batch.indices) or not len(batch.targets)
