"""Tests of fcnet.runtime.distributed."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError
from tests.helpers import WAIT_SECONDS, start_python

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

RANKS, ANSWER_SECONDS = 2, 2


def join_and_call(rank: int, folder: Path, function: Callable[[int], Any]) -> None:
    """Joins a process group, calls ``function`` with the rank and saves its result."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    try:
        torch.save(function(rank), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def on_all_ranks(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """Returns what ``function`` returns on each of two ranks."""
    mp.spawn(join_and_call, args=(folder, function), nprocs=RANKS)  # type: ignore[attr-defined,no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def use_every_function(rank: int) -> dict[str, Any]:
    started = torch.tensor([rank, 2.0])
    distributed.start_all_reduce(started)()
    return {
        "rank": (distributed.rank(), distributed.world_size()),
        "rows": (distributed.rank_slice(5).start, distributed.rank_slice(5).stop),
        "sum": distributed.all_reduce(torch.tensor([rank, 1])),
        "tensors": distributed.all_gather_tensor(torch.tensor([[1.0 + rank, 2.0]])),
        "started": started,
        "any": [distributed.any_rank(rank == 1), distributed.any_rank(False)],
        "text": distributed.broadcast(f"from {rank}"),
        "values": distributed.all_gather([rank, "x"]),
    }


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_two_ranks_sum_gather_and_agree(tmp_path: Path) -> None:
    first, second = on_all_ranks(use_every_function, tmp_path)
    assert (first["rank"], second["rank"]) == ((0, 2), (1, 2))
    assert (first["rows"], second["rows"]) == ((0, 2), (2, 5))
    for result in (first, second):
        assert result["sum"].tolist() == [1, 2]
        assert result["tensors"].tolist() == [[[1.0, 2.0]], [[2.0, 2.0]]]
        assert result["started"].tolist() == [1.0, 4.0]
        assert result["any"] == [True, False]
        assert result["text"] == "from 0"
        assert result["values"] == [[0, "x"], [1, "x"]]


@given(size=st.integers(0, 1000), ranks=st.integers(1, 64))
def test_the_slices_of_all_ranks_make_up_the_batch(size: int, ranks: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "world_size", lambda: ranks)
        rows: list[int] = []
        sizes = []
        for rank in range(ranks):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            own = range(size)[distributed.rank_slice(size)]
            rows += own
            sizes.append(len(own))
    assert rows == list(range(size))
    assert max(sizes) - min(sizes) <= 1


JOINED = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE must be a whole number of at least 0, got ''"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number of at least 0, got 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be at least 1, got 0"),
        ({"WORLD_SIZE": "9" * 5000}, f"WORLD_SIZE must be a whole number of at least 0, got '{'9' * 5000}'"),
        ({"RANK": None}, "RANK must be set as well as WORLD_SIZE, or start the ranks with torchrun"),
        ({"RANK": ""}, "RANK must be a whole number of at least 0, got ''"),
        ({"RANK": "-1"}, "RANK must be a whole number of at least 0, got '-1'"),
        ({"RANK": "2"}, "RANK must be less than WORLD_SIZE, 2, got 2"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR must be set to the host of rank 0, or start the ranks with torchrun"),
        ({"MASTER_PORT": None}, "MASTER_PORT must be set as well as WORLD_SIZE, or start the ranks with torchrun"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT must be from 1 to 65535, got 0"),
    ],
)
def test_incomplete_variables_of_a_launcher_are_one_line(
    changes: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (JOINED | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        distributed.launched_ranks()
    assert str(error.value) == message


def test_the_number_of_launched_ranks_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.launched_ranks() == 1
    for name, value in JOINED.items():
        monkeypatch.setenv(name, value)
    assert distributed.launched_ranks() == 2


def start_rank(rank: int, ranks: int, port: int, seconds: float) -> subprocess.Popen[str]:
    """Starts a rank that waits for the others for some seconds, and then exits."""
    program = (
        "import torch; from fcnet import cli; from fcnet.runtime import distributed\n"
        f"distributed.JOIN_SECONDS = {seconds}\n"
        "def main(arguments):\n"
        "    print('waiting', flush=True)\n"
        "    with cli.process_group(torch.device('cpu')): pass\n"
        "    return 0\n"
        "cli.run_command(main)"
    )
    variables = {"RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    return start_python("-c", program, cwd=None, **{name: str(value) for name, value in variables.items()})


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_ranks_name_those_that_never_come() -> None:
    port = free_port()
    processes = [start_rank(rank, 3, port, 6.0) for rank in range(2)]
    (_, first), (_, second) = (process.communicate(timeout=WAIT_SECONDS) for process in processes)
    assert [process.returncode for process in processes] == [2, 2]
    place = f"must meet the others at 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT): "
    assert re.fullmatch(rf"rank 0 of 3 {re.escape(place)}.*2/3 clients joined.*\n", first)
    # The rank that gives up first depends on which has started first. torch's store logs the end of rank 0 itself.
    second = re.sub(r"(?m)^(\[W|frame #|Exception raised from ).*\n|^\n", "", second)
    assert re.fullmatch(rf"rank 1 of 3 {re.escape(place)}(waited for 6 s, no rank 2|rank 0 has ended)\n", second)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_ranks_name_rank_0_that_has_ended() -> None:
    port = free_port()
    second = start_rank(1, 3, port, 50.0)
    assert second.stdout is not None
    assert second.stdout.readline() == "waiting\n"
    first = start_rank(0, 3, port, 8.0)
    first.communicate(timeout=WAIT_SECONDS)
    assert first.returncode == 2
    _, err = second.communicate(timeout=WAIT_SECONDS)
    assert second.returncode == 2
    assert err.splitlines()[-1] == (
        f"rank 1 of 3 must meet the others at 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT): rank 0 has ended"
    )


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGINT), (1, signal.SIGTERM)])
def test_a_rank_that_waits_for_others_ends_at_a_signal(rank: int, number: signal.Signals) -> None:
    process = start_rank(rank, 2, free_port(), 60.0)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(1.0)
    since = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, err) == (128 + number, f"stopped by {number.name}\n")
    assert time.monotonic() - since < 10.0


