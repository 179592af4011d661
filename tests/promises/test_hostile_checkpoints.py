"""No checkpoint makes the program execute code, crash, hang, or use up the memory."""

import codecs
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.checkpoints import read_checkpoint, save_checkpoint
from tests.paths import SHARED, requires_shared
from tests.utils.checkpoint.pickle_text import Call, Name, Raw, program, write_archive
from tests.utils.checkpoint.tiny_files import (
    STORAGES,
    tensor,
    tiny_content,
    tiny_deploy,
    tiny_training,
    tiny_upstream_run,
)
from utils.checkpoint.store import load_with_fallback
from utils.errors import UserError
from utils.tools.inspect.inspection import inspect_checkpoint
from utils.upstream.reader import is_upstream_file, read_upstream
from utils.weights import read_weights

MAX_MEMORY = 2 * 1024**3  # bytes, in addition to the memory of the process
MAX_SECONDS = 5
SHELL = "touch executed"
EXECUTION_EVENTS = frozenset(
    {"pickle.find_class", "exec", "ctypes.dlopen", "socket.connect"}
    | {"os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"}
)
"""Audit events of Python for imports by a pickle and for executed commands."""


class Stub:
    """Its pickle is a call of a shell command."""

    def __reduce__(self) -> Any:
        return os.system, (SHELL,)


IMPORT_OS = Call("importlib.import_module", ("os",))
EXPLOITS = {
    "os.system": (
        Call("posix.system", (SHELL,)),
        "references posix.system, which no checkpoint needs",
    ),
    "eval": (
        Call("builtins.eval", (f"__import__('os').system('{SHELL}')",)),
        "references builtins.eval, which no checkpoint needs",
    ),
    "attrgetter chain": (
        Call(Call(Call("operator.attrgetter", ("system",)), (IMPORT_OS,)), (SHELL,)),
        "references operator.attrgetter, which no checkpoint needs",
    ),
    "nested reduce": (
        Call(Call("builtins.getattr", (IMPORT_OS, "system")), (SHELL,)),
        "references builtins.getattr, which no checkpoint needs",
    ),
    "a class with __reduce__": (
        Raw(pickle.dumps(Stub(), 2)[2:-1]),
        "references posix.system, which no checkpoint needs",
    ),
    "subprocess": (
        Call("subprocess.getoutput", (SHELL,)),
        "references subprocess.getoutput, which no checkpoint needs",
    ),
    "a partial": (
        Call(Call("functools.partial", (Name("posix.system"), SHELL)), ()),
        "references functools.partial, which no checkpoint needs",
    ),
    "at the end of a long list": (
        Raw(b"](" + b"N" * 5000 + b"cposix\nsystem\nX\x0e\0\0\0touch executed\x85Re"),
        "references posix.system, which no checkpoint needs",
    ),
    "an old style instance": (Raw(b"(X\x0e\0\0\0touch executediposix\nsystem\n"), "opcode INST"),
}
"""Pickles that run a command when Python reads them, with the expected error."""
COLLIDING = b"".join(b"\x8a\x09" + (k * (2**61 - 1)).to_bytes(9, "little") + b"N" for k in range(9))
OTHER_ATTACKS = {
    "torch.load again": (
        Call("torch.load", ("inner.pt",)),
        "references torch.load, which no checkpoint needs",
    ),
    "copyreg": (
        Call("copyreg._reconstructor", (Name("subprocess.Popen"), Name("builtins.object"), None)),
        "references copyreg._reconstructor, which no checkpoint needs",
    ),
    "large allocation": (Call("builtins.bytearray", (2**31 - 1,)), "references builtins.bytearray"),
    "long range": (
        Call("builtins.range", (2**31 - 1,)),
        "references builtins.range, which no checkpoint needs",
    ),
    "fork": (Call("posix.fork", ()), "references posix.fork, which no checkpoint needs"),
    "extension registry": (Raw(b"\x82\1"), "opcode EXT1"),
    "recursion": (Raw(b"]q\1h\1a"), "nested too deeply"),
    "deep nesting": (Raw(b"]" * 50_000 + b"a" * 49_999), "nested too deeply"),
    "marks without end": (Raw(b"(" * 50_000), "its pickle cannot be parsed"),
    "keys of one hash": (
        Raw(b"}(" + COLLIDING * 99 + b"u"),
        "a dictionary key is too large an integer",
    ),
    "a key of 2**60 shared parts": (
        Raw(b"}NN\x86q\1" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(1, 60)) + b"Ns"),
        "its pickle cannot be parsed",
    ),
    "a storage that claims more": (
        tensor("0", 4, of=2**31 - 1),
        "does not have 2147483647 elements",
    ),
    "a view of more": (tensor("0", 2**30, of=4), "is beyond its storage"),
}
ARRAY = Call(
    "numpy.core.multiarray._reconstruct",
    (Name("numpy.ndarray"), (0,), b"b"),
    (1, (1,), Call("numpy.dtype", ("O8", False, True), (3, "|", None)), False, b"\1" * 8),
)
EMPTY_ARRAY = Call(
    "numpy.core.multiarray._reconstruct",
    (Name("numpy.ndarray"), (0,), b"b"),
    (1, (2**30, 0), Call("numpy.dtype", ("f8", False, True), (3, "<", None)), False, b""),
)
OURS = (
    EXPLOITS
    | OTHER_ATTACKS
    | {"numpy": (ARRAY, "references numpy.core.multiarray._reconstruct, which no checkpoint needs")}
)
UPSTREAM = {
    **EXPLOITS,
    **OTHER_ATTACKS,
    "numpy objects": (ARRAY, "an array has an unsupported dtype"),
    "a billion empty lists": (EMPTY_ARRAY, "an empty array has more than one dimension"),
}


