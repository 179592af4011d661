import pytest

from utils.errors import UserError
from utils.options.parser import parse_request
from utils.options.resumed_options import resumed_options
from utils.options.train_options import TrainOptions

EXTEND = ("--resume", "a", "--extend-epochs")


def test_given_contains_only_options_on_the_command_line() -> None:
    request = parse_request(["--epochs", "3", "--img", "320", "--cache", "--name", "a"])
    assert request.given == {"epochs", "imgsz", "cache", "name"}
    assert request.options == TrainOptions(epochs=3, imgsz=320, cache="ram", name="a")
    assert request.continuation.resume is None


@pytest.mark.parametrize(
    ("argv", "resume"),
    [(["--resume"], ""), (["--resume", "runs/train/a"], "runs/train/a"), ([], None)],
)
def test_resume_takes_a_path_or_resumes_the_latest_run(argv: list[str], resume: str | None) -> None:
    assert parse_request(argv).continuation.resume == resume


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--extend-epochs", "3"], "--extend-epochs needs --resume; add --resume"),
        (["--resume", "a", "--lr-continuation", "hold"], "--lr-continuation needs --extend-epochs"),
        (
            ["--plan"],
            "--plan needs --resume and --extend-epochs; add --resume PATH --extend-epochs X",
        ),
        (["--epochs", "0"], "--epochs 0: must be between 1 and 1000000"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1, or -1 to measure it"),
        (
            ["--resume", "a", "--batch-size", "-1", "--allow-change", "batch-size"],
            "--batch-size -1: is measured only when a run starts; give a number with",
        ),
        (["--imgsz", "16"], "--imgsz 16: must be between 32 and 32768"),
        (["--label-smoothing", "1"], "--label-smoothing 1.0"),
        ([*EXTEND, "0"], "--extend-epochs 0: must be between 1 and"),
        ([*EXTEND, "4", "--lrf", "1.5"], "--lrf 1.5: must be between 0 and 1"),
        ([*EXTEND, "4", "--cooldown-epochs", "-1"], "--cooldown-epochs -1: must be at least 0"),
        ([*EXTEND, "4", "--rewarm-epochs", "-1"], "--rewarm-epochs -1: must be at least 0"),
    ],
)
def test_invalid_and_contradicting_options_are_errors(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_request(argv)


@pytest.mark.parametrize(
    "argv", [["--no-such-option"], ["--epochs", "many"], ["--optimizer", "LBFGS"]]
)
def test_argparse_errors_exit_with_code_two(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_request(argv)
    assert stop.value.code == 2
    assert argv[0] in capsys.readouterr().err


@pytest.mark.parametrize(("freeze", "layers"), [([0], []), ([3], [0, 1, 2]), ([0, 5], [0, 5])])
def test_frozen_layers(freeze: list[int], layers: list[int]) -> None:
    assert list(TrainOptions(freeze=freeze).frozen_layers()) == layers


def test_resumed_run_keeps_all_but_free_options() -> None:
    saved = TrainOptions(epochs=7, batch_size=4, workers=2, name="a").to_dict()
    request = parse_request(["--resume", "a", "--workers", "0", "--batch-size", "4"])
    options, allowed = resumed_options(request, saved)
    assert options == TrainOptions(epochs=7, batch_size=4, workers=0, name="a")
    assert allowed == frozenset()


def test_device_of_the_run_is_not_used_again() -> None:
    saved = TrainOptions(device="cuda:1").to_dict()
    assert resumed_options(parse_request(["--resume", "a"]), saved).options.device == ""
    again = parse_request(["--resume", "a", "--device", "cpu"])
    assert resumed_options(again, saved).options.device == "cpu"


def test_batch_size_is_not_measured_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "yolo")
    saved = TrainOptions(batch_size=24).to_dict()
    found = resumed_options(parse_request(["--resume", "a", "--batch-size", "-1"]), saved)
    assert (found.options.batch_size, found.allowed) == (24, frozenset())
    assert "--batch-size -1 is measured when a run starts; this run keeps its 24." in caplog.text


@pytest.mark.parametrize(
    ("argv", "compiled"), [([], True), (["--compile"], True), (["--no-compile"], False)]
)
def test_compile_is_inherited_and_may_change(argv: list[str], compiled: bool) -> None:
    saved = TrainOptions(compile=True).to_dict()
    options, _ = resumed_options(parse_request(["--resume", "a", *argv]), saved)
    assert options == TrainOptions(compile=compiled)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--batch-size", "8"],
            "--batch-size 8 differs from the run's 4; .* --allow-change batch-size",
        ),
        (
            ["--cos-lr"],
            "--cos-lr True differs from .* change the learning rate .* --lr-continuation",
        ),
        (["--cfg", "x.yaml"], "--cfg x.yaml differs from .* it is fixed when a run starts"),
        (
            ["--epochs", "9"],
            "--epochs 9 differs from the 7 epochs that the run first planned; omit",
        ),
    ],
)
def test_option_that_changes_the_run_is_an_error(argv: list[str], message: str) -> None:
    saved = TrainOptions(epochs=7, batch_size=4).to_dict()
    with pytest.raises(UserError, match=message):
        resumed_options(parse_request(["--resume", *argv]), saved)


def test_allow_change_permits_a_change() -> None:
    saved = TrainOptions(epochs=7, batch_size=4).to_dict()
    argv = ["--resume", "a", "--batch-size", "8", "--allow-change", "--batch-size, data"]
    options, allowed = resumed_options(parse_request(argv), saved)
    assert options.batch_size == 8
    assert allowed == {"batch_size"}  # --data may change but was not given
    with pytest.raises(UserError, match="--allow-change epochs: choose one or more of amp, batch-"):
        parse_request(["--resume", "a", "--allow-change", "epochs"])
    with pytest.raises(UserError, match="--allow-change needs --resume; add --resume PATH"):
        parse_request(["--allow-change", "data"])
