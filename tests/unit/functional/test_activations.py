"""fcnet.functional.activations: the lecture's formulas in Python's floats, torch's values, digits and edges."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import fcnet.functional as F
from fcnet import modules
from tests.unit.functional.helpers import (
    ELEMENTWISE,
    INF,
    NAN,
    TORCH,
    get_activation,
    make_leaf,
    random_tensor,
    value_and_grad,
    value_and_grads,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

scripting = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
"""torch's own forward mode scripts its decompositions when they are first used (torch 2.9 to 2.15)."""

# --- formulas --------------------------------------------------------------------------------------


def normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def normal_density(x: float) -> float:
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def gelu_by_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS: list[tuple[Callable[[Tensor], Tensor], nn.Module, Callable[[float], float]]] = [
    (F.sigmoid, modules.Sigmoid(), lambda x: 1 / (1 + math.exp(-x))),
    (F.relu, modules.ReLU(), lambda x: max(0.0, x)),
    (lambda x: F.leaky_relu(x, 0.1), modules.LeakyReLU(0.1), lambda x: x if x > 0 else 0.1 * x),
    (lambda x: F.elu(x, 2.0), modules.ELU(2.0), lambda x: x if x > 0 else 2 * math.expm1(x)),
    (F.gelu, modules.GELU(), lambda x: x * normal_cdf(x)),
    (lambda x: F.gelu(x, "tanh"), modules.GELU("tanh"), gelu_by_tanh),
]


@given(st.floats(-8.0, 8.0))
def test_functions_and_modules_are_the_formulas(x: float) -> None:
    point = torch.tensor([x], dtype=torch.float64)
    for function, module, formula in FORMULAS:
        assert function(point).item() == pytest.approx(formula(x), rel=1e-12, abs=1e-15)
        assert module(point).item() == function(point).item()


@given(st.floats(-8.0, -1e-3))
def test_below_0_the_derivative_of_relu_alone_is_0(x: float) -> None:
    point = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    for function, derivative in (
        (F.relu, 0.0),
        (lambda x: F.leaky_relu(x, 0.1), 0.1),
        (lambda x: F.elu(x, 2.0), 2 * math.exp(x)),
        (F.gelu, normal_cdf(x) + x * normal_density(x)),
    ):
        (gradient,) = torch.autograd.grad(function(point), point)
        assert gradient.item() == pytest.approx(derivative, rel=1e-12, abs=1e-15)


def test_the_tanh_form_of_gelu_is_within_5e_4_of_it() -> None:
    x = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    assert 4e-4 < (F.gelu(x) - F.gelu(x, "tanh")).abs().max() < 5e-4


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4), (3, 1)], ids=str)
def test_value_and_gradient_are_torchs(name: str, shape: tuple[int, ...]) -> None:
    x = random_tensor(*shape, scale=5.0)
    assert_close(value_and_grads(get_activation(F, name), x), value_and_grads(get_activation(TORCH, name), x))


# --- digits and edges ------------------------------------------------------------------------------


def test_tails_of_the_sigmoid_keep_their_digits() -> None:
    x = torch.tensor([-100.0, -88.0, 20.0, 100.0]).repeat(16)  # enough for the vectorized kernels
    value, gradient = value_and_grad(F.sigmoid, x)
    exact = x.double()
    assert value[0].item() == pytest.approx(3.8e-44, rel=0.02)  # a subnormal has few digits
    assert_close(value, torch.sigmoid(exact).float(), rtol=1e-6, atol=2e-45)
    assert_close(gradient, (torch.sigmoid(exact) * torch.sigmoid(-exact)).float(), rtol=1e-6, atol=3e-45)
    assert_close(F.logsigmoid(x), TORCH.logsigmoid(exact).float(), rtol=1e-6, atol=2e-45)


@pytest.mark.parametrize("through", ["backward", "func"])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_keeps_the_digits_of_its_tail_and_has_limits(approximate: str, through: str) -> None:
    x = torch.tensor([-INF, -1e30, -9.0, -7.0, 40.0, 1e30, INF])
    value, gradient = value_and_grad(lambda x: F.gelu(x, approximate), x, through=through)
    assert_close(value, F.gelu(x, approximate), rtol=0, atol=0)
    assert_close(value[[0, 1, 4, 5, 6]], torch.tensor([0.0, 0.0, 40.0, 1e30, INF]), rtol=0, atol=0)
    assert_close(gradient[[0, 1, 4, 5, 6]], torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]), rtol=0, atol=0)
    if approximate == "none":
        tails = [x * 0.5 * math.erfc(-x / math.sqrt(2)) for x in (-9.0, -7.0)]
    else:
        steps = [2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3) for x in (-9.0, -7.0)]
        tails = [x * math.exp(u) / (1 + math.exp(u)) for x, u in zip((-9.0, -7.0), steps, strict=True)]
    assert_close(value[2:4], torch.tensor(tails), rtol=2e-5, atol=0)


