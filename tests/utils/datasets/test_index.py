import logging
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.paths import ROOT, SHARED, requires_shared
from tests.utils.datasets.drawn import draw
from utils.datasets.image_files import ImageHeader
from utils.datasets.index import Index, build_index
from utils.datasets.labels import label_path
from utils.errors import UserError

NAMES = ["a", "b"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images: two boxes, background (an empty label file), one box."""
    draw(tmp_path, "0", (40, 60), [(0, 0, 30, 20), (30, 20, 60, 40)])
    draw(tmp_path, "1", (50, 30), [])
    draw(tmp_path, "2", (20, 20), [(5, 5, 15, 15)], label=1)
    return tmp_path / "images"


def same(a: Index, b: Index) -> bool:
    arrays = all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("sizes", "boxes", "offsets")
    )
    texts = list(a.paths) == list(b.paths) and list(a.messages) == list(b.messages)
    return arrays and texts and a.key == b.key


@pytest.mark.parametrize("workers", [0, 3])
def test_index_arrays(folder: Path, workers: int) -> None:
    index = build_index([folder], NAMES, workers=workers)
    assert len(index) == 3
    assert list(index.paths) == [str(folder / f"{i}.png") for i in range(3)]
    assert index.sizes.dtype == np.int32
    assert index.sizes.tolist() == [[40, 60], [50, 30], [20, 20]]
    assert index.offsets.tolist() == [0, 2, 2, 3]
    assert index.boxes.dtype == np.float32
    assert index.labels(0).tolist() == [[0, 0.25, 0.25, 0.5, 0.5], [0, 0.75, 0.75, 0.5, 0.5]]
    assert index.labels(1).shape == (0, 5)
    assert index.labels(2).tolist() == [[1, 0.5, 0.5, 0.5, 0.5]]
    assert not list(index.messages)


def test_images_without_a_label_file_are_background(folder: Path) -> None:
    (folder.parent / "labels" / "0.txt").unlink()
    assert build_index([folder], NAMES).offsets.tolist() == [0, 0, 0, 1]


def test_single_class(folder: Path) -> None:
    (folder.parent / "labels" / "0.txt").write_text("17 0.5 0.5 0.5 0.5")
    index = build_index([folder], ["thing"], single_class=True)
    assert index.boxes[:, 0].tolist() == [0, 0]
    with pytest.raises(UserError, match="class 17"):  # the cached classes are unchanged
        build_index([folder], NAMES)


def add_regions(root: Path, name: str, text: str) -> None:
    (root / "ignore").mkdir(exist_ok=True)
    (root / "ignore" / f"{name}.txt").write_text(text)


def test_ignore_regions(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert build_index([folder], NAMES).ignored is None
    add_regions(folder.parent, "0", ".5 .5 .5 .25\n.25 .25 .5 .5\n")
    add_regions(folder.parent, "2", ".5 .5 1 1\n")
    (folder / "1.png").write_bytes(b"broken")  # skipped images have no entry
    with caplog.at_level(logging.INFO, "yolo"):
        indices = [build_index([folder], NAMES) for _ in range(2)]  # the second from the cache
    assert caplog.messages[-1].endswith("2 images, 0 of them background, 3 boxes, 3 ignore regions")
    for index in (*indices, build_index([folder], ["a"], single_class=True)):
        assert index.ignored is not None
        assert index.ignored.boxes.dtype == np.float32
        assert index.ignored.offsets.tolist() == [0, 2, 3]
        assert index.regions(0).tolist() == [[0.5, 0.5, 0.5, 0.25], [0.25, 0.25, 0.5, 0.5]]
        assert index.regions(1).tolist() == [[0.5, 0.5, 1, 1]]


def test_damaged_ignore_file_raises(folder: Path) -> None:
    add_regions(folder.parent, "0", "0 .5 .5 .5 .5")
    with pytest.raises(UserError, match=r"ignore/0\.txt is damaged .*; write rows `x y w h`"):
        build_index([folder], NAMES)


def test_unusable_files_are_skipped_and_logged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    label = folder.parent / "labels" / "1.txt"
    label.write_text("0 0.5 0.5 2 0.5")
    (folder.parent / "labels" / "2.txt").write_text("1 .5 .5 .5 .5\n1 .5 .5 .5 .5")
    with caplog.at_level(logging.WARNING, "yolo"):
        index = build_index([folder], NAMES)
    assert list(index.paths) == [str(folder / "2.png")]
    broken, wrong, repaired = index.messages
    assert broken.startswith(f"{folder / '0.png'} is skipped: corrupt image (")
    assert (
        wrong == f"{folder / '1.png'} is skipped: {label}: line 1 has a coordinate outside 0 to 1; "
        "correct it."
    )
    assert repaired == f"{label.with_name('2.txt')}: 1 duplicate row(s) removed."
    assert caplog.messages == list(index.messages)


def test_image_with_binary_label_is_skipped(folder: Path) -> None:
    (folder.parent / "labels" / "0.txt").write_bytes(b"\xff\xfe0 1")
    index = build_index([folder], NAMES)
    assert len(index) == 2
    assert "0.txt" in index.messages[0]


def test_class_out_of_range_raises(folder: Path) -> None:
    (folder.parent / "labels" / "2.txt").write_text("0 .5 .5 .5 .5\n2 .5 .5 .5 .5")
    with pytest.raises(
        UserError, match=r"labels/2\.txt: class 2 is out of range \(classes are 0 to 1\)"
    ):
        build_index([folder], NAMES)


def test_data_set_without_boxes_raises(tmp_path: Path) -> None:
    draw(tmp_path, "0", (20, 20), [])
    with pytest.raises(UserError, match=r"images has no boxes; .* for example .*labels/0\.txt"):
        build_index([tmp_path / "images"], NAMES)


def test_data_set_without_usable_images_raises(tmp_path: Path) -> None:
    draw(tmp_path, "0", (9, 9), [(0, 0, 9, 9)])
    with pytest.raises(UserError, match=r"images has no usable images; .* First error: .*9x9 px"):
        build_index([tmp_path / "images"], NAMES)


def cache_files(folder: Path) -> list[Path]:
    return list((folder.parent / "labels").glob("yolo-index-*.npz"))


def replaced(file: Path, content: bytes) -> None:
    """Replace a file by another one with the same size and times, as archives may do."""
    status = file.stat()
    assert len(content) == status.st_size
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_second_run_reads_no_images(folder: Path) -> None:
    first = build_index([folder], NAMES)
    for file in folder.iterdir():
        replaced(file, b"x" * file.stat().st_size)
    assert same(first, build_index([folder], NAMES))


def test_labels_of_the_same_size_and_time_are_noticed(folder: Path) -> None:
    add_regions(folder.parent, "0", ".5 .5 .5 .25\n")
    first = build_index([folder], NAMES)
    label = folder.parent / "labels" / "0.txt"
    old = label.read_bytes()
    replaced(label, bytes([old[0] ^ 1]) + old[1:])
    changed = build_index([folder], NAMES)
    assert changed.labels(0)[0, 0] == 1 - first.labels(0)[0, 0]
    replaced(folder.parent / "ignore/0.txt", b".5 .5 .5 .75\n")
    assert build_index([folder], NAMES).regions(0).tolist() == [[0.5, 0.5, 0.5, 0.75]]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("offsets", lambda a: a * 0),  # all boxes would be gone
        ("offsets", lambda a: a + 1),
        ("offsets", lambda a: a[::-1]),
        ("offsets", lambda a: a[:-1]),
        ("offsets", lambda a: a.astype(float)),
        ("boxes", lambda a: a[:, :4]),
        ("boxes", lambda a: a[:0]),
        ("boxes", lambda a: a * np.float32("nan")),
        ("boxes", lambda a: a - 1),
        ("boxes", lambda a: a + np.float32(0.5)),
        ("boxes", lambda a: a.astype("S8")),
        ("sizes", lambda a: a * 0),
        ("sizes", lambda a: a[:-1]),
        ("sizes", lambda a: a.astype(float)),
        ("paths", lambda a: a ^ 1),  # other files
        ("paths", lambda a: a | 128),  # not UTF-8
        ("path_offsets", lambda a: a * 2),
        ("message_offsets", lambda a: a + 5),
        ("regions", lambda a: a[:, :3]),
        ("region_offsets", lambda a: a * 0),
        ("digest", lambda a: a[()][:-1]),
    ],
)
def test_inconsistent_cache_is_rebuilt(
    folder: Path, name: str, change: Callable[[np.ndarray], object]
) -> None:
    add_regions(folder.parent, "0", ".5 .5 .5 .25\n")
    first = build_index([folder], NAMES)
    (cache,) = cache_files(folder)
    good = cache.read_bytes()
    with np.load(cache) as arrays:
        found = dict(arrays)
    found[name] = np.asarray(change(found[name]))
    np.savez(cache, **found)
    again = build_index([folder], NAMES)
    assert same(first, again)
    assert again.regions(0).tolist() == first.regions(0).tolist()
    assert cache.read_bytes() == good


def test_cache_that_declares_a_huge_array_is_rebuilt(folder: Path) -> None:
    first = build_index([folder], NAMES)
    (cache,) = cache_files(folder)
    with np.load(cache) as arrays:
        found = dict(arrays)
    header = str({"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)}).encode()
    np.savez(cache, **{name: found[name] for name in found if name != "boxes"})
    with zipfile.ZipFile(cache, "a") as archive:
        archive.writestr("boxes.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    assert same(build_index([folder], NAMES), first)


def test_unfinished_caches_of_killed_runs_are_removed(folder: Path, cache_home: Path) -> None:
    places = (folder, folder.parent / "labels", cache_home)
    left = [place / ".yolo-images-0-640-3.0123456789ab.npy" for place in places]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"half of it")
    assert len(build_index([folder], NAMES)) == 3
    assert not any(file.exists() for file in left)


def test_cached_index_equals_built_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "2.png").write_bytes(b"broken")
    first = build_index([folder], NAMES)
    assert len(cache_files(folder)) == 1
    monkeypatch.setattr("utils.datasets.index.probe_image", None)
    again = build_index([folder], NAMES)
    assert same(first, again)
    assert again.messages[0].startswith(f"{folder / '2.png'} is skipped")


def test_image_that_is_nearly_black_is_reported(folder: Path) -> None:
    cv2.imwrite(str(folder / "2.png"), np.full((20, 20), 4095, np.uint16))
    index = build_index([folder], NAMES)
    assert len(index) == 3
    assert list(index.messages) == [
        f"{folder / '2.png'} is nearly black, because it uses only the lower of its more than "
        "8 bits; convert it to 8."
    ]


def test_images_without_boxes_are_only_reported_where_no_boxes_are_needed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = draw(tmp_path, "a", (20, 20), [])
    index = build_index([image.parent], NAMES, needs_boxes=False)
    assert (len(index), index.boxes.shape) == (1, (0, 5))
    (message,) = caplog.messages
    assert message.startswith(f"{image.parent} has no boxes; put the label files where they are")
    assert message.endswith("Without boxes, only false positives are counted.")
    image.write_bytes(b"broken")
    with pytest.raises(UserError, match="images has no usable images; correct the files"):
        build_index([image.parent], NAMES, needs_boxes=False)


def touch_later(path: Path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda root: touch_later(root / "images" / "1.png"),
        lambda root: (root / "labels" / "1.txt").write_text("0 .5 .5 .5 .5"),
        lambda root: (root / "labels" / "1.txt").unlink(),
        lambda root: (root / "images" / "1.png").unlink(),
        lambda root: draw(root, "3", (20, 20), [(1, 1, 9, 9)]),
        lambda root: (root / "ignore" / "0.txt").write_text(".5 .5 1 .25"),
        lambda root: (root / "ignore" / "0.txt").unlink(),
        lambda root: add_regions(root, "1", ".5 .5 .5 .5"),
    ],
    ids=[
        *("image time", "label", "label gone", "image gone", "image added"),
        *("regions", "regions gone", "regions added"),
    ],
)
def test_any_file_change_invalidates_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: object
) -> None:
    add_regions(folder.parent, "0", ".5 .5 .5 .5")
    build_index([folder], NAMES)
    probed: list[str] = []

    def probe(path: str) -> ImageHeader:
        probed.append(path)
        return ImageHeader((20, 20), is_deep=False)

    monkeypatch.setattr("utils.datasets.index.probe_image", probe)
    build_index([folder], NAMES)
    assert not probed
    assert callable(change)
    change(folder.parent)
    build_index([folder], NAMES)
    assert len(probed) == len(list(folder.iterdir()))
    probed.clear()
    build_index([folder], NAMES)
    assert not probed


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 half an archive"])
def test_damaged_cache_is_rebuilt(folder: Path, content: bytes) -> None:
    first = build_index([folder], NAMES)
    (cache,) = cache_files(folder)
    good = cache.read_bytes()
    cache.write_bytes(content)
    assert same(build_index([folder], NAMES), first)
    cache.write_bytes(good[:-100])
    assert same(build_index([folder], NAMES), first)
    assert cache.read_bytes() == good


def test_cache_with_pickled_objects_is_not_loaded(folder: Path) -> None:
    first = build_index([folder], NAMES)
    (cache,) = cache_files(folder)
    np.savez(cache, digest=np.array([{"an": "object"}], dtype=object))
    assert same(build_index([folder], NAMES), first)


def test_read_only_data_set_is_cached_in_the_user_cache(folder: Path, cache_home: Path) -> None:
    labels = folder.parent / "labels"
    labels.chmod(0o555)
    try:
        first = build_index([folder], NAMES)
        assert not cache_files(folder)
        assert len(list(cache_home.glob("yolo-index-*.npz"))) == 1
        assert same(build_index([folder], NAMES), first)
    finally:
        labels.chmod(0o755)


def test_index_is_built_without_a_writable_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("utils.datasets.cache_files.is_writable", lambda folder: False)
    assert len(build_index([folder], NAMES)) == 3
    assert "The index is rebuilt at every start: cannot write a cache file" in caplog.text


def test_index_has_no_python_object_per_image(tmp_path: Path) -> None:
    """A worker receives two offsets, a size and a path per image, and 20 bytes per box."""
    (tmp_path / "images").mkdir()
    template = draw(tmp_path, "template", (20, 20), [(5, 5, 15, 15)])
    for i in range(1000):
        (tmp_path / "images" / f"{i:04d}.png").hardlink_to(template)
    (tmp_path / "labels" / "0000.txt").write_text("0 .5 .5 .5 .5\n0 .5 .5 .5 .5")
    index = build_index([tmp_path / "images"], NAMES)
    assert len(index) == 1001
    path_bytes = len(f"{tmp_path}/images/0000.png")
    assert len(pickle.dumps(index)) < 1001 * (path_bytes + 8 + 8 + 8) + 2000
    held = [value for field in vars(index).values() for value in (field, *vars_of(field))]
    assert not any(isinstance(value, (list, tuple, dict, set)) for value in held)
    arrays = [value for value in held if isinstance(value, np.ndarray)]
    assert len(arrays) == 7
    assert all(array.dtype != object for array in arrays)


def vars_of(thing: object) -> list[object]:
    return list(vars(thing).values()) if hasattr(thing, "__dict__") else []


@requires_shared
def test_index_of_coco128() -> None:
    index = build_index([SHARED / "datasets" / "coco128" / "images"], ["name"] * 80, workers=2)
    assert len(index) == 128
    assert len(index.boxes) == 929
    assert int((np.diff(index.offsets) == 0).sum()) == 2
    assert not list(index.messages)
    assert index.sizes.max() == 640


def test_modules_without_torch_do_not_import_it() -> None:
    modules = "index, description, letterbox, augment, augment_params"
    code = f"import sys; from utils.datasets import {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_images_that_share_a_label_file_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for all images and at every start; an image that is listed twice is one image."""
    draw(tmp_path, "a", (20, 40), [(5, 5, 15, 15)])
    first = draw(tmp_path, "b", (20, 40), [(5, 5, 15, 15)])
    cv2.imwrite(str(first.with_suffix(".jpg")), np.zeros((20, 40, 3), np.uint8))
    (tmp_path / "list.txt").write_text(f"{first}\n{first}\n")
    build_index([tmp_path / "list.txt"], NAMES)
    assert not caplog.records
    for _ in range(2):
        caplog.clear()
        build_index([first.parent], NAMES)
        (message,) = caplog.messages
        assert message.startswith("Label files that are used by several images: 1, for example ")
        assert message.endswith("b.txt for b.jpg, b.png; rename or remove images.")


def test_label_in_a_folder_of_other_case_is_named_with_its_folder(tmp_path: Path) -> None:
    image = draw(tmp_path, "a", (20, 40), [(5, 5, 15, 15)])
    expected = Path(label_path(str(image)))
    used = tmp_path / "Labels" / expected.relative_to(tmp_path / "labels")
    if not used.exists():  # a file system that distinguishes case
        (tmp_path / "labels").rename(tmp_path / "Labels")
        index = build_index([image.parent], NAMES)
        assert list(index.messages) == [
            f"{used}: used for {image}, because {expected} does not exist."
        ]
