from dataclasses import replace
from pathlib import Path

import cv2
import matplotlib.axes
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tests.utils.datasets.drawn import draw
from utils.datasets.description import DatasetDescription
from utils.datasets.index import build_index
from utils.plots.figure import VERMILION, save_figure
from utils.tools.check.findings import NOTE, STOP, WARNING, Finding
from utils.tools.check.page import (
    draw_boxes_per_image,
    draw_classes,
    draw_image_sizes,
    save_dataset_page,
)
from utils.tools.check.report import AnchorGrid, DatasetReport
from utils.tools.check.splits import Split

ANCHORS = np.array([[10.0, 13.0], [373.0, 326.0]])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def report(
    root: Path,
    *,
    splits: tuple[str, ...] = ("train", "val"),
    names: tuple[str, ...] = ("a", "b", "c"),
    findings: tuple[Finding, ...] = (),
) -> DatasetReport:
    """Build a report on splits of three images: two boxes of class 0, one of class 2, no boxes."""
    for split in splits:
        draw(root / split, "0", (60, 80), [(5, 5, 50, 20), (30, 30, 40, 60)])
        draw(root / split, "1", (60, 80), [(5, 5, 9, 9)], label=2)
        draw(root / split, "2", (40, 40), [])
    indices = {split: build_index([root / split / "images"], names) for split in splits}
    return DatasetReport(
        data=DatasetDescription(root / "data.yaml", root, (), (), (), names),
        splits=tuple(Split(name, index, len(names), 640) for name, index in indices.items()),
        findings=findings,
        grid=AnchorGrid(ANCHORS, 8),
        image_size=640,
    )


def drawn(
    report: DatasetReport, monkeypatch: pytest.MonkeyPatch, path: Path
) -> tuple[Figure, list[str]]:
    """Save the page to `path`; return the figure and all its texts."""
    saved: list[Figure] = []

    def record_and_save(figure: Figure, path: Path) -> None:
        saved.append(figure)
        save_figure(figure, path)

    monkeypatch.setattr("utils.tools.check.page.save_figure", record_and_save)
    save_dataset_page(report, path)
    texts = [text.get_text() for text in saved[0].texts]
    for axes in saved[0].axes:
        texts += [text.get_text() for text in axes.texts]
        texts.append(axes.get_title(loc="left"))
    return saved[0], texts


def test_page_shows_statistics_findings_and_plots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = (Finding(STOP, "train", "no light"), Finding(NOTE, "", "much fog"))
    path = tmp_path / "page.png"
    figure, texts = drawn(report(tmp_path, findings=findings), monkeypatch, path)
    assert {
        f"{tmp_path.name} at 640 px",
        "Training cannot start, or would skip files: 1 reason, 0 warnings.",
    } < {*texts}
    assert {"stop", "train: no light.", "note", "much fog."} < {*texts}
    assert {"boxes", "train", "val", "2 of 3", "best possible recall", "0.6667"} < {*texts}
    titles = ["Boxes per class", "Boxes of train, and the anchors", "Size of boxes"]
    titles += ["Shape of boxes", "Boxes per image", "Size of images", "Centres of boxes of train"]
    assert [text for text in texts if text in titles] == titles
    anchors = figure.axes[3].lines[0].get_xydata()
    np.testing.assert_array_equal(np.asarray(anchors), ANCHORS)
    image = cv2.imread(str(path))
    assert image is not None
    assert image.shape == (2190, 2100, 3)


def test_long_lists_of_findings_are_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = tuple(Finding(WARNING, "val", f"fault {number}") for number in range(40))
    one = report(tmp_path, splits=("train", "val", "test"), findings=findings)
    _, texts = drawn(one, monkeypatch, tmp_path / "page.png")
    assert texts.count("warning") == 14
    assert "val: fault 13." in texts
    assert "val: fault 14." not in texts
    assert "… and more in the JSON file" in texts


def test_page_of_one_split_without_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = report(tmp_path, splits=("val",))
    (val,) = one.splits
    index = replace(val.index, boxes=np.empty((0, 5)), offsets=np.zeros(4, np.int64))
    _, texts = drawn(
        replace(one, splits=(replace(val, index=index),)), monkeypatch, tmp_path / "page.png"
    )
    assert "No findings." in texts
    assert texts.count("-") == 3  # of two statistics of boxes, and the recall of the anchors


def heights(panel: matplotlib.axes.Axes) -> list[float]:
    """Return the heights of all bars."""
    return [bar.get_height() for bar in panel.patches if isinstance(bar, Rectangle)]


def axes() -> matplotlib.axes.Axes:
    return Figure().add_subplot()


def test_boxes_per_class_plot(tmp_path: Path) -> None:
    panel = axes()
    draw_classes(panel, report(tmp_path).splits, ["ant", "bee", "a name that is much too long"])
    assert [label.get_text() for label in panel.get_xticklabels()] == [
        "ant",
        "a name that is mu…",
        "bee",
    ]
    assert heights(panel) == [2, 1, 0, 2, 1, 0]
    assert [label.get_color() == VERMILION for label in panel.get_xticklabels()] == [0, 0, 1]
    assert panel.get_yscale() == "linear"


def test_boxes_per_class_plot_with_many_classes(tmp_path: Path) -> None:
    names = tuple(map(str, range(100)))
    one = report(tmp_path, names=names)
    one.splits[0].per_class[5] = 1000
    panel = axes()
    draw_classes(panel, one.splits, names)
    assert panel.get_title(loc="left") == "Boxes per class, without 20 rarer ones"
    assert panel.get_xticklabels()[0].get_text() == "5"
    assert panel.get_yscale() == "log"


def test_boxes_per_image_plot(tmp_path: Path) -> None:
    panel = axes()
    draw_boxes_per_image(panel, report(tmp_path, splits=("train",)).splits)
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "1", "2"]
    assert heights(panel) == pytest.approx([100 / 3] * 3)


def test_most_frequent_image_sizes_are_labelled(tmp_path: Path) -> None:
    panel = axes()
    draw_image_sizes(panel, report(tmp_path).splits)
    (named,) = (text.get_text() for text in panel.texts)
    assert named == "80 × 60: 67% of train\n40 × 40: 33% of train"
