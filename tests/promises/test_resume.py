"""A run that was killed and resumed is the run that never was."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toy import toy_arguments
from train import train
from utils.checkpoint.store import read_checkpoint
from utils.options import parse_request
from utils.run_record import RunRecord
from utils.training_state import TrainingState


class KilledError(Exception):
    """Stands for a kill between two epochs."""


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two trees of tensors and plain data differ, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [
            d
            for i, pair in enumerate(zip(a, b, strict=True))
            for d in differences(*pair, f"{path}/{i}")
        ]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if torch.equal(a, b) else [path]
    return [] if a == b and type(a) is type(b) else [path]


def killed_after(epochs: int, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    save = RunRecord.epoch

    def save_then_die(record: RunRecord, state: TrainingState) -> None:
        save(record, state)
        if state.epoch == epochs:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "epoch", save_then_die)
        with pytest.raises(KilledError):
            train(parse_request(arguments))


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_three_epochs_in_one_go_equal_a_chain_of_kills_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amp: str, optimizer: str
) -> None:
    # A nominal batch of 12 and three batches of 4, 4 and 2 leave a half-made step in every epoch.
    how = f"--epochs 3 --amp {amp} --optimizer {optimizer} --nominal-batch-size 12 --multi-scale"
    whole = train(parse_request(toy_arguments(tmp_path, f"{how} --name whole")))

    arguments = toy_arguments(tmp_path, f"{how} --name chain")
    chain = tmp_path / "runs" / "chain"
    killed_after(1, monkeypatch, arguments)
    killed_after(2, monkeypatch, ["--resume", str(chain)])
    assert train(parse_request(["--resume", str(chain)])) == chain

    one, two = (read_checkpoint(run / "weights" / "last.pt") for run in (whole, chain))
    one["config"]["options"].pop("name")
    two["config"]["options"].pop("name")
    assert differences(one, two) == []
    assert (whole / "results.csv").read_bytes() == (chain / "results.csv").read_bytes()
    one, two = (read_checkpoint(run / "weights" / "best.pt") for run in (whole, chain))
    assert differences(one, two) == []


def test_workers_do_not_change_a_run(tmp_path: Path) -> None:
    runs = [
        train(parse_request(toy_arguments(tmp_path, f"--epochs 1 --name w{n} --workers {n}")))
        for n in (0, 2)
    ]
    one, two = (read_checkpoint(run / "weights" / "last.pt") for run in runs)
    one.pop("config")
    two.pop("config")
    assert differences(one, two) == []
