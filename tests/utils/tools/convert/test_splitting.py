import hashlib
import random
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

from utils.errors import UserError
from utils.tools.convert.annotated import AnnotatedImage, Annotation, Corners, Split
from utils.tools.convert.splitting import (
    SplitRule,
    choose,
    divide,
    group_name,
    role_of,
    shorten_places,
    split_by_folders,
    without_repeats,
)


def image(place: str, *kinds: str) -> AnnotatedImage:
    boxes = tuple(Annotation(kind, Corners(0, 0, 1, 1)) for kind in kinds)
    return AnnotatedImage(PurePosixPath(place), Path(place), 9, 9, boxes)


def images() -> list[AnnotatedImage]:
    """200 images with a common, a rarer and a rare class, and background."""
    rare = [image(f"r{i}.jpg", "common", "rare") for i in range(10)]
    rarer = [image(f"m{i}.jpg", "rarer", "common") for i in range(40)]
    common = [image(f"c{i}.jpg", "common") for i in range(100)]
    return [*rare, *rarer, *common, *(image(f"b{i}.jpg") for i in range(50))]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("train2017", "train"),
        ("valid", "val"),
        ("Validation", "val"),
        ("obj_train_data", "train"),
        ("trainval", "train"),
        ("test-dev", ""),  # words of two roles
        ("train_val", ""),
        ("training.set", "train"),
        ("restrained", ""),
        ("default", ""),
    ],
)
def test_role_of(name: str, role: str) -> None:
    assert role_of(name) == role


def test_strata_are_divided_alike() -> None:
    chosen = choose(images(), 0.2, group=False, seed=0)
    assert Counter(place.name[0] for place in chosen) == {"r": 2, "m": 8, "c": 20, "b": 10}


def test_choice_depends_on_seed_and_names_only() -> None:
    chosen = choose(images(), 0.2, group=False, seed=0)
    shuffled = images()
    random.Random(1).shuffle(shuffled)
    assert choose(shuffled, 0.2, group=False, seed=0) == chosen
    assert choose(images(), 0.2, group=False, seed=1) != chosen
    tiny = [image(f"{i}.jpg") for i in range(5)]
    first = sorted(range(5), key=lambda i: hashlib.sha256(f"7/{i}.jpg".encode()).digest())[:2]
    assert choose(tiny, 0.4, group=False, seed=7) == {PurePosixPath(f"{i}.jpg") for i in first}


def test_added_images_hardly_change_the_choice() -> None:
    before = choose(images(), 0.2, group=False, seed=0)
    after = choose([*images(), image("new.jpg", "common")], 0.2, group=False, seed=0)
    assert len(before ^ after) <= 3


def test_small_sets() -> None:
    def sizes(*kinds: str, share: float = 0.2) -> tuple[int, int]:
        found = [image(f"{i}.jpg", kind) for i, kind in enumerate(kinds)]
        chosen = choose(found, share, group=False, seed=0)
        return len(found) - len(chosen), len(chosen)

    assert sizes("a", "a") == (1, 1)
    assert sizes("a", "b") == (1, 1)
    assert sizes("a", "a", share=0.999) == (1, 1)  # one stays for training
    assert sizes(*"aabbccddee") == (8, 2)  # the rest of one class counts for the next one
    with pytest.raises(UserError, match=r"^1 images cannot be divided .* add images"):
        sizes("a")


def test_groups_stay_together() -> None:
    frames = [image(f"clip{c}_{i:04d}.jpg", "cat") for c in range(10) for i in range(7)]
    chosen = choose(frames, 0.3, group=True, seed=0)
    clips = Counter(place.name.partition("_")[0] for place in chosen)
    assert list(clips.values()) == [7, 7, 7]
    with pytest.raises(
        UserError, match="their names differ in the last number only; leave --group"
    ):
        choose(frames[:7], 0.3, group=True, seed=0)


@pytest.mark.parametrize(
    ("place", "group"),
    [
        ("clip_0001.jpg", "./clip"),
        ("a/clip_0001.jpg", "a/clip"),
        ("clip (12).jpg", "./clip"),
        ("2020-01-02 clip.jpg", "./2020-01-02 clip"),
        ("0001.jpg", "./number"),
        ("dog_7_jpg.rf.0a1b2c.jpg", "./dog_7_jpg"),
    ],
)
def test_group_name(place: str, group: str) -> None:
    assert group_name(PurePosixPath(place)) == group


def test_split_by_folders() -> None:
    found = [image("train/images/a.jpg"), image("valid/images/a.jpg"), image("images/Test/x/b.jpg")]
    splits = [shorten_places(split) for split in split_by_folders(found, "here")]
    assert {s.role: [str(i.place) for i in s.images] for s in splits} == {
        "train": ["a.jpg"],
        "val": ["a.jpg"],
        "test": ["x/b.jpg"],
    }
    (split,) = split_by_folders([image("a.jpg"), image("latest/b.jpg")], "here")
    assert (split.role, split.folder) == ("", "")
    with pytest.raises(UserError, match=r"^here has folders for train, .* none of them: c\.jpg;"):
        split_by_folders([*found[:1], image("c.jpg")], "here")


def test_divide() -> None:
    pool = Split("", "", images(), folder="")
    train, val = divide([pool], SplitRule())
    assert (train[:2], train.folder, len(train.images)) == (("train", "train"), "", 160)
    assert (val[:2], val.folder, len(val.images)) == (("val", "val"), "", 40)
    # The annotations have splits for training and test: validation is a part of the training.
    given = [Split("train2012", "train", images()), Split("test", "test", images())]
    train, val, test = divide(given, SplitRule(share=0.5))
    assert (train.name, train.folder, val.name, val.folder, test) == (
        *("train2012", "train2012", "val2012", "train2012"),
        given[1],
    )
    assert len(val.images) == 100
    whole = [Split("train", "train", images()), Split("val", "val", images())]
    assert divide(whole, SplitRule()) == tuple(whole)
    with pytest.raises(UserError, match="the annotations have the splits train, val; leave"):
        divide(whole, SplitRule(seed=3))


@pytest.mark.parametrize(
    ("given", "kept", "reported"),
    [
        ({"train": "abc", "val": "cd"}, {"train": "ab", "val": "cd"}, ["train"]),
        (
            {"train": "abc", "val": "cd", "test": "dbe"},
            {"train": "a", "val": "cd", "test": "be"},
            ["test", "train"],
        ),
        (
            {"train": "ab", "val": "ab"},
            {"train": "ab", "val": "ab"},
            ["train"],
        ),  # none would be left
        (
            {"train": "ab", "val": "cd", "test": "d"},
            {"train": "ab", "val": "cd", "test": "d"},
            ["test"],
        ),
        ({"train": "aab", "val": "cc"}, {"train": "aab", "val": "cc"}, []),  # reported elsewhere
    ],
)
def test_images_in_several_splits(
    given: dict[str, str],
    kept: dict[str, str],
    reported: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = without_repeats(
        Split(role, role, [image(f"{name}.jpg") for name in names]) for role, names in given.items()
    )
    assert {split.name: "".join(i.place.stem for i in split.images) for split in found} == kept
    assert [message.partition(":")[0] for message in caplog.messages] == reported
    repeated = [n for n in "abcde" if sum(n in names for names in given.values()) > 1]
    assert all(f"{name}.jpg" in caplog.text for name in repeated)
