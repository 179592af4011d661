"""The digest that detects a change of the data."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from tests.toy import make_toy
from utils.datasets.index import Index
from utils.datasets.packed_strings import PackedStrings
from utils.hyp import Hyp
from utils.options.train_options import TrainOptions
from utils.runs.run import Run
from utils.runtime.distributed import Distributed
from utils.training.data import (
    TrainingData,
    build_training_data,
    class_names,
    content_digest,
    load_data_description,
    sequence_digest,
)

BOXES = {
    "a.jpg": [[0, 0.5, 0.5, 0.25, 0.25]],
    "b.jpg": [],
    "c/d.jpg": [[1, 0.25, 0.25, 0.125, 0.125], [0, 0.75, 0.75, 0.5, 0.5]],
}


def index(
    root: str = "/data/train",
    boxes: dict[str, list[list[float]]] = BOXES,
    size: tuple[int, int] = (48, 64),
) -> Index:
    rows = [row for name in boxes for row in boxes[name]]
    return Index(
        paths=PackedStrings.of(str(Path(root) / name) for name in boxes),
        sizes=np.array([size] * len(boxes), np.int32),
        boxes=np.array(rows, np.float32).reshape(-1, 5),
        offsets=np.cumsum([0, *(len(boxes[name]) for name in boxes)]),
        messages=PackedStrings.of(()),
    )


def test_digest_ignores_location_and_order() -> None:
    digest = content_digest(index(), index("/data/val"))
    backwards = {name: BOXES[name] for name in reversed(BOXES)}
    assert content_digest(index("/elsewhere", backwards), index("/x/y/val")) == digest
    assert digest == content_digest(index(), index("/data/val"))
    assert len(digest) == 12


@pytest.mark.parametrize(
    "changed",
    [
        lambda: index(boxes=BOXES | {"a.jpg": [[1, 0.5, 0.5, 0.25, 0.25]]}),  # another class
        lambda: index(boxes=BOXES | {"a.jpg": [[0, 0.5, 0.5, 0.25, 0.3]]}),  # another box
        lambda: index(boxes=BOXES | {"a.jpg": [], "b.jpg": BOXES["a.jpg"]}),  # of another image
        lambda: index(boxes=BOXES | {"e.jpg": []}),  # one more background image
        lambda: index(boxes={name.replace("a", "z"): rows for name, rows in BOXES.items()}),
        lambda: index(size=(64, 48)),
    ],
)
def test_digest_detects_changes_of_labels_and_images(changed: Callable[[], Index]) -> None:
    assert content_digest(changed(), index()) != content_digest(index(), index())
    assert sequence_digest(changed()) != sequence_digest(index())


def test_sequence_depends_on_the_order_but_not_on_folders() -> None:
    several = {"a.jpg": BOXES["a.jpg"], "x/b.jpg": [], "elsewhere/d.jpg": BOXES["c/d.jpg"]}
    assert sequence_digest(index("/x", several)) == sequence_digest(index())
    backwards = {name: BOXES[name] for name in reversed(BOXES)}
    assert sequence_digest(index(boxes=backwards)) != sequence_digest(index())


def test_digest_distinguishes_splits() -> None:
    other = index(boxes={"a.jpg": BOXES["a.jpg"]})
    assert content_digest(index(), other) != content_digest(other, index())


def test_fingerprint() -> None:
    data = TrainingData(
        ("x", "y"), index(), index("/data/val", {"a.jpg": BOXES["a.jpg"]}), Path("/data")
    )
    assert data.fingerprint("toy.yaml") == {
        "file": "toy.yaml",
        "folder": "/data",
        "train images": 3,
        "train boxes": 3,
        "val images": 1,
        "val boxes": 1,
        "image bytes": 0,  # the files do not exist
        "content": content_digest(data.train, data.val),
        "val content": content_digest(data.val),
        "train sequence": sequence_digest(data.train),
        "val sequence": sequence_digest(data.val),
    }


@pytest.mark.parametrize(("val", "read"), [("images/train", 1), ("images/val", 2)])
def test_images_of_both_splits_are_indexed_once(
    val: str, read: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = make_toy(tmp_path)
    file.write_text(file.read_text().replace("val: images/val", f"val: {val}"))
    run = Run(TrainOptions(data=str(file)), Hyp(), None, None, tmp_path)
    caplog.set_level("INFO", "yolo")
    data = build_training_data(run, load_data_description(run))
    assert [Path(path).parent.name for path in (data.train.paths[0], data.val.paths[0])] == [
        "train",
        Path(val).name,
    ]
    assert caplog.text.count("10 images") == read


def test_workers_are_divided_by_the_processes_of_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.datasets.workers.processors", lambda: 2)
    run = Run(TrainOptions(data=str(make_toy(tmp_path)), workers=2), Hyp(), None, None, tmp_path)
    run = replace(run, options=replace(run.options, batch_size=2))
    data = build_training_data(run, load_data_description(run))
    monkeypatch.setattr(Distributed, "local_main_first", lambda _: nullcontext())
    counts = []
    for nodes in (1, 2):
        distributed = Distributed(0, 2, local_world_size=2 // nodes)
        loaders = data.loaders(run, 64, 32, distributed)
        counts.append((loaders.train._loader.num_workers, loaders.val._loader.num_workers))
    assert counts == [(1, 1), (2, 2)]


def resumed(data: Path, folder: Path, names: Sequence[str]) -> Run:
    """A run that is resumed with the same data-set file; its data were in `folder`."""
    config = {"data": {"file": str(data), "folder": str(folder)}, "names": list(names)}
    point = SimpleNamespace(checkpoint={"config": config})
    options = TrainOptions(data=str(data))
    return cast("Run", SimpleNamespace(options=options, resume_point=point))


def test_resumed_run_keeps_its_data_and_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data were found in its working directory; version 0.1 read the name `off` as False."""
    (tmp_path / "yaml").mkdir()
    file = tmp_path / "yaml" / "mine.yaml"
    file.write_text("train: images/train\nval: images/val\nnames: [off, 'on']")
    for place in ("first", "second"):
        make_toy(tmp_path / place)
    monkeypatch.chdir(tmp_path / "second")
    for first, names, kept in (
        ("first", ["off", "on"], ("off", "on")),
        ("second", ["False", "on"], ("False", "on")),
        ("gone", ["other", "on"], ("off", "on")),
    ):
        run = resumed(file, tmp_path / first, names)
        description = load_data_description(run)
        assert description.root == tmp_path / (first if first != "gone" else "second")
        assert class_names(run, description) == kept
