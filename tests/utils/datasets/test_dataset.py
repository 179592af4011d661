from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.utils.datasets.drawn import augmentation, drawn_index
from utils.datasets.dataset import (
    Batch,
    BatchRequest,
    EvalDataset,
    Frame,
    LoadFailure,
    Sample,
    TrainDataset,
    make_batch,
)
from utils.datasets.ignore_regions import IgnoreRegions
from utils.datasets.image_cache import FileImages
from utils.datasets.index import Index
from utils.datasets.labels import to_pixels
from utils.datasets.letterbox import boxes_to_original
from utils.hyp import Hyp

SIDE = 96
SIZES = [(96, 96), (64, 96), (96, 48), (80, 96), (96, 72), (96, 60)]


def train_set(index: Index, hyp: Hyp, seed: int = 0) -> TrainDataset:
    images = FileImages(index, SIDE, cv2.INTER_LINEAR)
    return TrainDataset(index, images, np.full((len(index), 2), SIDE), seed, hyp)


def train_sample(dataset: TrainDataset, epoch: int, i: int) -> Sample:
    """Return the training sample of an image; all images are its neighbours."""
    out = np.zeros((SIDE, SIDE, 3), np.uint8)
    return dataset.sample(epoch, i, np.arange(len(dataset.index)), out)


def eval_sample(index: Index, shape: tuple[int, int]) -> Sample:
    """Return the evaluation sample of the first image."""
    dataset = EvalDataset(index, FileImages(index, SIDE, cv2.INTER_AREA), np.array([shape]))
    return dataset.sample(0, np.zeros((*shape, 3), np.uint8))


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return drawn_index(tmp_path, SIZES)


def white_boxes(image: np.ndarray) -> np.ndarray:
    """Return the corners [k, 4] of the connected white regions."""
    white = (image.min(axis=2) > 160).astype(np.uint8)
    stats = cv2.connectedComponentsWithStats(white)[2][1:, :4].astype(float)
    stats[:, 2:] += stats[:, :2]
    return stats


def labelled_boxes(sample: Sample) -> np.ndarray:
    return to_pixels(sample.labels, sample.image.shape[:2])


def assert_boxes_are_on_rectangles(sample: Sample, tolerance: float) -> None:
    """Check that labels and white rectangles match; rectangles at the border may have no label."""
    height, width = sample.image.shape[:2]
    labelled, white = labelled_boxes(sample), white_boxes(sample.image)
    for box in labelled:
        assert np.abs(white - box).max(axis=1).min() <= tolerance, (box, white)
    for box in white:
        inside = box[:2].min() > 0 and box[2] < width and box[3] < height
        if inside and (box[2:] - box[:2]).min() > 4:
            assert np.abs(labelled - box).max(axis=1).min() <= tolerance, (box, labelled)


def test_samples_without_augmentation_are_letterboxed(index: Index) -> None:
    sample = train_sample(train_set(index, augmentation()), 0, 1)
    # 64 x 96 in a square of 96: 16 rows above; the rectangle is drawn at (12, 17, 71, 48)
    assert sample.image.shape == (96, 96, 3)
    assert sample.labels[:, 0].tolist() == [1]
    np.testing.assert_allclose(labelled_boxes(sample), [[12, 33, 71, 64]], atol=1e-4)
    assert white_boxes(sample.image).tolist() == [[12, 33, 71, 64]]
    assert sample.frame == Frame(str(index.paths[1]), (64, 96), (1.0, 1.0), (0.0, 0.0))


def test_mosaics_without_a_warp_are_exact(index: Index) -> None:
    dataset = train_set(index, augmentation(mosaic=1))
    found = 0
    for epoch in range(5):
        for i in range(len(index)):
            sample = train_sample(dataset, epoch, i)
            found += len(sample.labels)
            assert_boxes_are_on_rectangles(sample, 1e-4)
    assert found > 60


