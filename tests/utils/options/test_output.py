import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

PROGRAM = """
import logging, sys
from pathlib import Path

import pytest
from utils.options.script import run_script

def main():
    log = logging.getLogger("yolo")
    log.info("0.1 → 0.2 (×2) …, 名")
    sys.stdin.read(1)  # returns when the reader has left
    for step in range(3):
        log.info("step %d", step)
        sys.stderr.write("bar")
    Path(sys.argv[1]).write_text("to the end")

run_script(main)
"""


def start(target: Path, encoding: str = "utf-8") -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )


def test_characters_that_the_encoding_lacks_are_replaced(tmp_path: Path) -> None:
    for encoding in ("ascii", "cp1252"):
        output = start(tmp_path / "end", encoding).communicate(b"x")[0].decode(encoding)
        factor = "x" if encoding == "ascii" else "×"
        dots = "..." if encoding == "ascii" else "…"
        first, *rest = output.splitlines()
        assert first == f"0.1 -> 0.2 ({factor}2) {dots}, \\u540d"
        assert rest == ["step 0", "barstep 1", "barstep 2", "bar"]


def test_program_goes_on_when_the_reader_of_its_output_leaves(tmp_path: Path) -> None:
    process = start(tmp_path / "end")
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdin.write(b"x")
    process.stdin.close()
    assert process.wait() == 0
    assert (tmp_path / "end").read_text() == "to the end"


def test_help_into_a_closed_pipe_prints_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "train.py", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_program_continues_when_the_disk_of_its_log_is_full(tmp_path: Path, stream: str) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "end")],
            input=b"x",
            cwd=ROOT,
            check=False,
            stdout=full if stream == "stdout" else subprocess.PIPE,
            stderr=full if stream == "stderr" else subprocess.PIPE,
        )
    assert ran.returncode == 0
    assert (tmp_path / "end").read_text() == "to the end"
    assert b"Traceback" not in (ran.stdout or ran.stderr)


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_program_can_be_started_with_a_closed_stream(tmp_path: Path, closed: str) -> None:
    command = f'"{sys.executable}" -c "$PROGRAM" "{tmp_path / "end"}" {closed}'
    ran = subprocess.run(
        ["sh", "-c", command],
        input=b"x",
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"PROGRAM": PROGRAM},
        check=False,
    )
    assert ran.returncode == 0
    assert (tmp_path / "end").read_text() == "to the end"
    assert b"Traceback" not in ran.stderr
