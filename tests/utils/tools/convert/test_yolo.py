import json
from pathlib import Path

import pytest
import yaml

from tests.utils.datasets.drawn import draw
from utils.errors import UserError
from utils.tools.convert.__main__ import main
from utils.tools.convert.annotated import Annotation, Corners
from utils.tools.convert.yolo import read_yolo

ROW = "1 0.5 0.5 0.5 0.25\n"
BOX = Annotation("dog", Corners(0.25, 0.375, 0.75, 0.625), 1)


def write(folder: Path, files: dict[str, str]) -> None:
    """Write text files, and an image for every empty path that ends with .png."""
    for place, text in files.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if place.endswith(".png"):
            draw(folder / "drawn", "x", (20, 40), []).rename(folder / place)
        else:
            (folder / place).write_text(text, encoding="utf-8")
    for rest in (folder / "drawn").rglob("*.txt"):
        rest.unlink()


CVAT = {
    "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
    "obj.names": "cat\ndog\n",
    "train.txt": "data/obj_train_data/a.png\ndata/obj_train_data/b c.png\n",
    "obj_train_data/a.png": "",
    "obj_train_data/a.txt": ROW,
    "obj_train_data/b c.png": "",
}
CVAT_SUBSETS = CVAT | {
    "obj.data": "train = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n",
    "valid.txt": "data/obj_valid_data/a.png\n",
    "obj_valid_data/a.png": "",
    "obj_valid_data/a.txt": ROW,
}
LABEL_STUDIO = {
    "classes.txt": "cat\ndog\n",
    "notes.json": '{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}',
    "images/1a2b3c4d-a.png": "",
    "images/b c.png": "",
    "labels/1a2b3c4d-a.txt": ROW,
    "labels/b c.txt": "",
}
LABELIMG = {"a.png": "", "a.txt": ROW, "b c.png": "", "classes.txt": "cat\ndog\n"}
ROBOFLOW = {
    "data.yaml": "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n",
    "README.dataset.txt": "text of a service\n",
    "train/images/a_jpg.rf.0f.png": "",
    "train/labels/a_jpg.rf.0f.txt": ROW,
    "valid/images/a_jpg.rf.0f.png": "",
    "valid/labels/a_jpg.rf.0f.txt": ROW,
}
DARKNET = {
    "cfg/voc.data": "train = /home/me/set/lists/train.txt\nvalid=lists/test.txt\nnames=voc.names",
    "voc.names": "cat\ndog\n",
    "lists/train.txt": "/home/me/set/img/a.png\n",
    "lists/test.txt": "/home/me/set/img/b.png\n",
    "img/a.png": "",
    "img/a.txt": ROW,
    "img/b.png": "",
}
ONE = {"": {"a.png": 1, "b c.png": 0}}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (CVAT, {"train": {"a.png": 1, "b c.png": 0}}),
        (CVAT_SUBSETS, {"train": {"a.png": 1, "b c.png": 0}, "val": {"a.png": 1}}),
        (LABEL_STUDIO, {"": {"1a2b3c4d-a.png": 1, "b c.png": 0}}),
        (
            {k: v for k, v in LABEL_STUDIO.items() if k != "classes.txt"} | {"labels/b c.txt": ROW},
            {"": {"1a2b3c4d-a.png": 1, "b c.png": 1}},
        ),
        (LABELIMG, ONE),
        (ROBOFLOW, {"train": {"a_jpg.rf.0f.png": 1}, "val": {"a_jpg.rf.0f.png": 1}}),
        (DARKNET, {"train": {"img/a.png": 1}, "val": {"img/b.png": 0}}),
        # The same list for both, and two lists for one
        (
            CVAT | {"obj.data": "train = data/train.txt\nvalid = data/train.txt\n"},
            {"train": {"a.png": 1, "b c.png": 0}},
        ),
        (
            LABELIMG | {"train.txt": "a.png\n", "val.txt": "b c.png\n", "valid.txt": "b c.png\n"},
            {"train": {"a.png": 1}, "val": {"b c.png": 0}},
        ),
        # Names in a file of names, text files with names of other Unicode forms and cases
        (
            {
                "x.names": "\ufeffcat\r\ndog\r\n",
                "Labels/CAF\u00c9.txt": ROW,
                "images/cafe\u0301.png": "",
            },
            {"": {"cafe\u0301.png": 1}},
        ),
        # YOLOv5's own arrangement
        (
            {
                "my.yaml": "names: {0: cat, 1: dog}",
                "images/train/a.png": "",
                "labels/train/a.txt": ROW,
            }
            | {"images/val/a.png": ""},
            {"train": {"a.png": 1}, "val": {"a.png": 0}},
        ),
    ],
    ids=[
        "cvat",
        "cvat-subsets",
        "label-studio",
        "notes",
        "labelimg",
        "roboflow",
        "darknet",
        "same-list",
        "two-lists",
        "unicode",
        "yolov5",
    ],
)
def test_arrangements(
    tmp_path: Path, files: dict[str, str], expected: dict[str, dict[str, int]]
) -> None:
    write(tmp_path, files)
    conversion = read_yolo(tmp_path)
    assert conversion.names == ("cat", "dog")
    assert {
        split.role: {str(image.place): len(image.annotations) for image in split.images}
        for split in conversion.splits
    } == expected
    boxes = [a for split in conversion.splits for image in split.images for a in image.annotations]
    assert set(boxes) == {BOX}


