import os
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.checkpoint.format import FORMAT, VERSION
from utils.checkpoint.store import load_checkpoint, read_checkpoint, save_checkpoint
from utils.errors import UserError


def deploy(value: float = 1.0) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": "deploy",
        "weights": {"w": torch.full((1000,), value)},
        "spec": {"nc": 1},
        "names": ["a"],
        "epoch": 3,
        "fitness": 0.5,
    }


def value_of(checkpoint: dict[str, Any]) -> float:
    return float(checkpoint["weights"]["w"][0])


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(deploy(2.5), file)
    read = load_checkpoint(file)
    assert torch.equal(read["weights"]["w"], torch.full((1000,), 2.5))
    assert {k: v for k, v in read.items() if k != "weights"} == {
        k: v for k, v in deploy().items() if k != "weights"
    }
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


def test_the_file_before_is_kept_on_request(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    for value in (1.0, 2.0, 3.0):
        save_checkpoint(deploy(value), file, keep_previous=True)
    assert value_of(read_checkpoint(file)) == 3.0
    assert value_of(read_checkpoint(tmp_path / "last_prev.pt")) == 2.0


@pytest.mark.parametrize("position", [0.02, 0.5, 0.97])
def test_a_flipped_bit_is_noticed_and_the_file_before_taken(
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
    with pytest.raises(UserError, match=r"last\.pt is damaged: the checksum of .* is wrong"):
        read_checkpoint(file)
    assert value_of(load_checkpoint(file)) == 1.0


def test_a_checkpoint_cut_in_half_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(deploy(), file)
    content = file.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"last\.pt is not a checkpoint, or it is cut short"):
            load_checkpoint(file)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    file.write_text("this is not a checkpoint")
    with pytest.raises(UserError, match=r"a\.pt is not a checkpoint"):
        load_checkpoint(file)
    torch.save({"state_dict": {}}, file)
    with pytest.raises(UserError, match="is not a checkpoint of this program or of YOLOv5"):
        load_checkpoint(file)
    torch.save({"format": FORMAT, "anything": Path("x")}, file)
    with pytest.raises(UserError, match="holds more than tensors and plain data"):
        load_checkpoint(file)
    with pytest.raises(UserError, match=r"there is no checkpoint .*none\.pt"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": VERSION + 1}, f"format version {VERSION + 1}, this program reads {VERSION}"),
        ({"kind": "cake"}, "its kind 'cake' is unknown"),
        ({"names": None}, "`names` is missing or wrong"),
    ],
)
def test_a_file_of_another_make_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = tmp_path / "a.pt"
    save_checkpoint(deploy() | change, file)
    with pytest.raises(UserError, match=message):
        load_checkpoint(file)


@pytest.mark.parametrize("at", ["fsync", "save"])
def test_a_full_disk_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    file = tmp_path / "last.pt"
    save_checkpoint(deploy(1.0), file)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if at == "fsync" else torch, at, full)
    with pytest.raises(UserError, match=r"cannot save .*No space left .* is untouched"):
        save_checkpoint(deploy(2.0), file)
    assert value_of(read_checkpoint(file)) == 1.0
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]
