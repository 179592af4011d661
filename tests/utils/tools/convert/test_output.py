import contextlib
import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from tests.utils.datasets.drawn import draw
from utils.datasets.description import ensure_available, load_description
from utils.datasets.ignore_regions import load_ignore_regions
from utils.datasets.index import build_index
from utils.errors import UserError
from utils.tools.convert import output
from utils.tools.convert.annotated import (
    AnnotatedImage,
    Annotation,
    Conversion,
    Corners,
    Split,
)
from utils.tools.convert.made_files import RECORD
from utils.tools.convert.output import data_file_text, link, write_dataset


def conversion(
    source: Path,
    *,
    label: int | None = 0,
    lists: bool = False,
    names: tuple[str, str] = ("city/1", "city/2"),
) -> Conversion:
    """Return a conversion of two images of 40x20 px; the second is background."""
    files = [draw(source, name, (20, 40), [], 0) for name in names]
    box = Annotation("cat", Corners(10, 5, 30, 15), label, "" if label == 0 else "a crowd")
    images = [
        AnnotatedImage(
            PurePosixPath(file.relative_to(source / "images")), file, 40, 20, (box,) * (number == 0)
        )
        for number, file in enumerate(files)
    ]
    splits = tuple(Split(name, name, tuple(images)) for name in ("train", "val"))
    return Conversion("coco", {"size": 1}, ("cat",), ("cat",), splits, lists=lists)


def files_below(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): "link" if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


def killed_files(folder: Path) -> dict[str, str]:
    """Return the files without the record, which is marked as incomplete."""
    return {place: text for place, text in files_below(folder).items() if place != RECORD}


ROW = "0 0.500000 0.500000 0.500000 0.500000\n"


def test_written_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(conversion(tmp_path / "source", lists=True), out, allow_missing_images=False)
    written = files_below(out)
    record = json.loads(written.pop("conversion.json"))
    assert written == {
        "data.yaml": "# Made by python -m utils.tools.convert coco; see conversion.json.\n\n"
        "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n",
        "images/train/city/1.png": "link",
        "images/train/city/2.png": "link",
        "images/val/city/1.png": "link",
        "images/val/city/2.png": "link",
        "labels/train/city/1.txt": ROW,
        "labels/val/city/1.txt": ROW,
        "train.txt": "./images/train/city/1.png\n./images/train/city/2.png\n",
        "val.txt": "./images/val/city/1.png\n./images/val/city/2.png\n",
    }
    assert (record["from"], record["size"], record["complete"]) == ("coco", 1, True)
    assert record["splits"][0] == {
        "split": "train",
        "images": 2,
        "background": 1,
        "rows": {"cat": 1},
        "boxes": {"cat": 1},
        "ignored": {},
        "cut": 0,
        "dropped": {},
        "dropped_rows": [],
    }
    # A checksum for each text file, null for a link. Of "0 0.5 …" it is that of Python's zlib.
    assert record["files"].keys() == written.keys()
    assert record["files"]["labels/val/city/1.txt"] == zlib.crc32(ROW.encode())
    assert record["files"]["images/val/city/2.png"] is None


