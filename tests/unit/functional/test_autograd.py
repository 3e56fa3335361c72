"""fcnet.functional.autograd: every function under every kind of differentiation, the compiler and export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import fcnet.functional as F
from fcnet.functional.autograd import can_read_without_sync, can_use_custom_backward, differentiable_grad
from tests.unit.functional.helpers import (
    ELEMENTWISE,
    OVER_CLASSES,
    TORCH,
    get_activation,
    make_leaf,
    random_tensor,
    value_and_grads,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Function = Any  # a function of the logits alone, or of all differentiable arguments

Y = torch.tensor([0, 3, 1, 2, 1])
MASKED = torch.tensor([0, -100, 1, 2, -100])
SOFT = torch.softmax(random_tensor(5, 4, seed=4), 1)
W = torch.tensor([0.5, 2.0, 1.0, 1.5], dtype=torch.float64)
SIGNS = torch.tensor([-1, 1, 1, -1])
BITS = torch.tensor([0, 1, 1, 0])
BINARY = torch.tensor([0.0, 1.0, 0.3, 1.0], dtype=torch.float64)
DIFFERENTIABLE: dict[str, tuple[Function, tuple[Tensor, ...]]] = {
    "sigmoid": (F.sigmoid, (random_tensor(3, 4),)),
    "logsigmoid": (F.logsigmoid, (random_tensor(3, 4),)),
    "relu": (F.relu, (random_tensor(3, 4),)),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), (random_tensor(3, 4),)),
    "elu": (lambda x: F.elu(x, 1.5), (random_tensor(3, 4),)),
    "gelu": (F.gelu, (random_tensor(3, 4),)),
    "gelu, tanh": (lambda x: F.gelu(x, "tanh"), (random_tensor(3, 4),)),
    "logistic": (lambda h: F.logistic_loss(h, SIGNS), (random_tensor(4),)),
    "hinge": (lambda h: F.hinge_loss(h, SIGNS, "none"), (random_tensor(4),)),
    "quadratic": (lambda h, y: F.quadratic_loss(h, y, "sum"), (random_tensor(3, 4), random_tensor(3, 4, seed=5))),
    "normal_cdf": (F.normal_cdf, (random_tensor(3, 4),)),
    "cauchy_cdf": (F.cauchy_cdf, (random_tensor(3, 4),)),
    "log-likelihood": (lambda x: F.bernoulli_log_likelihood(F.sigmoid(x), BITS), (random_tensor(4),)),
    "log-likelihood of classes": (lambda p: F.categorical_log_likelihood(p, Y), (random_tensor(5, 4).sigmoid(),)),
    "softmax": (lambda x: F.softmax(x, 1), (random_tensor(3, 4),)),
    "log_softmax": (lambda x: F.log_softmax(x, 0), (random_tensor(3, 4),)),
    "indices": (lambda x: F.cross_entropy(x, Y), (random_tensor(5, 4),)),
    "indices, sum, masked": (lambda x: F.cross_entropy(x, MASKED, reduction="sum"), (random_tensor(5, 4),)),
    "indices, none": (lambda x: F.cross_entropy(x, MASKED, reduction="none"), (random_tensor(5, 4),)),
    "indices, weight": (lambda x, w: F.cross_entropy(x, Y, w), (random_tensor(5, 4), W)),
    "indices, smoothing": (lambda x: F.cross_entropy(x, MASKED, label_smoothing=0.1), (random_tensor(5, 4),)),
    "probabilities": (
        lambda x, t, w: F.cross_entropy(x, t, w, label_smoothing=0.1),
        (random_tensor(5, 4), SOFT, W),
    ),
    "binary": (lambda x: F.binary_cross_entropy_with_logits(x, BINARY), (random_tensor(4),)),
    "binary, all": (
        lambda x, t, w, p: F.binary_cross_entropy_with_logits(x, t, w, "none", p),
        (random_tensor(4), BINARY, W, W.flip(0)),
    ),
}
scripting = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
"""torch's own forward mode scripts its decompositions when they are first used (torch 2.9 to 2.15)."""

WITHOUT_POWERS = [DIFFERENTIABLE[name][0] for name in ("relu", "leaky_relu", "hinge", "quadratic")]
every_function = pytest.mark.parametrize(("function", "inputs"), DIFFERENTIABLE.values(), ids=[*DIFFERENTIABLE])

# --- every function --------------------------------------------------------------------------------


@scripting
@every_function
def test_derivatives_hold_in_reverse_and_forward_mode_and_twice(function: Function, inputs: tuple[Tensor, ...]) -> None:
    leaves = tuple(make_leaf(x) for x in inputs)
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True)


@scripting
@every_function
def test_torch_func_transforms_each_function(function: Function, inputs: tuple[Tensor, ...]) -> None:
    x, rest = inputs[0], inputs[1:]

    def total(x: Tensor) -> Tensor:
        result: Tensor = function(x, *rest).sum()
        return result

    gradient = value_and_grads(lambda x: function(x, *rest).sum(), x)[1] / 0.5  # the upstream gradient of a scalar
    assert_close(torch.func.grad(total)(x), gradient)
    assert_close(torch.func.jvp(total, (x,), (torch.ones_like(x),))[1], gradient.sum())
    batch = torch.stack([x, x + 1, 2 * x])
    assert_close(torch.func.vmap(total)(batch), torch.stack([total(row) for row in batch]))
    hessian = torch.func.hessian(total)(x)
    assert_close(hessian, torch.autograd.functional.hessian(total, x))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace", "ignore::torch.jit.TracerWarning")
