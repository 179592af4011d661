"""Faulty data is used, skipped with a message or rejected: no traceback, no hang, no data loss."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.toy import make_toy, toy_arguments
from tests.utils.datasets.drawn import draw
from train import train
from utils.datasets.eval_loader import build_eval_loader
from utils.datasets.index import Index, build_index
from utils.datasets.loader import build_train_loader
from utils.errors import UserError
from utils.history import read_results
from utils.hyp import Hyp
from utils.options.parser import parse_request

BOX = "0 .5 .5 .5 .5"
ORIENTATION = 0x0112


class Fault(NamedTuple):
    """A faulty or unusual image or label."""

    plant: Callable[[Path, Path], object]
    """Introduces the fault; takes the existing image `odd.png`, 40x60 px, and its label file."""
    reason: str | None
    """Why the image is skipped; None if it is used."""
    boxes: int = 1


def resaved(
    suffix: str, mode: str = "RGB", *, orientation: int = 1
) -> Callable[[Path, Path], Path]:
    def plant(image: Path, _: Path) -> Path:
        image_copy = Image.open(image).convert(mode)
        exif = image_copy.getexif()
        exif[ORIENTATION] = orientation
        image.unlink()
        image_copy.save(image.with_suffix(suffix), exif=exif.tobytes() if orientation > 1 else b"")
        return image.with_suffix(suffix)

    return plant


def sixteen_bits(*channels: int) -> Callable[[Path, Path], object]:
    pixels = np.full((40, 60, *channels), 40_000, np.uint16)
    return lambda image, _: cv2.imwrite(str(image), pixels)


def of_size(width: int, height: int) -> Callable[[Path, Path], object]:
    return lambda image, _: Image.new("RGB", (width, height)).save(image)


def truncated(suffix: str) -> Callable[[Path, Path], object]:
    def plant(image: Path, label: Path) -> None:
        path = resaved(suffix)(image, label)
        path.write_bytes(path.read_bytes()[:-20])

    return plant


def label_of(content: str | bytes) -> Callable[[Path, Path], object]:
    binary = content if isinstance(content, bytes) else content.encode()
    return lambda _, label: label.write_bytes(binary)


def renamed(*, image: str = "odd.png", label: str = "odd.txt") -> Callable[[Path, Path], object]:
    def plant(image_file: Path, label_file: Path) -> None:
        image_file.rename(image_file.with_name(image))
        label_file.rename(label_file.with_name(label))

    return plant


def instead(make: Callable[[Path], object], *, label: bool = False) -> Callable[[Path, Path], None]:
    """Replace the image, or the label, by something other than a file."""

    def plant(image_file: Path, label_file: Path) -> None:
        place = label_file if label else image_file
        place.unlink()
        make(place)

    return plant


def not_utf8(image: Path, _: Path) -> None:
    os.rename(image, os.fsencode(image.parent) + b"/odd\xff.png")  # noqa: PTH104 -- bytes


FAULTS = {
    # unusual images
    "grey": Fault(resaved(".png", "L"), None),
    "RGBA": Fault(resaved(".png", "RGBA"), None),
    "palette": Fault(resaved(".png", "P"), None),
    "one bit": Fault(resaved(".png", "1"), None),
    "CMYK": Fault(resaved(".jpg", "CMYK"), None),
    "turned by EXIF": Fault(resaved(".jpg", orientation=6), None),
    "16 bits": Fault(sixteen_bits(3), None),
    "16 bits of grey": Fault(sixteen_bits(), None),
    "wide": Fault(of_size(3000, 10), None),
    "suffix in capitals": Fault(renamed(image="odd.PNG"), None),
    "label of another case": Fault(renamed(image="ODD.PNG"), None),
    "label suffix of another case": Fault(renamed(label="odd.TXT"), None),
    "spaces, quotes, breaks": Fault(
        renamed(image="-o 'd\"\n$d_^é.png", label="-o 'd\"\n$d_^é.txt"), None
    ),
    # faulty images
    "truncated JPEG": Fault(truncated(".jpg"), "corrupt image (image file is truncated"),
    "truncated PNG": Fault(truncated(".png"), "corrupt image ("),
    "of 0 bytes": Fault(lambda image, _: image.write_bytes(b""), "corrupt image ("),
    "1 px wide": Fault(of_size(1, 40), "image is 1x40 px; sides must be at least 10 px"),
    "too many pixels": Fault(
        lambda image, _: image.write_bytes(
            image.read_bytes()[:16] + b"\0\0\x9c\x40" * 2 + image.read_bytes()[24:]
        ),
        "corrupt image (",
    ),
    "dangling link": Fault(instead(lambda path: path.symlink_to("gone")), "it is a link to a file"),
    "pipe": Fault(instead(os.mkfifo), "it cannot be read (Not a regular file)"),
    "device": Fault(
        instead(lambda path: path.symlink_to("/dev/zero")), "it cannot be read (Not a regular"
    ),
    "name not UTF-8": Fault(not_utf8, "its name is not UTF-8; rename it"),
    # unusual labels
    "no label": Fault(lambda _, label: label.unlink(), None, boxes=0),
    "empty label": Fault(label_of(""), None, boxes=0),
    "byte-order mark": Fault(label_of(b"\xef\xbb\xbf" + BOX.encode()), None),
    "DOS line ends": Fault(label_of(f"{BOX}\r\n0 .25 .25 .5 .5\r\n"), None, boxes=2),
    "trailing blanks": Fault(label_of(f"\n  {BOX} \t \n\n   \n"), None),
    "polygon": Fault(label_of("0 .25 .25 .75 .25 .5 .75"), None),
    "duplicate rows": Fault(label_of(f"{BOX}\n{BOX}"), None),
    "box without area": Fault(label_of("0 .5 .5 0 .5"), None, boxes=0),
    # faulty labels
    "4 columns": Fault(label_of("0 .5 .5 .5"), "line 1 has 4 columns"),
    "6 columns": Fault(label_of(f"{BOX}\n{BOX} .9"), "line 2 has 6 columns"),
    "NaN": Fault(label_of("0 .5 nan .5 .5"), "line 1 has a value that is not finite"),
    "negative": Fault(label_of("0 -.1 .5 .5 .5"), "line 1 has a coordinate outside 0 to 1"),
    "above 1": Fault(label_of("0 .5 .5 1.5 .5"), "line 1 has a coordinate outside 0 to 1"),
    "negative class": Fault(label_of("-1 .5 .5 .5 .5"), "line 1 has class -1"),
    "gigantic class": Fault(label_of("1e300 .5 .5 .5 .5"), "line 1 has class 1e300"),
    "words": Fault(label_of("person .5 .5 .5 .5"), "line 1 has a value that is not a number"),
    "not UTF-8": Fault(label_of(b"0 .5 \xff .5 .5"), "it is not UTF-8 text (invalid start byte"),
    "UTF-16": Fault(label_of(BOX.encode("utf-16")), "it is not UTF-8 text (invalid start byte"),
    "half a million rows": Fault(
        label_of("0 1 1 1 1\n" * 500_000), "it has 500000 lines; the maximum is"
    ),
    "a million rows": Fault(label_of(f"{BOX}\n" * 1_000_000), "it is larger than 8 MiB"),
    "label is a folder": Fault(instead(Path.mkdir, label=True), "it cannot be read (Is a dir"),
    "label is a pipe": Fault(instead(os.mkfifo, label=True), "it cannot be read (Not a regular"),
    "label is a device": Fault(
        instead(lambda path: path.symlink_to("/dev/zero"), label=True),
        "it cannot be read (Not a regular file)",
    ),
    "label is a dangling link": Fault(
        instead(lambda path: path.symlink_to("gone"), label=True),
        "it is a link to a file that does not exist",
    ),
}


def planted(folder: Path, fault: Fault, name: str = "odd") -> None:
    """Add an image with a label to a data set and introduce the fault."""
    image = draw(folder, name, (40, 60), [(10, 10, 30, 30)])
    label = folder / "labels" / f"{name}.txt"
    fault.plant(image, label)


def load_everything(index: Index) -> None:
    """Load every image with both loaders."""
    train_loader = build_train_loader(
        index,
        image_size=64,
        batch_size=2,
        hyp=Hyp(mosaic=0.5),
        seed=0,
        workers=0,
        cache=None,
    )
    eval_loader = build_eval_loader(index, image_size=64, batch_size=2, workers=0)
    for loader in (train_loader.batches(0), eval_loader):
        seen = [int(i) for batch in loader for i in batch.indices]
        assert sorted(seen) == list(range(len(index)))


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_file_is_used_or_skipped_with_a_message(tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    draw(tmp_path, "good", (40, 60), [(5, 5, 25, 25)])
    planted(tmp_path, fault)
    index = build_index([tmp_path / "images"], ["thing"])
    if fault.reason is None:
        assert len(index) == 2
        assert len(index.boxes) == 1 + fault.boxes
    else:
        assert [Path(path).name for path in index.paths] == ["good.png"]
        (message,) = index.messages
        assert message.startswith(f"{tmp_path}/images/odd")
        assert f" is skipped: {fault.reason}" in message or (
            f" is skipped: {tmp_path}/labels/odd.txt: {fault.reason}" in message
        )
    load_everything(index)
    again = build_index([tmp_path / "images"], ["thing"])  # from the cache
    assert list(again.paths) == list(index.paths)
    assert list(again.messages) == list(index.messages)


def test_label_name_in_another_case_is_reported(tmp_path: Path) -> None:
    planted(tmp_path, FAULTS["label of another case"])
    (message,) = build_index([tmp_path / "images"], ["thing"]).messages
    image, label = tmp_path / "images" / "ODD.PNG", tmp_path / "labels" / "odd.txt"
    assert message == f"{label}: used for {image}, because ODD.txt does not exist."


def test_class_out_of_range_raises(tmp_path: Path) -> None:
    planted(tmp_path, Fault(label_of("7 .5 .5 .5 .5"), None))
    with pytest.raises(
        UserError, match=r"labels/odd\.txt: class 7 is out of range \(classes are 0 to 1\)"
    ):
        build_index([tmp_path / "images"], ["a", "b"])


def test_data_set_of_backgrounds_raises(tmp_path: Path) -> None:
    planted(tmp_path, FAULTS["empty label"])
    with pytest.raises(UserError, match=r"images has no boxes; .* for example .*labels/odd\.txt"):
        build_index([tmp_path / "images"], ["a"])


def test_folder_named_like_an_image(tmp_path: Path) -> None:
    planted(tmp_path, FAULTS["polygon"])
    folder = tmp_path / "images" / "x.jpg"
    folder.mkdir()
    shutil.copyfile(tmp_path / "images" / "odd.png", folder / "inner.png")
    index = build_index([tmp_path / "images"], ["a"])
    assert list(index.paths) == [f"{tmp_path}/images/odd.png", f"{folder}/inner.png"]
    assert list(index.messages) == []


def test_cyclic_folder_links_are_followed_once(tmp_path: Path) -> None:
    planted(tmp_path, FAULTS["polygon"])
    for name in "abcdef":
        (tmp_path / "images" / name).mkdir()
        for other in "abcdef":
            (tmp_path / "images" / name / other).symlink_to(tmp_path / "images" / other)
        (tmp_path / "images" / name / "up").symlink_to("..")
    assert list(build_index([tmp_path / "images"], ["a"]).paths) == [f"{tmp_path}/images/odd.png"]


@pytest.mark.parametrize("damage", [b"", b"junk"])
def test_file_damaged_after_indexing_is_named(tmp_path: Path, damage: bytes) -> None:
    planted(tmp_path, FAULTS["polygon"])
    index = build_index([tmp_path / "images"], ["a"])
    (tmp_path / "images" / "odd.png").write_bytes(damage)
    with pytest.raises(UserError, match=r"/odd\.png changed during the run \(.*; restore"):
        load_everything(index)


def run_on(folder: Path, more: str = "", **changes: object) -> Path:
    """Train for one epoch on the toy data set, with changes to its file."""
    arguments = toy_arguments(folder, f"--epochs 1 {more}")
    file = folder / "data" / "toy.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes, allow_unicode=True))
    return train(parse_request(arguments))


def test_training_with_all_faults(tmp_path: Path) -> None:
    make_toy(tmp_path / "data")
    for number, (name, fault) in enumerate(FAULTS.items()):
        # a folder per fault, because the file names are equal
        split = tmp_path / "data" / "odd" / f"{number}"
        planted(split, fault)
        assert (split / "images").is_dir(), name
    odd = [f"odd/{number}/images" for number in range(len(FAULTS))]
    usable = [path for path, fault in zip(odd, FAULTS.values(), strict=True) if not fault.reason]
    trained = run_on(tmp_path, train=["images/train", "odd"], val=["images/val", *usable])
    assert len(read_results(trained / "results.csv")) == 1


def test_training_on_a_single_image(tmp_path: Path) -> None:
    make_toy(tmp_path / "data", images=1)
    trained = run_on(tmp_path, val="images/train")
    assert len(read_results(trained / "results.csv")) == 1


HARMFUL_NAMES = (
    "$\\frac{",
    "two\nlines; \x1b[2J",
    "=cmd|'/c calc'!A0, \"quoted\"",
    "--help",
    "_^<b>&amp;%s{0}",
    "../../../etc/Überfluß 🚶",
    "x" * 3000,
)


def test_training_with_harmful_names(tmp_path: Path) -> None:
    root = tmp_path / "a 'folder' $\\mathrm{x}_^\" with\nbreaks"
    make_toy(root)
    for number, name in enumerate(HARMFUL_NAMES[:3]):
        for kind, suffix in (("images", "png"), ("labels", "txt")):
            file = root / kind / "val" / f"{number}.{suffix}"
            file.rename(file.with_name(f"{name.replace('/', '%')}.{suffix}"))
    make_toy(tmp_path / "data", images=1)
    before = {path for path in tmp_path.rglob("*") if "runs" not in path.parts}
    arguments = [a for a in toy_arguments(tmp_path, "--epochs 1") if a != "--noplots"]
    (tmp_path / "data" / "toy.yaml").write_text(
        yaml.safe_dump(
            {"path": str(root), "train": "images/train", "val": "images/val"}
            | {"names": list(HARMFUL_NAMES)}
        )
    )
    trained = train(parse_request(arguments))
    assert len(read_results(trained / "results.csv")) == 1
    assert {"labels.jpg", "confusion_matrix.png", "PR_curve.png", "val_batch0_pred.jpg"} <= {
        path.name for path in trained.iterdir()
    }
    grown = {path for path in tmp_path.rglob("*") if "runs" not in path.parts} - before
    assert {path.name.partition("-")[0] for path in grown} <= {"toy_model.yaml", "yolo"}
