from pathlib import Path

import pytest

from utils.datasets.memory import available_memory, free_disk

GIB = 1 << 30


@pytest.mark.parametrize(
    ("limit", "used", "available"),
    [
        (None, None, 8 * GIB),  # no container
        ("max", "123", 8 * GIB),  # one without a limit
        (str(6 * GIB), str(GIB), 5 * GIB),
        (str(20 * GIB), str(GIB), 8 * GIB),
        (str(GIB), str(2 * GIB), 0),
    ],
)
def test_the_lesser_of_machine_and_container(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str | None,
    used: str | None,
    available: int,
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {8 * 1024 * 1024} kB\n")
    for name, text in (("memory.max", limit), ("memory.current", used)):
        if text is not None:
            (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr("utils.datasets.memory.MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr("utils.datasets.memory.CONTROL_GROUP", tmp_path)
    assert available_memory() == available


def test_the_disk_of_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "a" / "b") > 0
