"""fcnet.functional.cdfs, with the sigmoid beside them; mpmath is the oracle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import fcnet.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    Cdf = Callable[[Tensor], Tensor]

CDFS: dict[str, Cdf] = {"logistic": F.sigmoid, "normal": F.normal_cdf, "cauchy": F.cauchy_cdf}
TRUTHS: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "logistic": lambda u: 1 / (1 + mpmath.exp(-u)),
    "normal": lambda u: mpmath.erfc(-max(min(u, 999), -999) / mpmath.sqrt(2)) / 2,  # 0 or 1 beyond
    "cauchy": lambda u: mpmath.acot(-u) / mpmath.pi if u < 0 else 1 - mpmath.acot(u) / mpmath.pi if u else 0.5,
}
DENSITIES: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "logistic": lambda u: 1 / (2 + mpmath.exp(u) + mpmath.exp(-u)),
    "normal": mpmath.npdf,
    "cauchy": lambda u: 1 / (mpmath.pi * (1 + u * u)),
}
DTYPES = [torch.float32, torch.float64]
every_cdf = pytest.mark.parametrize("name", CDFS)


def whole_range(dtype: torch.dtype) -> Tensor:
    """Scores of both signs from the smallest number of a dtype to its largest, dense around 0, and 0 itself."""
    ends = torch.finfo(dtype)
    powers = torch.arange(math.log2(ends.tiny) - 20, math.log2(ends.max), 3.7, dtype=torch.float64)
    largest = torch.tensor([ends.max], dtype=torch.float64)
    sizes = torch.cat([powers.exp2(), torch.linspace(0.05, 45.0, 300, dtype=torch.float64), largest])
    return torch.cat([-sizes.flip(0), torch.zeros(1), sizes]).to(dtype)


@every_cdf
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_derivative_are_exact_over_the_whole_range(name: str, dtype: torch.dtype) -> None:
    u = whole_range(dtype).requires_grad_()
    value = CDFS[name](u)
    (derivative,) = torch.autograd.grad(value.sum(), u)
    finfo = torch.finfo(dtype)
    with mpmath.workdps(50):
        for result, truth in ((value, TRUTHS[name]), (derivative, DENSITIES[name])):
            for x, y in zip(u.tolist(), result.tolist(), strict=True):
                true = truth(mpmath.mpf(x))
                # one unit in the last place of u changes e^(−u²/2) by u² units, and e^(−|u|) by |u|
                digits = {"logistic": 4 + min(abs(x), 1e6), "normal": 4 + 2 * min(x * x, 1e6), "cauchy": 8}[name]
                assert abs(y - true) <= digits * finfo.eps * true + 4 * finfo.smallest_normal * finfo.eps, (x, y, true)


@every_cdf
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16, torch.float16], ids=str)
def test_s_rises_from_0_to_1_with_one_half_at_0(name: str, dtype: torch.dtype) -> None:
    s = CDFS[name]
    u = torch.cat([torch.tensor([-math.inf]), whole_range(torch.float32), torch.tensor([math.inf])]).to(dtype)
    values = s(u.sort().values)
    assert values.dtype == dtype
    assert (values.diff() >= 0).all()
    assert (values[0].item(), values[-1].item(), s(torch.zeros((), dtype=dtype)).item()) == (0.0, 1.0, 0.5)
    near = s(torch.linspace(-3.0, 3.0, 20, dtype=dtype))
    assert (near.diff() > 0).all()


@every_cdf
@given(st.floats(allow_nan=False))
def test_the_probability_of_the_other_class_is_s_of_minus_the_score(name: str, score: float) -> None:
    u = torch.tensor(score, dtype=torch.float64)
    assert_close(CDFS[name](-u), 1.0 - CDFS[name](u), rtol=0, atol=1e-15)


@every_cdf
def test_nan_stays_nan_and_the_derivative_at_infinity_is_0(name: str) -> None:
    u = torch.tensor([math.nan, -math.inf, math.inf], requires_grad=True)
    values = CDFS[name](u)
    (derivative,) = torch.autograd.grad(values[1:].sum(), u)
    assert values.isnan().tolist() == [True, False, False]
    assert derivative[1:].tolist() == [0.0, 0.0]


def test_the_normal_tail_is_lightest_and_the_cauchy_tail_heaviest() -> None:
    u = torch.tensor([-8.0, -30.0])
    normal, logistic, cauchy = F.normal_cdf(u), F.sigmoid(u), F.cauchy_cdf(u)
    assert (normal < logistic).all()
    assert (logistic < cauchy).all()


@given(st.floats(-30.0, 30.0))
def test_the_log_odds_of_the_logistic_are_the_score(score: float) -> None:
    u = torch.tensor(score, dtype=torch.float64)
    assert_close((F.sigmoid(u) / F.sigmoid(-u)).log(), u, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("s", [F.normal_cdf, F.cauchy_cdf])
def test_the_log_odds_of_the_others_are_not_the_score(s: Cdf) -> None:
    u = torch.tensor([0.5, 3.0, 10.0], dtype=torch.float64)
    for score in (u, -u):
        assert (((s(score) / s(-score)).log() - score).abs() > 0.1).all()


@pytest.mark.parametrize(("name", "convex"), [("logistic", True), ("normal", True), ("cauchy", False)])
def test_the_log_loss_is_convex_in_the_score_except_for_cauchy(name: str, convex: bool) -> None:
    """A convex function lies below its chords. The Cauchy log loss exceeds one from a right to a very wrong score."""

    def log_loss(score: float) -> float:
        return -CDFS[name](torch.tensor(score, dtype=torch.float64)).log().item()

    grid = [0.5 * step for step in range(-40, 41)]
    gaps = [0.5 * (log_loss(a) + log_loss(b)) - log_loss(0.5 * (a + b)) for a in grid for b in grid]
    assert (min(gaps) > -1e-12) == convex
    if not convex:
        assert 0.5 * (log_loss(-20.0) + log_loss(0.0)) - log_loss(-10.0) < -0.5
