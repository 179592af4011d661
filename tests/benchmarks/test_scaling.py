"""The points of a command line, the data sets of links, the results file and the panels."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

import benchmarks.dataset
import benchmarks.scaling
from benchmarks.dataset import check_complete, index_bytes, link_images
from benchmarks.scaling import build_parser, measure
from benchmarks.scaling_panels import build_panels, memory_growth
from benchmarks.scaling_points import Point, PointsFile, missing_commands, requested_points
from benchmarks.timing import Spread
from tests.toy import make_toy
from utils.datasets.image_files import ImageHeader, probe_image
from utils.datasets.index import Index, build_index
from utils.errors import UserError

NAMES = ("green", "red")
STEP = "benchmarks/step.py --cfg {}.yaml --imgsz {} --batch-size {} --amp auto --against="
SPREAD = {"median": 3.0, "least": 2.0, "most": 5.0}
STEP_METRICS = {"step, ms": SPREAD, "peak memory, MB": {"median": 9.0, "least": 9.0, "most": 9.0}}
DAMAGED = r"is damaged \(its points have an unknown form\); remove the file"
HEADER = {"program": "p", "machine": {"cores": 2}}


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Restore the number of threads, which the data-set benchmark sets to one."""
    threads, opencv = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(opencv)


@pytest.fixture
def originals(tmp_path: Path) -> Index:
    """Three images with 1, 2 and 0 boxes; the last one has no label file."""
    make_toy(tmp_path, images=3)
    (tmp_path / "labels" / "train" / "2.txt").unlink()
    return build_index([tmp_path / "images" / "train"], NAMES)


def points_of(*options: str) -> list[Point]:
    return requested_points(build_parser().parse_args(options))


def test_points_of_a_command_line() -> None:
    options = ["--sizes", "64", "128", "--batch-size", "2", "--batch-sizes", "1", "2"]
    options += ["--models", "yolov5s.yaml", "--imgsz", "64", "--data-sizes", "7"]
    dataset = "benchmarks/dataset.py --data coco128.yaml --imgsz 64 --images 7 --against="
    assert points_of(*options) == [
        ("size", 64, 2, STEP.format("yolov5n", 64, 2)),
        ("size", 128, 2, STEP.format("yolov5n", 128, 2)),
        ("batch", 1, 1, STEP.format("yolov5n", 64, 1)),
        ("batch", 2, 2, STEP.format("yolov5n", 64, 2)),
        ("model", "yolov5s.yaml", 4, STEP.format("yolov5s", 64, 4)),
        ("data", 7, 1, dataset),
    ]


def test_missing_commands_omit_duplicates_and_measured_points() -> None:
    points = requested_points(build_parser().parse_args([]))
    assert len(points) == 5 + 6 + 4 + 4
    commands = missing_commands(points, {})
    assert (
        len(commands) == len(set(commands)) == 19 - 2
    )  # shared: yolov5n at 640 px, with batches of 8 and of 4
    assert missing_commands(points, commands[1:-1]) == [commands[0], commands[-1]]


def test_data_set_file_becomes_an_absolute_path(tmp_path: Path) -> None:
    file = tmp_path / "my data.yaml"
    file.touch()
    command = points_of("--data", str(file))[-1][-1]
    assert f"--data '{file}' --imgsz" in command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sizes", "64", "100"), r"^--sizes 100: must be a positive multiple of 32\.$"),
        (("--imgsz", "0"), r"^--imgsz 0: must be a positive multiple of 32\.$"),
        (("--batch-sizes", "1", "0"), r"^--batch-sizes 0: must be at least 1\.$"),
        (("--data-sizes", "-1"), r"^--data-sizes -1: must be at least 1\.$"),
        (("--rounds", "0"), r"^--rounds 0: must be at least 1\.$"),
    ],
)
def test_values_out_of_range_are_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        points_of(*options)


