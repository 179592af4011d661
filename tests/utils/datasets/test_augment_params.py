import numpy as np

from tests.utils.datasets.drawn import augmentation
from utils.datasets.affine import Warp
from utils.datasets.augment_params import AugmentParams, sample_augment_params
from utils.hyp import Hyp

FULL = augmentation(
    degrees=10,
    translate=0.1,
    scale=0.5,
    shear=5,
    perspective=0.001,
    hsv_h=0.015,
    hsv_s=0.7,
    hsv_v=0.4,
    flipud=0.5,
    fliplr=0.5,
    mosaic=1,
    mixup=1,
)

NEIGHBOURS = np.array([3, 11, 12, 20, 30, 31, 40, 41, 42, 50])


def sampled(hyp: Hyp, epochs: int = 200) -> list[AugmentParams]:
    return [
        sample_augment_params(
            np.random.default_rng(np.random.SeedSequence([0, epoch, 3])),
            hyp,
            index=3,
            neighbours=NEIGHBOURS,
            side=64,
        )
        for epoch in range(epochs)
    ]


def test_empty_ranges_give_no_augmentation() -> None:
    for sample in sampled(augmentation(), 20):
        (mosaic,) = sample.mosaics
        assert mosaic.tiles == (3,)
        assert mosaic.warp == Warp()
        assert sample.colour_gains == (1, 1, 1)
        assert not sample.flip_up_down
        assert not sample.flip_left_right


def test_mosaic_contains_its_image_in_any_tile_and_any_neighbours() -> None:
    mosaics = [sample.mosaics[0] for sample in sampled(FULL)]
    assert all(len(mosaic.tiles) == 4 and 3 in mosaic.tiles for mosaic in mosaics)
    assert {mosaic.tiles.index(3) for mosaic in mosaics} == {0, 1, 2, 3}
    assert {tile for mosaic in mosaics for tile in mosaic.tiles} == set(NEIGHBOURS.tolist())


def test_mixup_uses_the_mosaic_of_any_neighbour() -> None:
    seconds = [sample.mosaics[1].tiles for sample in sampled(FULL)]
    assert {tile for tiles in seconds for tile in tiles} == set(NEIGHBOURS.tolist())
    assert sum(3 in tiles for tiles in seconds) < 100  # it is not the mosaic of the image itself


def test_centre_is_uniform_in_the_central_half_of_the_canvas() -> None:
    centres = np.array([sample.mosaics[0].centre for sample in sampled(FULL, 2000)])
    assert centres.min(axis=0).tolist() == [32, 32]
    assert centres.max(axis=0).tolist() == [96, 96]
    np.testing.assert_allclose(centres.mean(axis=0), 64, atol=1.5)


def test_samples_fill_their_ranges() -> None:
    samples = sampled(FULL, 1000)
    warps = [mosaic.warp for sample in samples for mosaic in sample.mosaics]
    gains = np.array([sample.colour_gains for sample in samples])
    for values, middle, reach in (
        ([warp.angle for warp in warps], 0, 10),
        ([warp.scale for warp in warps], 1, 0.5),
        ([angle for warp in warps for angle in warp.shear], 0, 5),
        ([tilt for warp in warps for tilt in warp.perspective], 0, 0.001),
        ([place for warp in warps for place in warp.centre], 0.5, 0.1),
        (gains[:, 0], 1, 0.015),
        (gains[:, 1], 1, 0.7),
        (gains[:, 2], 1, 0.4),
    ):
        low, high = np.min(values), np.max(values)
        assert middle - reach <= low < middle - 0.95 * reach
        assert middle + 0.95 * reach < high <= middle + reach


def test_probabilities() -> None:
    quarter = augmentation(mosaic=0.25, mixup=0.5, flipud=0.75, fliplr=0.1)
    samples = sampled(quarter, 2000)
    mosaics = [sample for sample in samples if len(sample.mosaics[0].tiles) == 4]
    assert abs(len(mosaics) / 2000 - 0.25) < 0.03
    assert abs(sum(len(sample.mosaics) == 2 for sample in mosaics) / len(mosaics) - 0.5) < 0.07
    assert abs(np.mean([sample.flip_up_down for sample in samples]) - 0.75) < 0.03
    assert abs(np.mean([sample.flip_left_right for sample in samples]) - 0.1) < 0.03
    assert all(len(sample.mosaics) == 1 for sample in samples if sample not in mosaics)


def test_mixup_weights_are_near_one_half() -> None:
    weights = [sample.blend for sample in sampled(FULL, 1000)]
    # the variance of Beta(32, 32) is 1 / (4 * 65)
    assert abs(np.mean(weights) - 0.5) < 0.01
    assert abs(np.std(weights) - 0.062) < 0.005


def test_scale_has_a_minimum() -> None:
    wide = augmentation(scale=3)
    assert min(sample.mosaics[0].warp.scale for sample in sampled(wide)) == 0.05
