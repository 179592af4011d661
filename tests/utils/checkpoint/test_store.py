import logging
import os
import resource
import signal
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import read_checkpoint, save_checkpoint
from tests.utils.checkpoint.tiny_files import tiny_deploy, tiny_training
from utils.checkpoint.format import FORMAT, VERSION
from utils.checkpoint.store import load_checkpoint, load_with_fallback
from utils.errors import UserError


def deploy(value: float = 1.0) -> dict[str, Any]:
    return tiny_deploy(weights={"w": torch.full((1000,), value)})


def value_of(checkpoint: dict[str, Any]) -> float:
    return float(checkpoint["weights"]["w"][0])


def test_saved_checkpoint_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(deploy(2.5), file)
    read: dict[str, Any] = dict(load_checkpoint(file))
    assert torch.equal(read["weights"]["w"], torch.full((1000,), 2.5))
    assert read == deploy() | {"weights": read["weights"]}
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


def test_previous_file_is_kept_on_request(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    for value in (1.0, 2.0, 3.0):
        save_checkpoint(deploy(value), file, keep_previous=True)
    assert value_of(read_checkpoint(file)) == 3.0
    assert value_of(read_checkpoint(tmp_path / "last_prev.pt")) == 2.0


@pytest.mark.parametrize("position", [0.02, 0.5, 0.97])
def test_flipped_bit_is_detected_and_previous_file_used(
    tmp_path: Path, position: float, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(deploy(1.0), file, keep_previous=True)
    save_checkpoint(deploy(2.0), file, keep_previous=True)
    content = bytearray(file.read_bytes())
    tensor_bytes = content.index(torch.full((8,), 2.0).numpy().tobytes())
    content[tensor_bytes + int(position * 4000)] ^= 1
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"last\.pt is damaged \(the checksum of .* is wrong\)"):
        read_checkpoint(file)
    assert value_of(dict(load_checkpoint(file))) == 1.0


def test_all_types_of_values_are_read_back(tmp_path: Path) -> None:
    values: dict[Any, Any] = {
        "tuple": (1, (2.5, None)),
        "list": [True, -(2**40), float("inf")],
        3: "drei\nä",
        "empty": torch.zeros(0),
        "scalar": torch.tensor(0.1),
        "strided": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
        **{str(t): torch.tensor([1, 0, 2]).to(t) for t in (torch.bfloat16, torch.int8, torch.bool)},
    }
    save_checkpoint(tiny_deploy(spec=values), tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")["spec"]
    assert list(found) == list(values)
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value)
            assert found[name].dtype == value.dtype
            assert found[name].stride() == value.stride()
        else:
            assert found[name] == value
            assert type(found[name]) is type(value)


def test_state_dict_loses_only_its_metadata(tmp_path: Path) -> None:
    state = torch.nn.Linear(1, 1).state_dict()
    save_checkpoint(tiny_deploy(weights=state), tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")["weights"]
    assert list(found) == ["weight", "bias"]
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_torch_load_reads_the_file(tmp_path: Path) -> None:
    save_checkpoint(tiny_training(), tmp_path / "last.pt")
    read = torch.load(tmp_path / "last.pt", weights_only=True)
    assert read["position"] == {"epoch": 5, "iteration": 40}


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    for name in ("last.pt", "best.pt"):
        save_checkpoint(tiny_training(), tmp_path / name)
    assert (tmp_path / "last.pt").read_bytes() == (tmp_path / "best.pt").read_bytes()


def test_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(deploy(), file)
    content = file.read_bytes()
    for length in (4, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"last\.pt is not a checkpoint, or it is truncated"):
            load_checkpoint(file)


def foreign_file(kind: str, path: Path) -> None:
    """Write a file that is not a checkpoint."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/readme.txt", "hello")
    elif kind == "TorchScript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated
            torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), str(path))
    elif kind == "old torch":
        torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    elif kind == "image":
        path.write_bytes(bytes.fromhex("ffd8ffe000104a46494600010100"))
    elif kind == "other tensors":
        torch.save({"state_dict": {}}, path)
    elif kind == "objects":
        torch.save({"format": FORMAT, "anything": Path("x")}, path)
    else:
        contents = {
            "empty": b"",
            "text": b"names: [a, b]\n",
            "pickle": b"\x80\x04K\x01.",
            "tar": b"pickle\0\0\0",
            "noise": bytes(range(128, 256)),
        }
        path.write_bytes(contents[kind])


FOREIGN = {
    "empty": "is not a checkpoint, it is empty; use another checkpoint.",
    "text": "is not a checkpoint, it is a text file; give a .pt file.",
    "image": "is not a checkpoint, it is an image; give a .pt file.",
    "pickle": "is not a checkpoint, it is a bare pickle, which could run any code; "
    "save its tensors with torch.save of torch 1.6 or later.",
    "zip": "is not a checkpoint, it is a zip file without data.pkl; use another checkpoint.",
    "TorchScript": "is not a checkpoint, it is a TorchScript archive; "
    "give the .pt file that it was exported from.",
    "old torch": "was written by a torch version before 1.6; save it again with a newer version.",
    "tar": "was written by a torch version before 1.6; save it again with a newer version.",
    "noise": "is not a checkpoint, it is not a file that torch writes; use another checkpoint.",
    "other tensors": "is not a checkpoint of this program or of YOLOv5; use another checkpoint.",
    "objects": "references pathlib.PosixPath, which no checkpoint needs and which may run code; "
    "use a checkpoint from a source that you trust.",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.pt"
    foreign_file(kind, file)
    with pytest.raises(UserError) as refusal:
        load_checkpoint(file)
    assert str(refusal.value) == f"{file} {FOREIGN[kind]}"


def test_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")  # opening it would wait for a writer
    messages = {
        "none.pt": r"none\.pt does not exist; give the path of a checkpoint",
        "pipe.pt": r"pipe\.pt is not a checkpoint, it is a folder or a device; give the path",
        ".": "is not a checkpoint, it is a folder or a device; give the path",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "noise", "TorchScript"])
def test_previous_file_replaces_an_invalid_last_checkpoint(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(deploy(1.0), tmp_path / "last_prev.pt")
    if kind != "missing":
        foreign_file(kind, file)
    with caplog.at_level(logging.WARNING, logger="yolo"):
        found = load_with_fallback(file)
    assert found.path == tmp_path / "last_prev.pt"
    assert value_of(dict(found.content)) == 1.0
    assert caplog.messages[0].endswith(f". Falling back to {tmp_path / 'last_prev.pt'}.")


def test_no_fallback_for_other_versions_or_other_names(tmp_path: Path) -> None:
    """Not for a newer version's file, and not for a file other than last.pt."""
    save_checkpoint(deploy(1.0), tmp_path / "last_prev.pt")
    save_checkpoint(deploy(2.0) | {"version": VERSION + 1}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="has format version"):
        load_with_fallback(tmp_path / "last.pt")
    foreign_file("text", tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt is not a checkpoint"):
        load_with_fallback(tmp_path / "best.pt")


def test_both_files_are_named_if_both_are_damaged(tmp_path: Path) -> None:
    for name, kind in (("last.pt", "text"), ("last_prev.pt", "empty")):
        foreign_file(kind, tmp_path / name)
    with pytest.raises(UserError, match=r"last\.pt is .* a text .*last_prev\.pt is .* empty"):
        load_with_fallback(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"version": VERSION + 1},
            f"format version {VERSION + 1}, but this program reads version {VERSION}",
        ),
        ({"kind": "cake"}, r"is damaged \(kind 'cake' is unknown\)"),
        ({"names": None}, "key `names` is missing or of the wrong type"),
    ],
)
def test_file_of_another_version_or_kind_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = tmp_path / "a.pt"
    save_checkpoint(deploy() | change, file)
    with pytest.raises(UserError, match=message):
        load_checkpoint(file)


