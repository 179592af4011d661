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
from utils.tools.convert.voc import read_voc
from utils.tools.convert.voc_xml import parse_xml

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
    return read_voc(folder, classes=",".join(classes)).splits[0].images[0].annotations


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
    """Sizes of 0, none, and text; a size with decimals is one."""
    sizes = ["<size><width>0</width><height>0</height></size>", "", "<size><width>x</width></size>"]
    sizes.append("<size><width>50.0</width><height>30.0</height></size>")
    for stem, size in zip("abcd", sizes, strict=True):
        write(tmp_path, stem, size + thing("dog", (26, 1, 50, 30)))
        draw_into(tmp_path, stem, (30, 50))
    images = read_voc(tmp_path).splits[0].images
    assert [(image.width, image.height) for image in images] == [(0, 0)] * 3 + [(50, 30)]
    main(["voc", str(tmp_path), "--out", str(tmp_path / "out")])
    texts = {path.read_text() for path in (tmp_path / "out/labels").rglob("*.txt")}
    assert texts == {"0 0.750000 0.500000 0.500000 1.000000\n"}
    (tmp_path / "JPEGImages" / "b.png").unlink()
    options = ["--out", str(tmp_path / "out"), "--allow-missing-images"]
    with pytest.raises(
        UserError, match=r"b\.jpg has no size in the annotations and cannot be read"
    ):
        main(["voc", str(tmp_path), *options])


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


def test_invalid_lists(tmp_path: Path) -> None:
    write(tmp_path, "a", SIZE + thing("dog", (1, 1, 2, 2)))
    (tmp_path / "ImageSets/Main/train.txt").write_text("absent\na\ngone\n")
    with pytest.raises(UserError, match=r"2 errors:\n  .*train\.txt lists absent, which") as caught:
        read_voc(tmp_path)
    assert "train.txt lists gone, which does not exist; correct it." in str(caught.value)
    (tmp_path / "ImageSets/Main/train.txt").write_text("\n")
    with pytest.raises(UserError, match=r"train\.txt: no images are listed; remove"):
        read_voc(tmp_path)


def test_invalid_folders(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has no XML files; give a folder of Pascal VOC, or a folder"
    ):
        read_voc(tmp_path)
    write(tmp_path, "a", SIZE + thing("dog", (1, 1, 2, 2)), "part1")
    write(tmp_path, "a", SIZE + thing("dog", (1, 1, 2, 2)), "part2")
    with pytest.raises(UserError, match=r"has the lists part1\.txt, part2\.txt, but no train\.txt"):
        read_voc(tmp_path)


def roles(folder: Path) -> dict[str, list[str]]:
    """Return the stems of the images by the role of their split."""
    return {
        split.role: sorted(image.place.stem for image in split.images)
        for split in read_voc(folder).splits
    }


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"train": "ab", "valid": "c"}, {"train": ["a", "b"], "val": ["c"]}),
        ({"Train": "ab", "Validation": "c"}, {"train": ["a", "b"], "val": ["c"]}),
        ({"trainval": "ab", "test": "c"}, {"train": ["a", "b"], "test": ["c"]}),
        # What trainval has beyond train is for validation, and the other way round.
        ({"train": "ab", "trainval": "abc"}, {"train": ["a", "b"], "val": ["c"]}),
        ({"val": "ab", "trainval": "abc"}, {"train": ["c"], "val": ["a", "b"]}),
        ({"default": "abc"}, {"": ["a", "b", "c"]}),
        ({"default": "abc", "dog_default": "ab"}, {"": ["a", "b", "c"]}),  # CVAT, a list per class
        ({}, {"": ["a", "b", "c"]}),
    ],
)
def test_lists_are_used_whatever_their_names(
    tmp_path: Path, lists: dict[str, str], expected: dict[str, list[str]]
) -> None:
    for stem in "abc":
        write(tmp_path, stem, SIZE + thing("dog", (1, 1, 9, 9)), "removed")
        draw_into(tmp_path, stem)
    (tmp_path / "ImageSets/Main/removed.txt").unlink()
    for name, stems in lists.items():
        (tmp_path / f"ImageSets/Main/{name}.txt").write_text("\n".join(stems))
    assert roles(tmp_path) == expected