@pytest.mark.parametrize(
    "hyp",
    [
        augmentation(translate=0.2),
        augmentation(scale=0.5, mosaic=1),
        augmentation(degrees=30, mosaic=1),
        augmentation(shear=15, mosaic=0.5, flipud=0.5),
        augmentation(perspective=0.0007, mosaic=0.5, fliplr=0.5),
    ],
)
def test_augmented_boxes_match_their_pixels(index: Index, hyp: Hyp) -> None:
    dataset = train_set(index, hyp)
    found = 0
    for i in range(len(index)):
        for epoch in range(4):
            sample = train_sample(dataset, epoch, i)
            found += len(sample.labels)
            whole = [
                box
                for box in labelled_boxes(sample)
                if box.min() > 0.5 and box.max() < SIDE - 0.5  # the others were clipped
            ]
            white = white_boxes(sample.image)
            for box in whole:
                assert np.abs(white - box).max(axis=1).min() <= 2, (box, white)
    assert found > 15


def test_labels_stay_in_the_image(index: Index) -> None:
    dataset = train_set(index, augmentation(degrees=20, translate=0.3, scale=0.9, mosaic=0.7))
    for epoch in range(10):
        sample = train_sample(dataset, epoch, 0)
        boxes = labelled_boxes(sample)
        assert sample.labels.dtype == np.float32
        assert boxes.min(initial=0) >= -1e-4
        assert boxes.max(initial=0) <= SIDE + 1e-4


def test_mixup_has_the_labels_of_both_images(index: Index) -> None:
    alone = train_sample(train_set(index, augmentation(mosaic=1)), 0, 2)
    mixed = train_sample(train_set(index, augmentation(mosaic=1, mixup=1)), 0, 2)
    assert mixed.labels[: len(alone.labels)].tolist() == alone.labels.tolist()
    assert len(mixed.labels) > len(alone.labels)


def test_samples_depend_only_on_seed_epoch_and_index(index: Index) -> None:
    hyp = augmentation(translate=0.1, scale=0.5, hsv_h=0.1, hsv_s=0.5, hsv_v=0.5, mosaic=1)
    first, again = train_set(index, hyp), train_set(index, hyp)
    train_sample(again, 3, 4)  # earlier requests do not matter
    one, other = train_sample(first, 1, 2), train_sample(again, 1, 2)
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.labels, other.labels)
    different = train_set(index, hyp, seed=1)
    for dataset, epoch, i in ((first, 2, 2), (first, 1, 3), (different, 1, 2)):
        assert not np.array_equal(one.image, train_sample(dataset, epoch, i).image)


def test_mosaics_sample_from_neighbours(tmp_path: Path) -> None:
    index = drawn_index(tmp_path, [(96, 96)] * 6)  # classes 0, 1, 2, 0, 1, 2
    dataset = train_set(index, augmentation(mosaic=1, mixup=0.5))
    for neighbours, classes in (([1, 4], {1}), ([1, 3, 4], {0, 1}), ([4, 5], {1, 2})):
        labels = [
            dataset.sample(
                epoch, 4, np.array(neighbours), np.zeros((SIDE, SIDE, 3), np.uint8)
            ).labels
            for epoch in range(8)
        ]
        assert set(np.concatenate(labels)[:, 0].tolist()) == classes


def with_regions(index: Index) -> Index:
    """Add an ignore region at the position of every box."""
    return replace(index, ignored=IgnoreRegions(index.boxes[:, 1:], index.offsets))


@pytest.mark.parametrize(
    "hyp",
    [
        augmentation(),
        augmentation(mosaic=1),
        augmentation(mosaic=1, mixup=1, flipud=0.5, fliplr=0.5),
        augmentation(translate=0.4, scale=0.9, flipud=0.5, fliplr=0.5),
        augmentation(degrees=40, shear=15, perspective=0.0007, scale=0.5, mosaic=0.5),
    ],
)
def test_ignore_regions_are_transformed_like_boxes(index: Index, hyp: Hyp) -> None:
    plain, marked = train_set(index, hyp), train_set(with_regions(index), hyp)
    found = 0
    for i in range(len(index)):
        for epoch in range(6):
            without, sample = (train_sample(dataset, epoch, i) for dataset in (plain, marked))
            assert np.array_equal(sample.image, without.image)
            assert np.array_equal(sample.labels, without.labels)
            assert without.ignored.shape == (0, 4)
            assert sample.ignored.dtype == np.float32
            # Regions are kept where boxes are dropped as hardly visible.
            regions = sample.ignored.tolist()
            assert [row for row in sample.labels[:, 1:].tolist() if row not in regions] == []
            assert (sample.ignored[:, 2:] > 0).all()
            found += len(sample.labels)
    assert found > 20


