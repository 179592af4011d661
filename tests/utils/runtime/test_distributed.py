import pickle

import pytest
import torch
import torch.distributed as dist

from utils.errors import RunInterruptedError, UserError
from utils.options.script import exit_code_of
from utils.runtime import distributed as module
from utils.runtime.distributed import (
    SINGLE_PROCESS,
    Distributed,
    distributed_from_environment,
    ending_all_on_error,
    process_group,
)


def test_single_process_collectives_return_the_input() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert SINGLE_PROCESS.is_main
    assert SINGLE_PROCESS.all_reduce_sum(tensor) is tensor
    assert SINGLE_PROCESS.all_reduce_max(3) == 3
    assert SINGLE_PROCESS.broadcast("value") == "value"
    assert SINGLE_PROCESS.on_main(lambda: 3) == 3
    with SINGLE_PROCESS.local_main_first():
        pass
    assert SINGLE_PROCESS.gather("value") == ["value"]


def test_single_process_without_torchrun() -> None:
    distributed = distributed_from_environment()
    assert distributed is SINGLE_PROCESS
    with process_group(distributed, torch.device("cpu")):
        pass


def test_rank_and_world_size_from_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="RANK, LOCAL_RANK, LOCAL_WORLD_SIZE is not set"):
        distributed_from_environment()
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert distributed_from_environment() == Distributed(
        rank=3, world_size=4, local_rank=1, local_world_size=2
    )
    refused = pytest.raises(UserError, match="--device mps: distributed training needs")
    with refused, process_group(distributed_from_environment(), torch.device("mps")):
        pass


def test_run_interrupted_error_can_be_pickled() -> None:
    loaded = pickle.loads(pickle.dumps(RunInterruptedError("SIGTERM", 143)))  # noqa: S301 -- our own
    assert (loaded.cause, loaded.exit_code) == ("SIGTERM", 143)


@pytest.mark.parametrize(
    ("errors_before", "error", "printed", "code"),
    [(0, UserError("a"), ["a"], 2), (1, UserError("a"), [], 2), (0, ValueError("b"), ["b"], 1)],
)
def test_error_ends_the_process_without_waiting_for_the_others(
    errors_before: int,
    error: Exception,
    printed: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("collective")

    class Store:
        def add(self, _: str, number: int) -> int:
            return errors_before + number

    def end(code: int) -> None:
        raise SystemExit(code)

    for name in ("destroy_process_group", "barrier", "all_reduce", "broadcast_object_list"):
        monkeypatch.setattr(dist, name, refused)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(module, "_gloo_group", lambda: None)
    monkeypatch.setattr(module, "_store_of_this_try", Store)
    monkeypatch.setattr("os._exit", end)
    two, found = Distributed(rank=1, world_size=2, local_rank=1, local_world_size=2), []
    ending = ending_all_on_error(two, lambda e: found.append(str(e)), exit_code_of)
    with (
        pytest.raises(SystemExit) as stop,
        ending,
        process_group(two, torch.device("cpu")),
    ):
        raise error
    assert (found, stop.value.code) == (printed, code)


@pytest.mark.parametrize(
    ("rank", "local_rank", "order"),
    [(0, 0, ["body", "meet"]), (2, 0, ["body", "meet"]), (3, 1, ["meet", "body"])],
)
def test_first_process_of_each_machine_goes_first(
    rank: int, local_rank: int, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    process = Distributed(rank, world_size=4, local_rank=local_rank, local_world_size=2)
    monkeypatch.setattr(Distributed, "all_reduce_max", lambda *_: found.append("meet"))
    with process.local_main_first():
        found.append("body")
    assert found == order


@pytest.mark.parametrize("rank", [0, 1])
def test_interruption_of_the_main_process_reaches_all(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise RunInterruptedError("SIGTERM", 143)

    sent: list[object] = []

    def broadcast(_: Distributed, value: object) -> object:
        sent.append(value)
        return value or RunInterruptedError("SIGTERM", 143)  # what the main process sends

    monkeypatch.setattr(Distributed, "broadcast", broadcast)
    two = Distributed(rank, world_size=2, local_rank=rank, local_world_size=2)
    with pytest.raises(RunInterruptedError):
        two.on_main(interrupted)
    assert [isinstance(value, RunInterruptedError) for value in sent] == [rank == 0]
