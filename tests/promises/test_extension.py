"""A finished run can be extended, in every mode, and again; and nothing of it is lost."""

from pathlib import Path

import pytest

from tests.toy import toy_arguments
from train import train
from utils.checkpoint.store import read_checkpoint
from utils.errors import UserError
from utils.history import read_results
from utils.options import parse_request
from utils.solver.schedule import MODES, Plan

BATCHES = 3  # of an epoch


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs that ended as planned."""
    folder = tmp_path_factory.mktemp("extension")
    return train(parse_request(toy_arguments(folder, "--epochs 3 --name a")))


def extended(run: Path, mode: str, extra: int, name: str) -> Path:
    how = f"--extend-epochs {extra} --lr-continuation {mode} --name {name}".split()
    return train(parse_request(["--resume", str(run), *how]))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_branches_from_one_checkpoint_and_can_be_extended_again(
    finished: Path, mode: str
) -> None:
    before = (finished / "weights" / "last.pt").read_bytes()
    once = extended(finished, mode, 2, f"a-{mode}")
    rows = read_results(once / "results.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[:3] == read_results(finished / "results.csv")
    assert (finished / "weights" / "last.pt").read_bytes() == before
    assert (once / "weights" / "seam_3.pt").read_bytes() == before

    plan = Plan.from_dict(read_checkpoint(once / "weights" / "last.pt")["plan"])
    # The toy run is in its warm-up all along, which goes on across the seam.
    for epoch, row in enumerate(rows):
        last = plan.settings(epoch, BATCHES * (epoch + 1) - 1).rates
        assert [row[f"x/lr{group}"] for group in range(3)] == pytest.approx(last, rel=1e-4)
    if mode == "restart":
        assert plan.factor(3) == pytest.approx(1 - 0.99 * 3 / 5)
    else:
        assert plan.factor(3) == plan.factor(2)

    twice = extended(once, "rebase", 1, f"a-{mode}-again")
    assert len(read_results(twice / "results.csv")) == 6
    assert (twice / "weights" / "seam_5.pt").is_file()


def test_the_state_goes_on_across_the_seam(finished: Path) -> None:
    parent = read_checkpoint(finished / "weights" / "last.pt")
    child = read_checkpoint(extended(finished, "hold", 1, "state") / "weights" / "last.pt")
    assert parent["position"] == {"epoch": 3, "iteration": 9}
    assert child["position"] == {"epoch": 4, "iteration": 12}
    # A step is made of 1 batch in iterations 0 to 3, of 2 from then on, and ends with the epoch:
    # 0 1 2 | 3 45 | 67 8 || 9,10 11
    assert parent["ema"]["updates"] == 7
    assert child["ema"]["updates"] == 9
    assert child["history"][:3] == parent["history"]
    assert child["best"]["fitness"] >= parent["best"]["fitness"]
    assert child["optimizer"]["buffers"].keys() == parent["optimizer"]["buffers"].keys()


def test_in_place_the_run_goes_on_in_its_folder(finished: Path) -> None:
    run = extended(finished, "hold", 1, "in-place")
    more = ["--resume", str(run), "--extend-epochs", "1", "--lr-continuation", "slope-match"]
    assert train(parse_request(more)) == run
    assert len(read_results(run / "results.csv")) == 5
    assert read_checkpoint(run / "weights" / "best.pt")["kind"] == "deploy"
    with pytest.raises(UserError, match=r"seam_4\.pt is an earlier point .* give --name"):
        train(parse_request(["--resume", str(run / "weights" / "seam_4.pt"), *more[2:]]))


def test_a_finished_run_is_not_resumed_without_more_epochs(finished: Path) -> None:
    with pytest.raises(UserError, match="all 3 planned epochs are done; add --extend-epochs X"):
        train(parse_request(["--resume", str(finished)]))
    with pytest.raises(UserError, match=r"best\.pt holds weights only, no optimizer"):
        train(parse_request(["--resume", str(finished / "weights" / "best.pt")]))
