"""Rules of fcnet.functional: torch's values and gradients, and more digits where torch's lose them."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import fcnet.functional as F
from fcnet.functional import chunking
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import logits_to_classes

if TYPE_CHECKING:
    from collections.abc import Callable

TORCH = torch.nn.functional
INF, NAN = math.inf, math.nan
ELEMENTWISE = ["sigmoid", "logsigmoid", "relu", "leaky_relu", "elu", "gelu"]
ALONG_AN_AXIS = ["softmax", "log_softmax"]
Loss = Any  # a function of the logits alone, or of all differentiable arguments


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 2.0) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(dtype)


def classes(*shape: int, num_classes: int, seed: int = 1) -> Tensor:
    return torch.randint(num_classes, shape, generator=torch.Generator().manual_seed(seed))


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()


def value_and_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value, and the gradients of a sum in which no two elements weigh the same."""
    leaves = [leaf(x) for x in inputs]
    value = function(*leaves)
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    return [value.detach(), *torch.autograd.grad(value, leaves, upstream)]


def activation(module: Any, name: str) -> Callable[[Tensor], Tensor]:
    function: Callable[..., Tensor] = getattr(module, name)
    return (lambda x: function(x, 1)) if name in ALONG_AN_AXIS else function


INDEX_CASES: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight": True},
    {"weight": True, "reduction": "sum"},
    {"ignore_index": 2},
    {"ignore_index": 2, "weight": True},
    {"ignore_index": 2, "reduction": "none"},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.1, "weight": True, "ignore_index": 2},
    {"label_smoothing": 1.0, "reduction": "none"},
]
PROBABILITY_CASES = [case for case in INDEX_CASES if "ignore_index" not in case]
SHAPES = [(4,), (1, 4), (7, 4), (5, 4, 3), (3, 4, 2, 2)]


def options(case: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    return {**case, "weight": torch.tensor([0.5, 2.0, 0.0, 1.5], dtype=dtype) if case.get("weight") else None}


def without_classes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] + shape[2:] if len(shape) > 1 else ()


# --- torch in float64 is the oracle ---------------------------------------------------------------


@pytest.mark.parametrize("case", INDEX_CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_of_indices_is_torchs(shape: tuple[int, ...], case: dict[str, Any]) -> None:
    x, y = drawn(*shape), classes(*without_classes(shape), num_classes=4)
    if shape == (4,) and case.get("ignore_index") == int(y):
        y = (y + 1) % 4
    ours = value_and_gradients(lambda x: F.cross_entropy(x, y, **options(case)), x)
    theirs = value_and_gradients(lambda x: TORCH.cross_entropy(x, y, **options(case)), x)
    assert_close(ours, theirs)


@pytest.mark.parametrize("case", PROBABILITY_CASES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_of_probabilities_is_torchs_for_the_target_too(
    shape: tuple[int, ...], case: dict[str, Any]
) -> None:
    x, t = drawn(*shape), drawn(*shape, seed=1)
    ours = value_and_gradients(lambda x, t: F.cross_entropy(x, t, **options(case)), x, t)
    theirs = value_and_gradients(lambda x, t: TORCH.cross_entropy(x, t, **options(case)), x, t)
    assert_close(ours, theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
def test_class_weights_have_the_gradient_of_their_formula(soft: bool, smoothing: float) -> None:
    x, w = drawn(6, 4), drawn(4, seed=2).abs()
    y = classes(6, num_classes=4)
    t = torch.nn.functional.one_hot(y, 4).double() * (1 - smoothing) + smoothing / 4

    def by_formula(w: Tensor) -> Tensor:
        total = 6 if soft else w[y].sum()
        return -(w * t * torch.log_softmax(x, 1)).sum() / total

    target = torch.nn.functional.one_hot(y, 4).double() if soft else y
    ours = value_and_gradients(lambda w: F.cross_entropy(x, target, w, label_smoothing=smoothing), w)
    assert_close(ours, value_and_gradients(by_formula, w))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weight", [None, (3,), (5, 1), (5, 3), ()], ids=str)
@pytest.mark.parametrize("pos_weight", [None, (3,), (1,)], ids=str)
def test_binary_cross_entropy_is_torchs_for_every_argument(
    reduction: str, weight: tuple[int, ...] | None, pos_weight: tuple[int, ...] | None
) -> None:
    inputs = {"input": drawn(5, 3), "target": drawn(5, 3, seed=1).sigmoid()}
    if weight is not None:
        inputs["weight"] = drawn(*weight, seed=2).abs()
    if pos_weight is not None:
        inputs["pos_weight"] = drawn(*pos_weight, seed=3).abs()

    def ours(*values: Tensor) -> Tensor:
        named = dict(zip(inputs, values, strict=True))
        return F.binary_cross_entropy_with_logits(**named, reduction=reduction)

    def by_formula(*values: Tensor) -> Tensor:
        """From torch's logarithms, as torch has no derivative for its weights."""
        named = dict(zip(inputs, values, strict=True))
        x, t, w, p = (named.get(name, torch.ones(())) for name in ("input", "target", "weight", "pos_weight"))
        costs = -w * (p * t * TORCH.logsigmoid(x) + (1 - t) * TORCH.logsigmoid(-x))
        return costs if reduction == "none" else getattr(costs, reduction)()

    assert_close(value_and_gradients(ours, *inputs.values()), value_and_gradients(by_formula, *inputs.values()))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_binary_cross_entropy_with_a_fixed_target_is_torchs(reduction: str) -> None:
    x, t = drawn(40), drawn(40, seed=1).sigmoid().round(decimals=1)
    ours, theirs = (
        value_and_gradients(lambda x: module.binary_cross_entropy_with_logits(x, t, reduction=reduction), x)  # noqa: B023
        for module in (F, TORCH)
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *ALONG_AN_AXIS])
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (3, 1)], ids=str)
def test_activations_are_torchs(name: str, shape: tuple[int, ...]) -> None:
    x = drawn(*shape, scale=5.0)
    assert_close(value_and_gradients(activation(F, name), x), value_and_gradients(activation(TORCH, name), x))


@pytest.mark.parametrize("name", ALONG_AN_AXIS)
@pytest.mark.parametrize("dim", [0, 1, -1, -3])
def test_any_axis_can_hold_the_classes(name: str, dim: int) -> None:
    x = drawn(2, 3, 4)
    assert_close(
        value_and_gradients(lambda x: getattr(F, name)(x, dim), x),
        value_and_gradients(lambda x: getattr(torch, name)(x, dim), x),
    )
    assert_close(getattr(F, name)(torch.tensor(3.0), 0), getattr(torch, name)(torch.tensor(3.0), 0))