def test_elu_keeps_its_digits_near_0_and_tends_to_minus_alpha() -> None:
    value, gradient = value_and_grad(lambda x: F.elu(x, 2.0), torch.tensor([-INF, -1e-9, 0.0, 1e-9, INF]))
    assert_close(value, torch.tensor([-2.0, -2e-9, 0.0, 1e-9, INF]), rtol=1e-6, atol=0)
    assert_close(gradient, torch.tensor([0.0, 2.0, 2.0, 1.0, 1.0]))


@pytest.mark.parametrize("through", ["backward", "func", "compile"])
def test_the_subgradient_of_relu_at_0_is_1(through: str) -> None:
    x = torch.tensor([-1.0, -0.0, 0.0, 2.0])
    if through == "func":
        gradient = torch.func.grad(lambda x: F.relu(x).sum())(x)
    else:
        relu = torch.compile(F.relu, backend="aot_eager", fullgraph=True) if through == "compile" else F.relu
        leaf = make_leaf(x)
        (gradient,) = torch.autograd.grad(relu(leaf).sum(), leaf)
    assert_close(gradient, torch.tensor([0.0, 1.0, 1.0, 1.0]), rtol=0, atol=0)
    assert_close(F.relu(torch.tensor([-2, 0, 3])), torch.tensor([0, 0, 3]))


@pytest.mark.parametrize("through", ["backward", "func"])
def test_the_other_derivatives_at_0_are_torchs(through: str) -> None:
    x = torch.tensor([0.0, -0.0])
    for name in ("leaky_relu", "elu"):

        def total(x: Tensor, module: Any = F, name: str = name) -> Tensor:
            result: Tensor = getattr(module, name)(x, 0.3).sum()
            return result

        _, gradient = value_and_grad(total, x, through=through)
        assert_close(gradient, value_and_grad(partial(total, module=TORCH), x)[1], rtol=0, atol=0)


@pytest.mark.parametrize("zero", [0.0, -0.0])
@pytest.mark.parametrize("through", ["backward", "func"])
def test_derivatives_at_0_are_those_of_the_formulas_whatever_the_sign_of_0(zero: float, through: str) -> None:
    for function, expected in ((F.sigmoid, 0.25), (F.logsigmoid, 0.5)):
        _, gradient = value_and_grad(function, torch.tensor([zero]), through=through)
        assert_close(gradient.item(), expected, rtol=0, atol=0)


@scripting
def test_second_derivatives_hold_at_0() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    for function, expected in ((lambda x: F.logsigmoid(x).sum(), -0.25), (lambda x: F.sigmoid(x).sum(), 0.0)):
        for hessian in (torch.autograd.functional.hessian(function, zero), torch.func.hessian(function)(zero)):
            assert_close(hessian.item(), expected)


def test_nan_stays_nan() -> None:
    for function in (F.relu, F.sigmoid, F.logsigmoid):
        assert function(torch.tensor([NAN])).isnan().all()


def test_the_sigmoid_takes_integers_as_torchs_does() -> None:
    assert_close(F.sigmoid(torch.tensor([0, 1])), torch.sigmoid(torch.tensor([0.0, 1.0])))


LABELS = torch.zeros(4, dtype=torch.int64)
ERRORS: list[tuple[Callable[[], Tensor], type[Exception], str]] = [
    (lambda: F.logsigmoid(LABELS), NotImplementedError, "input must be of a floating dtype"),
    (lambda: F.relu(LABELS.bool()), NotImplementedError, "input must be of a real dtype, got torch.bool"),
    (lambda: F.elu(LABELS), NotImplementedError, "input must be of a floating dtype, got torch.int64"),
    (lambda: F.leaky_relu(LABELS), NotImplementedError, "input must be of a floating dtype, got torch.int64"),
    (lambda: F.gelu(LABELS), NotImplementedError, "input must be of a floating dtype, got torch.int64"),
    (lambda: F.gelu(torch.zeros(4), "erf"), RuntimeError, "approximate must be one of none, tanh, got 'erf'"),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS, ids=[text for _, _, text in ERRORS])
def test_wrong_arguments_are_refused(call: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert text in str(caught.value)