def limit_answers() -> None:
    """Lets a rank wait for another for `ANSWER_SECONDS`, once both have started."""
    distributed.any_rank(False)
    assert dist.group.WORLD is not None
    dist.group.WORLD._get_backend(torch.device("cpu"))._set_default_timeout(timedelta(seconds=ANSWER_SECONDS))


def work_for_different_times(rank: int) -> list[float]:
    """Returns the start and the end of a rank's work, of which one takes longer than the others wait in a sum."""
    limit_answers()
    since = time.monotonic()
    with distributed.long_work():
        time.sleep(2.5 * ANSWER_SECONDS * rank)
    return [since, time.monotonic()]


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
def test_ranks_wait_for_long_work_of_another(tmp_path: Path) -> None:
    first, second = on_all_ranks(work_for_different_times, tmp_path)
    assert first[1] > second[0] + 2.5 * ANSWER_SECONDS
    assert abs(first[1] - second[1]) < ANSWER_SECONDS


def error_of_long_work(rank: int, *, other: Callable[[], object]) -> str:
    """Returns the first rank's error."""
    limit_answers()
    if rank == 1:
        other()
        return ""
    try:
        with distributed.long_work():
            pass
    except distributed.LostRankError as error:
        return str(error)
    return "no error"


def fail() -> None:
    with contextlib.suppress(ValueError), distributed.long_work():
        raise ValueError


@pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.parametrize(
    ("other", "reason"),
    [(partial(time.sleep, 2 * ANSWER_SECONDS), f"did not answer for {ANSWER_SECONDS} s"), (fail, "failed")],
)
def test_a_rank_that_does_not_take_part_is_an_error(other: Callable[[], object], reason: str, tmp_path: Path) -> None:
    first, _ = on_all_ranks(partial(error_of_long_work, other=other), tmp_path)
    assert first == f"rank 0 of 2 stopped: another rank {reason}"


def test_an_error_in_long_work_is_raised() -> None:
    with pytest.raises(ValueError, match="own"), distributed.long_work():
        raise ValueError("own")


def test_a_single_process_gets_its_own_values_back() -> None:
    tensor = torch.ones(3)
    assert (distributed.world_size(), distributed.rank(), distributed.rank_slice(7)) == (1, 0, slice(0, 7))
    assert distributed.all_reduce(tensor) is tensor
    assert distributed.all_gather_tensor(tensor).tolist() == [[1.0, 1.0, 1.0]]
    distributed.start_all_reduce(tensor)()
    assert tensor.tolist() == [1.0, 1.0, 1.0]
    assert (distributed.any_rank(True), distributed.any_rank(False)) == (True, False)
    assert distributed.broadcast("text") == "text"
    assert distributed.all_gather(3) == [3]
    with distributed.long_work():
        pass
