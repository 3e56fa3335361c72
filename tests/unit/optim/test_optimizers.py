"""Tests of fcnet.optim.optimizers."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from fcnet.models.mlp import MLP
from fcnet.optim.optimizers import LBFGS, Muon, fast_step, parameter_groups
from fcnet.runtime.errors import UserError
from tests.helpers import random_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def test_only_matrices_decay() -> None:
    model = MLP(6, (5, 4), 3, normalization="batch")
    decaying, spared = parameter_groups(model, 0.1)
    assert decaying["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert sorted(p.ndim for p in decaying["params"]) == [2, 2, 2]
    assert {p.ndim for p in spared["params"]} == {1}
    assert len(decaying["params"]) + len(spared["params"]) == len(list(model.parameters()))


def run_steps(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, num_steps: int = 4) -> Tensor:
    """Returns the parameter after some steps along random gradients."""
    for step in range(num_steps):
        parameter.grad = random_tensor(*parameter.shape, seed=step)
        optimizer.step()
    return parameter.detach()


# --- fast_step --------------------------------------------------------------------------------------

KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.1, betas=(0.8, 0.9)),
    "adamw": partial(torch.optim.AdamW, lr=0.1, weight_decay=0.2),
    "rprop": torch.optim.Rprop,
    "muon": Muon,
}


def make_pair(kind: str, **settings: Any) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Returns two optimizers over equal parameters with equal gradients."""
    made = []
    for _ in range(2):
        parameters = [nn.Parameter(random_tensor(4, 3)), nn.Parameter(random_tensor(4))]
        for parameter in parameters:
            parameter.grad = random_tensor(*parameter.shape, seed=1)
        made.append(KINDS[kind](parameters, **settings))
    return made[0], made[1]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [*((kind, {}) for kind in KINDS), *((kind, {"fused": True}) for kind in ("sgd", "adam", "adamw"))],
)
def test_a_fast_step_equals_the_optimizers_step_bit_for_bit(kind: str, settings: dict[str, Any]) -> None:
    ours, theirs = make_pair(kind, **settings)
    for _ in range(3):
        fast_step(ours)
        theirs.step()
    for mine, other in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert torch.equal(mine, other)
        assert not torch.equal(mine, random_tensor(*mine.shape))
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


def test_a_fast_step_skips_the_profiler_range_without_hooks() -> None:
    optimizer, _ = make_pair("sgd")
    with torch.autograd.profiler.profile() as profile:
        fast_step(optimizer)
    assert not any("Optimizer.step" in event.name for event in profile.function_events or ())


@pytest.mark.parametrize("kind", KINDS)
def test_a_fast_step_calls_all_hooks(kind: str) -> None:
    optimizer, _ = make_pair(kind)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    fast_step(optimizer)
    other, _ = make_pair(kind)
    other.register_step_post_hook(lambda *_: calls.append("after"))
    fast_step(other)
    for register in (register_optimizer_step_pre_hook, register_optimizer_step_post_hook):
        handle = register(lambda *_: calls.append("every"))
        try:
            fast_step(make_pair(kind)[0])
        finally:
            handle.remove()
    assert calls == ["before", "after", "every", "every"]


def test_a_fast_step_of_a_subclass_is_its_own_step() -> None:
    class Ascent(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data += parameter.grad

    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    fast_step(Ascent([parameter], lr=0.1))
    assert parameter.tolist() == [1.0, 1.0]


def test_torchs_schedulers_count_a_fast_step() -> None:
    optimizer, _ = make_pair("sgd")
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    fast_step(optimizer)
    scheduler.step()  # warns, an error here, unless the optimizer has made a step
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


# --- muon ----------------------------------------------------------------------------------------


def exact_orthogonalize(matrices: Sequence[Tensor], *_: Any) -> list[Tensor]:
    """Returns U Vᵀ of each matrix, by the singular value decomposition."""
    return [u @ v for u, _, v in (torch.linalg.svd(matrix, full_matrices=False) for matrix in matrices)]


@pytest.mark.parametrize("shape", [(6, 4), (4, 9), (1, 8), (8, 1)])
def test_muon_equals_torchs_muon_for_a_matrix(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.optim.optimizers.orthogonalize", exact_orthogonalize)
    monkeypatch.setattr(
        "torch.optim._muon._zeropower_via_newtonschulz", lambda matrix, *_: exact_orthogonalize([matrix])[0]
    )
    ours, theirs = nn.Parameter(random_tensor(*shape, seed=9)), nn.Parameter(random_tensor(*shape, seed=9))
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.05, "momentum": 0.9}
    run_steps(Muon([ours], **settings), ours)
    run_steps(torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings), theirs)
    assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(1, 8), (8, 1), (1, 1)])