# --- derivatives of every kind ---------------------------------------------------------------------

Y = torch.tensor([0, 3, 1, 2, 1])
MASKED = torch.tensor([0, -100, 1, 2, -100])
SOFT = torch.softmax(drawn(5, 4, seed=4), 1)
W = torch.tensor([0.5, 2.0, 1.0, 1.5], dtype=torch.float64)
SIGNS = torch.tensor([-1, 1, 1, -1])
BITS = torch.tensor([0, 1, 1, 0])
BINARY = torch.tensor([0.0, 1.0, 0.3, 1.0], dtype=torch.float64)
DIFFERENTIABLE: dict[str, tuple[Loss, tuple[Tensor, ...]]] = {
    "sigmoid": (F.sigmoid, (drawn(3, 4),)),
    "logsigmoid": (F.logsigmoid, (drawn(3, 4),)),
    "relu": (F.relu, (drawn(3, 4),)),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), (drawn(3, 4),)),
    "elu": (lambda x: F.elu(x, 1.5), (drawn(3, 4),)),
    "gelu": (F.gelu, (drawn(3, 4),)),
    "gelu, tanh": (lambda x: F.gelu(x, "tanh"), (drawn(3, 4),)),
    "logistic": (lambda h: F.logistic_loss(h, SIGNS), (drawn(4),)),
    "hinge": (lambda h: F.hinge_loss(h, SIGNS, "none"), (drawn(4),)),
    "quadratic": (lambda h, y: F.quadratic_loss(h, y, "sum"), (drawn(3, 4), drawn(3, 4, seed=5))),
    "normal_cdf": (F.normal_cdf, (drawn(3, 4),)),
    "cauchy_cdf": (F.cauchy_cdf, (drawn(3, 4),)),
    "log-likelihood": (lambda x: F.bernoulli_log_likelihood(F.sigmoid(x), BITS), (drawn(4),)),
    "log-likelihood of classes": (lambda p: F.categorical_log_likelihood(p, Y), (drawn(5, 4).sigmoid(),)),
    "softmax": (lambda x: F.softmax(x, 1), (drawn(3, 4),)),
    "log_softmax": (lambda x: F.log_softmax(x, 0), (drawn(3, 4),)),
    "indices": (lambda x: F.cross_entropy(x, Y), (drawn(5, 4),)),
    "indices, sum, masked": (lambda x: F.cross_entropy(x, MASKED, reduction="sum"), (drawn(5, 4),)),
    "indices, none": (lambda x: F.cross_entropy(x, MASKED, reduction="none"), (drawn(5, 4),)),
    "indices, weight": (lambda x, w: F.cross_entropy(x, Y, w), (drawn(5, 4), W)),
    "indices, smoothing": (lambda x: F.cross_entropy(x, MASKED, label_smoothing=0.1), (drawn(5, 4),)),
    "probabilities": (lambda x, t, w: F.cross_entropy(x, t, w, label_smoothing=0.1), (drawn(5, 4), SOFT, W)),
    "binary": (lambda x: F.binary_cross_entropy_with_logits(x, BINARY), (drawn(4),)),
    "binary, all": (
        lambda x, t, w, p: F.binary_cross_entropy_with_logits(x, t, w, "none", p),
        (drawn(4), BINARY, W, W.flip(0)),
    ),
}
scripting = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
"""torch's own forward mode scripts its decompositions when they are first used (torch 2.9 to 2.15)."""

STRAIGHT = [DIFFERENTIABLE[name][0] for name in ("relu", "leaky_relu", "hinge", "quadratic")]
every_function = pytest.mark.parametrize(("function", "inputs"), DIFFERENTIABLE.values(), ids=[*DIFFERENTIABLE])


@scripting
@every_function
def test_derivatives_hold_in_reverse_and_forward_mode_and_twice(function: Loss, inputs: tuple[Tensor, ...]) -> None:
    leaves = tuple(leaf(x) for x in inputs)
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True)


@scripting
@every_function
def test_torch_func_sees_through(function: Loss, inputs: tuple[Tensor, ...]) -> None:
    x, rest = inputs[0], inputs[1:]

    def total(x: Tensor) -> Tensor:
        result: Tensor = function(x, *rest).sum()
        return result

    plain = value_and_gradients(lambda x: function(x, *rest).sum(), x)
    gradient = plain[1] / 0.5  # the upstream gradient of a scalar there
    assert_close(torch.func.grad(total)(x), gradient)
    assert_close(torch.func.jvp(total, (x,), (torch.ones_like(x),))[1], gradient.sum())
    batch = torch.stack([x, x + 1, 2 * x])
    assert_close(torch.func.vmap(total)(batch), torch.stack([total(row) for row in batch]))
    hessian = torch.func.hessian(total)(x)
    assert_close(hessian, torch.autograd.functional.hessian(total, x))


@every_function
def test_the_compiler_takes_each_whole(function: Loss, inputs: tuple[Tensor, ...]) -> None:
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert_close(value_and_gradients(compiled, *inputs), value_and_gradients(function, *inputs))
    torch.compiler.reset()


@pytest.mark.parametrize("name", [*ELEMENTWISE, *ALONG_AN_AXIS])
def test_activations_on_the_meta_device(name: str) -> None:
    x = torch.zeros(5, 4, device="meta", requires_grad=True)
    result = activation(F, name)(x)
    assert result.shape == torch.autograd.grad(result.sum(), x)[0].shape == (5, 4)


def test_losses_on_the_meta_device() -> None:
    x = torch.zeros(5, 4, device="meta", requires_grad=True)
    for target in (torch.zeros(5, dtype=torch.int64, device="meta"), torch.zeros(5, 4, device="meta")):
        for smoothing in (0.0, 0.1):
            loss = F.cross_entropy(x, target, label_smoothing=smoothing)
            assert loss.shape == ()
            assert torch.autograd.grad(loss, x)[0].shape == (5, 4)
    loss = F.binary_cross_entropy_with_logits(x, torch.zeros(5, 4, device="meta"), reduction="none")
    assert loss.shape == (5, 4)


