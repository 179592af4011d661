from pathlib import Path

import pytest

from utils.datasets.locate import find_root, moved_copy, root_places


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, a working directory and a folder of data-set files, all empty."""
    for name in ("home/repository", "work", "yaml", "variable"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr("utils.datasets.locate.REPOSITORY", tmp_path / "home" / "repository")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("YOLO_DATASETS_DIR", raising=False)
    return tmp_path


PLACES = [
    "variable/sets/mine",
    "variable/mine",
    "datasets/sets/mine",  # ../datasets/sets/mine from work/
    "home/datasets/sets/mine",
]


@pytest.mark.parametrize("first", range(len(PLACES)))
def test_search_order_with_the_variable(
    tree: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(tree / "variable"))
    for place in PLACES[first:]:
        (tree / place).mkdir(parents=True)
    assert find_root("../datasets/sets/mine", tree / "yaml") == tree / PLACES[first]


@pytest.mark.parametrize(
    "place",
    ["work/mine", "home/repository/mine", "yaml/mine", "home/datasets/mine"],
)
def test_search_without_the_variable(tree: Path, place: str) -> None:
    (tree / "variable" / "mine").mkdir()
    (tree / place).mkdir(parents=True)
    assert find_root("mine", tree / "yaml") == tree / place


def test_user_cache_is_searched_last(tree: Path, cache_home: Path) -> None:
    (cache_home / "datasets" / "mine").mkdir(parents=True)
    assert find_root("mine", tree / "yaml") == cache_home / "datasets" / "mine"


def test_root_of_a_missing_data_set(
    tree: Path, monkeypatch: pytest.MonkeyPatch, cache_home: Path
) -> None:
    assert find_root("../datasets/mine", tree / "yaml") == tree / "home" / "datasets" / "mine"
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(tree / "variable"))
    assert find_root("../datasets/mine", tree / "yaml") == tree / "variable" / "mine"
    read_only = [tree / "variable", tree / "home"]
    for folder in read_only:
        folder.chmod(0o555)
    try:
        assert find_root("../datasets/mine", tree / "yaml") == cache_home / "datasets" / "mine"
    finally:
        for folder in read_only:
            folder.chmod(0o755)


def test_absolute_paths_and_paths_relative_to_the_file(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(tree / "variable"))
    assert find_root("/data/mine", tree / "yaml") == Path("/data/mine")
    for entry in ("", ".", "./"):
        assert find_root(entry, tree / "yaml") == tree / "yaml"
    assert find_root("..", tree / "yaml") == tree


def test_missing_absolute_path_is_found_in_the_variable(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tree / "old" / "sets" / "mine"
    copies = [tree / "variable" / "mine", tree / "variable" / "sets" / "mine"]
    assert find_root(str(old), tree / "yaml") == old
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(tree / "variable"))
    for copy in copies:
        copy.mkdir(parents=True)
        assert find_root(str(old), tree / "yaml") == copy
    assert moved_copy(Path("../sets/mine")) == copies[1]
    old.mkdir(parents=True)
    assert find_root(str(old), tree / "yaml") == old


def test_places_of_an_absolute_path_of_another_machine(
    tree: Path, monkeypatch: pytest.MonkeyPatch, cache_home: Path
) -> None:
    monkeypatch.setenv("YOLO_DATASETS_DIR", str(tree / "variable"))
    expected = [
        Path("/content/mine"),
        *(tree / "variable" / name for name in ("content/mine", "mine")),
        *(tree / name for name in ("yaml", "work/mine", "home/repository/mine", "yaml/mine")),
        tree / "home/datasets/mine",
        cache_home / "datasets/mine",
    ]
    assert root_places("/content/mine", tree / "yaml") == expected
    assert root_places("C:\\content\\mine", tree / "yaml") == expected
