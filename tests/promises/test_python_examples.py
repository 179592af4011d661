"""The examples in docs/python.md run as they are, after the path of the repository is filled in."""

import re
from pathlib import Path

import pytest

from tests.paths import ROOT, SHARED, requires_shared

EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs/python.md").read_text("utf-8"), re.M | re.S
)


@requires_shared
@pytest.mark.parametrize("number", range(5))
def test_example_runs(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("best.pt", "last.pt"):
        (tmp_path / name).symlink_to(SHARED / "weights" / "yolov5n.pt")
    for name in ("bus.jpg", "zidane.jpg"):
        (tmp_path / name).symlink_to(SHARED / "images" / name)
    example = EXAMPLES[number].replace("path/to/yolov5-extend", str(ROOT))
    assert str(ROOT) in example
    variables: dict[str, object] = {}
    exec(compile(example, f"example {number}", "exec"), variables)  # noqa: S102
    check(number, variables, capsys.readouterr().out)


def check(number: int, variables: dict[str, object], printed: str) -> None:
    """The outcome that the text describes, on the two sample images."""
    results = str(variables["results"]).splitlines()
    if number == 0:
        assert "image 1/1: 1080x810 4 persons, 1 bus\n" in printed
        assert "xmin" in printed
        assert Path("runs/detect/exp/bus.jpg").is_file()
        assert variables["folder"] == Path("runs/detect/exp")
    elif number == 1:
        assert results[0] == "image 1/1: 1080x810 3 persons, 1 bus"
    elif number == 2:
        assert results[0] == "image 1/3: 1080x810 3 persons, 1 bus"
        assert re.search(r"^bus\.jpg person 0\.8\d 2\d\d 4\d\d$", printed, re.M)
        assert re.search(r"^image2\.jpg bus ", printed, re.M)
    elif number == 3:
        assert len(variables["persons"]) == 5  # type: ignore[arg-type]
        assert variables["wide"] == ["bus.jpg", "zidane.jpg"]
        assert Path("drawn.png").is_file()
    else:
        assert results[0] == "image 1/1: 1080x810 4 persons, 1 bus, 1 skateboard"
        assert str(variables["more"]).startswith("image 1/1: 1080x810 4 persons, 1 bus\n")


def test_all_examples_are_tried() -> None:
    assert len(EXAMPLES) == 5