@pytest.mark.parametrize("case", INDEX_CASES, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_losses_on_fake_tensors(soft: bool, case: dict[str, Any]) -> None:
    if soft and "ignore_index" in case:
        return
    with FakeTensorMode():
        x = torch.zeros(5, 4, requires_grad=True)
        target = torch.zeros(5, 4) if soft else torch.zeros(5, dtype=torch.int64)
        loss = F.cross_entropy(x, target, **options(case, torch.float32))
        assert loss.shape == ((5,) if case.get("reduction") == "none" else ())
        assert torch.autograd.grad(loss.sum(), x)[0].shape == (5, 4)


class Refusing(TorchDispatchMode):
    """Fails when one of torch's own losses, activations or softmaxes runs."""

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
    function: Loss, inputs: tuple[Tensor, ...], create_graph: bool
) -> None:
    leaves = tuple(leaf(x) for x in inputs)
    with Refusing() as mode:
        total = function(*leaves).sum()
        gradients = torch.autograd.grad(total, leaves, create_graph=create_graph)
        if create_graph:
            again = [g.sum() for g in gradients if g.requires_grad]  # that of straight lines is constant
            if again:
                torch.autograd.grad(again, leaves, allow_unused=True)
    assert any(word in str(mode.seen) for word in ("exp", "erfc")) or function in STRAIGHT


def test_the_refusing_mode_refuses() -> None:
    x, y = drawn(3, 2), torch.tensor([0, 1, 0])
    for forbidden in (
        lambda: TORCH.cross_entropy(x, y),
        lambda: torch.logsumexp(x, 1),
        lambda: x.relu(),
        lambda: TORCH.logsigmoid(x),
        lambda: x.sum().item(),
    ):
        with pytest.raises(AssertionError, match="ran"), Refusing():
            forbidden()


@every_function
def test_arguments_are_left_as_they_are(function: Loss, inputs: tuple[Tensor, ...]) -> None:
    leaves = [leaf(x) for x in inputs]
    function(*leaves).sum().backward()
    assert_close([x.detach() for x in leaves], list(inputs), rtol=0, atol=0)


# --- digits ----------------------------------------------------------------------------------------

CONFIDENT = math.log1p(math.exp(-20.0))
ALONE = 1.0 / (1.0 + math.exp(20.0))
"""The cost and the improbable class's probability for the logits 20 and 0."""


