import numpy as np

from utils.datasets.affine import Warp
from utils.datasets.augment_params import AugmentParams, AugmentRanges, sample_augment_params

FULL = AugmentRanges(
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


def drawn(ranges: AugmentRanges, epochs: int = 200) -> list[AugmentParams]:
    return [
        sample_augment_params(
            np.random.default_rng(np.random.SeedSequence([0, epoch, 3])),
            ranges,
            index=3,
            neighbours=NEIGHBOURS,
            side=64,
        )
        for epoch in range(epochs)
    ]


def test_nothing_is_drawn_where_nothing_may_vary() -> None:
    for draw in drawn(AugmentRanges(), 20):
        (mosaic,) = draw.mosaics
        assert mosaic.tiles == (3,)
        assert mosaic.warp == Warp()
        assert draw.colour_gains == (1, 1, 1)
        assert not draw.flip_up_down
        assert not draw.flip_left_right


def test_a_mosaic_holds_its_image_at_any_place_and_any_neighbours() -> None:
    mosaics = [draw.mosaics[0] for draw in drawn(FULL)]
    assert all(len(mosaic.tiles) == 4 and 3 in mosaic.tiles for mosaic in mosaics)
    assert {mosaic.tiles.index(3) for mosaic in mosaics} == {0, 1, 2, 3}
    assert {tile for mosaic in mosaics for tile in mosaic.tiles} == set(NEIGHBOURS.tolist())


def test_mixup_is_with_the_mosaic_of_any_neighbour() -> None:
    seconds = [draw.mosaics[1].tiles for draw in drawn(FULL)]
    assert {tile for tiles in seconds for tile in tiles} == set(NEIGHBOURS.tolist())
    assert sum(3 in tiles for tiles in seconds) < 100  # it is not the image's own


def test_the_centre_is_uniform_in_the_middle_half_of_the_canvas() -> None:
    centres = np.array([draw.mosaics[0].centre for draw in drawn(FULL, 2000)])
    assert centres.min(axis=0).tolist() == [32, 32]
    assert centres.max(axis=0).tolist() == [96, 96]
    np.testing.assert_allclose(centres.mean(axis=0), 64, atol=1.5)


def test_draws_fill_their_ranges_and_no_more() -> None:
    draws = drawn(FULL, 1000)
    warps = [mosaic.warp for draw in draws for mosaic in draw.mosaics]
    gains = np.array([draw.colour_gains for draw in draws])
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


def test_probabilities_are_kept() -> None:
    quarter = AugmentRanges(mosaic=0.25, mixup=0.5, flipud=0.75, fliplr=0.1)
    draws = drawn(quarter, 2000)
    mosaics = [draw for draw in draws if len(draw.mosaics[0].tiles) == 4]
    assert abs(len(mosaics) / 2000 - 0.25) < 0.03
    assert abs(sum(len(draw.mosaics) == 2 for draw in mosaics) / len(mosaics) - 0.5) < 0.07
    assert abs(np.mean([draw.flip_up_down for draw in draws]) - 0.75) < 0.03
    assert abs(np.mean([draw.flip_left_right for draw in draws]) - 0.1) < 0.03
    assert all(len(draw.mosaics) == 1 for draw in draws if draw not in mosaics)


def test_blends_are_near_halves() -> None:
    weights = [draw.blend for draw in drawn(FULL, 1000)]
    # the variance of Beta(32, 32) is 1 / (4 * 65)
    assert abs(np.mean(weights) - 0.5) < 0.01
    assert abs(np.std(weights) - 0.062) < 0.005


def test_a_scale_of_one_and_more_leaves_something_to_see() -> None:
    wide = AugmentRanges(scale=3)
    assert min(draw.mosaics[0].warp.scale for draw in drawn(wide)) == 0.05