def test_muon_steps_along_the_direction_of_one_row_or_column(shape: tuple[int, int]) -> None:
    """It has one singular value, so its orthogonal matrix is known exactly: torch's iteration leaves 0.7 of it."""
    ours, theirs = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
    step = run_steps(Muon([ours], lr=0.1), ours, 1)
    direction = random_tensor(*shape, seed=0)
    assert_close(step, -0.1 * 0.2 * math.sqrt(max(shape)) * direction / direction.norm())
    optimizer = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    assert run_steps(optimizer, theirs, 1).norm() / step.norm() == pytest.approx(0.7, abs=0.02)


def test_muon_takes_gradients_of_any_size() -> None:
    for scale in (1e-37, 1e-25, 1.0, 1e25, 1e36):
        weight = nn.Parameter(torch.zeros(3, 4))
        weight.grad = scale * random_tensor(3, 4)
        Muon([weight], lr=0.1).step()
        unit = nn.Parameter(torch.zeros(3, 4))
        unit.grad = random_tensor(3, 4)
        Muon([unit], lr=0.1).step()
        assert_close(weight, unit)


def test_muon_resumes_exactly_from_its_state() -> None:
    def make() -> tuple[Muon, list[nn.Parameter]]:
        parameters = [nn.Parameter(random_tensor(*shape)) for shape in ((4, 3), (1, 5), (4,))]
        groups = [{"params": parameters[:1], "weight_decay": 0.1}, {"params": parameters[1:], "lr": 0.2}]
        return Muon(groups, lr=0.1), parameters

    def advance(optimizer: Muon, parameters: list[nn.Parameter], steps: range) -> None:
        for step in steps:
            for parameter in parameters:
                parameter.grad = random_tensor(*parameter.shape, seed=step)
            optimizer.step()

    straight, expected = make()
    advance(straight, expected, range(6))
    stopped, parameters = make()
    advance(stopped, parameters, range(3))
    resumed, others = make()
    resumed.load_state_dict(stopped.state_dict())
    with torch.no_grad():
        for parameter, other in zip(parameters, others, strict=True):
            other.copy_(parameter)
    advance(resumed, others, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(expected, others, strict=True))


def test_a_compiled_step_of_muon_is_its_step() -> None:
    results = []
    for compiled in (False, True):
        parameters = [
            nn.Parameter(random_tensor(4, 3)),
            nn.Parameter(random_tensor(1, 5)),
            nn.Parameter(random_tensor(4)),
        ]
        optimizer = Muon(parameters, lr=torch.tensor(0.1), weight_decay=0.1)  # type: ignore[arg-type]
        for parameter in parameters:
            parameter.grad = random_tensor(*parameter.shape, seed=1)
        torch.compiler.reset()
        (torch.compile(optimizer.step, backend="aot_eager") if compiled else optimizer.step)()
        results.append([parameter.detach() for parameter in parameters])
    assert_close(results[1], results[0])


ONE = nn.Parameter(torch.ones(2, 2))
MUON_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"lr": -1.0}, "lr must be a finite number of at least 0, got -1.0"),
    ({"lr": math.nan}, "lr must be a finite number of at least 0, got nan"),
    ({"lr": "0.1"}, "lr must be a real number, got '0.1'"),
    ({"lr": torch.ones(2)}, "lr must be one number, got a tensor of shape (2,)"),
    ({"weight_decay": -0.1}, "weight_decay must be a finite number of at least 0, got -0.1"),
    ({"momentum": 1.0}, "momentum must be in [0, 1), got 1.0"),
    ({"momentum": None}, "momentum must be a real number, got None"),
    ({"betas": 0.9}, "betas must be two numbers, got 0.9"),
    ({"betas": (0.9, 1.0)}, "betas must be in [0, 1), got 1.0"),
    ({"params": [{"params": [ONE], "lr": -1.0}]}, "lr must be a finite number of at least 0, got -1.0"),
    (
        {"params": [nn.Parameter(torch.ones(2, 2) * 1j)]},
        "parameters must be of a floating dtype for Muon, got torch.complex64",
    ),
]


