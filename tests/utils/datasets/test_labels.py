from pathlib import Path

import numpy as np
import pytest

from utils.datasets.labels import (
    MAX_BYTES,
    MAX_ROWS,
    LabelError,
    find_labels,
    from_pixels,
    label_path,
    parse_labels,
    read_labels,
    to_pixels,
)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/coco/images/train/1.jpg", "/d/coco/labels/train/1.txt"),
        # only the last folder of this name is replaced, never the file name
        ("/d/images/coco/images/a/1.png", "/d/images/coco/labels/a/1.txt"),
        ("/d/images/images.jpg", "/d/labels/images.txt"),
        # only whole folder names and the last suffix are replaced
        ("/d/my-images/images/street.v2.jpg", "/d/my-images/labels/street.v2.txt"),
        # without such a folder the label is beside the image
        ("/d/pics/1.jpg", "/d/pics/1.txt"),
    ],
)
def test_label_path(image: str, label: str) -> None:
    assert label_path(image) == label
    assert find_labels([image]) == [label]


def test_labels_are_found_ignoring_case_unless_they_belong_to_another_image(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    labels.mkdir()
    for name in ("a.txt", "B.TXT", "b.txt", "C.txt", "d.Txt", "D.txt"):
        (labels / name).touch()
    names = ["a.jpg", "A.JPG", "b.jpg", "c.png", "d.png", "e.png", ".jpg"]
    found = find_labels([str(images / name) for name in names])
    assert [Path(path).relative_to(labels).name for path in found] == [
        "a.txt",
        "A.txt",  # does not exist; a.txt is the label of a.jpg
        "b.txt",
        "C.txt",
        "D.txt",  # of two candidates, the first in alphabetical order
        "e.txt",
        ".jpg.txt",
    ]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/\u0065\u0301t\u00e9.jpg", "labels/\u00e9te\u0301.txt"),  # é as macOS writes it
        ("images/stra\u00dfe.jpg", "labels/STRASSE.txt"),
        ("images/%C3%A9t%C3%A9 1.jpg", "labels/\u00e9t\u00e9%201.txt"),
        ("images/100%.jpg", "labels/100%25.txt"),
        ("images/train/a.jpg", "Labels/Train/a.txt"),
        ("images/\u0065\u0301/a.jpg", "labels/\u00e9/a.txt"),
        ("Images/train/a.jpg", "Labels/train/a.txt"),
        ("IMAGES/a.jpg", "labels/A.txt"),
        ("Images/a.jpg", "Images/a.txt"),
    ],
)
def test_labels_are_found_by_any_way_to_write_the_name(
    tmp_path: Path, image: str, label: str
) -> None:
    for name in (image, label, "notes/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_labels([str(tmp_path / image)]) == [str(tmp_path / label)]


def test_labels_beside_the_image_are_preferred_to_those_in_a_folder_labels(tmp_path: Path) -> None:
    for name in ("Images/a.txt", "Labels/a.txt", "Labels/b.txt", "Labels/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_labels([str(tmp_path / name) for name in ("Images/a.jpg", "Images/b.jpg")])
    assert found == [str(tmp_path / "Images/a.txt"), str(tmp_path / "Labels/b.txt")]


def test_read_labels_of_any_file(tmp_path: Path) -> None:
    label = tmp_path / "a.txt"
    label.write_bytes(b"\xef\xbb\xbf0 .5 .5 .5 .5\r\n1 .5 .5 .5 .5 \t\r\n")
    assert read_labels(str(label)).rows[:, 0].tolist() == [0, 1]
    label.write_bytes(b"0 .5 \xff .5 .5")
    with pytest.raises(LabelError, match=r"not UTF-8 text \(invalid start byte at byte 5\)"):
        read_labels(str(label))
    label.write_bytes(b" " * MAX_BYTES)
    assert len(read_labels(str(label)).rows) == 0
    label.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(LabelError, match="it is larger than 8 MiB"):
        read_labels(str(label))
    label.unlink()
    assert len(read_labels(str(label)).rows) == 0
    label.symlink_to(tmp_path / "absent.txt")
    with pytest.raises(LabelError, match="it is a link to a file that does not exist"):
        read_labels(str(label))
    label.unlink()
    label.mkdir()
    with pytest.raises(LabelError, match=r"it cannot be read \(Is a directory\)"):
        read_labels(str(label))


def test_number_of_rows_is_limited() -> None:
    assert parse_labels("\n" * MAX_ROWS).rows.shape == (0, 5)
    with pytest.raises(LabelError, match="it has 100001 lines; the maximum is 100000"):
        parse_labels("\n" * (MAX_ROWS + 1))


@pytest.mark.parametrize(
    ("text", "rows", "notes"),
    [
        ("", [], ()),
        ("\n  \n", [], ()),
        ("0 0.5 0.5 0.25 1\n", [[0, 0.5, 0.5, 0.25, 1]], ()),
        ("2.0 0.5 0.5 0.25 1", [[2, 0.5, 0.5, 0.25, 1]], ()),
        # order is kept
        ("7 .5 .5 .5 .5\n1 .5 .5 .5 .5", [[7, 0.5, 0.5, 0.5, 0.5], [1, 0.5, 0.5, 0.5, 0.5]], ()),
        # a triangle and its bounding box: x 0.25 … 0.75, y 0.5 … 1
        ("3 0.25 1 0.75 1 0.5 0.5", [[3, 0.5, 0.75, 0.5, 0.5]], ()),
        # a polygon beside a box
        (
            "3 0.25 1 0.75 1 0.5 0.5 0.5 0.75\n0 0.5 0.5 0.5 0.5",
            [[3, 0.5, 0.75, 0.5, 0.5], [0, 0.5, 0.5, 0.5, 0.5]],
            (),
        ),
        (
            "1 .5 .5 .5 .5\n0 .5 .5 .5 .5\n1 0.50 0.5 0.5 0.5",
            [[1, 0.5, 0.5, 0.5, 0.5], [0, 0.5, 0.5, 0.5, 0.5]],
            ("1 duplicate row(s) removed",),
        ),
        (
            "1 .5 .5 0 .5\n0 .5 .5 .5 .5\n0 .5 .5 .5 0",
            [[0, 0.5, 0.5, 0.5, 0.5]],
            ("2 box(es) without area removed",),
        ),
        # rounding: 1.0 as float32, and in the sixth digit
        (
            "0 1.0000000000000002 .5 .5 1.000001\n0 -1e-7 .5 .5 .5",
            [[0, 1, 0.5, 0.5, 1], [0, 0, 0.5, 0.5, 0.5]],
            (),
        ),
        # polygons are cut off at the border: x 0 … 0.5, y 0 … 1; beyond it only, no area is left
        ("0 -.25 -.01 .5 -.01 .5 1.01", [[0, 0.25, 0.5, 0.5, 1]], ()),
        ("0 1 .5 1.1 .5 1.1 .7", [], ("1 box(es) without area removed",)),
    ],
)
def test_parse_labels(text: str, rows: list[list[float]], notes: tuple[str, ...]) -> None:
    parsed = parse_labels(text)
    assert parsed.rows.dtype == np.float32
    assert parsed.rows.shape == (len(rows), 5)
    assert parsed.rows.tolist() == rows
    assert parsed.notes == notes


PIXELS = (
    " and looks like pixels; divide x and width by the width of the image, y and height by its "
    "height"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 .5 .5 .5", "line 1 has 4 columns; a box has 5, a polygon an odd number from 7"),
        (
            "0 .5 .5 .5 .5\n0 .5 .5 .5 .5 .9",
            "line 2 has 6 columns; a box has 5, a polygon an odd number from 7; if the last one is "
            "a confidence, as --save-conf writes, remove it",
        ),
        (
            "0,.5,.5,.5,.5",
            "line 1 has 1 columns; a box has 5, a polygon an odd number from 7; separate the "
            "columns by spaces",
        ),
        ("0 .1 .1 .2 .2 .3 .3 .4", "line 1 has 8 columns"),
        (
            "person .5 .5 .5 .5",
            "line 1 has a value that is not a number, 'person'; write the class as its index in "
            "the list of names, 0, 1, 2 …, and the box in fractions of the image",
        ),
        (
            "0 0,5 .5 .5 .5",
            "line 1 has a value that is not a number, '0,5'; write decimal points",
        ),
        ("0 .5 nan .5 .5", "line 1 has a value that is not finite"),
        ("0 .5 inf .5 .5", "line 1 has a value that is not finite"),
        ("1.5 .5 .5 .5 .5", "line 1 has class 1.5"),
        ("-1 .5 .5 .5 .5", "line 1 has class -1"),
        ("1e300 .5 .5 .5 .5", "line 1 has class 1e300"),
        (
            "16777216 .5 .5 .5 .5",
            "line 1 has class 16777216",
        ),  # float32 does not represent the next integer
        ("0 .5 .5 .5 1.0001", "line 1 has a coordinate outside 0 to 1"),
        ("0 .5 .5 .5 1.01", "line 1 has a coordinate outside 0 to 1; correct it"),
        ("0 -.1 .5 .5 .5", "line 1 has a coordinate outside 0 to 1"),
        # a polygon in pixels, and one far outside
        ("0 20 10 60 10 60 90", f"line 1 has a coordinate outside 0 to 1{PIXELS}"),
        ("0 .5 .5 .5 40", f"line 1 has a coordinate outside 0 to 1{PIXELS}"),
        ("0 -.4 .1 .8 .1 .8 .9", "line 1 has a coordinate outside 0 to 1"),
    ],
)
def test_parse_labels_rejects_invalid_rows(text: str, reason: str) -> None:
    with pytest.raises(LabelError) as caught:
        parse_labels(text)
    assert str(caught.value).startswith(reason)


def test_to_pixels_and_from_pixels_are_inverse() -> None:
    labels = np.array([[4, 0.5, 0.5, 0.5, 1.0], [1, 0.25, 0.5, 0.5, 0.5]], np.float32)
    boxes = to_pixels(labels, (20, 40), (100, 200))
    assert boxes.tolist() == [[110, 200, 130, 220], [100, 205, 120, 215]]
    back = from_pixels(labels[:, 0], to_pixels(labels, (20, 40)), (20, 40))
    assert back.dtype == np.float32
    assert back.tolist() == labels.tolist()
    assert from_pixels(np.empty(0), np.empty((0, 4)), (20, 40)).shape == (0, 5)
