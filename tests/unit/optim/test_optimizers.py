"""Rules of fcnet.optim.optimizers and fcnet.optim.state."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing import assert_close

from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import LBFGS, Muon, fast_step, parameter_groups
from fcnet.optim.state import join_state, split_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_only_matrices_decay() -> None:
    model = MLP(6, (5, 4), 3, normalization="batch")
    decaying, spared = parameter_groups(model, 0.1)
    assert decaying["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert sorted(p.ndim for p in decaying["params"]) == [2, 2, 2]
    assert {p.ndim for p in spared["params"]} == {1}
    assert len(decaying["params"]) + len(spared["params"]) == len(list(model.parameters()))


def moved(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, num_steps: int = 4) -> Tensor:
    for step in range(num_steps):
        parameter.grad = drawn(*parameter.shape, seed=step)
        optimizer.step()
    return parameter.detach()


# --- a step --------------------------------------------------------------------------------------

KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.1, betas=(0.8, 0.9)),
    "adamw": partial(torch.optim.AdamW, lr=0.1, weight_decay=0.2),
    "rprop": torch.optim.Rprop,
    "muon": Muon,
}


def pair(kind: str, **settings: Any) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Two optimizers of equal weights and biases with equal gradients."""
    made = []
    for _ in range(2):
        parameters = [nn.Parameter(drawn(4, 3)), nn.Parameter(drawn(4))]
        for parameter in parameters:
            parameter.grad = drawn(*parameter.shape, seed=1)
        made.append(KINDS[kind](parameters, **settings))
    return made[0], made[1]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [*((kind, {}) for kind in KINDS), *((kind, {"fused": True}) for kind in ("sgd", "adam", "adamw"))],
)
def test_a_move_is_the_optimizers_step_to_the_bit(kind: str, settings: dict[str, Any]) -> None:
    ours, theirs = pair(kind, **settings)
    for _ in range(3):
        fast_step(ours)
        theirs.step()
    for mine, other in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert torch.equal(mine, other)
        assert not torch.equal(mine, drawn(*mine.shape))
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


def test_a_move_leaves_out_what_surrounds_a_step_that_nobody_listens_to() -> None:
    optimizer, _ = pair("sgd")
    with torch.autograd.profiler.profile() as profile:
        fast_step(optimizer)
    assert not any("Optimizer.step" in event.name for event in profile.function_events or ())


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_listens_to_an_optimizer_is_told_of_each_move(kind: str) -> None:
    optimizer, _ = pair(kind)
    heard: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: heard.append("before"))
    fast_step(optimizer)
    other, _ = pair(kind)
    other.register_step_post_hook(lambda *_: heard.append("after"))
    fast_step(other)
    for register in (register_optimizer_step_pre_hook, register_optimizer_step_post_hook):
        handle = register(lambda *_: heard.append("every"))
        try:
            fast_step(pair(kind)[0])
        finally:
            handle.remove()
    assert heard == ["before", "after", "every", "every"]


def test_a_step_of_ones_own_is_made() -> None:
    class Backwards(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data += parameter.grad

    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    fast_step(Backwards([parameter], lr=0.1))
    assert parameter.tolist() == [1.0, 1.0]


def test_torchs_schedulers_see_a_move_as_a_step() -> None:
    optimizer, _ = pair("sgd")
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    fast_step(optimizer)
    scheduler.step()  # warns, which is an error here, where no step was made before
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


# --- muon ----------------------------------------------------------------------------------------


def polar(matrices: Sequence[Tensor], *_: Any) -> list[Tensor]:
    """U Vᵀ, by the singular value decomposition."""
    return [u @ v for u, _, v in (torch.linalg.svd(matrix, full_matrices=False) for matrix in matrices)]


@pytest.mark.parametrize("shape", [(6, 4), (4, 9)])
def test_muon_is_torchs_for_a_matrix(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.optim.optimizers.orthogonalize", polar)
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", lambda matrix, *_: polar([matrix])[0])
    ours, theirs = nn.Parameter(drawn(*shape, seed=9)), nn.Parameter(drawn(*shape, seed=9))
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.05, "momentum": 0.9}
    moved(Muon([ours], **settings), ours)
    moved(torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings), theirs)
    assert_close(ours, theirs)


