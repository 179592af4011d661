"""No checkpoint makes the program execute anything, crash, hang, or take the machine's memory."""

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
from utils.checkpoint.store import load_whole
from utils.errors import UserError
from utils.tools.inspect.inspection import inspect_checkpoint
from utils.upstream.reader import is_upstream_file, read_upstream
from utils.weights import read_weights

MAX_MEMORY = 2 * 1024**3  # bytes, beyond what the process has
SECONDS = 5
SHELL = "touch executed"
EXECUTING = frozenset(
    {"pickle.find_class", "exec", "ctypes.dlopen", "socket.connect"}
    | {"os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"}
)
"""Events that Python itself reports when something is looked up for a pickle, or executed."""


class Stub:
    """Its pickle is a call of whatever it likes."""

    def __reduce__(self) -> Any:
        return os.system, (SHELL,)


IMPORT_OS = Call("importlib.import_module", ("os",))
LIVE = {
    "os.system": (Call("posix.system", (SHELL,)), "asks for posix.system; refused"),
    "eval": (
        Call("builtins.eval", (f"__import__('os').system('{SHELL}')",)),
        "asks for builtins.eval; refused",
    ),
    "attrgetter chain": (
        Call(Call(Call("operator.attrgetter", ("system",)), (IMPORT_OS,)), (SHELL,)),
        "asks for operator.attrgetter; refused",
    ),
    "nested reduce": (
        Call(Call("builtins.getattr", (IMPORT_OS, "system")), (SHELL,)),
        "asks for builtins.getattr; refused",
    ),
    "a class with __reduce__": (
        Raw(pickle.dumps(Stub(), 2)[2:-1]),
        "asks for posix.system; refused",
    ),
    "subprocess": (
        Call("subprocess.getoutput", (SHELL,)),
        "asks for subprocess.getoutput; refused",
    ),
    "a partial": (
        Call(Call("functools.partial", (Name("posix.system"), SHELL)), ()),
        "asks for functools.partial; refused",
    ),
    "far down in a list": (
        Raw(b"](" + b"N" * 5000 + b"cposix\nsystem\nX\x0e\0\0\0touch executed\x85Re"),
        "asks for posix.system; refused",
    ),
    "an old style instance": (Raw(b"(X\x0e\0\0\0touch executediposix\nsystem\n"), "opcode INST"),
}
"""Pickles that run a command when Python reads them, and what they are refused for."""
COLLIDING = b"".join(b"\x8a\x09" + (k * (2**61 - 1)).to_bytes(9, "little") + b"N" for k in range(9))
OTHERS = {
    "torch.load again": (Call("torch.load", ("inner.pt",)), "asks for torch.load; refused"),
    "copyreg": (
        Call("copyreg._reconstructor", (Name("subprocess.Popen"), Name("builtins.object"), None)),
        "asks for copyreg._reconstructor; refused",
    ),
    "large allocation": (Call("builtins.bytearray", (2**31 - 1,)), "asks for builtins.bytearray"),
    "long range": (Call("builtins.range", (2**31 - 1,)), "asks for builtins.range; refused"),
    "fork": (Call("posix.fork", ()), "asks for posix.fork; refused"),
    "extension registry": (Raw(b"\x82\1"), "opcode EXT1"),
    "recursion": (Raw(b"]q\1h\1a"), "nested without end"),
    "deep nesting": (Raw(b"]" * 50_000 + b"a" * 49_999), "nested without end"),
    "marks without end": (Raw(b"(" * 50_000), "its pickle does not parse"),
    "keys of one hash": (Raw(b"}(" + COLLIDING * 99 + b"u"), "a number as large as this as a key"),
    "a storage that claims more": (tensor("0", 4, of=2**31 - 1), "does not have its"),
    "a view of more": (tensor("0", 2**30, of=4), "beyond its storage"),
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
OURS = LIVE | OTHERS | {"numpy": (ARRAY, "asks for numpy.core.multiarray._reconstruct; refused")}
UPSTREAMS = {
    **LIVE,
    **OTHERS,
    "numpy objects": (ARRAY, "numbers of an unknown type"),
    "a billion empty lists": (EMPTY_ARRAY, "an empty array of many dimensions"),
}


class Watch:
    """Notes what Python reports of `EXECUTING`; there is one, for its hook cannot be removed."""

    def __init__(self) -> None:
        self.active = False
        self.seen: set[str] = set()
        codecs.lookup("cp437")  # a module of Python's that a zip file may make it import
        sys.addaudithook(self.note)

    def note(self, event: str, _: object) -> None:
        if self.active and event in EXECUTING:
            self.seen.add(event)


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


Guard = Callable[[Callable[[Path], Any], Path], Any]


@pytest.fixture
def guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch) -> Iterator[Guard]:
    """Runs a reader in limited time and memory, and proves that nothing was executed."""
    monkeypatch.chdir(tmp_path)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + MAX_MEMORY

    def too_long(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"not done after {SECONDS} seconds")

    def run(reader: Callable[[Path], Any], path: Path) -> Any:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        watch.active = True
        try:
            return reader(path)
        finally:
            watch.active = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    yield run
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.signal(signal.SIGALRM, before)
    assert watch.seen == set()
    assert not Path("executed").exists()


