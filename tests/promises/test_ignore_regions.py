"""Training does not use ignore regions as background; from the files to the weights."""

from pathlib import Path

import torch

from tests.checkpoints import read_checkpoint
from tests.toy import make_toy, toy_arguments
from train import train
from utils.history import read_results
from utils.options.parser import parse_request


def trained(folder: Path, region: str | None) -> Path:
    """Train the toy model for an epoch, with or without a region in every image; return the run."""
    make_toy(folder / "data")
    if region is not None:
        regions = folder / "data" / "ignore" / "train"
        regions.mkdir(parents=True)
        for label in (folder / "data" / "labels" / "train").iterdir():
            (regions / label.name).write_text(region)
    return train(parse_request(toy_arguments(folder, "--epochs 1")))


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(run / "weights" / "last.pt")["model"]
    return state


def test_training_uses_ignore_regions(tmp_path: Path) -> None:
    plain, everywhere, nowhere = (
        trained(tmp_path / name, region)
        for name, region in (("plain", None), ("everywhere", ".5 .5 1 1"), ("nowhere", ""))
    )
    losses = [read_results(run / "results.csv")[0] for run in (plain, everywhere, nowhere)]
    # Objectness is learned only from positives and from the padding.
    assert losses[1]["train/obj_loss"] < losses[0]["train/obj_loss"]
    assert losses[2] == losses[0]
    # The validation images have no regions, so only the weights differ.
    assert losses[1]["val/obj_loss"] != losses[0]["val/obj_loss"]
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(nowhere)[name])
