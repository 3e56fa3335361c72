"""Rules of the activations, by the lecture's formulas in Python's floats."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fcnet.functional as F
from fcnet import modules

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


def normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def by_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def bell(x: float) -> float:
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


FORMULAS: list[tuple[Callable[[Tensor], Tensor], nn.Module, Callable[[float], float]]] = [
    (F.sigmoid, modules.Sigmoid(), lambda x: 1 / (1 + math.exp(-x))),
    (F.relu, modules.ReLU(), lambda x: max(0.0, x)),
    (lambda x: F.leaky_relu(x, 0.1), modules.LeakyReLU(0.1), lambda x: x if x > 0 else 0.1 * x),
    (lambda x: F.elu(x, 2.0), modules.ELU(2.0), lambda x: x if x > 0 else 2 * math.expm1(x)),
    (F.gelu, modules.GELU(), lambda x: x * normal(x)),
    (lambda x: F.gelu(x, "tanh"), modules.GELU("tanh"), by_tanh),
]


@given(st.floats(-8.0, 8.0))
def test_functions_and_modules_are_the_formulas(x: float) -> None:
    point = torch.tensor([x], dtype=torch.float64)
    for function, module, formula in FORMULAS:
        assert function(point).item() == pytest.approx(formula(x), rel=1e-12, abs=1e-15)
        assert module(point).item() == function(point).item()


@given(st.floats(-8.0, -1e-3))
def test_below_0_relu_alone_has_no_slope(x: float) -> None:
    point = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    for function, slope in (
        (F.relu, 0.0),
        (lambda x: F.leaky_relu(x, 0.1), 0.1),
        (lambda x: F.elu(x, 2.0), 2 * math.exp(x)),
        (F.gelu, normal(x) + x * bell(x)),
    ):
        (found,) = torch.autograd.grad(function(point), point)
        assert found.item() == pytest.approx(slope, rel=1e-12, abs=1e-15)


def test_the_tanh_form_of_gelu_is_within_5e_4_of_it() -> None:
    x = torch.linspace(-10, 10, 200_001, dtype=torch.float64)
    assert 4e-4 < (F.gelu(x) - F.gelu(x, "tanh")).abs().max() < 5e-4