def test_linked_data_set_repeats_the_originals(originals: Index, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    images, labels = link_images(originals, 7, links)
    assert sorted(file.name for file in labels.iterdir()) == [
        f"00000000{number}.txt" for number in (0, 1, 3, 4, 6)
    ]
    index = build_index([images], NAMES)
    assert list(index.paths) == [str(images / f"00000000{number}.png") for number in range(7)]
    for number in range(7):
        assert Path(index.paths[number]).resolve() == Path(originals.paths[number % 3])
        assert index.labels(number).tolist() == originals.labels(number % 3).tolist()
    assert len(index.boxes) == 3 + 3 + 1
    check_complete(index, originals, 7)
    with pytest.raises(UserError, match="7 images and 7 boxes instead of 8 and 9"):
        check_complete(index, originals, 8)


def test_index_bytes_sums_all_arrays(originals: Index) -> None:
    characters = sum(map(len, originals.paths))
    # int64: 4 + 4 offsets of paths and boxes; int32: 3 heights and widths; float32: 3 boxes of 5
    assert index_bytes(originals) == characters + 8 * 8 + 3 * 2 * 4 + 3 * 5 * 4


def test_each_round_indexes_once_from_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_toy(tmp_path, images=4)
    probed: list[str] = []

    def probe(path: str) -> ImageHeader:
        probed.append(path)
        return probe_image(path)

    monkeypatch.setattr("utils.datasets.index.probe_image", probe)
    options = ["--data", str(tmp_path / "toy.yaml"), "--images", "6", "--imgsz", "64"]
    options += ["--samples", "9", "--batch-size", "4", "--against="]
    links = tmp_path / "links"
    links.mkdir()
    args = benchmarks.dataset.build_parser().parse_args(options)
    measure_round = benchmarks.dataset.prepare(args, links)
    assert len(probed) == 4  # the originals
    for rounds in (1, 2):
        metrics = measure_round()
        assert len(probed) == 4 + 6 * rounds
    assert all(value > 0 for value in metrics.values())


def test_read_samples_reads_whole_batches_with_a_new_loader_per_epoch() -> None:
    class Loader:
        def batches(self, epoch: int) -> Iterator[Any]:
            read.append(epoch)
            yield from (Batch([0] * 4), Batch([0] * 2))

    class Batch:
        def __init__(self, images: list[int]) -> None:
            self.images = images

    for minimum, samples, epochs in ((1, 4, [0]), (6, 6, [0]), (7, 10, [0, 1])):
        read: list[int] = []
        assert benchmarks.dataset.read_samples(Loader, minimum) == samples  # type: ignore[arg-type]
        assert read == epochs


def test_panels_hold_the_results_per_image() -> None:
    options = ["--sizes", "128", "64", "--batch-size", "2", "--batch-sizes", "1", "--imgsz", "64"]
    options += ["--models", "yolov5s.yaml", "yolov5n.yaml", "--data-sizes", "1000", "3000"]
    args = build_parser().parse_args(options)
    points = requested_points(args)
    step = {name: Spread(**spread) for name, spread in STEP_METRICS.items()}
    indexing = ("indexing from scratch, ms/image", "indexing from the cache, ms/image")
    data = dict.fromkeys((*indexing, "training sample, ms", "index, bytes/image"), Spread(3, 2, 5))
    measured = {
        point.command: data | {"peak memory, MB": Spread(point.value / 1000, 0, 0)}
        if isinstance(point.value, int) and point.question == "data"
        else step
        for point in points
        if point.question != "batch"
    }
    size, model, dataset = build_panels(points, measured, args)  # batch has no measured point
    assert (size.question, size.positions, size.ticks) == ("size", [64**2, 128**2], ["64", "128"])
    assert size.times == {"training step": [Spread(1.5, 1.0, 2.5)] * 2}
    assert size.memory == [Spread(9.0, 9.0, 9.0)] * 2
    assert (model.question, model.ticks) == ("model", ["n\n0.0456", "s\n0.166"])
    assert model.times == {"training step": [Spread(0.75, 0.5, 1.25)] * 2}
    assert (dataset.positions, dataset.ticks) == ([1000, 3000], ["1,000", "3,000"])
    assert list(dataset.times) == [
        "making a training sample",
        "indexing from scratch",
        "indexing from the cache",
    ]
    assert dataset.note == "index: 3 bytes per image; peak: +1,000 bytes per image"
    line = benchmarks.scaling.table([size]).splitlines()[1]
    assert " ".join(line.split()) == "size training step 64 1.5 (1 - 2.5) 9"


def test_memory_growth_is_bytes_per_additional_image() -> None:
    peaks = [Spread(100.0, 99.0, 101.0), Spread(900.0, 0.0, 900.0), Spread(102.5, 102.0, 103.0)]
    assert memory_growth([100, 200, 5100], peaks) == 500.0


def test_points_file_keeps_earlier_points(tmp_path: Path) -> None:
    path = tmp_path / "new" / "scaling.json"
    PointsFile(path, HEADER).add("a", {"rounds": 1, "figures": {"step, ms": SPREAD}})
    file = PointsFile(path, HEADER)
    file.add("b", {"rounds": 2, "figures": {}})
    assert PointsFile(path, HEADER).measured == {"a": {"step, ms": Spread(3.0, 2.0, 5.0)}, "b": {}}
    assert json.loads(path.read_text())["points"]["b"]["rounds"] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            json.dumps({**HEADER, "machine": {"cores": 64}}),
            "belongs to machine {'cores': 64}, not {'cores': 2}; choose another --out",
        ),
        (
            json.dumps({**HEADER, "program": "q"}),
            "belongs to program q, not p; choose another --out",
        ),
        ("[]", "belongs to program None, not p; choose another --out"),
        (json.dumps(HEADER), DAMAGED),
        (json.dumps({**HEADER, "points": {"a": {"figures": {"b": 3}}}}), DAMAGED),
        ("{", r"is damaged \("),
    ],
)
def test_foreign_or_damaged_points_file_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "scaling.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        PointsFile(path, HEADER)
    assert path.read_text() == content