@pytest.mark.parametrize(("arguments", "text"), MUON_ERRORS, ids=[text for _, text in MUON_ERRORS])
def test_muon_refuses_arguments_outside_their_range(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        Muon(**{"params": [ONE], **arguments})
    assert str(caught.value) == text


def test_muon_refuses_a_sparse_gradient_and_leaves_the_parameters() -> None:
    weight = nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(UserError, match="gradients must be dense for Muon, got a sparse gradient"):
        Muon([weight]).step()
    assert torch.equal(weight, torch.ones(3, 2))


def test_muon_updates_matrices_together_as_it_does_alone() -> None:
    shapes = [(6, 4), (4, 9), (3,), (4, 4)]
    together, alone = ([nn.Parameter(random_tensor(*shape)) for shape in shapes] for _ in range(2))
    optimizers = [Muon(together, lr=0.1), *(Muon([parameter], lr=0.1) for parameter in alone)]
    for parameter in (*together, *alone):
        parameter.grad = random_tensor(*parameter.shape, seed=5)
    for optimizer in optimizers:
        optimizer.step()
    for ours, theirs in zip(together, alone, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(), (7,)])
def test_muon_equals_adamw_for_scalars_and_vectors(shape: tuple[int, ...]) -> None:
    ours, theirs = nn.Parameter(random_tensor(*shape, seed=9)), nn.Parameter(random_tensor(*shape, seed=9))
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.05, "betas": (0.8, 0.95)}
    assert_close(run_steps(Muon([ours], **settings), ours), run_steps(torch.optim.AdamW([theirs], **settings), theirs))


def test_muon_steps_are_as_large_as_adamws() -> None:
    weight = nn.Parameter(torch.zeros(64, 256))
    step = run_steps(Muon([weight], lr=0.01), weight, 1)
    assert 0.1 * 0.01 < step.square().mean().sqrt() < 0.3 * 0.01
    assert step.norm() == pytest.approx(0.01 * 0.2 * math.sqrt(256) * math.sqrt(64), rel=0.25)


def test_muon_skips_parameters_without_a_gradient() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(weight, torch.ones(3, 3))


def ridge_regression(decay: float) -> tuple[nn.Parameter, Callable[[], Tensor], Tensor]:
    """Returns the weight of a ridge regression, its closure, and the minimum by the normal equations."""
    x, y = random_tensor(50, 6), random_tensor(50, 2, seed=1)
    weight = nn.Parameter(torch.zeros(6, 2))

    def closure() -> Tensor:
        weight.grad = None
        loss = 0.5 * (x @ weight - y).square().sum()
        loss.backward()
        return loss.detach()

    return weight, closure, torch.linalg.solve(x.T @ x + decay * torch.eye(6), x.T @ y)


@pytest.mark.parametrize("decay", [0.0, 30.0])
def test_lbfgs_reaches_the_minimum_of_loss_and_decay(decay: float) -> None:
    weight, closure, expected = ridge_regression(decay)
    optimizer = LBFGS([{"params": [weight], "weight_decay": decay}])
    for _ in range(15):
        optimizer.step(closure)
    assert_close(weight.detach(), expected, atol=1e-4, rtol=1e-4)


def test_lbfgs_takes_a_loss_as_a_tensor_or_a_number() -> None:
    converts: list[Callable[[Tensor], Tensor | float]] = [torch.clone, partial(torch.reshape, shape=(1,)), Tensor.item]
    weights = []
    for convert in converts:
        weight, closure, _ = ridge_regression(1.0)
        optimizer = LBFGS([{"params": [weight], "weight_decay": 1.0}])

        def converted(convert: Any = convert, closure: Callable[[], Tensor] = closure) -> Tensor | float:
            return convert(closure())  # type: ignore[no-any-return]

        for _ in range(5):
            optimizer.step(converted)
        weights.append(weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


class CountReads(TorchDispatchMode):
    """Counts the reads of values, each of which waits for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func.overloadpacket.__name__ == "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


def test_lbfgs_reads_as_many_values_for_many_parameters_as_for_one() -> None:
    counts: list[list[int]] = []
    for num_parts in (1, 8):
        parts = [nn.Parameter(part.clone()) for part in torch.linspace(-1.5, 1.5, 16).chunk(num_parts)]
        optimizer = LBFGS([{"params": parts, "weight_decay": 2.0**-7}])

        def closure(parts: list[nn.Parameter] = parts) -> Tensor:
            x = torch.cat(list(parts))
            loss = ((1.0 - x[:-1]).square() + 4.0 * (x[1:] - x[:-1].square()).square()).sum()
            for part, gradient in zip(parts, torch.autograd.grad(loss, parts), strict=True):
                part.grad = gradient
            return loss.detach()

        counts.append([])
        for _ in range(6):
            with CountReads() as reads:
                optimizer.step(closure)
            counts[-1].append(reads.count)
    assert counts[0] == counts[1]
    assert min(counts[0]) > 0
