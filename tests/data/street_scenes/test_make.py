import hashlib
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.street_scenes import make as synthetic
from data.street_scenes.camera import FOCAL, OVERSAMPLING, Camera, Surface, Weather
from data.street_scenes.cars import HATCHBACK, HEADLIGHT, SALOON, TAILLIGHT, VAN, paint_car
from data.street_scenes.make import SEED, label_text, make_streets
from data.street_scenes.pedestrians import paint_pedestrian
from data.street_scenes.rng import Rng
from data.street_scenes.roadside import SIGNS, paint_sign
from data.street_scenes.scene import Label, Painting, paint_items, paint_scene
from data.street_scenes.street import CAR, PEDESTRIAN, SIGN, Item
from utils.errors import UserError

WHITE = (255, 255, 255)
CLEAR = Weather((256, 256, 256), WHITE, WHITE, visibility=1e12)


def camera() -> Camera:
    """A camera in the middle, 2.5 m above the ground; the horizon is row 90."""
    return Camera(CLEAR, centre=160.0, horizon=90.0, height=2.5)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "SPLITS", {"train": 2, "val": 1})


def digest(painting: Painting) -> str:
    content = painting.image.tobytes() + label_text(painting).encode()
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ((SEED, 0, 0), "5abb18dd94aa3500"),  # evening
        ((SEED, 0, 2), "6b50926da8878184"),  # day, street across
        ((SEED, 0, 3), "258f5e84f4581b73"),  # overcast
        ((SEED, 0, 23), "5caecb56b43b1dff"),  # night, across
        ((SEED, 0, 35), "bf513dff58c691ad"),  # dusk
        ((SEED, 0, 53), "25dd20f46aab6fa0"),  # fog, across
        ((SEED, 1, 47), "3f2b02f5b9e23f1c"),  # the last of val
    ],
)
def test_pixels_are_the_same_on_every_machine(key: tuple[int, ...], expected: str) -> None:
    """Results on this data set are compared, so its pixels must never change."""
    assert digest(paint_scene(*key)) == expected


AWAY, LEFT, NEAR, RIGHT = (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0)


@pytest.mark.parametrize(
    ("paint", "directions"),
    [
        *((partial(paint_pedestrian, height=height), (LEFT, RIGHT)) for height in (1.2, 1.9)),
        *(
            (partial(paint_car, profile=profile), (AWAY, LEFT, NEAR, RIGHT))
            for profile in (HATCHBACK, SALOON, VAN)
        ),
        *((partial(paint_sign, sign=sign, middle=2.4, half=0.6), (RIGHT,)) for sign in SIGNS),
    ],
)
def test_box_covers_the_painted_pixels(
    paint: partial[None], directions: tuple[tuple[float, float], ...]
) -> None:
    # Light and haze for which every painted pixel differs from the empty picture.
    purple = Weather((255, 255, 255), WHITE, (255, 0, 255), visibility=50.0)
    for along in directions:
        view = Camera(purple, centre=160.0, horizon=90.0, height=2.5)
        view.owner = 7
        paint(Surface(view, 0.3, 10.0, along), Rng(1))
        left, top, right, bottom = view.box(7)
        rows, columns = np.nonzero(view.image().any(axis=2))
        assert columns.min() == int(left)
        assert rows.min() == int(top)
        assert columns.max() == int(np.ceil(right)) - 1
        assert rows.max() == int(np.ceil(bottom)) - 1


