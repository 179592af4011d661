"""Processors and memory that control groups leave to a process."""

from pathlib import Path

import pytest

from utils.datasets.image_cache import available_memory
from utils.datasets.workers import processors

GIB = 1 << 30
UNLIMITED_V1 = "9223372036854771712"


def simulate(
    folder: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str]
) -> None:
    """Simulate control groups with these files below the mount point."""
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(text + "\n")
    (folder / "own").write_text(own)
    monkeypatch.setattr("utils.datasets.control_groups.MOUNT", folder / "cgroup")
    monkeypatch.setattr("utils.datasets.control_groups.OWN", folder / "own")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 16),
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "250000 100000"}, 3),
        ("0::/\n", {"cpu.max": "10000 100000"}, 1),
        ("0::/job/task\n", {"job/cpu.max": "400000 100000", "job/task/cpu.max": "max 1000"}, 4),
        ("0::/a:b\n", {"a:b/cpu.max": "200000 100000"}, 2),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        (
            "4:cpu,cpuacct:/slurm/job\n0::/\n",
            {"cpu/slurm/cpu.cfs_quota_us": "300000", "cpu/slurm/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("4:cpuset:/x\n", {"cpu/x/cpu.cfs_quota_us": "1", "cpu/x/cpu.cfs_period_us": "1"}, 16),
        ("0::/job\n", {"unified/job/cpu.max": "200000 100000"}, 2),
    ],
)
def test_processors_of_the_affinity_and_the_control_group(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    files: dict[str, str],
    expected: int,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    simulate(tmp_path, monkeypatch, own, files)
    assert processors() == expected


def v2(limit: float | str, used: float, cache: float = 0.0, at: str = "") -> dict[str, str]:
    """Files of version 2, with numbers in GiB; half of the cache is active."""
    half = round(cache * GIB / 2)
    return {
        f"{at}memory.max": limit if isinstance(limit, str) else str(round(limit * GIB)),
        f"{at}memory.current": str(round(used * GIB)),
        f"{at}memory.stat": f"anon 77\nactive_file {half}\ninactive_file {half}",
    }


def v1(limit: str, used: float, cache: float = 0.0, at: str = "") -> dict[str, str]:
    """Files of version 1."""
    return {
        f"memory/{at}memory.limit_in_bytes": limit,
        f"memory/{at}memory.usage_in_bytes": str(round(used * GIB)),
        f"memory/{at}memory.stat": f"inactive_file 5\ntotal_inactive_file {round(cache * GIB)}",
    }


@pytest.mark.parametrize(
    ("own", "files", "available"),
    [
        ("", {}, 8),  # no control group
        ("0::/\n", v2("max", 1), 8),
        ("0::/\n", v2(6, 1), 5),
        ("0::/\n", v2(20, 1), 8),
        ("0::/\n", v2(1, 2), 0),
        ("0::/\n", v2(6, 5, cache=4), 5),  # only 1 GiB is in use
        ("0::/\n", v2("max", 1) | {"memory.high": str(3 * GIB)}, 2),
        ("0::/pod/task\n", v2(9, 3, at="pod/") | v2("max", 1, at="pod/task/"), 6),
        ("0::/pod/task\n", v2(9, 3, at="pod/") | v2(2, 0.5, at="pod/task/"), 1.5),
        ("0::/a\n", v2(1, 0, at="b/"), 8),  # of another process
        ("0::/kubepods/pod1/c\n", v2(4, 1), 3),  # a container sees the path of the host
        ("5:memory:/\n", v1(UNLIMITED_V1, 1), 8),
        ("5:memory:/slurm/job\n0::/\n", v1(str(4 * GIB), 3, cache=2, at="slurm/"), 3),
        ("5:cpu:/slurm\n", v1(str(4 * GIB), 3, at="slurm/"), 8),
    ],
)
def test_available_memory_is_the_minimum_of_machine_and_control_groups(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    files: dict[str, str],
    available: float,
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {8 << 20} kB\n")
    monkeypatch.setattr("utils.datasets.image_cache.MEMINFO", tmp_path / "meminfo")
    simulate(tmp_path, monkeypatch, own, files)
    assert available_memory() == available * GIB
