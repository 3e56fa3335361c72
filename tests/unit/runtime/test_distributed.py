"""Tests of fcnet.runtime.distributed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

from fcnet.runtime import distributed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RANKS = 2


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
    parameters = [torch.zeros(2, 3), torch.zeros(4, dtype=torch.float64), torch.zeros(1)]
    parameters[0].grad = torch.full((2, 3), float(rank + 1))
    parameters[1].grad = torch.arange(4, dtype=torch.float64) * (rank + 1)
    x = torch.tensor([1.0 + rank, 2.0], requires_grad=True)
    total = distributed.differentiable_all_reduce(x)
    (total * torch.tensor([1.0, 10.0 + rank])).sum().backward()
    loss = torch.tensor(0.5 + rank)
    distributed.barrier()
    return {
        "rank": (distributed.rank(), distributed.world_size()),
        "rows": (distributed.rank_slice(5).start, distributed.rank_slice(5).stop),
        "sum": distributed.all_reduce(torch.tensor([rank, 1])),
        "total": total.detach(),
        "grad": x.grad,
        "loss": (distributed.all_reduce_gradients(parameters, loss), loss),
        "gradients": [parameter.grad for parameter in parameters],
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
        assert result["total"].tolist() == [3.0, 4.0]
        assert result["grad"].tolist() == [2.0, 21.0]  # each rank's gradient of the sum, added up
        assert result["loss"][0].item() == 2.0
        assert result["gradients"][0].tolist() == [[3.0] * 3] * 2
        assert result["gradients"][1].tolist() == [0.0, 3.0, 6.0, 9.0]
        assert result["gradients"][1].dtype == torch.float64
        assert result["gradients"][2] is None
        assert result["any"] == [True, False]
        assert result["text"] == "from 0"
        assert result["values"] == [[0, "x"], [1, "x"]]
    assert [result["loss"][1].item() for result in (first, second)] == [0.5, 1.5]  # the rank's own loss stays


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


def test_a_single_process_gets_its_own_values_back() -> None:
    tensor, loss = torch.ones(3, requires_grad=True), torch.tensor(2.0)
    assert (distributed.world_size(), distributed.rank(), distributed.rank_slice(7)) == (1, 0, slice(0, 7))
    assert distributed.all_reduce(tensor) is tensor
    assert distributed.differentiable_all_reduce(tensor) is tensor
    assert distributed.all_reduce_gradients([tensor], loss) is loss
    assert (distributed.any_rank(True), distributed.any_rank(False)) == (True, False)
    assert distributed.broadcast("text") == "text"
    assert distributed.all_gather(3) == [3]
    distributed.barrier()
