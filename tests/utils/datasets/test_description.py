import json
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.paths import GOLDENS
from tests.utils.datasets.web import serving
from utils.datasets.acquire import Archive, MissingDataError
from utils.datasets.class_names import retyped_names
from utils.datasets.description import (
    COCO_KEY,
    DATA_FOLDER,
    MISS_RATE_KEY,
    DatasetDescription,
    check_obtainable,
    ensure_available,
    load_description,
    truth_file,
)
from utils.errors import UserError


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(folder))
    # Not the real folders, which may contain a data set of the same name.
    monkeypatch.setattr("utils.datasets.locate.REPOSITORY", tmp_path / "clones" / "repository")
    return folder


def described(tmp_path: Path, text: str) -> DatasetDescription:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return load_description(file)


def test_all_keys_of_a_data_set_file(tmp_path: Path, datasets: Path) -> None:
    description = described(
        tmp_path,
        """
        path: ../datasets/mine
        train: [images/a, images/b]
        val: lists/val.txt
        test: /elsewhere/test
        nc: 2
        names: {1: car, 0: person}
        download: https://example.org/mine.zip
        obtain: >-
          ask
          the makers.
        """,
    )
    assert description == DatasetDescription(
        path=tmp_path / "mine.yaml",
        root=datasets / "mine",
        train=(datasets / "mine/images/a", datasets / "mine/images/b"),
        val=(datasets / "mine/lists/val.txt",),
        test=(Path("/elsewhere/test"),),
        names=("person", "car"),
        download=(Archive("https://example.org/mine.zip"),),
        obtain="ask the makers",
    )


def test_minimal_data_set_file(tmp_path: Path) -> None:
    description = described(tmp_path, "train: images\nval:\nnames: [a, 7]")
    assert description.root == tmp_path
    assert description.train == (tmp_path / "images",)
    assert description.val == ()
    assert description.names == ("a", "7")
    assert description.download == ()
    assert not description.embedded


NAMES = ["02146", "off", "no", "null", "on", "yes", "007", "12:30", "2020-01-01", "1e3", "~"]


@pytest.mark.parametrize("as_map", [False, True])
def test_names_stay_text_as_written(tmp_path: Path, as_map: bool) -> None:
    lines = [f"- {name}" for name in NAMES]
    if as_map:
        lines = [f"  {index}: {name}" for index, name in enumerate(NAMES)]
    text = "\n".join(["train: a", f"nc: '{len(NAMES)}'", "names:", *lines])
    assert described(tmp_path, text).names == tuple(NAMES)
    earlier = [False, False, None, True, True, 7, 750, "2020-01-01", "1e3", None]
    assert retyped_names(tmp_path / "mine.yaml")[1:] == list(map(str, earlier))


def test_line_breaks_in_names_are_spaces(tmp_path: Path) -> None:
    text = 'train: a\nnames: ["a\\nb", \'人 物\', "c\\t d"]'
    assert described(tmp_path, text).names == ("a b", "人 物", "c d")


def test_list_of_archives(tmp_path: Path) -> None:
    text = """
        path: mine
        train: images
        names: [a]
        download:
          - https://example.org/labels.zip
          - {url: "http://example.org/train.zip", folder: images}
        """
    assert described(tmp_path, text).download == (
        Archive("https://example.org/labels.zip", "."),
        Archive("http://example.org/train.zip", "images"),
    )


def test_download_scripts_are_never_run(tmp_path: Path) -> None:
    text = "path: mine\ntrain: images\nnames: [a]\ndownload: |\n  import os\n  os.abort()\n"
    assert described(tmp_path, text).download == ()
    for script in ("bash get.sh", "file:///etc/passwd", "python -c 1"):
        text = f"path: mine\ntrain: images\nval: images\nnames: [a]\ndownload: {script}"
        description = described(tmp_path, text)
        assert description.scripted
        with pytest.raises(
            UserError,
            match=r"the `download:` entry of .*mine\.yaml is a script, .* never run; read the",
        ):
            ensure_available(description)


