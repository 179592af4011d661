import platform
import subprocess
import sys

import pytest
import torch

from utils.allocator import keep_freed_memory

FAULTS = """
import resource, sys
import torch
from utils.allocator import keep_freed_memory

assert keep_freed_memory(torch.device(sys.argv[1])) == (sys.argv[1] == "cpu")
for _ in range(10):
    torch.zeros(32 << 20, dtype=torch.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(32 << 20, dtype=torch.uint8)
sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
"""


def faults(device: str) -> int:
    command = [sys.executable, "-c", FAULTS, device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is at issue")
def test_freed_memory_is_not_asked_for_again() -> None:
    pages = 10 * (32 << 20) // 4096
    assert faults("meta") > pages / 2  # as it is without, but for larger pages
    assert faults("cpu") < pages / 4  # where small blocks lie between


def test_it_is_left_alone_where_torch_keeps_memory_itself() -> None:
    assert not keep_freed_memory(torch.device("cuda", 0))
