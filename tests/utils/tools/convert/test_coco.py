import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.utils.datasets.drawn import draw
from utils.datasets.description import DATA_FOLDER
from utils.errors import UserError
from utils.tools.convert.__main__ import main
from utils.tools.convert.annotated import Annotation, Conversion, Corners
from utils.tools.convert.coco import read_coco

# Three of COCO's categories. Id 12 does not exist, so stop sign has id 13 and is class 11.
CATEGORIES = [
    {"id": 90, "name": "toothbrush", "supercategory": "indoor"},
    {"id": 1, "name": "person"},
    {"id": 13, "name": "stop sign"},
]


def instances(**changes: Any) -> dict[str, Any]:
    content = {
        "images": [
            {"id": 139, "file_name": "a.png", "width": 40, "height": 20},
            {"id": 7, "file_name": "b.png", "width": 40, "height": 20},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 139,
                "category_id": 13,
                "bbox": [10, 5.0, 20, 10],
                "iscrowd": 0,
                "segmentation": [[1, 2, 3, 4, 5, 6]],
            },
            {"id": 2, "image_id": 139, "category_id": 1, "bbox": [0, 0, 40, 10], "iscrowd": 1},
            {"id": 3, "image_id": 139, "category_id": 90, "bbox": [5, 5, 0, 3], "iscrowd": 0},
            {"id": 4, "image_id": 139, "category_id": 90, "bbox": [30, 10, 20, 10]},
        ],
        "categories": CATEGORIES,
    }
    return content | changes


def write(folder: Path, content: object, split: str = "val2017") -> Path:
    file = folder / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_conversion_in_place(tmp_path: Path) -> None:
    """Convert an unpacked COCO archive in its own folder."""
    file = write(tmp_path, instances())
    for name in ("a", "b"):
        image = draw(tmp_path, name, (20, 40), [])
        image.rename(image.parents[1] / image.name)
        (tmp_path / "val2017").mkdir(exist_ok=True)
        (tmp_path / image.name).rename(tmp_path / "val2017" / image.name)
    (tmp_path / "labels").rename(tmp_path / "drawn")
    before = file.read_bytes()
    for _ in range(2):  # the links of the first conversion are no other images
        with pytest.raises(SystemExit) as ended:  # there is nothing for training
            main(["coco", str(tmp_path), "--out", str(tmp_path)])
        assert ended.value.code == 1
    assert (tmp_path / "labels/val2017/a.txt").read_text() == (
        "1 0.500000 0.500000 0.500000 0.500000\n"  # 1, 13, 90 are 0, 1, 2
        "2 0.875000 0.750000 0.250000 0.500000\n"  # clipped to the image
    )
    assert (tmp_path / "ignore/val2017/a.txt").read_text() == (
        "0.500000 0.250000 1.000000 0.500000\n"
    )
    assert not (tmp_path / "labels/val2017/b.txt").exists()
    assert (tmp_path / "images/val2017/b.png").is_symlink()
    assert (tmp_path / "val2017.txt").read_text() == (
        "./images/val2017/a.png\n./images/val2017/b.png\n"
    )
    assert yaml.safe_load((tmp_path / "data.yaml").read_text()) == {
        "path": ".",
        "val": "images/val2017",
        "annotations": "annotations/instances_val2017.json",
        "names": {0: "person", 1: "stop sign", 2: "toothbrush"},
    }
    assert file.read_bytes() == before
    assert not file.is_symlink()
    record = json.loads((tmp_path / "conversion.json").read_text())["splits"][0]
    assert record["ignored"] == {"a crowd": 1}
    assert record["rows"]["person (crowd)"] == 1
    assert record["dropped_rows"] == ["a.png: toothbrush (5, 5, 5, 8) is without area"]


