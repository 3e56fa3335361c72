"""Tests of fcnet.optim.state: an optimizer with a saved and restored state continues bit for bit."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from fcnet.optim.optimizers import LBFGS, Muon
from fcnet.optim.state import join_state, select_prefix, split_state

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd without momentum": partial(torch.optim.SGD, lr=0.1),
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adamw": torch.optim.AdamW,
    "rprop": torch.optim.Rprop,
    "muon": Muon,
    "lbfgs": LBFGS,
}


def ridge_regression(decay: float) -> tuple[nn.Parameter, Callable[[], float]]:
    """Returns the weight of a ridge regression and the closure that sets its gradient."""
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 6, generator=draws), torch.randn(50, 2, generator=draws)
    weight = nn.Parameter(torch.zeros(6, 2))

    def closure() -> float:
        weight.grad = None
        loss: Tensor = 0.5 * (x @ weight - y).square().sum()
        loss.backward()
        return loss.item()

    return weight, closure


def unaligned(tensor: Tensor) -> Tensor:
    """Returns the values at an address that no allocator gives, as in a memory-mapped file."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_restored_optimizer_continues_bit_for_bit(name: str, num_steps: int) -> None:
    weight, closure = ridge_regression(0.0)
    optimizer = OPTIMIZERS[name]([weight])
    for _ in range(num_steps):
        optimizer.step(closure)
    tensors, metadata = split_state(optimizer)
    other, other_closure = ridge_regression(0.0)
    with torch.no_grad():
        other.copy_(weight)
    resumed = OPTIMIZERS[name]([other])
    join_state(resumed, {name: unaligned(tensor) for name, tensor in tensors.items()}, json.loads(json.dumps(metadata)))
    for _ in range(3):
        optimizer.step(closure)
        resumed.step(other_closure)
        assert torch.equal(other, weight)


@pytest.mark.parametrize("num_steps", [1, 5])
def test_the_state_of_lbfgs_holds_its_history_and_restores_as_copies(num_steps: int) -> None:
    weight, closure = ridge_regression(1.0)
    optimizer = LBFGS([{"params": [weight], "weight_decay": 1.0}], history_size=3)
    for _ in range(num_steps):
        optimizer.step(closure)
    tensors, metadata = split_state(optimizer)
    assert len([name for name in tensors if ".old_dirs." in name]) == min(num_steps - 1, 3)
    assert not any(".al" in name for name in tensors)
    other, other_closure = ridge_regression(1.0)
    with torch.no_grad():
        other.copy_(weight)
    resumed = LBFGS([{"params": [other], "weight_decay": 1.0}], history_size=3)
    saved = {name: unaligned(tensor) for name, tensor in tensors.items()}
    join_state(resumed, saved, json.loads(json.dumps(metadata)))
    for tensor in saved.values():
        tensor.zero_()  # must not reach the optimizer
    for _ in range(3):
        optimizer.step(closure)
        resumed.step(other_closure)
        assert torch.equal(other, weight)


def test_select_prefix_takes_the_tensors_of_one_owner_by_their_own_names() -> None:
    tensors = {name: torch.tensor(0.0) for name in ("model.layers.0.bias", "model.weight", "models.weight", "weight")}
    assert list(select_prefix(tensors, "model")) == ["layers.0.bias", "weight"]
