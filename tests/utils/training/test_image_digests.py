"""Images are recognized by their content, so those that move between the splits are counted."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.toy import make_toy
from tests.utils.training.test_data import index
from utils.datasets.packed_strings import PackedStrings
from utils.training.data import TrainingData
from utils.training.image_digests import (
    BLOCK,
    ImageDigests,
    ImageRecorder,
    compare_images,
    digest_images,
    file_digest,
    read_digests,
)


def data_of(root: Path) -> TrainingData:
    """The training and the validation images of a folder."""

    def split(name: str) -> object:
        found = index(boxes={file.name: [] for file in sorted((root / name).iterdir())})
        paths = PackedStrings.of(str(file) for file in sorted((root / name).iterdir()))
        object.__setattr__(found, "paths", paths)
        return found

    return TrainingData(("x",), split("train"), split("val"))  # type: ignore[arg-type]


def digests_of(root: Path) -> ImageDigests:
    return digest_images(data_of(root), lambda: False)


def test_images_that_move_are_new_or_gone_are_counted(tmp_path: Path) -> None:
    make_toy(tmp_path)
    images = tmp_path / "images"
    before = digests_of(images)
    assert (len(before.train), len(before.val), before.images) == (10, 10, 20)
    assert compare_images(before, digests_of(images)) == dict.fromkeys(
        ("moved from train to val", "moved from val to train", "new", "gone"), 0
    )
    (images / "train" / "0.png").rename(images / "val" / "t0.png")
    shutil.copy(images / "train" / "1.png", images / "val" / "t1.png")  # a copy leaks as well
    (images / "val" / "2.png").rename(images / "train" / "v2.png")
    (images / "val" / "3.png").unlink()
    edited = images / "val" / "4.png"
    edited.write_bytes(edited.read_bytes() + b"\0")  # a viewer shows the same image
    counts = {"moved from train to val": 2, "moved from val to train": 1, "new": 1, "gone": 2}
    assert compare_images(before, digests_of(images)) == counts


def test_digest_covers_size_and_three_blocks(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    content = np.random.default_rng(0).bytes(5 * BLOCK)
    middle = 2 * BLOCK
    read = content[:BLOCK] + content[middle : middle + BLOCK] + content[-BLOCK:]
    expected = hashlib.blake2b(b"%d " % len(content) + read, digest_size=8).digest()
    file.write_bytes(content)
    assert file_digest(str(file)) == int.from_bytes(expected, "little")
    file.write_bytes(content[: 3 * BLOCK])  # small files are read completely
    expected = hashlib.blake2b(b"%d " % (3 * BLOCK) + content[: 3 * BLOCK], digest_size=8).digest()
    assert file_digest(str(file)) == int.from_bytes(expected, "little")
    assert file_digest(str(tmp_path / "none.jpg")) is None


def test_limit_leaves_an_incomplete_file(tmp_path: Path) -> None:
    make_toy(tmp_path)
    answers = iter([False, True])  # validation images, then training images
    partial = digest_images(data_of(tmp_path / "images"), lambda: next(answers))
    assert (len(partial.train), len(partial.val)) == (0, 10)
    counts = compare_images(partial, digests_of(tmp_path / "images"))
    assert (counts["not compared"], counts["new"], counts["gone"]) == (10, 10, 0)


def test_side_file_is_read_again_and_a_damaged_one_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_toy(tmp_path)
    data, path = data_of(tmp_path / "images"), tmp_path / "images_abc.npz"
    assert read_digests(path) is None
    written = ImageRecorder(data, path, pending=True)._write()
    found = read_digests(path)
    assert found is not None
    assert [part.tolist() for part in found[:2]] == [part.tolist() for part in written[:2]]
    path.write_bytes(path.read_bytes()[:100])
    assert read_digests(path) is None
    (tmp_path / "file").touch()
    ImageRecorder(data, tmp_path / "file" / "images_abc.npz", pending=True)._write()
    assert "The run continues without the file." in caplog.text
