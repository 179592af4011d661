from pathlib import Path

import pytest

from utils.datasets.description import DatasetDescription, load_description
from utils.datasets.truth_files import COCO, MISS_RATE, truth_file
from utils.errors import UserError


def described(folder: Path, line: str) -> DatasetDescription:
    file = folder / "data.yaml"
    file.write_text(f"path: {folder / 'root'}\nval: images\nnames: [pedestrian]\n{line}\n")
    return load_description(file)


def test_files_are_below_the_data_sets_root(tmp_path: Path) -> None:
    description = described(tmp_path, "miss_rate_gt: annotations/val_gt.json")
    assert truth_file(description, MISS_RATE) == tmp_path / "root/annotations/val_gt.json"
    assert truth_file(description, COCO) is None


@pytest.mark.parametrize("line", ["annotations: 3", "annotations: [a]", "annotations: ''"])
def test_anything_but_a_path_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"data.yaml: `annotations:` must be a path below"):
        truth_file(described(tmp_path, line), COCO)