@every_function
def test_a_trace_holds_for_other_values(function: Function, inputs: tuple[Tensor, ...]) -> None:
    """It records operations: a decision on the values of the first call would show at the second."""
    traced = torch.jit.trace(lambda x: function(x, *inputs[1:]), (inputs[0],), check_trace=False)
    other = inputs[0] * 30.0
    assert_close(value_and_grads(traced, other), value_and_grads(lambda x: function(x, *inputs[1:]), other))


@every_function
def test_each_function_compiles_to_one_graph(function: Function, inputs: tuple[Tensor, ...]) -> None:
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert_close(value_and_grads(compiled, *inputs), value_and_grads(function, *inputs))
    torch.compiler.reset()


@every_function
def test_arguments_stay_as_they_are(function: Function, inputs: tuple[Tensor, ...]) -> None:
    leaves = [make_leaf(x) for x in inputs]
    function(*leaves).sum().backward()
    assert_close([x.detach() for x in leaves], list(inputs), rtol=0, atol=0)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *OVER_CLASSES])
def test_activations_run_on_the_meta_device(name: str) -> None:
    x = torch.zeros(5, 4, device="meta", requires_grad=True)
    result = get_activation(F, name)(x)
    assert result.shape == torch.autograd.grad(result.sum(), x)[0].shape == (5, 4)


def test_export_keeps_the_formula() -> None:
    class Step(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(F.relu(x), y) + F.binary_cross_entropy_with_logits(x[:, 0], F.sigmoid(x[:, 1]))

    x, y = random_tensor(4, 3), torch.tensor([0, 2, 1, -100])
    program = torch.export.export(Step(), (x, y))
    assert_close(program.module()(x, y), Step()(x, y))


class ForbidTorchsOwn(TorchDispatchMode):
    """Fails if one of torch's losses, activations or softmaxes runs, or a host sync."""

    FORBIDDEN = (
        "softmax",
        "logsumexp",
        "logaddexp",
        "nll",
        "entropy",
        "sigmoid",
        "softplus",
        "relu",
        "threshold",
        "hardtanh",
        "_local_scalar_dense",
        "nonzero",
        "elu",
        "tanh",
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        self.seen.append(name)
        assert not any(word in name for word in self.FORBIDDEN), f"{name} ran"
        return func(*args, **(kwargs or {}))


@every_function
@pytest.mark.parametrize("create_graph", [False, True])
def test_no_kernel_of_torchs_and_no_host_sync_runs(
    function: Function, inputs: tuple[Tensor, ...], create_graph: bool
) -> None:
    leaves = tuple(make_leaf(x) for x in inputs)
    with ForbidTorchsOwn() as mode:
        total = function(*leaves).sum()
        gradients = torch.autograd.grad(total, leaves, create_graph=create_graph)
        if create_graph:
            again = [g.sum() for g in gradients if g.requires_grad]  # the gradient of a linear function is constant
            if again:
                torch.autograd.grad(again, leaves, allow_unused=True)
    assert any(word in str(mode.seen) for word in ("exp", "erfc")) or function in WITHOUT_POWERS


def test_the_forbidding_mode_forbids() -> None:
    x, y = random_tensor(3, 2), torch.tensor([0, 1, 0])
    for forbidden in (
        lambda: TORCH.cross_entropy(x, y),
        lambda: torch.logsumexp(x, 1),
        lambda: x.relu(),
        lambda: TORCH.logsigmoid(x),
        lambda: x.sum().item(),
    ):
        with pytest.raises(AssertionError, match="ran"), ForbidTorchsOwn():
            forbidden()


# --- the module itself -----------------------------------------------------------------------------


@scripting
def test_transforms_and_forward_mode_and_the_compiler_take_the_plain_form() -> None:
    seen: list[bool] = []

    def total(x: Tensor) -> Tensor:
        seen.append(can_use_custom_backward(x))
        return x.sum()

    x = random_tensor(3)
    total(x)
    torch.func.grad(total)(x)
    with forward_ad.dual_level():
        total(forward_ad.make_dual(x, torch.ones_like(x)))
    assert seen == [True, False, False]

    def choose(x: Tensor) -> Tensor:
        return x + 1.0 if can_use_custom_backward(x) else x - 1.0

    assert_close(torch.compile(choose, backend="eager", fullgraph=True)(x), x - 1.0)
    torch.compiler.reset()


def test_a_value_is_read_on_the_cpu_alone_and_under_no_dispatch_mode() -> None:
    assert can_read_without_sync(torch.zeros(1))
    assert not can_read_without_sync(torch.zeros(1, device="meta"))
    with FakeTensorMode():
        assert not can_read_without_sync(torch.zeros(1))


def test_a_differentiable_gradient_has_a_graph() -> None:
    x, upstream = make_leaf(random_tensor(3)), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    plain: Callable[[Tensor], Tensor] = torch.exp
    with torch.no_grad():  # as in a backward pass
        gradient = differentiable_grad(plain, x, upstream)
    assert_close(gradient.detach(), upstream * x.detach().exp())
    assert_close(torch.autograd.grad(gradient.sum(), x)[0], upstream * x.detach().exp())
