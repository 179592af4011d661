"""The data-set files in data/: the published ones, and those of this project."""

import json
from pathlib import Path

import pytest
import yaml

from tests.paths import GOLDENS
from utils.datasets.description import DATA_FOLDER, load_description

PUBLISHED = (
    "Argoverse.yaml",
    "GlobalWheat2020.yaml",
    "Objects365.yaml",
    "SKU-110K.yaml",
    "VOC.yaml",
    "VisDrone.yaml",
    "coco.yaml",
    "coco128-seg.yaml",
    "coco128.yaml",
    "xView.yaml",
)
FILES = sorted(path.name for path in DATA_FOLDER.glob("*.yaml"))


def listed(entry: object) -> list[object]:
    return entry if isinstance(entry, list) else [entry]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_match_the_published_content(name: str) -> None:
    expected = json.loads((GOLDENS / "datasets.json").read_text())[name]
    content = yaml.safe_load((DATA_FOLDER / name).read_text(encoding="utf-8"))
    assert {str(key): value for key, value in content["names"].items()} == expected["names"]
    assert content["path"] == expected["path"]
    for split in ("train", "val", "test"):
        assert listed(content.get(split)) == listed(expected[split])
    if expected["download_url"]:
        assert content["download"] == expected["download_url"]


def test_all_published_files_exist() -> None:
    assert sorted(json.loads((GOLDENS / "datasets.json").read_text())) == sorted(PUBLISHED)
    assert set(PUBLISHED) <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_valid_and_has_one_way_to_get_the_data(name: str, tmp_path: Path) -> None:
    content = yaml.safe_load((DATA_FOLDER / name).read_text(encoding="utf-8"))
    description = load_description(DATA_FOLDER / name)
    assert description.train
    assert description.val
    assert len(description.names) == len(content["names"])
    ways = (description.download, description.embedded, content.get("obtain"))
    assert sum(map(bool, ways)) == 1


def test_files_name_the_ground_truth() -> None:
    content = yaml.safe_load((DATA_FOLDER / "citypersons.yaml").read_text(encoding="utf-8"))
    assert content["miss_rate_gt"] == "annotations/val_gt.json"
    assert content["names"] == {0: "pedestrian"}
    coco = yaml.safe_load((DATA_FOLDER / "coco.yaml").read_text(encoding="utf-8"))
    assert coco["annotations"] == "annotations/instances_val2017.json"


def test_no_folder_of_the_repository_is_mistaken_for_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder beside the data-set file wins over the place where a data set is generated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(tmp_path / "datasets"))
    assert load_description("streets.yaml").root == tmp_path / "datasets" / "streets"