def test_interrupted_measurement_continues_and_is_plotted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    options = ["--sizes", "64", "96", "--batch-size", "1", "--batch-sizes", "1", "2"]
    options += ["--models", "yolov5n.yaml", "--data-sizes", "2", "--imgsz", "64", "--rounds", "7"]
    measured: list[tuple[str, int]] = []

    def measure_until(stop: int) -> Any:
        def measure(command: str, rounds: int) -> dict[str, Any]:
            if len(measured) == stop:
                raise KeyboardInterrupt
            measured.append((command, rounds))
            return STEP_METRICS

        return measure

    def run(*added: str) -> None:
        monkeypatch.setattr("sys.argv", ["scaling", *options, "--out", str(out), *added])
        benchmarks.scaling.main()

    monkeypatch.setattr("benchmarks.scaling.measure", measure_until(1))
    with pytest.raises(KeyboardInterrupt):
        run("--only", "size")
    assert measured == [(STEP.format("yolov5n", 64, 1), 7)]
    assert not (out / "scaling.png").exists()
    monkeypatch.setattr("benchmarks.scaling.measure", measure_until(99))
    run("--only", "batch", "size")  # 64 px with batches of 1 is a point of both questions
    assert measured[1:] == [(STEP.format("yolov5n", n, b), 7) for n, b in ((96, 1), (64, 2))]
    plot = cv2.imread(str(out / "scaling.png"))
    assert plot is not None
    assert plot.shape[1] == 1800
    run("--only", "size")
    assert len(measured) == 3


def test_data_set_is_measured_in_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_toy(tmp_path, images=2)
    options = ["--only", "data", "--data", str(tmp_path / "toy.yaml"), "--data-sizes", "3"]
    options += ["--imgsz", "32", "--rounds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["scaling", *options])
    benchmarks.scaling.main()
    (point,) = json.loads((tmp_path / "scaling.json").read_text())["points"].values()
    assert point["rounds"] == 1
    assert point["figures"].keys() == {
        "indexing from scratch, ms/image",
        "indexing from the cache, ms/image",
        "training sample, ms",
        "first batch of an epoch, s",
        "index, bytes/image",
        "loader process, private MB",
        "loader process, RSS MB",
        "peak memory, MB",
    }
    assert (tmp_path / "scaling.png").is_file()


def test_failing_benchmark_raises_its_output() -> None:
    failure = r"failed; fix the error at the end of its output:\n[\s\S]*unrecognized"
    with pytest.raises(UserError, match=f"step.py --no-such .*{failure}"):
        measure("benchmarks/step.py --no-such", rounds=1)