@pytest.mark.parametrize("at", ["fsync", "save"])
def test_full_disk_leaves_the_old_file_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(deploy(1.0), file)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if at == "fsync" else torch, at, full)
    with pytest.raises(UserError, match=r"cannot write .*No space left .* is unchanged"):
        save_checkpoint(deploy(2.0), file)
    assert value_of(read_checkpoint(file)) == 1.0
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


@pytest.fixture
def _no_file_of_64_kb() -> Iterator[None]:
    """A file-size limit, which makes writes fail like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that the write fails with an error
    resource.setrlimit(resource.RLIMIT_FSIZE, (64_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("elements", [7_800, 12_000, 1_000_000])
@pytest.mark.usefixtures("_no_file_of_64_kb")
def test_failed_write_leaves_both_files_intact(tmp_path: Path, elements: int) -> None:
    """The write fails in the zip directory, in the second tensor, or in the first tensor."""
    file = tmp_path / "last.pt"
    for value in (1.0, 2.0):
        save_checkpoint(deploy(value), file, keep_previous=True)
    large = tiny_deploy(weights={"w": torch.zeros(elements), "x": torch.zeros(elements)})
    with pytest.raises(UserError, match=r"cannot write .*last\.pt: File too large .* is unchanged"):
        save_checkpoint(large, file, keep_previous=True)
    assert value_of(read_checkpoint(file)) == 2.0
    assert value_of(read_checkpoint(tmp_path / "last_prev.pt")) == 1.0
    assert sorted(f.name for f in tmp_path.iterdir()) == ["last.pt", "last_prev.pt"]
