import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.utils.datasets.drawn import draw
from utils.datasets.description import DATA_FOLDER
from utils.errors import UserError
from utils.tools.convert.__main__ import main
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
    main(["coco", str(tmp_path), "--out", str(tmp_path)])

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
        (instances(categories=[{"id": "1", "name": "a"}]), "a category has id '1'"),
        (
            instances(categories=[{"id": 1}]),
            "a category has name None; it must be a non-empty string",
        ),
        (instances(categories=CATEGORIES * 2), "two categories with the same id"),
        (instances(images=instances()["images"] * 2), "two images with the same id"),
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
        ({"file_name": "../a.jpg"}, r"'\.\./a\.jpg' is outside of its folder"),
        ({"file_name": None}, "an image has file_name None"),
        ({"width": 0}, r"image a\.png has width 0; it must be 1 to 1000000"),
        ({"height": 10**400}, r"image a\.png has height 10+; it must be 1 to 1000000"),
        ({"height": "20"}, r"image a\.png has height '20'"),
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


def test_invalid_splits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"annotations has no instances_\*\.json; put COCO's"):
        read_coco(tmp_path, tmp_path)
    write(tmp_path, instances(), "half")
    with pytest.raises(
        UserError,
        match=r"has the unknown split 'half'; rename the file .* begins with train, val or test",
    ):
        read_coco(tmp_path, tmp_path)
    (tmp_path / "annotations/instances_half.json").unlink()
    write(tmp_path, instances(), "train")
    write(tmp_path, instances(categories=CATEGORIES[:2], annotations=[]), "val")
    with pytest.raises(
        UserError, match=r"instances_val\.json has different categories from .*_train"
    ):
        read_coco(tmp_path, tmp_path)