def test_fractions_of_the_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are scaled; their file is no ground truth, because it is not in pixels."""
    box = {"id": 1, "image_id": 7, "category_id": 13, "bbox": [0.25, 0.5, 0.5, 0.5]}
    pixels = {"id": 1, "image_id": 139, "category_id": 13, "bbox": [10, 5, 20, 10]}
    for split, name, boxes in [
        ("train2017", "a", [pixels]),
        ("val2017", "b", [box]),
    ]:
        entries = [e for e in instances()["images"] if e["file_name"] == f"{name}.png"]
        write(tmp_path, instances(images=entries, annotations=boxes), split)
        drawn = draw(tmp_path / "drawn", name, (20, 40), [])
        (tmp_path / split).mkdir()
        drawn.rename(tmp_path / split / drawn.name)
    main(["coco", str(tmp_path), "--out", str(tmp_path / "out")])
    rows = [
        (tmp_path / f"out/labels/{split}2017/{name}.txt").read_text()
        for split, name in (("train", "a"), ("val", "b"))
    ]
    assert rows == [
        "1 0.500000 0.500000 0.500000 0.500000\n",
        "1 0.500000 0.750000 0.500000 0.500000\n",
    ]
    assert "val2017: all boxes are within 0 to 1" in caplog.text
    assert "annotations" not in yaml.safe_load((tmp_path / "out/data.yaml").read_text())


def test_coco_ids_become_the_usual_80_classes(tmp_path: Path) -> None:
    """COCO does not use these ids of 1 to 90; the others are the usual classes, in order."""
    names = yaml.safe_load((DATA_FOLDER / "coco.yaml").read_text())["names"]
    unused = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    ids = [number for number in range(1, 91) if number not in unused]
    categories = [{"id": number, "name": names[i]} for i, number in enumerate(ids)]
    box = {"id": 1, "image_id": 7, "category_id": 90, "bbox": [0, 0, 10, 10]}
    write(tmp_path, instances(categories=categories[::-1], annotations=[box]))
    conversion = read_coco(tmp_path, tmp_path)
    assert conversion.names == tuple(names.values())
    assert conversion.splits[0].images[1].annotations[0].label == 79


def test_annotations_in_another_folder_are_linked(tmp_path: Path) -> None:
    file = write(tmp_path / "source", instances(), "train")
    images = tmp_path / "photos"
    for name in ("a", "b"):
        draw(images, f"train/{name}", (20, 40), [])  # photos/images/train
    out = tmp_path / "out"
    main(["coco", str(tmp_path / "source"), "--images", str(images), "--out", str(out)])
    assert (out / "annotations" / file.name).is_symlink()
    assert (out / "images/train/a.png").samefile(images / "images/train/a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged ."),
        ("{", "is damaged ."),
        ("[" * 100_000, "is damaged ."),
        ("[]", "has no lists of objects `images`, `annotations` and `categories`"),
        ({"images": []}, "has no lists of objects `images`, `annotations` and `categories`"),
        (instances(images=[7]), "has no lists of objects `images`, `annotations` and `categories`"),
        (instances(images=[]), "has no images or no categories"),
        (instances(categories=[]), "has no images or no categories"),
        (instances(categories=[{"id": None, "name": "a"}]), "a category has id None"),
        (instances(categories=[{"id": True, "name": "a"}]), "a category has id True"),
        (
            instances(categories=[{"id": 1}]),
            "a category has name None; it must be text",
        ),
        (
            instances(categories=[*CATEGORIES, {"id": 1, "name": "x"}]),
            "two categories with the same id",
        ),
        (
            instances(images=[*instances()["images"], {"id": 7, "file_name": "x.png"}]),
            r"two images with the same id 7, b\.png and x\.png",
        ),
    ],
)
def test_invalid_files(tmp_path: Path, content: object, message: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        read_coco(tmp_path, tmp_path)
    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "a.gif"}, r"image name 'a\.gif' has an unknown suffix"),
        ({"file_name": None}, "an image has file_name None; it must be text"),
        ({"id": 1.5}, "an image has id 1.5"),
    ],
)
def test_invalid_images(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    images = instances()["images"]
    write(tmp_path, instances(images=[images[0] | change, images[1]], annotations=[]))
    with pytest.raises(UserError, match=message):
        read_coco(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, "annotation 4 has unknown image_id 8"),
        ({"category_id": 12}, "annotation 4 has unknown category_id 12"),
        ({"bbox": [1, 2, 3]}, r"annotation 4 has bbox \[1, 2, 3\]; it must be four numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "it must be four numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "it must be four numbers"),
        ({"bbox": None}, "annotation 4 has bbox None"),
    ],
)
def test_invalid_annotations(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    annotation = instances()["annotations"][3] | change
    write(tmp_path, instances(annotations=[annotation]))
    with pytest.raises(UserError, match=message):
        read_coco(tmp_path, tmp_path)


def test_all_errors_are_named(tmp_path: Path) -> None:
    wrong = [{"id": i, "image_id": 7, "category_id": 12, "bbox": [0, 0, 1, 1]} for i in range(22)]
    write(tmp_path, instances(annotations=wrong))
    with pytest.raises(UserError) as caught:
        read_coco(tmp_path, tmp_path)
    lines = str(caught.value).splitlines()
    assert (lines[0], len(lines)) == ("there are 22 errors:", 22)
    assert "annotation 19 has unknown category_id 12" in lines[20]
    assert lines[21] == "  … and 2 more"


def test_folders_without_splits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no JSON files, neither in annotations/ nor in a"):
        read_coco(tmp_path)
    write(tmp_path, instances(), "half")
    assert read_coco(tmp_path).splits[0].role == ""  # the only file
    write(tmp_path, instances(), "rest")
    with pytest.raises(
        UserError, match=r"instances_half\.json, instances_rest\.json, but no name says whether it"
    ):
        read_coco(tmp_path)


def test_categories_are_matched_by_name(tmp_path: Path) -> None:
    """Scripts that number the classes of each split on their own."""
    dogs = [{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}]
    box = {"id": 1, "image_id": 7, "category_id": 0, "bbox": [0, 0, 9, 9]}
    write(tmp_path, instances(categories=dogs, annotations=[box]), "train")
    cows = [{"id": 0, "name": "dog"}, {"id": 1, "name": "cow"}]
    write(tmp_path, instances(categories=cows, annotations=[box]), "val")
    conversion = read_coco(tmp_path)
    assert conversion.names == ("cat", "dog", "cow")
    labels = {s.role: s.images[1].annotations[0].label for s in conversion.splits}
    assert labels == {"train": 0, "val": 1}


def test_files_that_are_not_used_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, instances(), "train2017")
    write(tmp_path, instances(), "train_val")
    (tmp_path / "annotations/captions_train2017.json").write_text("{}")
    assert [split.name for split in read_coco(tmp_path).splits] == ["train2017"]
    draw(tmp_path, "train2017/unlisted", (20, 40), [])
    (line,) = (line for line in caplog.messages if "not used" in line)
    assert "captions_train2017.json" in line
    assert "instances_train_val.json" in line
    read_coco(tmp_path)
    assert "1 images are in none of the splits and not used." in caplog.messages


def box(image: object, category: object, **more: object) -> dict[str, object]:
    return {"image_id": image, "category_id": category, "bbox": [10, 5, 20, 10]} | more


def export(folder: Path, place: str, names: dict[str, str], **changes: Any) -> Path:
    """Write a JSON file and its images: name in the file to path below the folder."""
    for path in names.values():
        drawn = draw(folder / "drawn", "x", (20, 40), [])
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        drawn.rename(folder / path)
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 40, "height": 20} for i, name in enumerate(names)
        ],
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [box(i, 0) for i in range(len(names))],
    }
    file = folder / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content | changes), encoding="utf-8")
    return file


def places(conversion: Conversion) -> dict[str, dict[str, int]]:
    return {
        split.role: {str(image.place): len(image.annotations) for image in split.images}
        for split in conversion.splits
        if all(image.file.is_file() for image in split.images)
    }


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("a.png", "images/a.png"),  # CVAT: images/ beside annotations/
        ("a.png", "images/default/a.png"),
        ("images/1a2b3c4d-a.png", "images/1a2b3c4d-a.png"),  # Label Studio
        ("images\\1a2b3c4d-a.png", "images/1a2b3c4d-a.png"),
        ("../../data/upload/1/1a2b3c4d-a.png", "images/a.png"),
        ("/data/local-files/?d=pets/a%20b.png", "pets/a b.png"),
        ("data/a.png", "a.png"),
        ("C:\\Users\\me\\pets\\a.png", "pets/a.png"),
        ("/home/me/pets/A.PNG", "pets/a.png"),
        ("https://bucket.net/my%20pets/a.png?X-Sign=a/b&n=1.5", "my pets/a.png"),  # signed URL
        ("https://bucket.net/a.png?d=1", "pets/a.png"),
        ("caf%C3%A9.png", "caf\u00e9.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
    ],
)
def test_names_as_tools_write_them(tmp_path: Path, written: str, path: str) -> None:
    file = export(tmp_path, "annotations/instances_default.json", {written: path})
    assert places(read_coco(tmp_path)) == {"": {path.removeprefix("images/"): 1}}
    assert places(read_coco(file)) == {"": {path.removeprefix("images/"): 1}}
    assert places(read_coco(file.parent)) == {"": {path.removeprefix("images/"): 1}}


def test_the_same_name_in_two_folders(tmp_path: Path) -> None:
    names = {"b/a.png": "images/b/a.png", "c/a.png": "images/c/a.png"}
    file = export(tmp_path, "result.json", names)
    assert places(read_coco(file)) == {"": {"b/a.png": 1, "c/a.png": 1}}
    file = export(tmp_path, "result.json", {"a.png": "images/b/a.png"})
    with pytest.raises(UserError, match=r"a\.png can be images/c/a\.png or images/b/a\.png in"):
        read_coco(file)


def test_a_file_per_split_folder(tmp_path: Path) -> None:
    """Roboflow: the same names in several folders, and a category without objects."""
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "dog", "supercategory": "pets"},
        {"id": 2, "name": "cat", "supercategory": "pets"},
    ]
    for split in ("train", "valid", "test"):
        export(
            tmp_path,
            f"{split}/_annotations.coco.json",
            {"a_jpg.rf.0f.jpg": f"{split}/a_jpg.rf.0f.jpg"},
            categories=categories,
            annotations=[box(0, 2)],
        )
    conversion = read_coco(tmp_path)
    one = {"a_jpg.rf.0f.jpg": 1}
    assert places(conversion) == {"train": one, "val": one, "test": one}
    assert conversion.names == ("dog", "cat")
    assert [split.images[0].file.parent.name for split in conversion.splits] == [
        *("test", "train", "valid")
    ]


def test_ids_sizes_and_flags_of_other_types(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [
        {"id": "7", "file_name": "a.png", "width": "40", "height": 20.0},
        {"id": "b", "file_name": "b.png"},
    ]
    rows = [
        box(7, 1.0, iscrowd="0"),
        box("7", "1", iscrowd=False, bbox=["10", "5", "20", "10"]),
        box("b", 1, iscrowd="1"),
    ]
    names = {"a.png": "a.png", "b.png": "b.png"}
    categories = [{"id": "1", "name": 5}]
    file = export(tmp_path, "x.json", names, images=images, categories=categories, annotations=rows)
    conversion = read_coco(file)
    assert places(conversion) == {"": {"a.png": 2, "b.png": 1}}
    one, two = conversion.splits[0].images
    assert (one.width, one.height, two.width, two.height) == (40, 20, 0, 0)
    expected = Corners(10, 5, 30, 15)
    assert one.annotations == (Annotation("5", expected, 0),) * 2
    assert two.annotations == (Annotation("5 (crowd)", expected, None, "a crowd"),)
    assert f"{file}: 1 images have no size; it is read from the files." in caplog.messages
    assert f"{file}: 3 ids of images or categories are not integers." in caplog.messages


def test_images_that_are_listed_twice(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "a.png"},
        {"id": 1, "file_name": "a.png"},
        {"id": 2, "file_name": "./a.png"},
    ]
    rows = [box(1, 0), box(2, 0, bbox=[0, 0, 5, 5])]
    file = export(tmp_path, "x.json", {"a.png": "a.png"}, images=images, annotations=rows)
    assert places(read_coco(file)) == {"": {"a.png": 2}}


def test_crowds_only_are_objects(tmp_path: Path) -> None:
    """Tools that mark every mask as a crowd do not mean crowds."""
    rows = [box(0, 0, iscrowd=1), box(0, 0, iscrowd=1, bbox=[0, 0, 5, 5])]
    file = export(tmp_path, "x.json", {"a.png": "a.png"}, annotations=rows)
    assert [a.label for a in read_coco(file).splits[0].images[0].annotations] == [0, 0]


RUNS = [5, 2, 2, 2, 13]  # column by column: a box from 1, 1 to 3, 3 in an image of 6x4 px


@pytest.mark.parametrize(
    ("outline", "expected"),
    [
        ([[1, 2, 9, 2, 5, 8]], Corners(1, 2, 9, 8)),
        ([[1, 2, 9, 2, 5, 8], ["0", 3, 1, 3, 1, 20.5]], Corners(0, 2, 9, 20.5)),
        ([1, 2, 9, 2, 5, 8], Corners(1, 2, 9, 8)),  # not in a list of polygons
        ({"size": [4, 6], "counts": RUNS}, Corners(1, 1, 3, 3)),
        ({"size": [4, 6], "counts": "5220;"}, Corners(1, 1, 3, 3)),
    ],
)
def test_outlines_without_a_box(tmp_path: Path, outline: object, expected: Corners) -> None:
    rows = [box(0, 0, bbox=None, segmentation=outline), box(0, 0, bbox=[], segmentation=outline)]
    file = export(tmp_path, "x.json", {"a.png": "a.png"}, annotations=rows)
    found = read_coco(file).splits[0].images[0].annotations
    assert [annotation.box for annotation in found] == [expected] * 2


@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([[1, 2, 3]], "neither a bbox nor polygons"),
        ([["x", 2]], "neither a bbox nor polygons"),
        ({"size": [4, 6], "counts": [500]}, "a damaged mask and no bbox"),
        ({"size": 4, "counts": RUNS}, "a damaged mask and no bbox"),
        ({"counts": 5}, "a damaged mask and no bbox"),
    ],
)
def test_invalid_outlines(tmp_path: Path, outline: object, message: str) -> None:
    rows = [box(0, 0, bbox=None, segmentation=outline)]
    file = export(tmp_path, "x.json", {"a.png": "a.png"}, annotations=rows)
    with pytest.raises(UserError, match=message):
        read_coco(file)


def test_unlisted_images_are_background(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = export(tmp_path, "x/labels.json", {"a.png": "pics/a.png", "b.png": "pics/b.png"})
    export(tmp_path, "x/labels.json", {"a.png": "pics/a.png"})
    assert places(read_coco(file, tmp_path / "pics")) == {"": {"a.png": 1, "b.png": 0}}
    assert "1 images that the annotations do not list are background." in caplog.messages


def test_one_of_several_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The images of the other files show objects, so they are no background."""
    file = write(tmp_path, instances(), "train")
    write(tmp_path, instances(), "val")
    draw(tmp_path, "c", (20, 40), [])
    assert [len(split.images) for split in read_coco(file).splits] == [2]
    assert f"Not used: instances_val.json; to use it, give the folder {file.parent}." in caplog.text
    assert "1 images are in none of the splits and not used." in caplog.messages


def test_two_names_for_one_file_are_not_joined(tmp_path: Path) -> None:
    """One of the two images is missing; its boxes belong to no other."""
    images = [{"id": 1, "file_name": "x/a.png"}, {"id": 2, "file_name": "y/a.png"}]
    rows = [box(1, 0), box(2, 0)]
    file = export(tmp_path, "x.json", {"": "x/a.png"}, images=images, annotations=rows)
    with pytest.raises(UserError, match=r"x/a\.png and y/a\.png are both found as x/a\.png; put"):
        read_coco(file)
