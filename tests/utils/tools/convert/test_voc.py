import logging
from pathlib import Path

import pytest
import yaml

from tests.paths import DATASETS, requires_shared
from tests.utils.datasets.drawn import draw
from utils.datasets.index import build_index
from utils.errors import UserError
from utils.tools.convert.__main__ import main
from utils.tools.convert.annotated import Annotation, Corners
from utils.tools.convert.voc import parse_xml, read_voc

SIZE = "<size><width>40</width><height>20</height><depth>3</depth></size>"


def thing(name: str, corners: tuple[object, ...], more: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def write(folder: Path, stem: str, body: str, split: str = "train") -> Path:
    """Write an XML file and add it to the list of a split."""
    file = folder / "Annotations" / f"{stem}.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"<annotation>{body}</annotation>")
    list_file = folder / "ImageSets" / "Main" / f"{split}.txt"
    list_file.parent.mkdir(parents=True, exist_ok=True)
    with list_file.open("a") as stream:
        stream.write(f"{stem}\n")
    return file


def draw_into(folder: Path, stem: str, size: tuple[int, int] = (20, 40)) -> Path:
    image = draw(folder / "drawn", stem, size, [])
    target = folder / "JPEGImages" / image.name
    target.parent.mkdir(parents=True, exist_ok=True)
    return image.rename(target)


def test_conversion_end_to_end(tmp_path: Path) -> None:
    body = SIZE + thing("dog", (1, 1, 20, 10)) + thing("cat", (21, 11, 40, 20))
    write(tmp_path, "a", body)
    write(tmp_path, "b", SIZE, "val")
    for stem in ("a", "b"):
        draw_into(tmp_path, stem)
    out = tmp_path / "out"
    main(["voc", str(tmp_path), "--out", str(out)])
    # Columns 1 to 20 are the left half of 40.
    assert (out / "labels/train/a.txt").read_text() == (
        "1 0.250000 0.250000 0.500000 0.500000\n0 0.750000 0.750000 0.500000 0.500000\n"
    )
    assert yaml.safe_load((out / "data.yaml").read_text()) == {
        "path": ".",
        "train": "images/train",
        "val": "images/val",
        "names": {0: "cat", 1: "dog"},
    }
    assert len(build_index([out / "images/train"], ["cat", "dog"])) == 1


def annotations(folder: Path, body: str, *classes: str) -> tuple[Annotation, ...]:
    write(folder, "a", body)
    return read_voc(folder, classes).splits[0].images[0].annotations


def test_difficult_objects_and_other_classes_become_ignore_regions(tmp_path: Path) -> None:
    body = (
        SIZE
        + thing("dog", (1, 1, 20, 10), "<difficult>1</difficult>")
        + thing("dog", (1, 1, 20, 10), "<difficult>0</difficult>")
        + thing("cat", (1, 1, 20, 10))
    )
    box = Corners(0, 0, 20, 10)
    assert annotations(tmp_path, body, "dog") == (
        Annotation("dog", box, None, "difficult"),
        Annotation("dog", box, 0),
        Annotation("cat", box, None, "of class cat"),
    )


def test_parts_of_people_are_not_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>3</xmin></bndbox></part>"
    body = SIZE + thing("person", (1.5, 1, 20, 10), part)
    assert annotations(tmp_path, body) == (Annotation("person", Corners(0.5, 0, 20, 10), 0),)


def test_missing_size_is_read_from_the_image(tmp_path: Path) -> None:
    write(tmp_path, "a", "<size><width>0</width><height>0</height></size>")
    write(tmp_path, "b", thing("dog", (1, 1, 2, 2)))
    for stem in ("a", "b"):
        draw_into(tmp_path, stem, (30, 50))
    images = read_voc(tmp_path).splits[0].images
    assert [(image.width, image.height) for image in images] == [(50, 30), (50, 30)]
    (tmp_path / "JPEGImages" / "b.png").unlink()
    with pytest.raises(UserError, match=r"b\.xml has no image size, and it cannot .*b\.jpg \("):
        read_voc(tmp_path)


def test_several_years(tmp_path: Path) -> None:
    """As published: train and val of both years for training, test of VOC2007 for validation."""
    for year in ("VOC2007", "VOC2012"):
        for split in ("train", "val"):
            write(
                tmp_path / "VOCdevkit" / year, f"{split}1", SIZE + thing("dog", (1, 1, 9, 9)), split
            )
    write(tmp_path / "VOCdevkit" / "VOC2007", "test1", SIZE, "test")
    splits = read_voc(tmp_path).splits
    assert [(split.name, split.role) for split in splits] == [
        ("train2007", "train"),
        ("val2007", "train"),
        ("test2007", "val"),
        ("train2012", "train"),
        ("val2012", "train"),
    ]


def test_several_years_without_a_test(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / "VOC2012", f"{split}1", SIZE + thing("dog", (1, 1, 9, 9)), split)
    splits = read_voc(tmp_path).splits
    assert [(split.name, split.role) for split in splits] == [
        ("train2012", "train"),
        ("val2012", "val"),
    ]


BOMB = "<!DOCTYPE annotation [" + "".join(
    f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(1, 10)
)


@pytest.mark.parametrize(
    "content",
    [
        f'{BOMB}<!ENTITY e1 "ha">]><annotation>&e10;</annotation>'.encode(),
        b'<?xml version="1.0"?>\n<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        f"{BOMB}]><annotation/>".encode("utf-16"),
        '<!DOCTYPE a [<!ENTITY x "y">]><a/>'.encode("utf-16-be"),
    ],
)
def test_document_types_are_rejected(content: bytes) -> None:
    with pytest.raises(
        UserError, match=r"^a\.xml is not safe: it has a document type or is not UTF-8"
    ):
        parse_xml(content, Path("a.xml"))


@pytest.mark.parametrize(
    "content",
    [b"", b"<annotation>", b"text", b"<a>&x;</a>", b"<?xml version='1.0' encoding='none'?><a/>"],
)
def test_invalid_xml(content: bytes) -> None:
    with pytest.raises(UserError, match=r"^a\.xml is damaged \("):
        parse_xml(content, Path("a.xml"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (thing("", (1, 1, 2, 2)), r"a\.xml has an object without a name"),
        (thing("dog", (1, "?", 2, 2)), r"a\.xml: dog has ymin '\?'; it must be a number"),
        (thing("dog", (1, 1, "1e999", 2)), "has xmax '1e999'"),
        ("<object><name>dog</name></object>", "dog has xmin ''; it must be a number"),
        ("", "has no objects; give a folder with annotated objects"),
    ],
)
def test_invalid_annotations(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        annotations(tmp_path, SIZE + body)


def test_unknown_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--classes cow: choose from dog"):
        annotations(tmp_path, SIZE + thing("dog", (1, 1, 2, 2)), "dog", "cow")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("../a", "is outside of its folder"),
        ("b/a", "'b/a' is not an image name without folders"),
        ("absent", r"cannot read .*absent\.xml: "),
        ("", r"train\.txt has no images"),
    ],
)
def test_invalid_lists(tmp_path: Path, entry: str, message: str) -> None:
    write(tmp_path, "a", SIZE + thing("dog", (1, 1, 2, 2)))
    (tmp_path / "ImageSets/Main/train.txt").write_text(entry)
    with pytest.raises(UserError, match=message):
        read_voc(tmp_path)


def test_invalid_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has neither Annotations/ nor VOC2007/Annotations/"):
        read_voc(tmp_path)
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(UserError, match=r"Main has no train\.txt, val\.txt or test\.txt"):
        read_voc(tmp_path)


@requires_shared
def test_conversion_of_bccd(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "yolo"):
        main(["voc", str(DATASETS / "bccd"), "--out", str(tmp_path)])
    logged = caplog.text
    assert "Total: 364 images, 4888 rows: 4886 boxes, 0 ignore regions" in logged
    assert "BloodImage_00338.jpg: RBC (504, 337, 504, 337) is without area" in logged
    assert "BloodImage_00343.jpg: RBC (181, 329, 181, 329) is without area" in logged
    for split, images, boxes in (("train", 205, 2804), ("val", 87, 1137), ("test", 72, 945)):
        index = build_index([tmp_path / "images" / split], ["Platelets", "RBC", "WBC"])
        assert (len(index), len(index.boxes), len(index.messages)) == (images, boxes, 0)