def test_image_in_two_lists_is_for_validation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = CVAT | {"valid.txt": "data/obj_train_data/a.png\n"}
    write(tmp_path / "in", both)
    out = tmp_path / "out"
    with pytest.raises(SystemExit):  # `b c` has no box
        main(["yolo", str(tmp_path / "in"), "--out", str(out)])
    assert [path.name for path in (out / "images/train").iterdir()] == ["b c.png"]
    assert [path.name for path in (out / "images/val").rglob("*.png")] == ["a.png"]
    assert "train: 1 of 2 images are also in val: a.png. They are left out of" in caplog.text


@pytest.mark.parametrize("inner", ["", "out", "data/yolo"])
def test_what_a_conversion_made_is_no_source(tmp_path: Path, inner: str) -> None:
    """Neither labels, lists, names nor links that are in the source folder because of --out."""
    write(tmp_path, LABELIMG | {"c.png": "", "c.txt": ROW})
    out = tmp_path / inner

    def result() -> dict[str, str]:
        main(["yolo", str(tmp_path), "--out", str(out), "--classes", "dog", "--val-share", "0.5"])
        record = json.loads((out / "conversion.json").read_text())
        return {place: (out / place).read_text() for place, mark in record["files"].items() if mark}

    first = result()
    assert [result(), result()] == [first, first]
    assert sum(place.startswith("labels/") for place in first) == 2


def test_converted_data_set_is_a_source(tmp_path: Path) -> None:
    write(tmp_path / "in", LABELIMG | {"c.png": "", "c.txt": ROW})
    main(["yolo", str(tmp_path / "in"), "--out", str(tmp_path / "made")])
    main(["yolo", str(tmp_path / "made"), "--out", str(tmp_path / "again")])
    found = [*tmp_path.glob("*/labels/**/a.txt")]
    assert [path.read_text() for path in found] == ["1 0.500000 0.500000 0.500000 0.250000\n"] * 2


