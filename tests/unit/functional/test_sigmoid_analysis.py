"""fcnet.functional.sigmoid_analysis: limits, symmetry, scaling and saturation of the sigmoid."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import fcnet.functional as F

DTYPES = [torch.float32, torch.float64]
INF = math.inf


def every_float(width: int) -> st.SearchStrategy[float]:
    """Every float of a width, with subnormals, the largest, both zeros and both infinities."""
    return st.floats(allow_nan=False, width=width)  # type: ignore[arg-type]


EVERY_FLOAT = st.one_of(
    every_float(32).map(lambda x: torch.tensor(x, dtype=torch.float32)),
    every_float(64).map(lambda x: torch.tensor(x, dtype=torch.float64)),
)


def ulp(x: Tensor) -> float:
    """The distance from |x| to the next number."""
    return float((torch.nextafter(x.abs(), x.new_tensor(INF)) - x.abs()).double())


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_limits_are_0_on_the_left_and_1_on_the_right(dtype: torch.dtype) -> None:
    ends = torch.tensor([-INF, INF], dtype=dtype)
    assert F.sigmoid(ends).tolist() == [0.0, 1.0]
    largest = torch.finfo(dtype).max
    assert F.sigmoid(torch.tensor([-largest, largest], dtype=dtype)).tolist() == [0.0, 1.0]
    assert F.sigmoid_derivative(ends).tolist() == [0.0, 0.0]
    assert F.saturation_bound(ends).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_at_0_the_sigmoid_is_a_half_and_its_derivative_a_quarter(dtype: torch.dtype, zero: float) -> None:
    x = torch.tensor(zero, dtype=dtype)
    assert F.sigmoid(x).item() == 0.5
    assert F.sigmoid_derivative(x).item() == 0.25
    assert F.saturation_bound(x).item() == 1.0
    below = torch.nextafter(x, x.new_tensor(-INF))
    assert F.saturation_bound(below).item() == 0.5


@given(EVERY_FLOAT)
def test_the_sigmoid_of_minus_u_is_1_minus_that_of_u(u: Tensor) -> None:
    assert abs(F.sigmoid(-u).double() - (1.0 - F.sigmoid(u).double())).item() <= torch.finfo(u.dtype).eps


@given(EVERY_FLOAT, EVERY_FLOAT)
def test_the_sigmoid_never_falls_and_stays_between_its_limits(u: Tensor, v: Tensor) -> None:
    low, high = sorted((u.double(), v.double()))
    assert 0.0 <= F.sigmoid(low) <= F.sigmoid(high) <= 1.0


@given(st.floats(-700.0, 700.0))
def test_the_derivative_matches_the_closed_form(x: float) -> None:
    z = math.exp(-abs(x))
    expected = z / (1.0 + z) ** 2
    point = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(F.sigmoid(point), point)
    for result in (F.sigmoid_derivative(point.detach()), derivative):
        assert result.item() == pytest.approx(expected, rel=1e-14)


@given(st.floats(-30.0, 30.0))
def test_the_derivative_is_s_times_1_minus_s(x: float) -> None:
    point = torch.tensor(x, dtype=torch.float64)
    s = F.sigmoid(point).item()
    eps = torch.finfo(torch.float64).eps  # the rounding of 1 − s
    assert F.sigmoid_derivative(point).item() == pytest.approx(s * (1.0 - s), rel=2 * eps, abs=eps)


@given(EVERY_FLOAT)
def test_the_derivative_is_even_and_never_above_its_bound(x: Tensor) -> None:
    derivative, bound = F.sigmoid_derivative(x), F.saturation_bound(x)
    assert derivative.item() == F.sigmoid_derivative(-x).item()
    assert 0.0 <= derivative.item() <= 0.25
    assert derivative.double().item() <= bound.double().item() + ulp(bound)


@given(st.floats(-80.0, 80.0, width=32))
def test_the_bound_is_e_to_the_minus_x_for_x_at_least_0_and_the_sigmoid_below(x: float) -> None:
    expected = math.exp(-x) if x >= 0 else 1.0 / (1.0 + math.exp(-x))
    assert F.saturation_bound(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-14)


def test_the_bound_is_tight_where_the_unit_is_saturated() -> None:
    x = torch.tensor([-40.0, -20.0, -10.0, 10.0, 20.0, 40.0], dtype=torch.float64)
    ratio = F.sigmoid_derivative(x) / F.saturation_bound(x)
    assert bool((ratio > 1.0 - 1e-4).all())


@given(EVERY_FLOAT, st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 10.0]))
def test_a_scaled_sigmoid_is_the_sigmoid_of_the_scaled_argument(x: Tensor, scale: float) -> None:
    if scale == 0.0 and x.isinf():
        return
    assert F.scaled_sigmoid(x, scale).item() == F.sigmoid(x * scale).item()


def test_a_large_scale_gives_a_step_and_scale_0_one_half() -> None:
    x = torch.tensor([-1e-2, -0.0, 0.0, 1e-2])
    assert F.scaled_sigmoid(x, 1e6).tolist() == [0.0, 0.5, 0.5, 1.0]
    assert F.scaled_sigmoid(x, 0.0).tolist() == [0.5] * 4
    assert_close(F.scaled_sigmoid(x, -2.0), 1.0 - F.scaled_sigmoid(x, 2.0))


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_the_derivative_of_a_scaled_sigmoid_at_0_is_a_quarter_of_the_scale(scale: float) -> None:
    x = torch.zeros((), requires_grad=True)
    (derivative,) = torch.autograd.grad(F.scaled_sigmoid(x, scale), x)
    assert derivative.item() == scale / 4


def test_the_gradients_of_all_three_are_those_of_finite_differences() -> None:
    x = torch.tensor([-3.0, -0.5, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    for function in (F.sigmoid_derivative, F.saturation_bound, lambda x: F.scaled_sigmoid(x, 3.0)):
        assert torch.autograd.gradcheck(function, x)