def assert_refused(
    guard: Guard, path: Path, reason: str, *readers: Callable[[Path], object]
) -> None:
    """By every reader, in one sentence, and without a trace in the folder."""
    for reader in readers:
        with pytest.raises(UserError) as refusal:
            guard(reader, path)
        assert reason in str(refusal.value)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", LIVE)
def test_the_live_ones_are_live(tmp_path: Path, name: str) -> None:
    """Else their refusal would prove nothing."""
    (tmp_path / "pickle").write_bytes(program(LIVE[name][0]))
    load = "import pickle; pickle.load(open('pickle', 'rb'))"
    subprocess.run([sys.executable, "-c", load], cwd=tmp_path, check=True)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", OURS)
def test_in_our_format(tmp_path: Path, guard: Guard, name: str) -> None:
    payload, reason = OURS[name]
    pickled = program(tiny_deploy(weights={}, spec={"a": payload}))
    path = write_archive(tmp_path / "last.pt", pickled, STORAGES)
    assert_refused(
        guard, path, reason, read_checkpoint, load_whole, read_weights, inspect_checkpoint
    )


@pytest.mark.parametrize("name", UPSTREAMS)
def test_in_upstreams_format(tmp_path: Path, guard: Guard, name: str) -> None:
    payload, reason = UPSTREAMS[name]
    pickled = program(tiny_content(opt={"a": payload}))
    path = write_archive(tmp_path / "last.pt", pickled, STORAGES)
    assert_refused(guard, path, reason, read_upstream, read_weights, inspect_checkpoint)


OLD_START = b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\2M\xe9\3."
OLD_FORMATS = {
    "stream": (OLD_START, "was written by a torch older than 1.6"),
    "tar": (b"pickle".ljust(512, b"\0"), "was written by a torch older than 1.6"),
    "bare pickle": (b"", "is a bare pickle, which could make a program do anything; refused"),
}


@pytest.mark.parametrize("around", OLD_FORMATS)
@pytest.mark.parametrize("name", LIVE)
def test_in_formats_without_an_archive(
    tmp_path: Path, guard: Guard, name: str, around: str
) -> None:
    start, reason = OLD_FORMATS[around]
    path = tmp_path / "last.pt"
    path.write_bytes(start + program(LIVE[name][0]))
    assert_refused(
        guard, path, reason, read_checkpoint, read_upstream, read_weights, inspect_checkpoint
    )


class Tally(NamedTuple):
    """What became of damaged files."""

    intact: int
    refused: int


def read(path: Path) -> Any:
    """As every program of ours reads a file of unknown origin."""
    return vars(read_upstream(path)) if is_upstream_file(path) else read_checkpoint(path)


def same(one: Any, two: Any) -> bool:
    """Whether two contents are equal to the bit, types included."""
    if type(one) is not type(two):
        return False
    if isinstance(one, torch.Tensor):
        alike = (one.dtype, one.shape) == (two.dtype, two.shape)
        return alike and one.numpy().tobytes() == two.numpy().tobytes()
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return repr(one) == repr(two)  # of a frozenset the order may differ