def test_ignore_regions_of_eval_samples(tmp_path: Path) -> None:
    index = with_regions(drawn_index(tmp_path, [(192, 144)]))
    sample = eval_sample(index, (128, 96))
    assert sample.labels.shape == (1, 5)
    assert np.array_equal(sample.ignored, sample.labels[:, 1:])


def test_eval_boxes_map_back_to_the_original(tmp_path: Path) -> None:
    index = drawn_index(tmp_path, [(192, 144)])
    sample = eval_sample(index, (128, 96))
    assert sample.image.shape == (128, 96, 3)
    assert sample.frame == Frame(str(index.paths[0]), (192, 144), (0.5, 0.5), (12.0, 16.0))
    back = boxes_to_original(
        labelled_boxes(sample),
        ratio=sample.frame.ratio,
        pad=sample.frame.pad,
        original=sample.frame.original,
    )
    # drawn_index draws at width / 8, height / 4, 3/4 of the width and of the height
    np.testing.assert_allclose(back, [[18, 48, 108, 144]], atol=1e-3)
    assert white_boxes(sample.image).tolist() == [[12 + 9, 16 + 24, 12 + 54, 16 + 72]]


def test_eval_samples_are_not_scaled_up_beyond_the_side(tmp_path: Path) -> None:
    index = drawn_index(tmp_path, [(48, 48)])
    sample = eval_sample(index, (128, 128))
    assert sample.frame.ratio == (
        2.0,
        2.0,
    )  # scaled from 48 to the side of 96, not to the shape of 128
    assert sample.frame.pad == (16.0, 16.0)


def test_make_batch() -> None:
    frame = Frame("x", (2, 4), (1.0, 1.0), (0.0, 0.0))
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    labels = np.array([[5, 0.5, 0.5, 0.1, 0.2], [6, 0.4, 0.4, 0.3, 0.3]], np.float32)

    def sample(i: int, out: np.ndarray) -> Sample:
        out[:] = pixels if i == 7 else pixels[:, ::-1]
        if i == 7:
            return Sample(out, np.empty((0, 5), np.float32), labels[:1, 1:], frame)
        return Sample(out, labels, labels[:, 1:], frame)

    batch = make_batch([7, 9], (2, 4), sample)
    assert isinstance(batch, Batch)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert not batch.images.is_shared()
    assert batch.images.shape == (2, 3, 2, 4)
    assert batch.images[0].tolist() == pixels.transpose(2, 0, 1).tolist()
    assert batch.images[1].tolist() == pixels[:, ::-1].transpose(2, 0, 1).tolist()
    assert batch.targets.dtype == torch.float32
    assert batch.targets[:, :2].tolist() == [[1, 5], [1, 6]]
    assert torch.equal(batch.targets[:, 2:], torch.from_numpy(labels[:, 1:]))
    assert batch.ignored.dtype == torch.float32
    assert batch.ignored[:, 0].tolist() == [0, 1, 1]
    assert torch.equal(batch.ignored[:, 1:], torch.from_numpy(labels[[0, 0, 1], 1:]))
    assert batch.indices.tolist() == [7, 9]
    assert batch.indices.dtype == torch.int64
    assert batch.frames == (frame, frame)


def test_batch_without_boxes_has_empty_targets() -> None:
    none = np.empty((0, 5), np.float32)
    frame = Frame("x", (2, 4), (1.0, 1.0), (0.0, 0.0))
    batch = make_batch([0], (2, 4), lambda _, out: Sample(out, none, none[:, 1:], frame))
    assert isinstance(batch, Batch)
    assert batch.targets.shape == (0, 6)
    assert batch.ignored.shape == (0, 5)


def test_changed_image_returns_a_load_failure(index: Index) -> None:
    path = Path(str(index.paths[0]))
    cv2.imwrite(str(path), np.zeros((50, 50, 3), np.uint8))
    failure = train_set(index, augmentation())[BatchRequest(0, [1, 0], np.empty(0, np.int64))]
    assert failure == LoadFailure(
        f"{path} changed during the run (its size is different); restore the file and restart."
    )