def test_conversion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Polygons become boxes; the order of --classes is that of the labels."""
    write(tmp_path / "in", LABELIMG | {"b c.txt": "0 0.1 0.2 0.3 0.2 0.2 0.4\n"})
    caplog.set_level("INFO", "yolo")
    out = tmp_path / "my out"
    main(
        ["yolo", str(tmp_path / "in"), "--out", str(out), "--classes", "dog", "--val-share", "0.5"]
    )
    assert (out / "labels/a.txt").read_text() == "0 0.500000 0.500000 0.500000 0.250000\n"
    assert (out / "ignore/b c.txt").read_text() == "0.200000 0.300000 0.200000 0.200000\n"
    content = yaml.safe_load((out / "data.yaml").read_text())
    assert content == {"path": ".", "train": "train.txt", "val": "val.txt", "names": {0: "dog"}}
    assert caplog.messages[-1].strip() == (
        f"python train.py --data '{out}/data.yaml' --weights yolov5s.pt --imgsz 640"
    )
    record = json.loads((out / "conversion.json").read_text())
    assert (record["from"], record["val_share"], record["seed"]) == ("yolo", 0.5, 0)
    again = (out / "train.txt").read_text()
    main(["yolo", str(tmp_path / "in"), "--out", str(out), "--val-share", "0.5"])
    assert (out / "labels/b c.txt").read_text() == "0 0.200000 0.300000 0.200000 0.200000\n"
    assert (out / "train.txt").read_text() == again
    assert not list((out / "ignore").rglob("*"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": "", "a.txt": ROW}, r"has no class names; add a file classes\.txt with one name"),
        ({"classes.txt": "a\nb\na\n", "a.png": ""}, r"classes\.txt has a class name twice"),
        (
            LABELIMG | {"classes.txt": "cat\n\ndog\n\n"},
            r"classes\.txt has an empty line 2, so the numbers of the classes are not clear",
        ),
        ({"classes.txt": "a\n", "a.txt": ROW}, "has no images; give their folder with --images"),
        (
            LABELIMG | {"classes.txt": "cat\n"},
            r"a\.txt: class 1 is out of range \(classes are 0 to 0",
        ),
        (
            LABELIMG | {"a.txt": "x\n", "b c.txt": "y\n"},
            r"there are 2 errors:\n.*a\.txt: line 1 has 1 ",
        ),
        (LABELIMG | {"train.txt": "z.png\n"}, r"train\.txt lists z\.png, which does not exist"),
        (LABELIMG | {"train.txt": "\n"}, r"train\.txt: no images are listed"),
        (LABELIMG | {"sub/A.TXT": ROW}, r"are both labels of .*a\.png; remove one"),
        (CVAT | {"stray/x.png": "", "train.txt": ""} | {"obj.data": ""}, "no images are listed"),
    ],
)
def test_invalid_exports(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, files)
    with pytest.raises(UserError, match=message):
        read_yolo(tmp_path)


def test_names_stay_as_they_are_written(tmp_path: Path) -> None:
    write(tmp_path, {"data.yaml": "nc: '4'\nnames: [no, 02146, null, 1e3]\n", "a.png": ""})
    assert read_yolo(tmp_path).names == ("no", "02146", "null", "1e3")


def test_images_elsewhere(tmp_path: Path) -> None:
    """CVAT exports without images, with a list per subset."""
    write(
        tmp_path / "export",
        {
            "obj.data": "train = data/Train.txt\nvalid = data/Validation.txt\n",
            "obj.names": "cat\ndog\n",
            "Train.txt": "data/obj_Train_data/x/a.png\n",
            "Validation.txt": "data/obj_Validation_data/b.png\n",
            "obj_Train_data/x/a.txt": ROW,
        },
    )
    write(tmp_path / "photos", {"x/a.png": "", "b.png": ""})
    splits = read_yolo(tmp_path / "export", tmp_path / "photos").splits
    assert [(s.role, [(str(i.place), len(i.annotations)) for i in s.images]) for s in splits] == [
        ("train", [("x/a.png", 1)]),
        ("val", [("b.png", 0)]),
    ]
    (tmp_path / "export/obj.data").unlink()
    assert [split.role for split in read_yolo(tmp_path / "export", tmp_path / "photos").splits] == [
        *("train", "val")
    ]


def test_files_that_are_not_used_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, LABELIMG | {"gone.txt": ROW, "readme.txt": "x", "train.txt": "a.png\n"})
    read_yolo(tmp_path)
    assert "Text files without an image, not used: gone.txt." in caplog.messages
    assert "1 images are in none of the splits and not used." in caplog.messages
