"""What lies in an ignore region is not taught to be background, from the files to the weights."""

from pathlib import Path

import torch

from tests.checkpoints import read_checkpoint
from tests.toy import make_toy, toy_arguments
from train import train
from utils.history import read_results
from utils.options.parser import parse_request


def trained(folder: Path, region: str | None) -> Path:
    """An epoch of the toy model, with a region, or none, in every training image; its run."""
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


def test_training_sees_the_regions_beside_the_labels(tmp_path: Path) -> None:
    plain, everywhere, nowhere = (
        trained(tmp_path / name, region)
        for name, region in (("plain", None), ("everywhere", ".5 .5 1 1"), ("nowhere", ""))
    )
    losses = [read_results(run / "results.csv")[0] for run in (plain, everywhere, nowhere)]
    # Only positives are left to learn objectness from, and the grey beside the images.
    assert losses[1]["train/obj_loss"] < losses[0]["train/obj_loss"]
    assert losses[2] == losses[0]
    # What validates has no regions here, so it differs by what was learned alone.
    assert losses[1]["val/obj_loss"] != losses[0]["val/obj_loss"]
    for name, tensor in weights(plain).items():
        assert torch.equal(tensor, weights(nowhere)[name])
