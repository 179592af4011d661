import shutil
import zipfile
from pathlib import Path

import pytest

from tests.utils.datasets.web import closed_address, serving
from utils.datasets.acquire import Archive, download_dataset
from utils.errors import UserError


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Archives of a whole data set, with and without its own folder, and of a part."""
    for name, entries in {
        "whole.zip": ["set/images/a/1.jpg", "set/labels/a/1.txt", "__MACOSX/set/._1"],
        "bare.zip": ["images/a/1.jpg", "labels/a/1.txt"],
        "images-only.zip": ["images/a/1.jpg", "images/a/2.jpg"],
        "part.zip": ["val/2.jpg", "val/3.jpg"],
    }.items():
        (tmp_path / "site").mkdir(exist_ok=True)
        with zipfile.ZipFile(tmp_path / "site" / name, "w") as archive:
            for entry in entries:
                archive.writestr(entry, entry)
    return tmp_path / "site"


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("archives", "files"),
    [
        ([("whole.zip", ".")], ["images/a/1.jpg", "labels/a/1.txt"]),
        ([("bare.zip", ".")], ["images/a/1.jpg", "labels/a/1.txt"]),
        ([("images-only.zip", ".")], ["images/a/1.jpg", "images/a/2.jpg"]),
        (
            [("whole.zip", "."), ("part.zip", "images")],
            ["images/a/1.jpg", "images/val/2.jpg", "images/val/3.jpg", "labels/a/1.txt"],
        ),
    ],
)
def test_archives_are_unpacked_to_their_folders(
    site: Path, tmp_path: Path, archives: list[tuple[str, str]], files: list[str]
) -> None:
    root = tmp_path / "data" / "my-set"
    with serving(site) as address:
        download_dataset(root, [Archive(f"{address}/{name}", folder) for name, folder in archives])
    assert files_in(root) == files
    assert list(root.parent.iterdir()) == [root]  # no archives and no temporary folders


def test_interrupted_download_leaves_no_data_set_and_can_be_continued(
    site: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data" / "my-set"
    with serving(site) as address:
        archives = [Archive(f"{address}/whole.zip"), Archive(f"{address}/late.zip", "images")]
        with pytest.raises(UserError, match=r"late\.zip cannot be downloaded"):
            download_dataset(root, archives)
        assert not root.exists()
        (kept,) = root.parent.iterdir()  # finished downloads are kept
        assert [path.name.split("-")[1] for path in kept.iterdir()] == ["whole.zip"]

        shutil.move(site / "part.zip", site / "late.zip")
        (site / "whole.zip").unlink()
        download_dataset(root, archives)
    assert "images/val/2.jpg" in files_in(root)
    assert list(root.parent.iterdir()) == [root]


def test_empty_folder_is_replaced(site: Path, tmp_path: Path) -> None:
    root = tmp_path / "my-set"
    root.mkdir()
    with serving(site) as address:
        download_dataset(root, [Archive(f"{address}/bare.zip")])
    assert len(files_in(root)) == 2


def test_error_message_when_offline(tmp_path: Path) -> None:
    root = tmp_path / "my-set"
    url = f"{closed_address()}/my-set.zip"
    with pytest.raises(UserError) as caught:
        download_dataset(root, [Archive(url)])
    sentence = str(caught.value)
    assert sentence.startswith(f"data set {root} does not exist and {url} cannot be downloaded (")
    assert sentence.endswith(
        "; put it there, or set YOLO_DATASETS_DIR to the folder that contains my-set/."
    )
    assert "\n" not in sentence
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        UserError, match=r"\); ask the makers; if you already have it, put it there, or"
    ):
        download_dataset(root, [Archive(url)], "ask the makers")


def test_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"does not exist and the folder cannot be written \(.*; put it there, or"
    ):
        download_dataset(tmp_path / "file" / "my-set", [Archive("http://localhost/a.zip")])