@pytest.mark.parametrize("offset", [0.0, 4096.0, -4096.0])
@pytest.mark.parametrize("kind", ["indices", "one-hot", "compiled", "func"])
def test_a_confident_row_keeps_its_digits(kind: str, offset: float) -> None:
    x = torch.tensor([[20.0, 0.0]]) + offset
    target = torch.tensor([[1.0, 0.0]]) if kind == "one-hot" else torch.tensor([0])

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(x, target)

    if kind == "func":
        gradient, value = torch.func.grad_and_value(loss)(x)
    else:
        function = torch.compile(loss, backend="aot_eager", fullgraph=True) if kind == "compiled" else loss
        leaf_x = leaf(x)
        value = function(leaf_x)
        (gradient,) = torch.autograd.grad(value, leaf_x)
    assert_close(value.item(), CONFIDENT, rtol=1e-6, atol=0)  # some units in float32's last place
    assert_close(gradient, torch.tensor([[-ALONE, ALONE]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("through", ["hand", "func", "pos_weight"])
def test_a_confident_binary_cost_keeps_its_digits(sign: float, through: str) -> None:
    x, t = torch.tensor([20.0 * sign]), torch.tensor([(1.0 + sign) / 2.0])

    def loss(x: Tensor) -> Tensor:
        one = torch.ones(1) if through == "pos_weight" else None
        return F.binary_cross_entropy_with_logits(x, t, pos_weight=one)

    if through == "func":
        gradient, value = torch.func.grad_and_value(loss)(x)
    else:
        value, gradient = value_and_gradients(loss, x)
        gradient = gradient / 0.5
    assert_close(value.item(), CONFIDENT, rtol=1e-6, atol=0)
    assert_close(gradient, torch.tensor([-sign * ALONE]), rtol=1e-6, atol=0)


def test_tails_of_the_sigmoid_keep_their_digits() -> None:
    x = torch.tensor([-100.0, -88.0, 20.0, 100.0]).repeat(16)  # enough for the vectorised kernels
    value, gradient = value_and_gradients(F.sigmoid, x)
    gradient = gradient / torch.linspace(0.5, 1.5, 64)
    exact = x.double()
    assert value[0].item() == pytest.approx(3.8e-44, rel=0.02)  # a subnormal has few digits
    assert_close(value, torch.sigmoid(exact).float(), rtol=1e-6, atol=2e-45)
    assert_close(gradient, (torch.sigmoid(exact) * torch.sigmoid(-exact)).float(), rtol=1e-6, atol=3e-45)
    assert_close(F.logsigmoid(x), TORCH.logsigmoid(exact).float(), rtol=1e-6, atol=2e-45)


def test_a_confident_log_probability_keeps_its_digits_and_its_gradient() -> None:
    x = torch.tensor([20.0, 0.0])
    assert_close(F.log_softmax(x, 0), torch.tensor([-CONFIDENT, -20.0 - CONFIDENT]), rtol=1e-6, atol=0)
    for function, jacobian in (
        (lambda x: F.log_softmax(x, 0), [[ALONE, -ALONE], [ALONE - 1.0, 1.0 - ALONE]]),
        (lambda x: F.softmax(x, 0), [[ALONE, -ALONE], [-ALONE, ALONE]]),
    ):
        for found in (torch.autograd.functional.jacobian(function, x), torch.func.jacrev(function)(x)):
            assert_close(found, torch.tensor(jacobian), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", ["hand", "plain"])
def test_no_finite_logit_overflows(dtype: torch.dtype, way: str) -> None:
    def found(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        if way == "plain":
            gradient, value = torch.func.grad_and_value(lambda x: function(x).sum())(x)
            return torch.func.vmap(function)(x.unsqueeze(0)).squeeze(0), gradient
        value, gradient = value_and_gradients(function, x)
        return value, gradient

    large = torch.finfo(dtype).max / 4
    x = torch.tensor([[large, -large, 0.0], [-large, -large, -large]], dtype=dtype)
    for target in (torch.tensor([0, 1]), torch.tensor([1, 2])):
        value, gradient = found(lambda x: F.cross_entropy(x, target, reduction="none"))  # noqa: B023
        assert value.isfinite().all()
        assert gradient.isfinite().all()
    value, gradient = found(lambda x: F.softmax(x, 1))
    assert_close(value, torch.tensor([[1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]], dtype=dtype))
    assert gradient.isfinite().all()
    value, gradient = found(lambda x: F.binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction="none"))
    assert_close(value, x.clamp(min=0) + (x == 0) * math.log(2))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("way", ["hand", "plain"])
def test_derivatives_at_0_are_the_formulas_whatever_the_sign_of_0(zero: float, way: str) -> None:
    t = 0.25
    for function, expected in (
        (F.sigmoid, 0.25),
        (F.logsigmoid, 0.5),
        (lambda x: F.binary_cross_entropy_with_logits(x, torch.full_like(x, t), reduction="sum"), 0.5 - t),
        (lambda x: CrossEntropy()(x, torch.zeros_like(x, dtype=torch.int64)), 0.5),
        (lambda x: CrossEntropy()(x, torch.ones_like(x, dtype=torch.int64)), -0.5),
    ):
        x = torch.tensor([zero])
        if way == "plain":
            gradient = torch.func.grad(lambda x: function(x).sum())(x)  # noqa: B023
        else:
            marked = leaf(x)
            (gradient,) = torch.autograd.grad(function(marked).sum(), marked)
        assert_close(gradient.item(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once_at_the_end(dtype: torch.dtype) -> None:
    x, y = drawn(300, 50, dtype=dtype), classes(300, num_classes=50)
    t = torch.softmax(drawn(300, 50, seed=3), 1).to(dtype)
    for function in (
        lambda x: F.cross_entropy(x, y),
        lambda x: F.cross_entropy(x, y, label_smoothing=0.1),
        lambda x: F.cross_entropy(x, t.to(x.dtype)),
        lambda x: F.binary_cross_entropy_with_logits(x, t.to(x.dtype)),
        lambda x: F.softmax(x, 1),
        lambda x: F.log_softmax(x, 1),
        F.sigmoid,
        F.logsigmoid,
    ):
        half, full = value_and_gradients(function, x), value_and_gradients(function, x.float())
        assert half[0].dtype == half[1].dtype == dtype
        assert_close(half[0], full[0].to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_losses_in_float32(dtype: torch.dtype) -> None:
    x, y, w = drawn(6, 4, dtype=dtype), classes(6, num_classes=4), torch.rand(4)
    t = torch.softmax(x.float(), 1).to(dtype)
    with torch.autocast("cpu", dtype):
        for target in (y, t):
            for weight in (None, w):
                loss = F.cross_entropy(x, target, weight)
                assert loss.dtype == torch.float32
                assert_close(loss, TORCH.cross_entropy(x.float(), target if target is y else t.float(), weight))
        assert F.binary_cross_entropy_with_logits(x, t).dtype == torch.float32
        for name in (*ELEMENTWISE, *ALONG_AN_AXIS):
            assert activation(F, name)(x).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_over_50000_classes_keep_their_digits_in_half_precision(dtype: torch.dtype) -> None:
    x, y = drawn(3, 50_000, dtype=dtype), torch.tensor([0, 49_999, 7])
    for function in (
        lambda x: F.cross_entropy(x, y, reduction="none"),
        lambda x: F.cross_entropy(x, y, reduction="none", label_smoothing=0.1),
        lambda x: F.softmax(x, 1),
        lambda x: F.log_softmax(x, 1),
    ):
        half, exact = value_and_gradients(function, x), value_and_gradients(function, x.double())
        assert_close(half[0].double(), exact[0], rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).smallest_normal)


@pytest.mark.parametrize("way", ["hand", "plain"])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_keeps_the_digits_of_its_tail_and_has_limits(approximate: str, way: str) -> None:
    x = torch.tensor([-INF, -1e30, -9.0, -7.0, 40.0, 1e30, INF])

    def total(x: Tensor) -> Tensor:
        return F.gelu(x, approximate).sum()

    value, gradient = F.gelu(x, approximate), torch.func.grad(total)(x)
    if way == "hand":
        _, gradient = value_and_gradients(total, x)
        gradient = gradient / 0.5
    assert_close(value[[0, 1, 4, 5, 6]], torch.tensor([0.0, 0.0, 40.0, 1e30, INF]), rtol=0, atol=0)
    assert_close(gradient[[0, 1, 4, 5, 6]], torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]), rtol=0, atol=0)
    if approximate == "none":
        tails = [x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in (-9.0, -7.0)]
    else:
        steps = [2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3) for x in (-9.0, -7.0)]
        tails = [x * math.exp(u) / (1 + math.exp(u)) for x, u in zip((-9.0, -7.0), steps, strict=True)]
    assert_close(value[2:4], torch.tensor(tails), rtol=2e-5, atol=0)


def test_elu_keeps_its_digits_near_0_and_ends_at_minus_alpha() -> None:
    value, gradient = value_and_gradients(lambda x: F.elu(x, 2.0), torch.tensor([-INF, -1e-9, 0.0, 1e-9, INF]))
    assert_close(value, torch.tensor([-2.0, -2e-9, 0.0, 1e-9, INF]), rtol=1e-6, atol=0)
    assert_close(gradient / torch.linspace(0.5, 1.5, 5), torch.tensor([0.0, 2.0, 2.0, 1.0, 1.0]))


@pytest.mark.parametrize("way", ["hand", "plain"])
def test_slopes_at_0_are_torchs_but_for_relu(way: str) -> None:
    x = torch.tensor([0.0, -0.0])
    for name in ("leaky_relu", "elu"):

        def total(x: Tensor, module: Any = F, name: str = name) -> Tensor:
            result: Tensor = getattr(module, name)(x, 0.3).sum()
            return result

        slope = torch.func.grad(total)(x) if way == "plain" else value_and_gradients(total, x)[1] / 0.5
        assert_close(slope, value_and_gradients(partial(total, module=TORCH), x)[1] / 0.5, rtol=0, atol=0)


# --- the lecture's losses of a score ----------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_of_a_score_are_their_formulas(reduction: str) -> None:
    h, y = drawn(40), torch.tensor([-1.0, 1.0] * 20, dtype=torch.float64)
    for function, formula in (
        (F.logistic_loss, torch.log1p(torch.exp(-y * h))),
        (F.hinge_loss, torch.maximum(1 - y * h, torch.zeros(()))),
    ):
        expected = formula if reduction == "none" else getattr(formula, reduction)()
        assert_close(function(h, y, reduction), expected)
        assert_close(function(h, y.long(), reduction), expected)
    a, b = drawn(5, 3), drawn(5, 3, seed=1)
    losses = (a - b).norm(dim=1) ** 2
    assert_close(F.quadratic_loss(a, b, reduction), losses if reduction == "none" else getattr(losses, reduction)())


def test_the_logistic_loss_is_the_cross_entropy_of_the_other_labels() -> None:
    h, y = drawn(50, scale=30.0, dtype=torch.float32), torch.tensor([-1.0, 1.0] * 25)
    ours = value_and_gradients(lambda h: F.logistic_loss(h, y, "none"), h)
    theirs = value_and_gradients(lambda h: F.binary_cross_entropy_with_logits(h, (y + 1) / 2, reduction="none"), h)
    assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_the_logistic_loss_keeps_the_digits_of_a_confident_score() -> None:
    value, slope = value_and_gradients(lambda h: F.logistic_loss(h, torch.ones(1), "sum"), torch.tensor([20.0]))
    assert_close(value.item(), CONFIDENT, rtol=1e-6, atol=0)
    assert_close(slope.item() / 0.5, -ALONE, rtol=1e-6, atol=0)


def test_the_slope_of_the_hinge_at_its_corner_is_that_of_the_line() -> None:
    for y in (-1.0, 1.0):
        _, slope = value_and_gradients(lambda h: F.hinge_loss(h, torch.tensor([y]), "sum"), torch.tensor([y]))  # noqa: B023
        assert slope.item() == -0.5 * y


def test_the_sign_of_a_score_is_its_class_and_0_is_neither() -> None:
    scores = torch.tensor([-INF, -1e-45, -0.0, 0.0, 1e-45, 3.0])
    assert F.sgn(scores).tolist() == [-1, -1, 0, 0, 1, 1]
    assert F.sgn(torch.tensor([-7, 0, 7])).tolist() == [-1, 0, 1]
    assert logits_to_classes(scores).tolist() == [0, 0, 0, 0, 1, 1]  # a network says the first class at 0


def test_nothing_is_learned_through_the_sign() -> None:
    _, slope = value_and_gradients(F.sgn, torch.tensor([-1.0, 0.0, 1.0]))
    assert slope.tolist() == [0, 0, 0]


# --- blocks and memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [{}, {"weight": True}, {"label_smoothing": 0.1}, {"reduction": "none"}], ids=str)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", [(50, 4), (7, 4, 3, 2)], ids=str)
def test_blocks_of_rows_change_nothing(
    shape: tuple[int, ...], soft: bool, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = drawn(*shape, dtype=torch.float32), classes(*without_classes(shape), num_classes=4)
    y[0] = -100
    target = torch.softmax(drawn(*shape, seed=1), 1).float() if soft else y

    def found() -> list[Tensor]:
        return value_and_gradients(lambda x: F.cross_entropy(x, target, **options(case, torch.float32)), x)

    whole = found()
    monkeypatch.setattr(chunking, "_CHUNK_ELEMENTS", 12)
    assert_close(found(), whole, rtol=0, atol=0)


@pytest.mark.parametrize("target", ["indices", "smoothed", "soft"])
def test_the_loss_takes_no_more_memory_than_torchs(target: str, program: Callable[[str], Any]) -> None:
    peak_bytes = program("benchmark").losses.peak_bytes
    x = drawn(4096, 300, dtype=torch.float32)
    y = torch.softmax(x, 1) if target == "soft" else classes(4096, num_classes=300)
    smoothing = 0.1 if target == "smoothed" else 0.0
    ours, theirs = (
        peak_bytes(lambda: value_and_gradients(lambda x: module.cross_entropy(x, y, label_smoothing=smoothing), x))  # noqa: B023
        for module in (F, TORCH)
    )
    assert 2 * x.nbytes < ours <= theirs


# --- relations -------------------------------------------------------------------------------------

LOGITS = st.integers(1, 5).flatmap(
    lambda rows: st.integers(1, 6).flatmap(
        lambda columns: st.lists(
            st.lists(st.integers(-400, 400).map(lambda n: n / 8), min_size=columns, max_size=columns),
            min_size=rows,
            max_size=rows,
        )
    )
)


@given(LOGITS, st.integers(-(2**14), 2**14), st.randoms(use_true_random=False))
def test_a_constant_added_to_every_logit_changes_nothing(rows: list[list[float]], constant: int, random: Any) -> None:
    x = torch.tensor(rows)
    y = torch.tensor([random.randrange(x.shape[1]) for _ in rows])
    shifted = x + constant  # exact: eighths below 2^15 fit into float32
    for function in (
        lambda x: F.cross_entropy(x, y, reduction="none"),
        lambda x: F.cross_entropy(x, y, reduction="none", label_smoothing=0.1),
        lambda x: F.softmax(x, 1),
        lambda x: F.log_softmax(x, 1),
    ):
        assert_close(value_and_gradients(function, shifted), value_and_gradients(function, x), rtol=0, atol=0)


@given(LOGITS, st.randoms(use_true_random=False))
def test_values_and_gradients_in_float32_are_as_near_to_the_truth_as_torchs(
    rows: list[list[float]], random: Any
) -> None:
    x = torch.tensor(rows)
    y = torch.tensor([random.randrange(x.shape[1]) for _ in rows])
    weights = torch.linspace(0.5, 1.5, len(rows), dtype=torch.float64).unsqueeze(1)
    own = torch.nn.functional.one_hot(y, x.shape[1]).bool()
    others = torch.softmax(x.double(), 1).masked_fill(own, 0.0)
    exact = weights * torch.where(own, -others.sum(1, keepdim=True), others)
    value, gradient = value_and_gradients(lambda x: F.cross_entropy(x, y, reduction="none"), x)
    theirs, their_gradient = value_and_gradients(lambda x: TORCH.cross_entropy(x, y, reduction="none"), x)
    differences = x.double() - x.double().gather(1, y.unsqueeze(1))
    truth = differences.exp().masked_fill(own, 0.0).sum(1).log1p()
    for mine, other, right in ((value, theirs, truth), (gradient, their_gradient, exact)):
        some_units = 4 * torch.finfo(torch.float32).eps * right.abs() + 1e-44  # where torch's happens to be exact
        assert ((mine - right).abs() <= (other - right).abs() + some_units).all()
    # logits in eighths have exact differences: each probability can keep its relative precision
    normal = exact.abs() > 1e-37
    assert_close(gradient[normal], exact[normal].float(), rtol=2e-6, atol=0)


def test_permuting_the_classes_permutes_the_gradient() -> None:
    x, y = drawn(6, 5), classes(6, num_classes=5)
    order = torch.tensor([3, 0, 4, 1, 2])
    places = order.argsort()
    value, gradient = value_and_gradients(lambda x: F.cross_entropy(x, y, reduction="none"), x)
    other, permuted = value_and_gradients(lambda x: F.cross_entropy(x, places[y], reduction="none"), x[:, order])
    assert_close([other, permuted], [value, gradient[:, order]])


def test_a_batch_is_its_rows() -> None:
    x, y = drawn(6, 5, dtype=torch.float32), classes(6, num_classes=5)
    rows = torch.stack([F.cross_entropy(row, label) for row, label in zip(x, y, strict=True)])
    assert_close(F.cross_entropy(x, y, reduction="none"), rows, rtol=0, atol=0)
    assert_close(F.cross_entropy(x, y, reduction="sum"), rows.sum())
    assert_close(F.cross_entropy(x, y), rows.mean())
    images = x.T.reshape(1, 5, 2, 3)
    assert_close(F.cross_entropy(images, y.reshape(1, 2, 3), reduction="none").flatten(), rows, rtol=0, atol=0)


def test_smoothing_by_0_is_no_smoothing_and_by_1_forgets_the_label() -> None:
    x, y = drawn(6, 5), classes(6, num_classes=5)
    assert_close(F.cross_entropy(x, y, label_smoothing=0.0), F.cross_entropy(x, y), rtol=0, atol=0)
    assert_close(F.cross_entropy(x, y, label_smoothing=1.0), F.cross_entropy(x, (y + 1) % 5, label_smoothing=1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_one_hot_target_is_its_index(dtype: torch.dtype) -> None:
    x, y = drawn(30, 5, scale=8.0, dtype=dtype), classes(30, num_classes=5)
    one_hot = torch.nn.functional.one_hot(y, 5).to(dtype)
    ours = value_and_gradients(lambda x: F.cross_entropy(x, y, reduction="none"), x)
    soft = value_and_gradients(lambda x: F.cross_entropy(x, one_hot, reduction="none"), x)
    assert_close(soft, ours, rtol=64 * torch.finfo(dtype).eps, atol=0)  # relative, so in the tails too


def test_two_classes_are_one_node() -> None:
    x, y = drawn(30, scale=12.0, dtype=torch.float32), classes(30, num_classes=2)
    binary = value_and_gradients(lambda x: F.binary_cross_entropy_with_logits(x, y.float(), reduction="none"), x)
    softmax = value_and_gradients(
        lambda x: F.cross_entropy(torch.stack([torch.zeros_like(x), x], 1), y, reduction="none"), x
    )
    assert_close(softmax, binary, rtol=2e-6, atol=0)  # e^−36 carries 36 times the rounding of float32
    both = torch.stack([F.sigmoid(-x), F.sigmoid(x)], 1)
    assert_close(F.softmax(torch.stack([torch.zeros_like(x), x], 1), 1), both, rtol=2e-6, atol=0)


@pytest.mark.parametrize("junk", [NAN, INF, -INF, 1e38])
@pytest.mark.parametrize("case", [{}, {"label_smoothing": 0.1}, {"weight": torch.tensor([1.0, 2.0, 3.0])}], ids=str)
@pytest.mark.parametrize("way", ["hand", "plain"])
def test_an_ignored_row_reaches_nobody(junk: float, case: dict[str, Any], way: str) -> None:
    x, y = drawn(5, 3, dtype=torch.float32), torch.tensor([0, 7, 2, 7, 1])
    broken = x.clone()
    broken[1], broken[3, 1] = junk, junk
    kept = y != 7
    for reduction in ("mean", "sum"):

        def loss(x: Tensor, y: Tensor = y, reduction: str = reduction) -> Tensor:
            return F.cross_entropy(x, y, ignore_index=7, reduction=reduction, **case)

        subset = leaf(x[kept])
        expected = loss(subset, y[kept])
        (gradient,) = torch.autograd.grad(expected, subset)
        if way == "hand":
            marked = leaf(broken)
            value = loss(marked)
            (ours,) = torch.autograd.grad(value, marked)
        else:
            ours, value = torch.func.grad_and_value(loss)(broken)
        assert_close(value, expected)
        assert_close(ours[kept], gradient)
        assert_close(ours[~kept], torch.zeros(2, 3), rtol=0, atol=0)


def test_where_every_row_is_ignored_the_mean_is_undefined_and_the_sum_0() -> None:
    x, y = drawn(3, 2), torch.full((3,), -100)
    value, gradient = value_and_gradients(lambda x: F.cross_entropy(x, y), x)
    assert value.isnan()
    assert_close(gradient, torch.zeros_like(x), rtol=0, atol=0)
    assert_close(F.cross_entropy(x, y, reduction="sum").item(), 0.0)


# --- edges -----------------------------------------------------------------------------------------

RIGHT = [([INF, 0.0, 1.0], 0), ([0.0, -INF, -INF], 0), ([INF, -INF, 0.0], 0)]
WRONG = [([INF, 0.0, 1.0], 1), ([0.0, -INF, 1.0], 1), ([INF, -INF, 0.0], 1)]


@pytest.mark.parametrize("way", ["index", "soft", "func", "smoothed"])
@pytest.mark.parametrize(
    ("logits", "label", "cost"), [(*case, 0.0) for case in RIGHT] + [(*case, INF) for case in WRONG]
)
def test_an_infinite_logit_costs_nothing_on_the_right_side_and_everything_on_the_wrong(
    logits: list[float], label: int, cost: float, way: str
) -> None:
    x = torch.tensor([logits])
    y = torch.tensor([label])
    target = torch.nn.functional.one_hot(y, 3).float() if way == "soft" else y

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(x, target, reduction="sum", label_smoothing=0.1 if way == "smoothed" else 0.0)

    if way == "func":
        gradient, value = torch.func.grad_and_value(loss)(x)
    else:
        marked = leaf(x)
        value = loss(marked)
        (gradient,) = torch.autograd.grad(value, marked)
    if way == "smoothed":
        cost = INF  # every class has a share, also those without a probability
    assert value.item() == cost
    assert gradient.isfinite().all()
    if cost == 0.0:
        assert_close(gradient, torch.zeros(1, 3), rtol=0, atol=0)


@pytest.mark.parametrize("through", ["hand", "func", "pos_weight", "target"])
@pytest.mark.parametrize(
    ("logit", "label", "cost"), [(INF, 1, 0), (-INF, 0, 0), (INF, 0, INF), (-INF, 1, INF), (INF, 0.5, INF)]
)
def test_an_infinite_binary_logit_likewise(logit: float, label: float, cost: float, through: str) -> None:
    x, t = torch.tensor([logit, 0.0]), torch.tensor([float(label), 1.0], requires_grad=through == "target")
    factor = torch.tensor(2.0) if through == "pos_weight" else None

    def loss(x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, t, reduction="none", pos_weight=factor)

    if through == "func":
        value, gradient = loss(x), torch.func.grad(lambda x: loss(x).sum())(x)
    else:
        value, gradient = value_and_gradients(loss, x)
    assert value[0].item() == cost
    assert gradient.isfinite().all()


def test_a_nan_that_counts_is_seen() -> None:
    x, y = torch.tensor([[NAN, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    assert F.cross_entropy(x, y, reduction="none").isnan().tolist() == [True, False]
    assert F.softmax(x, 1).isnan().any(1).tolist() == [True, False]
    assert F.log_softmax(x, 1).isnan().any(1).tolist() == [True, False]
    nan = torch.tensor([NAN])
    for function in (F.relu, F.sigmoid, F.logsigmoid, lambda x: F.binary_cross_entropy_with_logits(x, torch.ones(1))):
        assert function(nan).isnan().all()
    assert F.binary_cross_entropy_with_logits(torch.zeros(1), nan).isnan()


def test_nothing_of_an_infinite_cost_is_nothing() -> None:
    x, t = torch.tensor([[0.0, -INF]]), torch.tensor([[1.0, 0.0]])
    value, gradient, of_target = value_and_gradients(lambda x, t: F.cross_entropy(x, t), x, t)
    assert_close([value.item(), gradient, of_target], [0.0, torch.zeros(1, 2), torch.zeros(1, 2)])
    unimportant = torch.tensor([1.0, 0.0])
    assert_close(F.cross_entropy(x, torch.tensor([1]), unimportant, reduction="sum").item(), 0.0)


def test_a_target_of_0_still_has_its_gradient() -> None:
    x, t = drawn(2, 3), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    _, _, gradient = value_and_gradients(lambda x, t: F.cross_entropy(x, t, reduction="sum"), x, t)
    assert_close(gradient, -0.5 * torch.log_softmax(x, 1))


@pytest.mark.parametrize("way", ["hand", "func", "compiled"])
def test_the_subgradient_of_relu_at_0_is_1(way: str) -> None:
    x = torch.tensor([-1.0, -0.0, 0.0, 2.0])
    if way == "func":
        gradient = torch.func.grad(lambda x: F.relu(x).sum())(x)
    else:
        relu = torch.compile(F.relu, backend="aot_eager", fullgraph=True) if way == "compiled" else F.relu
        marked = leaf(x)
        (gradient,) = torch.autograd.grad(relu(marked).sum(), marked)
    assert_close(gradient, torch.tensor([0.0, 1.0, 1.0, 1.0]), rtol=0, atol=0)
    assert_close(F.relu(torch.tensor([-2, 0, 3])), torch.tensor([0, 0, 3]))


@scripting
def test_second_derivatives_hold_at_0() -> None:
    zero, t = torch.zeros(1, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)

    def binary(x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, t)

    for function, expected in (
        (binary, 0.25),
        (lambda x: F.logsigmoid(x).sum(), -0.25),
        (lambda x: F.sigmoid(x).sum(), 0.0),
    ):
        for found in (torch.autograd.functional.hessian(function, zero), torch.func.hessian(function)(zero)):
            assert_close(found.item(), expected)


@pytest.mark.parametrize("case", [{}, {"label_smoothing": 0.1}, {"weight": True, "reduction": "none"}], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_memory_may_be_laid_out_in_any_way(soft: bool, case: dict[str, Any]) -> None:
    x, y = drawn(3, 4, 5, 2, dtype=torch.float32), classes(3, 5, 2, num_classes=4)
    t = torch.softmax(drawn(3, 4, 5, 2, seed=1), 1).float()

    def found(x: Tensor, target: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        value = F.cross_entropy(x, target, **options(case, torch.float32))
        return [value.detach(), torch.autograd.grad(value.sum(), x)[0]]

    expected = found(x, t if soft else y)
    for laid_out in (
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
        lambda x: torch.stack([x, x], -1)[..., 1],
    ):
        assert not laid_out(x).is_contiguous()
        assert_close(found(laid_out(x), laid_out(t) if soft else y), expected)
    one = x[:1].expand(3, -1, -1, -1)
    assert_close(found(one, t if soft else y), found(one.contiguous(), t if soft else y), rtol=0, atol=0)
    assert_close(F.softmax(x.transpose(0, 1), 0), F.softmax(x, 1).transpose(0, 1), rtol=0, atol=0)


def test_no_classes_cost_what_torchs_do() -> None:
    no_class, labels = torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64)
    for reduction in ("none", "mean", "sum"):
        for target in (no_class, labels - 100):
            ours, theirs = (module.cross_entropy(no_class, target, reduction=reduction) for module in (F, TORCH))
            assert_close(ours, theirs, equal_nan=True)
    with pytest.raises(IndexError, match="out of bounds"):
        F.cross_entropy(no_class, labels)


def test_one_class_costs_nothing_and_no_rows_sum_to_0() -> None:
    assert_close(F.cross_entropy(drawn(3, 1), torch.zeros(3, dtype=torch.int64)).item(), 0.0, rtol=0, atol=0)
    none = torch.zeros(0, dtype=torch.int64)
    assert_close(F.cross_entropy(torch.zeros(0, 3), none, reduction="sum").item(), 0.0)
    assert F.cross_entropy(torch.zeros(0, 3), none).isnan()
    assert F.cross_entropy(torch.zeros(0, 3), none, reduction="none").shape == (0,)
    for shape in ((0, 3), (2, 0)):
        assert F.softmax(torch.zeros(shape), 1).shape == F.log_softmax(torch.zeros(shape), 1).shape == shape


def test_targets_of_other_accepted_forms_count_as_torchs() -> None:
    x = drawn(3, 4, dtype=torch.float32)
    assert_close(
        F.cross_entropy(x, torch.tensor([0, 1, 3], dtype=torch.uint8)), F.cross_entropy(x, torch.tensor([0, 1, 3]))
    )
    assert_close(F.cross_entropy(x[0], torch.tensor([2]), reduction="none"), F.cross_entropy(x[0], torch.tensor(2)))
    assert F.cross_entropy(x, torch.softmax(x.double(), 1)).dtype == torch.float64
    assert F.binary_cross_entropy_with_logits(x.half(), x).dtype == torch.float32
    assert F.softmax(torch.arange(3), 0, dtype=torch.float64).dtype == torch.float64
    assert F.softmax(x, 1, torch.float16).dtype == torch.float16
    assert_close(F.sigmoid(torch.tensor([0, 1])), torch.sigmoid(torch.tensor([0.0, 1.0])))


X, LABELS = torch.zeros(4, 10), torch.zeros(4, dtype=torch.int64)
REFUSALS: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (
        lambda: F.cross_entropy(X, LABELS, reduction="avg"),
        ValueError,
        "reduction must be one of none, mean, sum, got 'avg'",
    ),
    (
        lambda: F.cross_entropy(X, torch.zeros(5, dtype=torch.int64)),
        ValueError,
        "expected logits (N, C) and target (N,), got (4, 10) and (5,)",
    ),
    (lambda: F.cross_entropy(X[0], LABELS), ValueError, "expected logits (C,) and target (), got (10,) and (4,)"),
    (
        lambda: F.cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, 5)),
        RuntimeError,
        "expected logits (N, C, d1) and target (N, d1), got (2, 3, 4) and (2, 5)",
    ),
    (
        lambda: F.cross_entropy(X, LABELS.int()),
        RuntimeError,
        "target must be class indices of dtype int64 or uint8, got torch.int32",
    ),
    (
        lambda: F.cross_entropy(X, X.long()),
        RuntimeError,
        "target in the shape of input must be of a floating dtype, got torch.int64",
    ),
    (
        lambda: F.cross_entropy(X, X, ignore_index=3),
        RuntimeError,
        "ignore_index must be left out for class probabilities, got 3",
    ),
    (
        lambda: F.cross_entropy(X, LABELS, torch.ones(9)),
        RuntimeError,
        "expected logits (N, C) and weight (C,), got (4, 10) and (9,)",
    ),
    (
        lambda: F.cross_entropy(X, LABELS, torch.ones(10).double()),
        RuntimeError,
        "expected input and weight of one dtype, got torch.float32 and torch.float64",
    ),
    (
        lambda: F.cross_entropy(X, LABELS, label_smoothing=1.5),
        RuntimeError,
        "label_smoothing must be between 0.0 and 1.0, got 1.5",
    ),
    (
        lambda: F.cross_entropy(X.long(), LABELS),
        NotImplementedError,
        "input must be of a floating dtype, got torch.int64",
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(X[0], X),
        ValueError,
        "expected input and target of one shape, got (10,) and (4, 10)",
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(LABELS.float(), LABELS),
        RuntimeError,
        "target must be of a floating dtype, got torch.int64",
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(X[0], X[0], torch.ones(2, 10)),
        RuntimeError,
        "expected weight to broadcast to input (10,), got (2, 10)",
    ),
    (
        lambda: F.binary_cross_entropy_with_logits(X[0], X[0], pos_weight=torch.ones(3)),
        RuntimeError,
        "expected pos_weight to broadcast to input (10,), got (3,)",
    ),
    (lambda: F.binary_cross_entropy_with_logits(X, X, reduction="avg"), ValueError, "reduction must be one of"),
    (lambda: F.softmax(LABELS, 0), NotImplementedError, "input must be of a floating dtype"),
    (lambda: F.softmax(X, 2), IndexError, "Dimension out of range"),
    (lambda: F.log_softmax(torch.empty(0, 3), 2), IndexError, "Dimension out of range"),
    (lambda: F.logsigmoid(LABELS), NotImplementedError, "input must be of a floating dtype"),
    (lambda: F.relu(LABELS.bool()), NotImplementedError, "input must be of a real dtype, got torch.bool"),
    (lambda: F.elu(LABELS), NotImplementedError, "input must be of a floating dtype, got torch.int64"),
    (lambda: F.leaky_relu(LABELS), NotImplementedError, "input must be of a floating dtype, got torch.int64"),
    (lambda: F.gelu(LABELS), NotImplementedError, "input must be of a floating dtype, got torch.int64"),
    (lambda: F.gelu(X, "erf"), RuntimeError, "approximate must be one of none, tanh, got 'erf'"),
    (lambda: F.cross_entropy(X[0, 0], X[0, 0]), IndexError, "expected logits (C), (N, C) or (N, C, d1, …), got ()"),
    (lambda: F.logistic_loss(LABELS, LABELS), NotImplementedError, "score must be of a floating dtype"),
    (lambda: F.sgn(X.bool()), NotImplementedError, "score must be of a real dtype, got torch.bool"),
    (lambda: F.normal_cdf(LABELS), NotImplementedError, "input must be of a floating dtype, got torch.int64"),
    (lambda: F.cauchy_cdf(LABELS), NotImplementedError, "input must be of a floating dtype, got torch.int64"),
    (lambda: F.bernoulli_likelihood(X, LABELS), ValueError, "expected probability and label of one shape, got (4, 10)"),
    (
        lambda: F.bernoulli_log_likelihood(LABELS, LABELS),
        NotImplementedError,
        "probability must be of a floating dtype",
    ),
    (lambda: F.categorical_likelihood(X[0], LABELS), ValueError, "expected probabilities (B, C) and label (B,), got"),
    (lambda: F.categorical_log_likelihood(X, LABELS + 10), IndexError, "label must be in [0, 10): index"),
    (lambda: F.hinge_loss(X, LABELS), ValueError, "expected score and target of one shape, got (4, 10) and (4,)"),
    (lambda: F.hinge_loss(X, X.bool()), NotImplementedError, "target must be of a real dtype, got torch.bool"),
    (lambda: F.quadratic_loss(X[0, 0], X[0, 0]), ValueError, "expected prediction (…, K) and target (…, K), got ()"),
    (lambda: F.quadratic_loss(X, X, "avg"), ValueError, "reduction must be one of none, mean, sum, got 'avg'"),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSALS, ids=[text for _, _, text in REFUSALS])
def test_mistakes_are_refused_in_words(call: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.parametrize("label", [10, -1, -101, 2**40])
@pytest.mark.parametrize(
    "case", [{}, {"label_smoothing": 0.1}, {"weight": torch.ones(10)}, {"ignore_index": 3}], ids=str
)
def test_a_label_outside_the_classes_is_an_index_error(label: int, case: dict[str, Any]) -> None:
    target = torch.tensor([0, label, 3, 1])
    with pytest.raises(IndexError, match=r"target must be in \[0, 10\) or ignore_index: index .* is out of bounds"):
        F.cross_entropy(X, target, **case)
    with pytest.raises(IndexError, match="is out of bounds"):
        torch.func.grad(lambda x: F.cross_entropy(x, target, **case))(X)


def test_an_index_outside_the_classes_may_be_the_one_to_ignore() -> None:
    x = drawn(3, 4)
    for index in (-1, 4, 255):
        assert_close(
            F.cross_entropy(x, torch.tensor([0, index, 1]), ignore_index=index),
            F.cross_entropy(x[::2], torch.tensor([0, 1])),
        )


def test_export_keeps_the_formula() -> None:
    class Step(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(F.relu(x), y) + F.binary_cross_entropy_with_logits(x[:, 0], F.sigmoid(x[:, 1]))

    x, y = drawn(4, 3), torch.tensor([0, 2, 1, -100])
    program = torch.export.export(Step(), (x, y))
    assert_close(program.module()(x, y), Step()(x, y))