class AuditHook:
    """Records events of `EXECUTION_EVENTS`; a single instance, since a hook cannot be removed."""

    def __init__(self) -> None:
        self.active = False
        self.seen: set[str] = set()
        codecs.lookup("cp437")  # imports the codec module that zipfile may need
        sys.addaudithook(self.record)

    def record(self, event: str, _: object) -> None:
        if self.active and event in EXECUTION_EVENTS:
            self.seen.add(event)


@pytest.fixture(scope="module")
def audit_hook() -> AuditHook:
    return AuditHook()


Guard = Callable[[Callable[[Path], Any], Path], Any]


@pytest.fixture
def guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit_hook: AuditHook
) -> Iterator[Guard]:
    """Run a reader with limits of time and memory, and check that nothing was executed."""
    monkeypatch.chdir(tmp_path)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + MAX_MEMORY

    def time_out(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"not done after {MAX_SECONDS} seconds")

    def run(reader: Callable[[Path], Any], path: Path) -> Any:
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        audit_hook.active = True
        try:
            return reader(path)
        finally:
            audit_hook.active = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, time_out)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    yield run
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.signal(signal.SIGALRM, before)
    assert audit_hook.seen == set()
    assert not Path("executed").exists()


def assert_refused(
    guard: Guard, path: Path, reason: str, *readers: Callable[[Path], object]
) -> None:
    """Check that every reader raises a one-line UserError, and that no file was created."""
    for reader in readers:
        with pytest.raises(UserError) as refusal:
            guard(reader, path)
        assert reason in str(refusal.value)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", EXPLOITS)
def test_exploits_run_a_command_when_python_unpickles_them(tmp_path: Path, name: str) -> None:
    """Otherwise the tests below would prove nothing."""
    (tmp_path / "pickle").write_bytes(program(EXPLOITS[name][0]))
    load = "import pickle; pickle.load(open('pickle', 'rb'))"
    subprocess.run([sys.executable, "-c", load], cwd=tmp_path, check=True)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", OURS)
def test_attacks_in_our_format_are_refused(tmp_path: Path, guard: Guard, name: str) -> None:
    payload, reason = OURS[name]
    pickled = program(tiny_deploy(weights={}, spec={"a": payload}))
    path = write_archive(tmp_path / "last.pt", pickled, STORAGES)
    assert_refused(
        guard, path, reason, read_checkpoint, load_with_fallback, read_weights, inspect_checkpoint
    )


@pytest.mark.parametrize("name", UPSTREAM)
def test_attacks_in_upstreams_format_are_refused(tmp_path: Path, guard: Guard, name: str) -> None:
    payload, reason = UPSTREAM[name]
    pickled = program(tiny_content(opt={"a": payload}))
    path = write_archive(tmp_path / "last.pt", pickled, STORAGES)
    assert_refused(guard, path, reason, read_upstream, read_weights, inspect_checkpoint)


OLD_HEADER = b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\2M\xe9\3."
OLD_FORMATS = {
    "stream": (OLD_HEADER, "was written by a torch version before 1.6"),
    "tar": (b"pickle".ljust(512, b"\0"), "was written by a torch version before 1.6"),
    "bare pickle": (
        b"",
        "is a bare pickle, which could run any code; "
        "save its tensors with torch.save of torch 1.6 or later",
    ),
}


@pytest.mark.parametrize("around", OLD_FORMATS)
@pytest.mark.parametrize("name", EXPLOITS)
def test_exploits_in_formats_without_an_archive_are_refused(
    tmp_path: Path, guard: Guard, name: str, around: str
) -> None:
    start, reason = OLD_FORMATS[around]
    path = tmp_path / "last.pt"
    path.write_bytes(start + program(EXPLOITS[name][0]))
    assert_refused(
        guard, path, reason, read_checkpoint, read_upstream, read_weights, inspect_checkpoint
    )