def damaged(content: bytes, draw: np.random.Generator) -> bytes:
    """The content with random bits or bytes changed, cut short, or pieces of it moved."""
    data = bytearray(content)
    kind = draw.choice(["bit", "bytes", "cut", "moved", "copied", "left out", "zeros"])
    start, end = sorted(int(place) for place in draw.integers(len(data) + 1, size=2))
    place = int(draw.integers(len(data)))
    if kind == "bit":
        data[place] ^= 1 << int(draw.integers(8))
    elif kind == "bytes":
        for _ in range(int(draw.integers(1, 9))):
            data[int(draw.integers(len(data)))] = int(draw.integers(256))
    elif kind == "cut":
        del data[place:]
    elif kind == "moved":
        data[place:place] = data[start:end]
    elif kind == "copied":
        piece = data[start:end]
        data[place : place + len(piece)] = piece
    elif kind == "left out":
        del data[start:end]
    else:
        end = min(end, start + 64)
        data[start:end] = bytes(end - start)
    return bytes(data)


def damage(guard: Guard, path: Path, times: int, seed: int) -> Tally:
    """Read a file damaged in many ways; each is intact or refused, whatever else is a failure."""
    content, whole = path.read_bytes(), read(path)
    draw = np.random.default_rng(np.random.SeedSequence([seed]))
    victim = path.with_name("victim.pt")
    refusals = []
    for _ in range(times):
        victim.write_bytes(damaged(content, draw))
        try:
            found = guard(read, victim)
        except UserError as refusal:
            refusals.append(str(refusal))
        else:
            assert same(found, whole)
    assert all(sentence.startswith(f"{victim} ") for sentence in refusals)
    assert not any("\n" in sentence for sentence in refusals)
    return Tally(times - len(refusals), len(refusals))


def test_a_thousand_damages_of_ours(tmp_path: Path, guard: Guard) -> None:
    save_checkpoint(tiny_training(), tmp_path / "a.pt")
    tally = damage(guard, tmp_path / "a.pt", 1000, seed=1)
    assert min(tally) > 10


def test_a_thousand_damages_of_upstreams(tmp_path: Path, guard: Guard) -> None:
    path = write_archive(tmp_path / "a.pt", program(tiny_upstream_run()), STORAGES)
    assert is_upstream_file(path)
    tally = damage(guard, path, 1000, seed=2)
    assert min(tally) > 10


@requires_shared
@pytest.mark.parametrize("version", ["v5.0", "v7"])
def test_damages_of_files_that_upstream_wrote(tmp_path: Path, guard: Guard, version: str) -> None:
    content = (SHARED / "legacy" / version / "last_stripped.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content)
    tally = damage(guard, tmp_path / "a.pt", 50, seed=3)
    assert tally.refused > 10


def resealed(pickled: bytes, path: Path) -> Path:
    """A file around a damaged pickle, its checksums right, so that the reader itself is tried."""
    return write_archive(path, pickled, STORAGES | {"4": b"", "5": b"\0" * 8})


@pytest.mark.parametrize("origin", ["ours", "upstream's"])
def test_a_thousand_damages_under_right_checksums(
    tmp_path: Path, guard: Guard, origin: str
) -> None:
    """What is read here may be another content, as if it had been written so; but nothing else."""
    spec = {"a": [1.5, "b", (2, None)], "t": tensor("0", 2, 2), "u": tensor("5", 1, kind="Long")}
    ours = tiny_deploy(weights={"w": tensor("1", 2)}, spec=spec)
    whole = program(ours if origin == "ours" else tiny_upstream_run())
    draw = np.random.default_rng(np.random.SeedSequence([4]))
    read(resealed(whole, tmp_path / "a.pt"))
    refusals = []
    for _ in range(1000):
        path = resealed(damaged(whole, draw), tmp_path / "a.pt")
        try:
            guard(inspect_checkpoint, path)
        except UserError as refusal:
            refusals.append(str(refusal))
    assert not any("\n" in sentence for sentence in refusals)
    assert 500 < len(refusals) < 1000