def test_relative_folders_of_labelling_services(tmp_path: Path) -> None:
    (tmp_path / "train" / "images").mkdir(parents=True)
    description = described(tmp_path, "train: ../train/images\nval: ../val/images\nnames: [a]")
    assert description.train == (tmp_path / "train" / "images",)
    assert description.val == (tmp_path / "../val/images",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", r"is damaged \(while parsing"),
        ("- a\n- b", "has no keys; add `train:`, `val:` and `names:`"),
        ("!!python/object/apply:os.abort []", r"is damaged \(could not determine"),
        ("names: [a]", "has no `train:` and no `val:` line"),
        ("train: a\nnames: [[a]]", "an entry of `names:` is a list or a map; it must be one name"),
        ("train: a\nnames: [a]\ndownload: 'http://[x'", r"has the invalid URL http://\[x "),
        (f"path: {'x' * 300}\ntrain: a\nnames: [a]", "File name too long"),
        (f"train: {'x' * 300}\nnames: [a]", "File name too long"),
        (
            "path: ~no-such-user/x\ntrain: a\nnames: [a]",
            "the home folder of `path: ~no-such-user/x` does not exist",
        ),
        ("train: 3\nnames: [a]", "train is 3; it must be a path or a list of paths"),
        ("train: [a, '']\nnames: [a]", "it must be a path or a list of paths"),
        ("path: [a]\ntrain: a\nnames: [a]", r"`path:` is \['a'\]; it must be a string"),
        ("train: a\nnames: [a]\nobtain: [a]", r"`obtain:` is \['a'\]; it must be a string"),
        ("train: a", "has no class names; add `names:`"),
        ("train: a\nnames: []", "has no class names; add `names:`"),
        ("train: a\nnames: person", "has no class names; add `names:`"),
        ("train: a\nnames: {0: a, 2: b}", "keys of `names:` must be 0, 1, 2"),
        ("train: a\nnames: {a: 0}", "keys of `names:` must be 0, 1, 2"),
        ("train: a\nnc: 3\nnames: [a, b]", "`nc:` is 3, but `names:` has 2 entries"),
        ("train: a\nnc: '3'\nnames: [a, b]", "`nc:` is '3', but `names:` has 2 entries"),
        ("train: a\nnames: {0: a, 1: b, 1: c}", "`names:` has the key 1 twice; remove one"),
        ("train: a\nnames: [no, 'no']", "`names:` has two classes named no; give each class"),
        ("train: a\nnames: [a, '']", "`names:` has a class without a name; give each class"),
        ("train: a\nnames:\n- a\n-", "`names:` has a class without a name; give each class"),
        (
            "train: a\nnames: [a]\nembedded: rivers",
            "`embedded: 'rivers'` is unknown; the only value is streets",
        ),
        (
            "train: a\nnames: [a]\ndownload: 7",
            "`download:` has the entry 7; it must be a URL, or a map",
        ),
        (
            "train: a\nnames: [a]\ndownload: [{folder: x}]",
            "has the entry {'folder': 'x'}; it must be a URL",
        ),
        (
            "train: a\nnames: [a]\ndownload: [{url: x, to: y}]",
            "has the entry {.*}; it must be a URL",
        ),
        (
            "train: a\nnames: [a]\ndownload: ['file:///x']",
            r"it must have http\(s\) URLs and folders",
        ),
        (
            "train: a\nnames: [a]\ndownload: [{url: 'http://x/y', folder: ../z}]",
            "folders inside the data set",
        ),
    ],
)
def test_invalid_data_set_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        described(tmp_path, text)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with data/, the working directory; data-set files are in data/."""
    repository = tmp_path / "clones" / "repository"
    (repository / "data").mkdir(parents=True)
    monkeypatch.chdir(repository)
    monkeypatch.delenv("YOLO_DATASETS_DIR")
    return repository


@pytest.mark.parametrize(
    ("lines", "folder"),
    [
        ("path: ../datasets\ntrain: mine/train\nval: mine/val", "../datasets/mine"),
        ("train: ../mydata/train\nval: ../mydata/val", "../mydata"),
        ("train: data/mine/train\nval: data/mine/val", "data/mine"),
        ("path: ..\ntrain: mydata/train\nval: mydata/val", "../mydata"),
        ("path: ''\ntrain: mine/train\nval: mine/val", "data/mine"),  # beside the file
        ("path: C:/sets/mine\ntrain: mine/train\nval: mine/val", "data/mine"),
        ("path: ..\\datasets\\mine\ntrain: .\\train\nval: val", "../datasets/mine"),
        ("path: /content/gone\ntrain: train\nval: val", "data"),
        ("path: mine\ntrain: Train\nval: VAL", "mine"),
    ],
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_data_are_found_from_the_repository_and_the_working_directory(
    clone: Path, monkeypatch: pytest.MonkeyPatch, lines: str, folder: str, elsewhere: bool
) -> None:
    for split in ("train", "val"):
        (clone / folder / split).mkdir(parents=True)
    (clone / "data" / "mine.yaml").write_text(f"{lines}\nnames: [a]")
    if elsewhere:  # the repository is searched too
        monkeypatch.chdir("/")
    description = load_description(clone / "data" / "mine.yaml")
    check_obtainable(description)
    assert [path.resolve() for path in (*description.train, *description.val)] == [
        (clone / folder / split).resolve() for split in ("train", "val")
    ]


def test_of_two_places_the_first_is_used_and_printed(
    clone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="yolo")
    places = [clone / "data", clone]
    for place in places[::-1]:
        file = clone / "data" / "mine.yaml"
        file.write_text("train: mine/train\nval: mine/val\nnames: [a]")
        for split in ("train", "val"):
            (place / "mine" / split).mkdir(parents=True)
        assert load_description(file).root == place
    assert [record.message for record in caplog.records] == [
        f"{file}: using the data in {places[0]}, not those in {places[1]}."
    ]
    assert load_description(file, kept=clone).root == clone  # of a run that began there
    (places[0] / "mine" / "val").rmdir()
    assert load_description(file).root == clone  # has all that training needs


def test_all_places_are_named_where_nothing_is_found(clone: Path) -> None:
    file = clone / "data" / "mine.yaml"
    file.write_text("path: ../datasets\ntrain: mine/train\nval: mine/val\nnames: [a]")
    with pytest.raises(MissingDataError) as caught:
        check_obtainable(load_description(file))
    assert str(caught.value) == (
        f"data set {clone}/datasets does not exist (also looked in {clone.parent}/datasets) and "
        f"{file} has no download address; put it there, or set YOLO_DATASETS_DIR to the folder "
        "that contains datasets/."
    )


@pytest.mark.parametrize("entry", ["/content/mine", "C:/content/mine", "C:\\content\\mine"])
@pytest.mark.parametrize("place", ["data/mine", "mine", "data"])
def test_absolute_path_of_another_machine(
    clone: Path, caplog: pytest.LogCaptureFixture, entry: str, place: str
) -> None:
    """The data are beside the file or in the repository; otherwise the path is named as written."""
    file = clone / "data" / "mine.yaml"
    file.write_text(f"path: '{entry}'\ntrain: train\nval: val\nnames: [a]")
    with pytest.raises(MissingDataError) as caught:
        check_obtainable(load_description(file))
    message = str(caught.value)
    assert message.startswith(f"data set {entry} does not exist (also looked in ")
    assert str(clone / place) in message
    assert not caplog.records
    for split in ("train", "val"):
        (clone / place / split).mkdir(parents=True)
    description = load_description(file)
    check_obtainable(description)
    assert description.root == clone / place
    assert caplog.messages == [f"{entry} does not exist; using {clone / place}."]


def test_folder_with_one_data_set_file(clone: Path) -> None:
    folder = clone / "export"
    folder.mkdir()
    for name, names in (("a.txt", "none"), ("b.yml", None), ("c.yaml", "b.yml, c.yaml")):
        (folder / name).write_text("train: images\nnames: [a]")
        if names is None:
            assert load_description(folder).path == folder / name
            continue
        with pytest.raises(UserError, match=f"must contain one data-set file, but has {names};"):
            load_description(str(folder))


@pytest.mark.parametrize("name", ["coco128", "coco128.yaml", "data/coco128.yaml"])
def test_bare_names_are_found_in_data_folder(name: str, datasets: Path) -> None:
    description = load_description(name)
    assert description.path.resolve() == DATA_FOLDER / "coco128.yaml"
    assert description.root == datasets / "coco128"


def test_missing_data_set_file() -> None:
    with pytest.raises(UserError, match=r"data-set file nowhere\.yaml does not exist; .* data/"):
        load_description("nowhere.yaml")


@pytest.mark.parametrize("name", ["coco128.yaml", "coco.yaml"])
def test_published_data_sets(name: str) -> None:
    expected = json.loads((GOLDENS / "datasets.json").read_text())[name]
    content = yaml.safe_load((DATA_FOLDER / name).read_text())
    assert {str(key): value for key, value in content["names"].items()} == expected["names"]
    for key in ("path", "train", "val", "test"):
        assert content.get(key) == expected[key]
    if expected["download_url"]:
        assert content["download"] == expected["download_url"]
    assert all(archive.url for archive in load_description(name).download)


def test_existing_data_set_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    description = described(tmp_path, "train: images\nval: images\ntest: none\nnames: [a]")
    ensure_available(description)
    with pytest.raises(UserError, match=r"/none does not exist, .*; add the missing files"):
        ensure_available(description, ["test"])


def test_missing_split_line(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    description = described(tmp_path, "train: images\nnames: [a]")
    ensure_available(description, ["train"])
    with pytest.raises(UserError, match="has no `val:` line"):
        ensure_available(description)


@pytest.mark.parametrize(
    ("lines", "half"),
    [
        ("", "{file} has no download address; "),
        (
            "obtain: ask the makers",
            "{file} has no download address; ask the makers; if you already have it, ",
        ),
        (
            "download: bash get.sh\nobtain: ask the makers",
            "the `download:` entry of {file} is a script, which is never run; ask the makers; "
            "if you already have it, ",
        ),
    ],
)
def test_missing_data_set_without_download(
    lines: str, half: str, tmp_path: Path, datasets: Path, cache_home: Path
) -> None:
    description = described(tmp_path, f"path: mine\ntrain: a\nval: b\nnames: [a]\n{lines}")
    for refuse in (ensure_available, check_obtainable):
        with pytest.raises(UserError) as caught:
            refuse(description)
        assert str(caught.value) == (
            f"data set {datasets}/mine does not exist (also looked in {Path.cwd()}/mine, "
            f"{tmp_path}/clones/repository/mine, {tmp_path}/mine, {tmp_path}/clones/datasets/mine, "
            f"{cache_home}/datasets/mine) and {half.format(file=description.path)}"
            "put it there, or set YOLO_DATASETS_DIR to the folder that contains mine/."
        )


def test_incomplete_data_set_error_names_the_remedy(tmp_path: Path, datasets: Path) -> None:
    (datasets / "mine" / "a").mkdir(parents=True)
    text = "path: mine\ntrain: a\nval: b\nnames: [a]"
    check_obtainable(described(tmp_path, text), ["train"])
    for way, remedy in (
        ("obtain: ask the makers", "ask the makers"),
        ("", "add the missing files"),
        (
            "download: https://an.address/mine.zip",
            "add the missing files, or move it away to download it again",
        ),
    ):
        sentence = (
            rf"/b does not exist, so the data set .*/mine is incomplete; {remedy}, or correct "
        )
        with pytest.raises(UserError, match=sentence):
            check_obtainable(described(tmp_path, f"{text}\n{way}"))


def test_check_obtainable_downloads_nothing(tmp_path: Path, datasets: Path) -> None:
    for way in ("embedded: streets", "download: http://localhost/mine.zip"):
        text = f"path: mine\ntrain: a\nval: b\nnames: [a]\n{way}"
        check_obtainable(described(tmp_path, text))
    assert list(datasets.iterdir()) == []


def test_missing_data_set_is_downloaded(tmp_path: Path, datasets: Path) -> None:
    (tmp_path / "site").mkdir()
    with zipfile.ZipFile(tmp_path / "site" / "mine.zip", "w") as archive:
        archive.writestr("mine/images/1.jpg", b"")
    with serving(tmp_path / "site") as address:
        text = f"path: mine\ntrain: images\nval: other\nnames: [a]\ndownload: {address}/mine.zip"
        description = described(tmp_path, text)
        ensure_available(description, ["train"])
    assert (datasets / "mine" / "images" / "1.jpg").is_file()
    with pytest.raises(
        UserError, match=r"/other does not exist, so the data set .*/mine is incomplete"
    ):
        ensure_available(description, ["val"])


def test_archive_without_the_expected_folders(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    with zipfile.ZipFile(tmp_path / "site" / "mine.zip", "w") as archive:
        archive.writestr("readme.txt", b"")
    with serving(tmp_path / "site") as address:
        text = f"path: mine\ntrain: images\nnames: [a]\ndownload: {address}/mine.zip"
        with pytest.raises(
            UserError, match="does not exist, although the data set was downloaded; correct"
        ):
            ensure_available(described(tmp_path, text), ["train"])


def test_embedded_data_set_is_generated_once(
    tmp_path: Path, datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def make(root: Path) -> None:
        made.append(root)
        (root / "images").mkdir(parents=True)

    monkeypatch.setattr("data.street_scenes.make.make_streets", make)
    text = "path: streets\ntrain: images\nval: images\nnames: [a]\nembedded: streets"
    for _ in range(2):
        ensure_available(described(tmp_path, text))
    assert made == [datasets / "streets"]


def naming_truth(folder: Path, line: str) -> DatasetDescription:
    file = folder / "data.yaml"
    file.write_text(f"path: {folder / 'root'}\nval: images\nnames: [pedestrian]\n{line}\n")
    return load_description(file)


def test_ground_truth_paths_are_relative_to_the_root(tmp_path: Path) -> None:
    description = naming_truth(tmp_path, "miss_rate_gt: annotations/val_gt.json")
    assert truth_file(description, MISS_RATE_KEY) == tmp_path / "root/annotations/val_gt.json"
    assert truth_file(description, COCO_KEY) is None


@pytest.mark.parametrize("line", ["annotations: 3", "annotations: [a]", "annotations: ''"])
def test_ground_truth_key_must_be_a_path(tmp_path: Path, line: str) -> None:
    with pytest.raises(UserError, match=r"data.yaml: `annotations:` must be a path below"):
        truth_file(naming_truth(tmp_path, line), COCO_KEY)