def test_muon_moves_matrices_together_as_it_does_alone() -> None:
    shapes = [(6, 4), (4, 9), (3,), (4, 4)]
    together, alone = ([nn.Parameter(drawn(*shape)) for shape in shapes] for _ in range(2))
    optimizers = [Muon(together, lr=0.1), *(Muon([parameter], lr=0.1) for parameter in alone)]
    for parameter in (*together, *alone):
        parameter.grad = drawn(*parameter.shape, seed=5)
    for optimizer in optimizers:
        optimizer.step()
    for ours, theirs in zip(together, alone, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(), (7,)])
def test_muon_is_adamw_for_what_is_not_a_matrix(shape: tuple[int, ...]) -> None:
    ours, theirs = nn.Parameter(drawn(*shape, seed=9)), nn.Parameter(drawn(*shape, seed=9))
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.05, "betas": (0.8, 0.95)}
    assert_close(moved(Muon([ours], **settings), ours), moved(torch.optim.AdamW([theirs], **settings), theirs))


def test_muon_steps_have_the_size_of_adamws() -> None:
    weight = nn.Parameter(torch.zeros(64, 256))
    step = moved(Muon([weight], lr=0.01), weight, 1)
    assert 0.1 * 0.01 < step.square().mean().sqrt() < 0.3 * 0.01
    assert step.norm() == pytest.approx(0.01 * 0.2 * math.sqrt(256) * math.sqrt(64), rel=0.25)


def test_muon_leaves_what_has_no_gradient() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(weight, torch.ones(3, 3))


def regression(decay: float) -> tuple[nn.Parameter, Callable[[], Tensor], Tensor]:
    """Ridge regression, its closure, and where it ends, by the normal equations."""
    x, y = drawn(50, 6), drawn(50, 2, seed=1)
    weight = nn.Parameter(torch.zeros(6, 2))

    def closure() -> Tensor:
        weight.grad = None
        loss = 0.5 * (x @ weight - y).square().sum()
        loss.backward()
        return loss.detach()

    return weight, closure, torch.linalg.solve(x.T @ x + decay * torch.eye(6), x.T @ y)


@pytest.mark.parametrize("decay", [0.0, 30.0])
def test_lbfgs_ends_where_the_gradient_of_loss_and_decay_is_0(decay: float) -> None:
    weight, closure, expected = regression(decay)
    optimizer = LBFGS([{"params": [weight], "weight_decay": decay}])
    for _ in range(15):
        optimizer.step(closure)
    assert_close(weight.detach(), expected, atol=1e-4, rtol=1e-4)


def astray(tensor: Tensor) -> Tensor:
    """The same values at an address that no allocator gives, as in a file that was mapped."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


@pytest.mark.parametrize("num_steps", [1, 5])
def test_an_lbfgs_that_was_taken_apart_goes_on_to_the_bit(num_steps: int) -> None:
    weight, closure, _ = regression(1.0)
    optimizer = LBFGS([{"params": [weight], "weight_decay": 1.0}], history_size=3)
    for _ in range(num_steps):
        optimizer.step(closure)
    tensors, metadata = split_state(optimizer)
    assert len([name for name in tensors if ".old_dirs." in name]) == min(num_steps - 1, 3)
    assert not any(".al" in name for name in tensors)
    other, other_closure, _ = regression(1.0)
    with torch.no_grad():
        other.copy_(weight)
    resumed = LBFGS([{"params": [other], "weight_decay": 1.0}], history_size=3)
    lent = {name: astray(tensor) for name, tensor in tensors.items()}
    join_state(resumed, lent, json.loads(json.dumps(metadata)))
    for tensor in lent.values():
        tensor.zero_()  # what is lent is copied
    for _ in range(3):
        optimizer.step(closure)
        resumed.step(other_closure)
        assert torch.equal(other, weight)
