"""A run that is killed and resumed equals the uninterrupted run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import read_checkpoint
from tests.toy import toy_arguments
from train import train
from utils.errors import UserError
from utils.options.parser import parse_request
from utils.training.recorder import RunRecorder


class KilledError(Exception):
    """Simulates a kill between two epochs."""


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """Paths at which two trees of tensors and plain data are not bit-identical."""
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
    same = a == b or (a != a and b != b)  # noqa: PLR0124 -- NaN where nothing was measured
    return [] if same and type(a) is type(b) else [path]


def killed_after(
    epochs: int, monkeypatch: pytest.MonkeyPatch, arguments: list[str], *, at: str = "save_on_epoch"
) -> None:
    """Train until `RunRecorder.<at>` returns after that many epochs, then raise `KilledError`."""
    save = getattr(RunRecorder, at)

    def save_then_fail(record: RunRecorder, state: Any, *more: Any) -> None:
        save(record, state, *more)
        done = state["position"]["epoch"] if isinstance(state, dict) else state.epoch
        if done == epochs:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(RunRecorder, at, save_then_fail)
        with pytest.raises(KilledError):
            train(parse_request(arguments))


def resumed(run: Path) -> Path:
    return train(parse_request(["--resume", str(run), "--noplots"]))


def same_run(one: Path, two: Path) -> list[str]:
    """Where the files of two runs differ, apart from the names of their folders."""
    found = []
    files = ["last.pt", "best.pt"]
    if (one / "weights" / "average.pt").is_file():
        files.append("average.pt")
    for file in files:
        pair = [read_checkpoint(run / "weights" / file) for run in (one, two)]
        for checkpoint in pair:
            checkpoint.get("config", {}).get("options", {}).pop("name", None)
            checkpoint.pop("continuations", None)
        found += differences(pair[0], pair[1], file)
    if (one / "results.csv").read_bytes() != (two / "results.csv").read_bytes():
        found.append("results.csv")
    return found


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_killed_and_resumed_run_equals_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amp: str, optimizer: str
) -> None:
    # A nominal batch of 12 and batches of 4, 4 and 2 images leave a partial step in every epoch.
    how = f"--epochs 3 --amp {amp} --optimizer {optimizer} --nominal-batch-size 12 --multi-scale"
    whole = train(parse_request(toy_arguments(tmp_path, f"{how} --name whole")))

    arguments = toy_arguments(tmp_path, f"{how} --name chain")
    chain = tmp_path / "runs" / "chain"
    killed_after(1, monkeypatch, arguments)
    killed_after(2, monkeypatch, ["--resume", str(chain), "--noplots"])
    assert resumed(chain) == chain
    assert same_run(whole, chain) == []


@pytest.mark.parametrize("epochs", [1, 2])
def test_kill_between_last_and_best_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    # Every epoch is better than the one before, so best.pt must be of the last epoch.
    scores = iter([0.1, 0.9, 0.1, 0.9, 0.9])
    monkeypatch.setattr("utils.training.engine.fitness", lambda _, __: next(scores))
    whole = train(parse_request(toy_arguments(tmp_path, "--epochs 2 --name whole")))
    arguments = toy_arguments(tmp_path, "--epochs 2 --name killed")
    killed_after(epochs, monkeypatch, arguments, at="_write_last")
    killed = tmp_path / "runs" / "killed"
    resumed(killed)
    assert same_run(whole, killed) == []


def test_run_killed_after_its_last_epoch_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(parse_request(toy_arguments(tmp_path, "--epochs 1 --name whole")))
    killed_after(1, monkeypatch, toy_arguments(tmp_path, "--epochs 1 --name killed"))
    killed = tmp_path / "runs" / "killed"
    assert not (killed / "metrics.json").exists()
    resumed(killed)
    assert (killed / "metrics.json").is_file()
    assert same_run(whole, killed) == []
    with pytest.raises(UserError, match="all 1 planned epochs are done"):
        resumed(killed)


def test_damaged_checkpoint_costs_one_epoch(tmp_path: Path) -> None:
    whole = train(parse_request(toy_arguments(tmp_path, "--epochs 3 --name whole")))
    hurt = train(parse_request(toy_arguments(tmp_path, "--epochs 3 --name hurt")))
    last = hurt / "weights" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    assert resumed(hurt) == hurt  # from last_prev.pt, after two epochs
    one, two = (read_checkpoint(run / "weights" / "last.pt")["model"] for run in (whole, hurt))
    assert differences(one, two) == []
    assert (whole / "results.csv").read_bytes() == (hurt / "results.csv").read_bytes()


def test_workers_do_not_change_a_run(tmp_path: Path) -> None:
    runs = [
        train(parse_request(toy_arguments(tmp_path, f"--epochs 1 --name w{n} --workers {n}")))
        for n in (0, 2)
    ]
    one, two = (read_checkpoint(run / "weights" / "last.pt") for run in runs)
    one.pop("config")
    two.pop("config")
    assert differences(one, two) == []
