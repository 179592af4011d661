import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from utils.errors import UserError
from utils.tools.convert.__main__ import CityPersonsOptions, main


def test_help_imports_nothing_slow() -> None:
    program = """
import sys
from utils.tools.convert.__main__ import build_parser
build_parser().format_help()
heavy = {"numpy", "cv2", "PIL", "scipy", "torch", "yaml"} & set(sys.modules)
sys.exit(", ".join(heavy) or None)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("form", ["citypersons", "coco", "csv", "voc", "yolo"])
def test_help_of_each_format(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([form, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "--out FOLDER" in shown
    assert "--allow-missing-images" in shown
    assert ("--val-share SHARE" in shown) == (form != "citypersons")


def test_defaults_are_those_of_the_benchmark() -> None:
    options = CityPersonsOptions(Path("somewhere"))
    assert (options.classes, options.visible) == ("pedestrian", False)
    assert (options.min_height, options.min_visibility) == (20, 0.2)


def test_source_that_is_not_a_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "utils.tools.convert", "voc", str(tmp_path / "absent")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path / 'absent'} is not a folder; give the folder of the annotations.\n"
    )


def test_default_output_folder_is_that_of_the_data_set_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(tmp_path / "sets"))
    monkeypatch.setattr("utils.datasets.locate.REPOSITORY", tmp_path / "clones" / "repository")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sets").mkdir()
    kit = tmp_path / "VOCdevkit" / "VOC2007"
    (kit / "Annotations").mkdir(parents=True)
    (kit / "ImageSets/Main").mkdir(parents=True)
    (kit / "ImageSets/Main/train.txt").write_text("a\nb\n")
    for stem in "ab":
        (kit / "Annotations" / f"{stem}.xml").write_text(
            "<a><size><width>9</width><height>9</height></size><object><name>dog</name><bndbox>"
            "<xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></object></a>"
        )
    with pytest.raises(UserError, match="a\\.jpg does not exist \\(2 of 2 images are missing\\)"):
        main(["voc", str(kit.parent)])
    main(["voc", str(kit.parent), "--allow-missing-images"])
    assert (tmp_path / "sets/VOC/labels/train2007/a.txt").is_file()
    assert (tmp_path / "sets/VOC/val2007.txt").is_file()
    # The folder of other data sets has their name, so that none replaces another.
    pets = tmp_path / "pets" / "images"
    shutil.copytree(kit / "Annotations", pets)
    main(["voc", str(pets), "--allow-missing-images"])
    assert (tmp_path / "sets/pets-yolo/labels/a.txt").is_file()
    main(["voc", str(pets), "--allow-missing-images"])
    other = shutil.copytree(pets, tmp_path / "other" / "pets")
    with pytest.raises(UserError, match=r"pets-yolo was converted from .*images; give this "):
        main(["voc", str(other), "--allow-missing-images"])
    out = ["--out", str(tmp_path / "sets/pets-yolo")]
    main(["voc", str(other), "--allow-missing-images", *out])


@pytest.mark.parametrize("form", ["coco", "csv"])
def test_source_that_does_not_exist(tmp_path: Path, form: str) -> None:
    with pytest.raises(UserError, match="absent is not a folder; give the file or folder of the"):
        main([form, str(tmp_path / "absent")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--val-share 0", "--val-share 0.0: must be between 0.001 and 0.999"),
        ("--val-share 1", "--val-share 1.0: must be between"),
        ("--seed -1", "--seed -1: must be at least 0"),
    ],
)
def test_invalid_options(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(["yolo", str(tmp_path), *options.split()])