class Counts(NamedTuple):
    """Numbers of damaged files with each outcome."""

    intact: int
    refused: int


def read(path: Path) -> Any:
    """Read a file of unknown format, as the programs do."""
    return vars(read_upstream(path)) if is_upstream_file(path) else read_checkpoint(path)


def same(one: Any, two: Any) -> bool:
    """Return whether two contents are bitwise equal, including types."""
    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        alike = (one.dtype, one.shape) == (two.dtype, two.shape)
        return alike and one.numpy().tobytes() == two.numpy().tobytes()
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return repr(one) == repr(two)  # the order of a frozenset may differ


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return the content with random damage: changed bits, truncation, moved pieces and so on."""
    data = bytearray(content)
    kind = rng.choice(["bit", "bytes", "cut", "moved", "copied", "deleted", "zeros"])
    start, end = sorted(int(place) for place in rng.integers(len(data) + 1, size=2))
    place = int(rng.integers(len(data)))
    if kind == "bit":
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == "bytes":
        for _ in range(int(rng.integers(1, 9))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
    elif kind == "cut":
        del data[place:]
    elif kind == "moved":
        data[place:place] = data[start:end]
    elif kind == "copied":
        piece = data[start:end]
        data[place : place + len(piece)] = piece
    elif kind == "deleted":
        del data[start:end]
    else:
        end = min(end, start + 64)
        data[start:end] = bytes(end - start)
    return bytes(data)


def damage(guard: Guard, path: Path, times: int, seed: int) -> Counts:
    """Read a file with many random damages; the content must be intact or refused."""
    content, whole = path.read_bytes(), read(path)
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    damaged_path = path.with_name("damaged.pt")
    refusals = []
    for _ in range(times):
        damaged_path.write_bytes(damaged(content, rng))
        try:
            found = guard(read, damaged_path)
        except UserError as refusal:
            refusals.append(str(refusal))
        else:
            assert same(found, whole)
    assert all(sentence.startswith(f"{damaged_path} ") for sentence in refusals)
    assert not any("\n" in sentence for sentence in refusals)
    return Counts(times - len(refusals), len(refusals))


def test_damaged_files_of_ours_are_intact_or_refused(tmp_path: Path, guard: Guard) -> None:
    save_checkpoint(tiny_training(), tmp_path / "a.pt")
    counts = damage(guard, tmp_path / "a.pt", 1000, seed=1)
    assert min(counts) > 10


def test_damaged_files_in_upstreams_format_are_intact_or_refused(
    tmp_path: Path, guard: Guard
) -> None:
    path = write_archive(tmp_path / "a.pt", program(tiny_upstream_run()), STORAGES)
    assert is_upstream_file(path)
    counts = damage(guard, path, 1000, seed=2)
    assert min(counts) > 10


@requires_shared
@pytest.mark.parametrize("version", ["v5.0", "v7"])
def test_damaged_files_written_by_upstream_are_intact_or_refused(
    tmp_path: Path, guard: Guard, version: str
) -> None:
    content = (SHARED / "legacy" / version / "last_stripped.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content)
    counts = damage(guard, tmp_path / "a.pt", 50, seed=3)
    assert counts.refused > 10


def with_correct_checksums(pickled: bytes, path: Path) -> Path:
    """Write an archive with correct checksums around a damaged pickle, to test the reader."""
    return write_archive(path, pickled, STORAGES | {"4": b"", "5": b"\0" * 8})


@pytest.mark.parametrize("origin", ["ours", "upstream's"])
def test_damaged_pickles_with_correct_checksums_are_harmless(
    tmp_path: Path, guard: Guard, origin: str
) -> None:
    """The reader may return other content, as if it had been written so, or refuse the file."""
    spec = {"a": [1.5, "b", (2, None)], "t": tensor("0", 2, 2), "u": tensor("5", 1, kind="Long")}
    ours = tiny_deploy(weights={"w": tensor("1", 2)}, spec=spec)
    whole = program(ours if origin == "ours" else tiny_upstream_run())
    rng = np.random.default_rng(np.random.SeedSequence([4]))
    read(with_correct_checksums(whole, tmp_path / "a.pt"))
    refusals = []
    for _ in range(1000):
        path = with_correct_checksums(damaged(whole, rng), tmp_path / "a.pt")
        try:
            guard(inspect_checkpoint, path)
        except UserError as refusal:
            refusals.append(str(refusal))
    assert not any("\n" in sentence for sentence in refusals)
    assert 500 < len(refusals) < 1000