def test_training_reads_the_converted_data_set(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(conversion(tmp_path / "source"), out, allow_missing_images=False)
    description = load_description(out / "data.yaml")
    ensure_available(description)
    index = build_index(description.split("val"), description.names)
    assert index.boxes.tolist() == [[0, 0.5, 0.5, 0.5, 0.5]]
    assert len(index) == 2


def test_ignore_regions_are_found(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_dataset(conversion(tmp_path / "source", label=None), out, allow_missing_images=False)
    assert not any("labels/" in place for place in files_below(out))
    images = [str(out / "images/val/city" / name) for name in ("1.png", "2.png")]
    regions = load_ignore_regions(images)
    assert regions is not None
    assert regions.of(0).tolist() == [[0.5, 0.5, 0.5, 0.5]]
    assert len(regions.of(1)) == 0


def test_repeated_conversion_replaces_the_output(tmp_path: Path) -> None:
    for label in (0, None, 0):
        asked = conversion(tmp_path / "source", label=label)
        write_dataset(asked, tmp_path / "again", allow_missing_images=False)
    write_dataset(asked, tmp_path / "once", allow_missing_images=False)
    assert files_below(tmp_path / "again") == files_below(tmp_path / "once")


@pytest.mark.parametrize(
    ("step", "times"),
    [(step, n) for step in ("atomic_write_text", "link", "remove", "write_text") for n in range(4)],
)
def test_killed_conversion_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, times: int
) -> None:
    """The first conversion of the folder, and one that replaces another."""
    asked = conversion(tmp_path / "source", lists=True)
    write_dataset(asked, tmp_path / "unbroken", allow_missing_images=False)
    original = getattr(output, step)
    for replaced in (False, True):
        left = times

        def until_killed(*args: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return original(*args)

        killed = tmp_path / f"killed-{replaced}"
        if replaced:
            before = conversion(tmp_path / "other", lists=True, names=("9", "city/1"))
            for folder in (killed, tmp_path / "before"):
                write_dataset(before, folder, allow_missing_images=False)
        with monkeypatch.context() as patch:
            patch.setattr(output, step, until_killed)
            with contextlib.suppress(KeyboardInterrupt):
                write_dataset(asked, killed, allow_missing_images=False)
            if left < 0 and (killed / "data.yaml").exists():  # nothing was changed yet
                assert killed_files(killed) == killed_files(tmp_path / "before")
        write_dataset(asked, killed, allow_missing_images=False)
        assert files_below(killed) == files_below(tmp_path / "unbroken")


def test_killed_repetition_is_recognizably_incomplete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = conversion(tmp_path / "source")
    write_dataset(asked, tmp_path / "out", allow_missing_images=False)

    def kill(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "link", kill)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(asked, tmp_path / "out", allow_missing_images=False)
    assert not (tmp_path / "out" / "data.yaml").exists()
    assert not json.loads((tmp_path / "out" / "conversion.json").read_text())["complete"]


@pytest.mark.parametrize("place", ["labels/val/1.txt", "ignore/train/1.txt", "data.yaml"])
def test_files_from_elsewhere_are_not_overwritten(tmp_path: Path, place: str) -> None:
    own = tmp_path / "out" / place
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(UserError, match=r"was not written by a conversion; move it away, or give"):
        write_dataset(conversion(tmp_path / "source"), tmp_path / "out", allow_missing_images=False)
    assert files_below(tmp_path / "out") == {place: "mine"}


def test_missing_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = conversion(tmp_path / "source")
    asked.splits[0].images[1].file.unlink()
    out = tmp_path / "out"
    with pytest.raises(
        UserError,
        match=r"/city/2.png does not exist \(2 of 4 images are missing: 2\.png, 2\.png\); put",
    ):
        write_dataset(asked, out, allow_missing_images=False)
    assert not out.exists()
    write_dataset(asked, out, allow_missing_images=True)
    assert "1 of 2 images of val are missing; only their labels are written." in caplog.messages
    assert sorted(path.name for path in (out / "images").rglob("*.png")) == ["1.png", "1.png"]


def test_another_conversion_replaces_what_the_first_one_made(tmp_path: Path) -> None:
    """Images of the old training split are not left as background; the user's own files are."""
    out = tmp_path / "out"
    first = conversion(tmp_path / "a", lists=True, names=("city/1", "old/2"))
    write_dataset(first, out, allow_missing_images=False)
    for place in ("images/train/old/mine.png", "labels/train/mine.txt", "notes.txt"):
        (out / place).write_text("mine")
    second = conversion(tmp_path / "b", names=("2", "3"))
    write_dataset(second, out, allow_missing_images=False)
    written = {path for path in files_below(out) if not path.endswith((".json", ".yaml"))}
    assert written == {
        *("images/train/2.png", "images/train/3.png", "images/val/2.png", "images/val/3.png"),
        *("labels/train/2.txt", "labels/val/2.txt"),
        *("images/train/old/mine.png", "labels/train/mine.txt", "notes.txt"),
    }
    assert not (out / "labels/train/city").exists()  # empty folders are removed too


@pytest.mark.parametrize(
    "place", ["labels/train/city/1.txt", "labels/val/city/2.txt", "data.yaml", "train.txt"]
)
def test_files_that_the_user_changed_are_not_lost(tmp_path: Path, place: str) -> None:
    asked = conversion(tmp_path / "source", lists=True)
    out = tmp_path / "out"
    write_dataset(asked, out, allow_missing_images=False)
    (out / place).write_text("mine")  # changed, or added to a background image
    with pytest.raises(UserError, match=f"{place}.* move (them|it) away, or give another folder"):
        write_dataset(asked, out, allow_missing_images=False)
    assert (out / place).read_text() == "mine"
    (out / place).unlink()
    write_dataset(asked, out, allow_missing_images=False)
    write_dataset(asked, tmp_path / "once", allow_missing_images=False)
    assert files_below(out) == files_below(tmp_path / "once")


def test_copies_of_images_are_not_lost(tmp_path: Path) -> None:
    """After `cp -rL` to another machine, the images are files, maybe the only ones."""
    write_dataset(conversion(tmp_path / "source"), tmp_path / "out", allow_missing_images=False)
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    other = conversion(tmp_path / "b", names=("2", "3"))
    with pytest.raises(UserError, match=r"^4 files in .* were changed .* images/train/city/1\.png"):
        write_dataset(other, tmp_path / "copy", allow_missing_images=False)
    assert (tmp_path / "copy/images/train/city/1.png").is_file()


@pytest.mark.parametrize("content", ['{"complete":true}', '{"files":{"../a":1}}', "[]"])
def test_record_that_lists_no_files(tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/conversion.json").write_text(content)
    with pytest.raises(UserError, match="does not list the files of the conversion, for example"):
        write_dataset(conversion(tmp_path / "source"), tmp_path / "out", allow_missing_images=False)


def test_an_image_at_its_own_place_is_not_removed(tmp_path: Path) -> None:
    """A conversion in the folder of the images does not own them."""
    asked = conversion(tmp_path, names=("train/1", "train/2"))
    (tmp_path / "labels").rename(tmp_path / "drawn")
    images = [image._replace(place=PurePosixPath(image.place.name)) for image in asked.splits[0][2]]
    asked = replace(asked, splits=(Split("train", "train", images),))
    write_dataset(asked, tmp_path, allow_missing_images=False)
    other = replace(asked, splits=(Split("train", "train", images[:1]),))
    write_dataset(other, tmp_path, allow_missing_images=False)
    assert sorted(path.name for path in (tmp_path / "images/train").iterdir()) == ["1.png", "2.png"]
    assert not any(path.is_symlink() for path in (tmp_path / "images/train").iterdir())


def test_splits_that_share_a_folder(tmp_path: Path) -> None:
    images = conversion(tmp_path / "source").splits[0].images
    splits = (Split("train", "train", images[:1], ""), Split("val", "val", images[1:], ""))
    asked = replace(conversion(tmp_path / "source"), splits=splits)
    out = tmp_path / "out"
    write_dataset(asked, out, allow_missing_images=False)
    assert {path for path in files_below(out) if not path.endswith(".json")} == {
        *("data.yaml", "train.txt", "val.txt", "labels/city/1.txt"),
        *("images/city/1.png", "images/city/2.png"),
    }
    description = load_description(out / "data.yaml")
    ensure_available(description)
    assert len(build_index(description.split("train"), description.names).boxes) == 1
    assert (out / "val.txt").read_text() == "./images/city/2.png\n"


def test_images_must_have_distinct_label_files(tmp_path: Path) -> None:
    images = [
        AnnotatedImage(PurePosixPath(place), Path(place), 10, 10, ())
        for place in ("a/1.jpg", "b/1.jpg", "a/1.png")
    ]
    asked = Conversion("coco", {}, (), (), (Split("val", "val", images),))
    with pytest.raises(
        UserError, match=r"^val: images a/1\.jpg and a/1\.png have the same label file a/1\.txt; "
    ):
        write_dataset(asked, tmp_path / "out", allow_missing_images=True)
    twice = replace(asked, splits=(Split("val", "val", [*images[:2], images[0], images[1]]),))
    with pytest.raises(
        UserError,
        match=r"2 errors:\n  val: image a/1\.jpg is listed twice; .*\n  val: image b/1\.jpg is ",
    ):
        write_dataset(twice, tmp_path / "out", allow_missing_images=True)
    assert not (tmp_path / "out").exists()
    write_dataset(
        replace(asked, splits=(Split("val", "val", images[:2]),)),
        tmp_path / "out",
        allow_missing_images=True,
    )


def test_images_without_annotations_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = draw(tmp_path / "out", "train/3", (20, 40), [])
    (tmp_path / "out" / "labels").rename(tmp_path / "labels")  # written by `draw`
    write_dataset(conversion(tmp_path / "source"), tmp_path / "out", allow_missing_images=False)
    assert any(f"{extra.parent} has 1 images without" in line for line in caplog.messages)
    assert extra.is_file()


def test_several_folders_per_role(tmp_path: Path) -> None:
    splits = tuple(
        Split(name, role, ())
        for name, role in (("train2007", "train"), ("val2007", "train"), ("test2007", "val"))
    )
    names = ("été: 1", "off", "02146", "null", "1e3", "~", "狗")  # some are no texts in YAML
    asked = Conversion("voc", {}, names, names, splits, {"annotations": "a.json"})
    (tmp_path / "data.yaml").write_text(data_file_text(asked), encoding="utf-8")
    description = load_description(tmp_path / "data.yaml")
    assert description.names == names
    assert description.train == (tmp_path / "images/train2007", tmp_path / "images/val2007")
    assert description.val == (tmp_path / "images/test2007",)


def test_link_replaces_links_but_not_files(tmp_path: Path) -> None:
    source, other, target = (tmp_path / name for name in ("source", "other", "target"))
    source.write_text("s")
    other.write_text("o")
    link(source, target)
    link(other, target)  # an old link is replaced
    assert target.is_symlink()
    assert target.read_text() == "o"
    target.unlink()
    target.write_text("mine")
    with pytest.raises(UserError, match=r"target exists and is not .*source; remove it"):
        link(source, target)
    assert target.read_text() == "mine"
    link(target, target)  # unchanged
    assert target.read_text() == "mine"
    assert not target.is_symlink()


def test_hard_links_without_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(1, "a required privilege is not held")

    (tmp_path / "source").write_text("s")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    link(tmp_path / "source", tmp_path / "target")
    assert not (tmp_path / "target").is_symlink()
    assert (tmp_path / "source").samefile(tmp_path / "target")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(
        UserError,
        match=r"third as a link to .*/source: a required .* held; give a folder on the same disk",
    ):
        link(tmp_path / "source", tmp_path / "third")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*/out: .*; give another folder"):
        write_dataset(conversion(tmp_path / "source"), tmp_path / "out", allow_missing_images=False)
