import os
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.tools.convert.finder import find_files, find_images, stem_of


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_stem_of() -> None:
    names = ("a.jpg", "a.v1.JPG", "a.v1", "a", ".jpg")
    assert [stem_of(name) for name in names] == ["a", "a.v1", "a.v1", "a", ".jpg"]
    assert stem_of("a.xml", {".xml"}) == "a"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("a", "a.jpg"),
        ("x/a.jpg", "x/a.jpg"),
        ("deep/x/a.jpg", "x/a.jpg"),
        ("other/a.jpg", "a.jpg"),  # the least nested one
        ("B", "b.png"),
        ("b.jpg", None),  # another file
        ("b.PNG", "b.png"),
        ("C.jpg", "C.jpg"),  # exactly this name comes first
        ("c.jpg", "c.jpg"),
        ("50%20off.jpg", "50%20off.jpg"),  # before it is read as an escape
        ("x%2Fa.jpg", "x/a.jpg"),
        ("0123abcd-b.png", "b.png"),
        ("0123abcd-upload.png", "0123abcd-upload.png"),
        ("", None),
        ("..", None),
    ],
)
def test_find(tmp_path: Path, name: str, expected: str | None) -> None:
    touch(tmp_path, "a.jpg", "x/a.jpg", "b.png", "C.jpg", "c.jpg", "50%20off.jpg", "50 off.jpg")
    touch(tmp_path, "0123abcd-upload.png", "upload.png")
    finder = find_images(tmp_path)
    assert finder.find(name) == (expected and tmp_path / expected)


def test_folders_near(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.jpg", "valid/a.jpg")
    finder = find_images(tmp_path)
    assert finder.find("a.jpg", {"val", "valid"}) == tmp_path / "valid/a.jpg"
    with pytest.raises(UserError, match=r"^a can be valid/a\.jpg or train/a\.jpg in "):
        finder.find("a")


def test_links_to_other_images_are_left_out(tmp_path: Path) -> None:
    """An earlier conversion in the same folder made them."""
    touch(tmp_path, "in/a.jpg", "elsewhere/b.jpg")
    for name, target in (("c.jpg", "in/a.jpg"), ("d.jpg", "elsewhere/b.jpg")):
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    finder = find_images(tmp_path / "in")
    assert [path.name for path in finder] == ["a.jpg", "d.jpg"]


def test_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.xml", "b.XML", "._a.xml", ".idea/c.xml", "d.txt")
    assert [path.name for path in find_files(tmp_path, ".xml")] == ["a.xml", "b.XML"]
    assert list(find_images(tmp_path)) == []
    with pytest.raises(UserError, match="absent is not a folder; give the folder of the images"):
        find_images(tmp_path / "absent")


@pytest.mark.parametrize("suffix", [b".jpg", b".xml"])
def test_names_that_are_not_utf8(tmp_path: Path, suffix: bytes) -> None:
    """Archives with names in another encoding, unpacked on Linux."""
    for name in ("狗", "车"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name.encode("gbk") + suffix)).touch()
    with pytest.raises(UserError, match=r"2 files in .* not UTF-8: .x.*.xb9.xb7\..*; rename them"):
        find_images(tmp_path) if suffix == b".jpg" else find_files(tmp_path, ".xml")
