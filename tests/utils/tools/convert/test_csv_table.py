from pathlib import Path

import pytest

from tests.utils.datasets.drawn import draw
from utils.errors import UserError
from utils.tools.convert.__main__ import main
from utils.tools.convert.annotated import Annotation, Conversion, Corners
from utils.tools.convert.csv_table import read_csv

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
BOX = Corners(10, 5, 30, 15)
CAT, DOG = Annotation("cat", BOX, 0), Annotation("dog", Corners(0, 0, 5.5, 5), 1)


def write(folder: Path, text: str | bytes, name: str = "labels.csv", images: str = "a b") -> Path:
    for stem in images.split():
        draw(folder, f"sub/{stem}", (20, 40), [])  # images/sub/a.png
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def contents(conversion: Conversion) -> dict[str, tuple[Annotation, ...]]:
    return {str(i.place): i.annotations for split in conversion.splits for i in split.images}


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "a.png,40,20,cat,10,5,30,15\na.png,40,20,dog,0,0,5.5,5\n",
        # The columns of other tools, in any order, and other separators
        "Image_ID;label;x1;x2;y1;y2;notes\na;cat;10;30;5;15;x\na;dog;0;5.5;0;5;\n",
        "path\tClass Name\tX-Min\tY-Min\tX-Max\tY-Max\r\nsub/a.png\tcat\t10\t5\t30\t15\r\n"
        "C:\\data\\sub\\a.png\tdog\t0\t0\t5.5\t5\r\n",
        # RetinaNet: no header, and images without a box
        "/data/a.png,10,5,30,15,cat\n/data/a.png,0,0,5.5,5,dog\n/data/b.png,,,,,\n",
        # Kaggle: left, top, width and height in one column
        'image_id,width,height,bbox,class\na,40,20,"[10, 5, 20, 10]",cat\n'
        'a,40,20,"[0 0 5.5 5]",dog\n',
        ("\ufeff" + HEADER + "a.png,,,cat,10,5,30,15\n\na.png,,,dog,0,0,5.5,5\n"),
        (HEADER + "a.png,,,cat,10,5,30,15\na.png,,,dog,0,0,5.5,5\n").encode("utf-16"),
    ],
)
def test_layouts(tmp_path: Path, text: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    conversion = read_csv(write(tmp_path, text), tmp_path / "images")
    assert conversion.names == ("cat", "dog")
    assert contents(conversion) == {"sub/a.png": (CAT, DOG), "sub/b.png": ()}


def test_fractions_of_the_image(tmp_path: Path) -> None:
    """Open Images."""
    text = "ImageID,LabelName,XMin,XMax,YMin,YMax\na,cat,0.25,0.75,0.25,0.75\n"
    file = write(tmp_path, text, images="a b c")
    main(["csv", str(file), "--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")])
    label = tmp_path / "out/labels/sub/a.txt"
    assert label.read_text() == "0 0.500000 0.500000 0.500000 0.500000\n"


def test_one_class_for_a_table_without_classes(tmp_path: Path) -> None:
    """Kaggle's wheat heads."""
    file = write(tmp_path, 'image_id,width,height,bbox,source\na,40,20,"[10, 5, 20, 10]",usask_1\n')
    with pytest.raises(
        UserError, match=r"labels\.csv has no column of classes; add a column `class`"
    ):
        read_csv(file)
    assert contents(read_csv(file, classes="wheat"))[
        "images/sub/a.png".removeprefix("images/")
    ] == (Annotation("wheat", BOX, 0),)


def test_a_table_per_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Raccoon: test_labels.csv, train_labels.csv, and both in a third one."""
    row = "a.png,40,20,cat,10,5,30,15\n"
    write(tmp_path, HEADER + row, "train_labels.csv")
    write(tmp_path, HEADER + row.replace("a.", "b."), "test_labels.csv")
    write(tmp_path, HEADER, "raccoon_labels.csv")
    splits = read_csv(tmp_path).splits
    assert [(s.role, [str(i.place) for i in s.images]) for s in splits] == [
        ("test", ["sub/b.png"]),
        ("train", ["sub/a.png"]),
    ]
    assert "CSV files that are not used: raccoon_labels.csv." in caplog.messages
    write(tmp_path, HEADER + row, "training.csv")
    with pytest.raises(
        UserError, match=r"has several CSV files per split \(test_labels\.csv, train"
    ):
        read_csv(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"labels\.csv is empty"),
        (HEADER, "has no boxes; give a table with boxes"),
        (
            "a.png,1,2,3\n",
            "has the columns a.png, 1, 2, 3; expected are filename,width,height,class",
        ),
        ("filename,x,y,width,height,class\n", "expected are filename,width,height,class,xmin"),
        (b"\xff\xfea", r"labels\.csv is damaged"),
        (b"caf\xe9,1,2,3,4,cat\n", r"labels\.csv is damaged \(.*\); save it as CSV in UTF-8"),
        (HEADER + "a.png,40,20,cat,1,2,x,4\n", r"line 2 has the box 1, 2, x, 4; it must be four"),
        (HEADER + "a.png,40,20,cat,1,2,nan,4\n", "it must be four numbers"),
        (HEADER + "a.png,40,20,cat,1,2\n", "it must be four numbers"),
        (HEADER + "a.png,40,20,,1,2,3,4\n", "line 2 has no class; add it"),
        (
            HEADER + ",,,cat,1,2,3,4\nz.gif,,,cat,1,2,3,4\n",
            r"2 errors:\n.*line 2: image name '' has .*\n.*line 3: image name 'z\.gif' has",
        ),
    ],
)
def test_invalid_tables(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_csv(write(tmp_path, text))


def test_folder_without_tables_of_splits(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="has no CSV files for train, val or test by their names; give"
    ):
        read_csv(tmp_path)
    write(tmp_path, HEADER)
    with pytest.raises(UserError, match=r"by their names, only labels\.csv; give one of them"):
        read_csv(tmp_path)


def test_two_names_for_one_file(tmp_path: Path) -> None:
    file = write(tmp_path, HEADER + "sub/a.png,,,cat,1,2,3,4\nother/a.png,,,cat,1,2,3,4\n")
    with pytest.raises(UserError, match=r"sub/a\.png and other/a\.png are both found as images"):
        read_csv(file)