def test_lists_that_are_not_used_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "val", "trainval", "dog_train", "notes"):
        write(tmp_path, name[0], SIZE + thing("dog", (1, 1, 9, 9)), name)
    read_voc(tmp_path)
    (line,) = (line for line in caplog.messages if "that are not used" in line)
    assert line.endswith("Main that are not used: dog_train.txt, notes.txt, trainval.txt.")


@pytest.mark.parametrize(("split", "more"), [("test", ""), ("train", "<difficult>1</difficult>")])
def test_nothing_for_training_is_an_exit_code(tmp_path: Path, split: str, more: str) -> None:
    write(tmp_path, "a", SIZE + thing("dog", (1, 1, 9, 9), more), split)
    write(tmp_path, "a", SIZE + thing("dog", (1, 1, 9, 9), more), "val")
    draw_into(tmp_path, "a")
    with pytest.raises(SystemExit) as ended:
        main(["voc", str(tmp_path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 1
    assert (tmp_path / "out/images/val/a.png").is_file()  # for val.py


@pytest.mark.parametrize("size", [SIZE, ""])
def test_fractions_of_the_image(
    tmp_path: Path, size: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The columns 0.25 to 0.75 of the image, whether the file says its size or not."""
    write(tmp_path, "a", size + thing("dog", (0.25, 0.5, 0.75, 1.0)))
    write(tmp_path, "b", SIZE + thing("dog", (1, 1, 20, 10)), "val")
    for stem in "ab":
        draw_into(tmp_path, stem)
    main(["voc", str(tmp_path), "--out", str(tmp_path / "out")])
    for split, stem, row in [
        ("train", "a", "0 0.500000 0.750000 0.500000 0.500000\n"),
        ("val", "b", "0 0.250000 0.250000 0.500000 0.500000\n"),  # pixels, as before
    ]:
        assert (tmp_path / f"out/labels/{split}/{stem}.txt").read_text() == row
    assert "train: all boxes are within 0 to 1: they are fractions of the image" in caplog.text
    assert "val: all" not in caplog.text


def test_pixels_counted_from_zero_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotations(tmp_path, SIZE + thing("dog", (0, 2, 9, 9)) + thing("dog", (3, 2, 9, 9)))
    assert "1 of 2 boxes have a left or upper corner at 0, so pixels are counted" in caplog.text


def test_names_with_spaces_and_lists_of_a_class(tmp_path: Path) -> None:
    stems = ["my dog 1", "my dog", "photo 2", "photo", "plain", "deep/er", "dots.v2.final"]
    for stem in stems:
        write(tmp_path, stem, SIZE + thing("dog", (1, 1, 9, 9)), "old")
    lines = [
        "# dogs",
        "my dog 1",
        "photo 2  -1",
        "plain  1",
        "deep/er",
        "dots.v2.final",
        "my dog.jpg",
    ]
    (tmp_path / "ImageSets/Main/old.txt").rename(tmp_path / "ImageSets/Main/train.txt")
    (tmp_path / "ImageSets/Main/train.txt").write_text("\n".join(lines))
    (split,) = read_voc(tmp_path).splits
    assert [image.place.stem for image in split.images] == [
        *("my dog 1", "photo 2", "plain", "er", "dots.v2.final", "my dog")
    ]
    assert all(image.annotations for image in split.images)


def test_listed_image_without_an_xml_file_is_background(tmp_path: Path) -> None:
    write(tmp_path, "a", SIZE + thing("dog", (1, 1, 9, 9)))
    for stem in "ab":
        draw_into(tmp_path, stem)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\nb\n")
    (split,) = read_voc(tmp_path).splits
    assert [len(image.annotations) for image in split.images] == [1, 0]


def pair(folder: Path, image: str, xml: str, body: str = "", suffix: str = ".png") -> None:
    """Write an image and an XML file, anywhere."""
    drawn = draw(folder / "drawn", "x", (20, 40), [])
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    drawn.rename(folder / f"{image}{suffix}")
    if xml:
        (folder / xml).parent.mkdir(parents=True, exist_ok=True)
        body = SIZE + thing("roo", (1, 1, 20, 10)) + body
        (folder / f"{xml}.xml").write_text(f"<annotation>{body}</annotation>", encoding="utf-8")


def found(folder: Path, images: str, xmls: str | None = None) -> dict[str, dict[str, int]]:
    """Return the number of objects by image, by role."""
    conversion = read_voc(folder / images, folder / xmls if xmls else None)
    return {
        split.role: {str(image.place): len(image.annotations) for image in split.images}
        for split in conversion.splits
    }


def test_two_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Any names of folders; the name of the file is more reliable than <filename>."""
    pair(tmp_path, "pics/0001", "annots/0001", "<filename>0002.png</filename>")
    pair(tmp_path, "pics/0002", "annots/0002", "<filename>0001.png</filename>")
    pair(tmp_path, "pics/renamed", "annots/other", "<filename>renamed.png</filename>")
    pair(tmp_path, "pics/background", "")
    pair(tmp_path, "pics/._0001", "annots/._0001")  # written by macOS
    assert found(tmp_path, "pics", "annots") == {
        "": {"0001.png": 1, "0002.png": 1, "renamed.png": 1, "background.png": 0}
    }
    assert "1 images have no XML file: they are background." in caplog.messages


def test_xml_files_beside_the_images_of_split_folders(tmp_path: Path) -> None:
    """Roboflow's export."""
    for split, name in (("train", "a"), ("train", "b"), ("valid", "a"), ("test", "c")):
        stem = f"{split}/{name}_jpg.rf.0a1b"
        pair(tmp_path, stem, stem)
    (tmp_path / "README.roboflow.txt").write_text("text")
    assert found(tmp_path, ".") == {
        "train": {"a_jpg.rf.0a1b.png": 1, "b_jpg.rf.0a1b.png": 1},
        "val": {"a_jpg.rf.0a1b.png": 1},
        "test": {"c_jpg.rf.0a1b.png": 1},
    }


def test_one_folder_with_both(tmp_path: Path) -> None:
    """LabelImg's export; of two images with one stem the XML file names one."""
    pair(tmp_path, "all/a", "all/a", "<filename>a.jpg</filename>", ".jpg")
    pair(tmp_path, "all/b", "all/b")
    assert found(tmp_path, "all") == {"": {"a.jpg": 1, "b.png": 1}}
    pair(tmp_path, "all/a", "")
    assert found(tmp_path, "all") == {"": {"a.jpg": 1, "b.png": 1, "a.png": 0}}


def test_unicode_forms_of_names(tmp_path: Path) -> None:
    """macOS writes `é` as two characters, and a URL as escapes."""
    pair(tmp_path, "images/cafe\u0301", "xml/caf\u00e9")
    pair(tmp_path, "images/Gru\u0308n", "xml/x", "<filename>Gr%C3%BCn.PNG</filename>")
    assert found(tmp_path, "images", "xml") == {"": {"cafe\u0301.png": 1, "Gru\u0308n.png": 1}}


def test_xml_files_of_pairs_that_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "images/a", "xml/a")
    pair(tmp_path, "images/b", "xml/b", "<object><name>roo</name><mask/></object>")
    pair(tmp_path, "images/c", "xml/z", "<filename>a.png</filename>")
    (tmp_path / "xml/cvat.xml").write_text("<annotations><version>1.1</version></annotations>")
    (tmp_path / "xml/other.xml").write_text("<project/>")
    with pytest.raises(UserError) as caught:
        found(tmp_path, "images", "xml")
    first, *others = str(caught.value).splitlines()
    assert first == "there are 3 errors:"
    assert "b.xml: roo has xmin ''; it must be a number." in others[0]
    assert "cvat.xml has the annotations of several images, a format of CVAT" in others[1]
    assert "xml/a.xml both describe" in others[2]


@pytest.mark.parametrize(
    ("left", "shift"),
    [
        (1, 1),  # pixels 1 to 20 are edges 0 to 20; without a 0, decimals change nothing
        (1.5, 1),
        (0, 0),  # CVAT and Roboflow count from 0; one such corner shows it for all boxes
        (0.5, 0),
        (-1, 1),  # outside the image in both ways of counting
    ],
)
def test_first_pixel(tmp_path: Path, left: float, shift: int) -> None:
    body = SIZE + thing("dog", (left, 2, 20.25, 10)) + thing("dog", (5, 5, 9, 9))
    assert [annotation.box for annotation in annotations(tmp_path, body)] == [
        Corners(left - shift, 2 - shift, 20.25, 10),
        Corners(5 - shift, 5 - shift, 9, 9),
    ]


@pytest.mark.parametrize(
    "polygon",
    [
        "<polygon><x1>1</x1><y1>2</y1><x2>9</x2><y2>3</y2><x3>5</x3><y3>8</y3></polygon>",
        "<polygon><pt><x>1</x><y>2</y></pt><pt><x>9</x><y>3</y></pt><pt><x>5</x><y>8</y></pt>"
        "</polygon>",
    ],
)
def test_polygons_without_a_box(tmp_path: Path, polygon: str) -> None:
    body = f"{SIZE}<object><name>dog</name>{polygon}</object>"
    assert annotations(tmp_path, body)[0].box == Corners(0, 1, 9, 8)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff<a><name>狗</name></a>".encode(),
        '\n<?xml version="1.0"?><a><name>狗</name></a>'.encode(),
        '<?xml version="1.0" encoding="gb2312"?><a><name>狗</name></a>'.encode("gb2312"),
        "<?xml version='1.0' encoding='GBK'?><a><name>狗</name></a>".encode("gbk"),
        '<?xml version="1.0" encoding="utf-16"?><a><name>狗</name></a>'.encode("utf-16"),
        '<?xml version="1.0" encoding="utf-16"?><a><name>狗</name></a>'.encode(),  # .NET
    ],
)
def test_encodings(content: bytes) -> None:
    assert parse_xml(content, Path("a.xml")).findtext("name") == "狗"


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


@pytest.mark.parametrize("annotations", ["export", "export/Annotations"])
def test_lists_beside_the_xml_files_are_used(tmp_path: Path, annotations: str) -> None:
    """CVAT exports without images: lists, XML files, and the images are elsewhere."""
    for stem, split in (("a", "Train"), ("b", "Validation")):
        write(tmp_path / "export", stem, SIZE + thing("dog", (1, 1, 9, 9)), split)
        pair(tmp_path, f"photos/{stem}", "")
    assert found(tmp_path, "photos", annotations) == {"train": {"a.png": 1}, "val": {"b.png": 1}}


def test_folders_of_classes_with_images_in_each(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        pair(tmp_path, f"{kind}/images/1", f"{kind}/xml/1")
    assert found(tmp_path, ".") == {"": {"cat/1.png": 1, "dog/1.png": 1}}


def test_images_in_formats_that_are_not_read(tmp_path: Path) -> None:
    pair(tmp_path, "x/a", "x/a", "<filename>a.HEIC</filename>", ".heic")
    with pytest.raises(
        UserError, match=r"a\.xml: image name 'a\.HEIC' has an unknown suffix; choose"
    ):
        found(tmp_path, "x")


def test_class_names_that_differ_in_case_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotations(tmp_path, SIZE + thing(" dog\n", (1, 1, 9, 9)) + thing("Dog", (1, 1, 9, 9)))
    assert "Classes Dog and dog differ only in the way they are written." in caplog.messages


def test_every_line_that_fits_two_images_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a", SIZE + thing("dog", (1, 1, 9, 9)))
    for place in ("a", "x/b", "y/b", "x/c", "y/c"):
        pair(tmp_path, f"JPEGImages/{place}", "")
    (tmp_path / "ImageSets/Main/train.txt").write_text("b\na\nc\n")
    with pytest.raises(UserError, match=r"2 errors:\n  b can be y/b\.png .*\n  c can be y/c"):
        read_voc(tmp_path)


def test_images_in_no_list_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for stem in "abc":
        write(tmp_path, stem, SIZE + thing("dog", (1, 1, 9, 9)))
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    read_voc(tmp_path)
    assert "2 images are in none of the splits and not used." in caplog.messages