@pytest.mark.parametrize(
    ("along", "x", "lights"),
    [
        (NEAR, 0.0, ["head", "head"]),
        (AWAY, 0.0, ["tail", "tail"]),
        (RIGHT, 0.0, []),  # seen from the side
        (RIGHT, -9.0, ["head", "head"]),  # far to the left, so that we see its nose
    ],
)
def test_only_the_outside_of_a_car_is_seen(
    along: tuple[float, float], x: float, lights: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {HEADLIGHT: "head", TAILLIGHT: "tail"}
    seen: list[str] = []
    monkeypatch.setattr(Camera, "glow", lambda _, __, ___, color: seen.append(kinds[color]))
    paint_car(Surface(camera(), x, 10.0, along), Rng(1), profile=SALOON)
    assert seen == lights


def test_glow_only_in_the_dark() -> None:
    night = Weather((100, 100, 100), (0, 0, 0), (0, 0, 0), visibility=1e12, dark=True)
    for weather, brightest in ((CLEAR, 0), (night, 96)):
        view = Camera(weather, centre=160.0, horizon=90.0, height=2.5)
        view.glow((0.0, 2.5, 10.0), 1.0, WHITE)
        assert view.image().max() == brightest


def block(label: int | None, x: float, z: float, width: float) -> Item:
    """Return an item that is a box, 2 m high, `width` metres wide."""
    half = width / 2

    def paint(pen: Surface, _: Rng) -> None:
        pen.box(-half, 0.0, half, 2.0, WHITE)

    return Item(label, x, z, half, 2.0, 0.1, paint)


def paint_blocks(*items: Item) -> tuple[Label, ...]:
    return paint_items(camera(), items, Rng(1))


def test_box_covers_the_visible_part() -> None:
    """At 11.4 m a metre is 25 pixels, and the ground is 2.5 m below the horizon at row 90."""
    within = pytest.approx  # an item extends up to 1.5 fine pixels beyond its outline
    fine = 1.5 / OVERSAMPLING + 1e-9
    far, near = FOCAL / 25, FOCAL / 25 - 0.01
    car = block(CAR, 0.0, far, 4.0)
    (alone,) = paint_blocks(car)
    assert alone.label == CAR
    assert alone[1:] == within((110.0, 102.5, 210.0, 152.5), abs=fine)

    lamp_at_the_left = block(None, -1.5, near, 1.0)  # hides the car's first metre
    (shortened,) = paint_blocks(car, lamp_at_the_left)
    assert shortened[1:] == within((135.0, 102.5, 210.0, 152.5), abs=2 * fine)

    lamp_in_the_middle = block(None, 0.0, near, 1.0)  # divides it; the box covers both parts
    assert paint_blocks(car, lamp_in_the_middle) == (alone,)

    half_outside = block(CAR, -6.4, far, 4.0)  # its middle is on the image's left edge
    (clipped,) = paint_blocks(half_outside)
    assert clipped[1:] == within((0.0, 102.5, 50.0, 152.5), abs=fine)


def test_pole_is_not_part_of_the_object() -> None:
    def paint(pen: Surface, _: Rng) -> None:
        pen.box(-0.5, 2.0, 0.5, 3.0, WHITE)

    (sign,) = paint_blocks(Item(SIGN, 0.0, FOCAL / 25, 0.5, 3.0, 0.1, paint, bottom=2.0))
    assert sign[1:] == pytest.approx((147.5, 77.5, 172.5, 102.5), abs=0.5 + 1e-9)


@pytest.mark.parametrize(("hidden", "labels"), [(0.70, 2), (0.80, 1)])
def test_mostly_covered_objects_have_no_label(hidden: float, labels: int) -> None:
    """A pedestrian at 10 m, 2 m wide, behind a higher item at 9.9 m."""
    far = block(PEDESTRIAN, 0.0, 10.0, 2.0)
    near = block(CAR, -1.0 + hidden, 9.9, 2.0 * hidden)
    assert len(paint_blocks(far, near)) == labels


def test_scenes_are_diverse_and_have_all_classes() -> None:
    paintings = [paint_scene(SEED, 0, i) for i in range(12)]
    counts = [len(painting.labels) for painting in paintings]
    assert min(counts) >= 3
    assert max(counts) <= 11
    assert {box.label for painting in paintings for box in painting.labels} == {0, 1, 2}
    levels = [int(painting.image.mean()) for painting in paintings]
    assert min(levels) < 70  # at night
    assert max(levels) > 130
    for box in (box for painting in paintings for box in painting.labels):
        assert 0 <= box.left < box.right <= 320
        assert 0 <= box.top < box.bottom <= 256


def test_rng() -> None:
    """The values are pinned, because the pixels depend on them."""
    rng = Rng(20, 1)
    assert [rng.choice(range(1, 7)) for _ in range(10)] == [3, 1, 4, 2, 1, 1, 5, 5, 3, 6]
    assert 2.0 <= rng.uniform(2.0, 3.0) < 3.0
    assert {Rng(7, i).choice(range(3)) for i in range(40)} == {0, 1, 2}
    assert {Rng(7, i).bernoulli(0.5) for i in range(40)} == {True, False}


def test_label_text() -> None:
    painting = Painting(np.zeros((256, 320, 3), np.uint8), (Label(2, 32.0, 64.0, 64.0, 192.0),))
    assert label_text(painting) == "2 0.150000 0.500000 0.100000 0.500000\n"


@pytest.mark.usefixtures("few")
def test_data_set_is_written_once(tmp_path: Path) -> None:
    root = tmp_path / "new" / "streets"
    make_streets(root)
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.*"))
    assert files == [
        "images/train/street_000.png",
        "images/train/street_001.png",
        "images/val/street_000.png",
        "labels/train/street_000.txt",
        "labels/train/street_001.txt",
        "labels/val/street_000.txt",
    ]
    painting = paint_scene(SEED, 1, 0)
    stored = cv2.imread(str(root / "images/val/street_000.png"))
    assert stored is not None
    assert np.array_equal(stored[..., ::-1], painting.image)
    assert (root / "labels/val/street_000.txt").read_text() == label_text(painting)
    assert [path.name for path in root.parent.iterdir()] == [
        "streets"
    ]  # no temporary folder is left

    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    make_streets(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.usefixtures("few")
def test_empty_folder_is_filled_and_other_folder_rejected(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    make_streets(empty)
    assert (empty / "images" / "val" / "street_000.png").is_file()

    (full / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="full is not a complete streets data set; remove it"):
        make_streets(full)
    assert list(full.rglob("*")) == [full / "images"]


@pytest.mark.usefixtures("few")
def test_concurrent_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, write = tmp_path / "streets", synthetic._write

    def write_while_another_finishes(made: Path) -> None:
        write(made)
        write(root)

    monkeypatch.setattr(synthetic, "_write", write_while_another_finishes)
    make_streets(root)
    assert len(list(root.rglob("*.png"))) == 3
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.usefixtures("few")
def test_killed_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "label_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_streets(tmp_path / "streets")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*/file/streets: "):
        make_streets(tmp_path / "file" / "streets")
