"""Rules of the sigmoid: its limits, symmetry, scalings, derivative, and where it saturates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import fcnet.functional as F

INF = math.inf
DTYPES = [torch.float32, torch.float64]
EVERY_NUMBER = st.floats(allow_nan=False, allow_infinity=True, allow_subnormal=True)
EVERY_FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=True, allow_subnormal=True)
NEAR = st.floats(-100.0, 100.0, width=32)


def of(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def exact_sigmoid(u: float) -> float:
    """By Python's own floats, in the form that each side keeps its digits in."""
    return 1.0 / (1.0 + math.exp(-u)) if u >= 0 else math.exp(u) / (1.0 + math.exp(u))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16])
def test_the_sigmoid_is_0_at_minus_infinity_a_half_at_0_and_1_at_infinity(dtype: torch.dtype) -> None:
    limits = of(0.0, 0.5, 0.5, 1.0, dtype=dtype)
    assert_close(F.sigmoid(of(-INF, -0.0, 0.0, INF, dtype=dtype)), limits, rtol=0, atol=0)
    assert_close(F.sigmoid_derivative(of(-INF, 0.0, INF, dtype=dtype)), of(0.0, 0.25, 0.0, dtype=dtype), rtol=0, atol=0)


@given(EVERY_NUMBER)
@example(5e-324)
def test_the_sigmoid_is_that_of_pythons_floats(u: float) -> None:
    expected = exact_sigmoid(max(min(u, 745.2), -745.2))
    assert_close(F.sigmoid(of(u)).item(), expected, rtol=4e-15, atol=5e-324)


@given(st.lists(EVERY_NUMBER, min_size=2, max_size=20), st.sampled_from(DTYPES))
def test_the_sigmoid_never_falls_and_stays_between_0_and_1(values: list[float], dtype: torch.dtype) -> None:
    u = of(*values).to(dtype).sort().values
    s = F.sigmoid(u.repeat(16)).view(16, -1)[0]  # one place in the vectorised kernel for each
    assert ((s >= 0) & (s <= 1)).all()
    assert (s.diff() >= -2 * torch.finfo(dtype).eps * s[1:]).all()


