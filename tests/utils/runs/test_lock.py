import errno
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.runs.lock import LOCK_FILE, run_lock

HOLD = """
import os, sys, time
from pathlib import Path
from utils.runs.lock import run_lock
with run_lock(Path(sys.argv[1])):
    worker = os.fork()
    if worker:
        print(worker, flush=True)
    time.sleep(60)
"""


@contextmanager
def owner_of_lock(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that holds the lock of a folder and has a worker; stop both at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    worker = process.stdout.readline().strip()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        subprocess.run(["kill", "-9", worker], check=False)
        process.stdout.close()


def test_second_process_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    with (
        owner_of_lock(tmp_path) as owner,
        pytest.raises(UserError, match=rf"trained by process {owner.pid} on .+--name NAME"),
        run_lock(tmp_path),
    ):
        pass


def test_killed_process_releases_the_lock_while_its_worker_lives(tmp_path: Path) -> None:
    with owner_of_lock(tmp_path) as owner:
        owner.kill()
        owner.wait()
        with run_lock(tmp_path):
            pass


def test_lock_can_be_taken_again_after_its_release(tmp_path: Path) -> None:
    for _ in range(2):
        with run_lock(tmp_path):
            assert (tmp_path / LOCK_FILE).read_text().startswith("process ")


def test_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("utils.runs.lock._lock", refuse)
    with caplog.at_level(logging.WARNING, "yolo"), run_lock(tmp_path):
        pass
    assert f"{tmp_path} cannot be locked (No locks available)" in caplog.text


def test_full_disk_does_not_prevent_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def host() -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("utils.runs.lock.socket.gethostname", host)
    with run_lock(tmp_path):
        assert (tmp_path / LOCK_FILE).read_bytes() == b""