@given(EVERY_NUMBER, st.sampled_from(DTYPES))
@example(1e-45, torch.float32)
@example(200.0, torch.float32)
@example(-INF, torch.float64)
def test_s_of_minus_u_is_1_minus_s_of_u_within_the_rounding_of_1(u: float, dtype: torch.dtype) -> None:
    x = of(u).to(dtype)
    assert_close(F.sigmoid(-x), 1 - F.sigmoid(x), rtol=0, atol=torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_1_minus_s_rounds_to_0_s_of_minus_u_has_its_digits(dtype: torch.dtype) -> None:
    x = of(40.0, dtype=dtype)
    assert (1 - F.sigmoid(x)).item() == 0.0
    assert_close(F.sigmoid(-x).item(), math.exp(-40.0), rtol=2 * torch.finfo(dtype).eps, atol=0)


# --- scalings ---------------------------------------------------------------------------------------------------


@given(EVERY_FLOAT32, st.floats(-1e3, 1e3))
def test_a_scaled_sigmoid_is_the_sigmoid_of_c_u(u: float, scale: float) -> None:
    product = 0.0 if scale == 0.0 else scale * u
    assert_close(F.scaled_sigmoid(of(u), scale), F.sigmoid(of(product)), rtol=0, atol=0)


@given(EVERY_NUMBER, st.sampled_from(DTYPES))
@example(INF, torch.float32)
def test_c_0_is_a_half_everywhere(u: float, dtype: torch.dtype) -> None:
    assert F.scaled_sigmoid(of(u).to(dtype), 0.0).item() == 0.5


@given(EVERY_NUMBER.filter(lambda u: abs(u) > 1e-3))
def test_a_growing_c_tends_to_the_step(u: float) -> None:
    step = 1.0 if u > 0 else 0.0
    away = [abs(F.scaled_sigmoid(of(u), scale).item() - step) for scale in (1.0, 10.0, 100.0, 1e3, 1e6)]
    assert away == sorted(away, reverse=True)
    assert away[-1] == 0.0
    assert F.scaled_sigmoid(of(0.0), 1e6).item() == 0.5


def test_a_negative_c_turns_the_curve_round_and_the_slope_at_0_is_a_quarter_of_c() -> None:
    u = torch.linspace(-5, 5, 11, dtype=torch.float64)
    assert_close(F.scaled_sigmoid(u, -2.0), F.scaled_sigmoid(-u, 2.0), rtol=0, atol=0)
    for scale in (-3.0, 0.5, 8.0):
        zero = of(0.0).requires_grad_()
        (slope,) = torch.autograd.grad(F.scaled_sigmoid(zero, scale), zero)
        assert slope.item() == scale / 4


# --- the derivative and its bound -------------------------------------------------------------------------------


@given(st.floats(-30.0, 30.0))
def test_the_derivative_is_the_slope_of_a_small_step(u: float) -> None:
    h = 1e-5
    difference = (exact_sigmoid(u + h) - exact_sigmoid(u - h)) / (2 * h)
    assert F.sigmoid_derivative(of(u)).item() == pytest.approx(difference, rel=1e-6, abs=1e-10)


@given(NEAR)
def test_the_derivative_is_s_times_1_minus_s_in_float64_and_autograds(u: float) -> None:
    truth = exact_sigmoid(u) * exact_sigmoid(-u)
    x = of(u, dtype=torch.float32).requires_grad_()
    assert_close(F.sigmoid_derivative(x.detach()).item(), truth, rtol=1e-6, atol=3e-45)
    (slope,) = torch.autograd.grad(F.sigmoid(x), x)
    assert_close(F.sigmoid_derivative(x.detach()), slope, rtol=1e-6, atol=3e-45)
    s = F.sigmoid(of(u))
    assert_close(F.sigmoid_derivative(of(u)), s * (1 - s), rtol=1e-14, atol=torch.finfo(torch.float64).eps)


@given(EVERY_NUMBER, st.sampled_from(DTYPES))
@example(0.0, torch.float32)
@example(-1e-45, torch.float32)
def test_the_derivative_never_exceeds_its_bound(u: float, dtype: torch.dtype) -> None:
    x = of(u).to(dtype)
    slope, bound = F.sigmoid_derivative(x), F.saturation_bound(x)
    assert (slope <= bound).all()
    assert (slope <= (-x.abs()).exp()).all()
    assert_close(bound, (-x).exp() if (x >= 0).all() else F.sigmoid(x), rtol=0, atol=0)


@pytest.mark.parametrize("function", [F.sigmoid_derivative, F.saturation_bound])
def test_half_precision_is_rounded_once_at_the_end(function: object) -> None:
    assert callable(function)
    x = torch.linspace(-9, 9, 37, dtype=torch.float16)
    assert_close(function(x), function(x.float()).half(), rtol=0, atol=0)


def test_derivatives_hold_twice_and_through_torch_func() -> None:
    x = torch.linspace(-4, 4, 8, dtype=torch.float64).requires_grad_()  # none at the corner of the bound
    for function in (F.sigmoid_derivative, F.saturation_bound, lambda u: F.scaled_sigmoid(u, -2.5)):
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)
        assert_close(torch.func.vmap(function)(x.detach()), function(x.detach()))


@pytest.mark.parametrize("call", [F.sigmoid_derivative, F.saturation_bound, lambda u: F.scaled_sigmoid(u, 2.0)])
def test_what_is_not_floating_is_refused(call: object) -> None:
    assert callable(call)
    with pytest.raises(NotImplementedError, match=r"input must be of a floating dtype, got torch\.int64"):
        call(torch.tensor([1]))
