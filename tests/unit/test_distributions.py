"""Rules of entropy, cross-entropy and the divergence between distributions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import fcnet.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

INF = math.inf
WEIGHTS = st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any)
PAIRS = st.integers(2, 6).flatmap(
    lambda size: st.tuples(*[st.lists(st.integers(0, 50), min_size=size, max_size=size).filter(any)] * 2)
)


def shares(weights: list[int]) -> Tensor:
    w = torch.tensor(weights, dtype=torch.float64)
    return w / w.sum()


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3.0 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_definition(p: Tensor, q: Tensor) -> float:
    """−Σ p log q by Python's floats."""
    terms = [(a, b) for a, b in zip(p.tolist(), q.tolist(), strict=True) if a > 0]
    return math.fsum(-a * math.log(b) if b > 0 else INF for a, b in terms)


@given(PAIRS)
def test_all_three_are_their_sums(pair: tuple[list[int], list[int]]) -> None:
    p, q = map(shares, pair)
    both, own = by_definition(p, q), by_definition(p, p)
    assert F.entropy(p).item() == pytest.approx(own, rel=1e-14, abs=1e-15)
    assert F.cross_entropy_between(p, q).item() == pytest.approx(both, rel=1e-14)
    assert F.kl_divergence(p, q).item() == pytest.approx(both - own, rel=1e-12, abs=1e-14)


@given(WEIGHTS)
def test_the_entropy_is_0_of_a_certainty_log_c_of_even_shares_and_between_them_else(weights: list[int]) -> None:
    p = shares(weights)
    size, value = len(weights), F.entropy(p).item()
    assert 0.0 <= value <= math.log(size) + 1e-15
    assert F.entropy(torch.full((size,), 1.0 / size)).item() == pytest.approx(math.log(size), rel=1e-6)
    assert F.entropy(torch.eye(size)).tolist() == [0.0] * size


@given(PAIRS)
def test_cross_entropy_minus_entropy_is_the_divergence_not_negative_and_0_for_equals_alone(
    pair: tuple[list[int], list[int]],
) -> None:
    p, q = map(shares, pair)
    divergence = F.kl_divergence(p, q)
    assert_close(F.cross_entropy_between(p, q) - F.entropy(p), divergence, rtol=1e-12, atol=1e-14)
    assert F.kl_divergence(p, p).item() == 0.0
    alike = bool(((p - q).abs() < 1e-12).all())  # others differ by 1/300 at least: their divergence is no rounding
    assert alike or divergence.item() > 1e-6


def test_what_never_happens_costs_nothing_and_what_was_ruled_out_everything() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.5, 0.0])
    assert_close(F.cross_entropy_between(p, q).item(), math.log(2))
    assert F.kl_divergence(p, torch.tensor([1.0, 0.0, 0.0])).item() == INF
    assert F.cross_entropy_between(p, torch.tensor([1.0, 0.0, 0.0])).item() == INF


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_one_hot_label_gives_the_cross_entropy_of_the_logits(dtype: torch.dtype) -> None:
    x, labels = logits(40, 5, dtype=dtype), torch.arange(40) % 5
    one_hot = torch.nn.functional.one_hot(labels, 5).to(dtype)
    costs = F.cross_entropy_between(one_hot, F.softmax(x, 1))
    assert_close(costs, F.cross_entropy(x, labels, reduction="none"))
    assert_close(costs, -F.softmax(x, 1)[range(40), labels].log(), rtol=0, atol=0)
    assert_close(costs, F.kl_divergence(one_hot, F.softmax(x, 1)))  # a certainty has no entropy


def test_a_probability_vector_as_label_gives_the_cross_entropy_of_the_logits() -> None:
    x, t = logits(40, 5), F.softmax(logits(40, 5, seed=1), 1)
    assert_close(F.cross_entropy_between(t, F.softmax(x, 1)), F.cross_entropy(x, t, reduction="none"))
    assert_close(F.cross_entropy_between(t, F.softmax(x, 1)).mean(), F.cross_entropy(x, t))


def test_derivatives_are_those_of_the_sums() -> None:
    p, q = (F.softmax(logits(3, 4, seed=seed) / 3, 1).requires_grad_() for seed in (0, 1))  # none near 0
    for function in (F.cross_entropy_between, F.kl_divergence):
        assert torch.autograd.gradcheck(function, (p, q))
        assert torch.autograd.gradgradcheck(function, (p, q))
    assert torch.autograd.gradcheck(F.entropy, (p,))
    assert_close(torch.func.vmap(F.kl_divergence)(p.detach(), q.detach()), F.kl_divergence(p, q).detach())


def test_zeros_leave_the_derivatives_finite() -> None:
    p, q = torch.tensor([0.0, 0.25, 0.75]).requires_grad_(), torch.tensor([0.0, 0.5, 0.5]).requires_grad_()
    for function in (F.cross_entropy_between, F.kl_divergence):
        assert all(slope.isfinite().all() for slope in torch.autograd.grad(function(p, q), (p, q)))
    never, even = torch.tensor([0.0, 1.0]).requires_grad_(), torch.tensor([0.5, 0.5])
    (slope,) = torch.autograd.grad(F.cross_entropy_between(never, even), never)
    assert_close(slope, torch.full((2,), math.log(2)))  # what never happens may still become likelier
    certain = torch.tensor([0.0, 1.0]).requires_grad_()
    assert torch.autograd.grad(F.entropy(certain), certain)[0].tolist() == [0.0, -1.0]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: F.kl_divergence(torch.ones(2), torch.ones(3)),
            ValueError,
            r"expected p (…, C) and q (…, C), got (2,) and (3,)",
        ),
        (lambda: F.entropy(torch.tensor(1.0)), ValueError, r"expected p (…, C) and q (…, C), got () and ()"),
        (lambda: F.entropy(torch.tensor([1])), NotImplementedError, "p must be of a floating dtype, got torch.int64"),
    ],
)
def test_mistakes_are_refused_in_words(call: Callable[[], Tensor], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as refusal:
        call()
    assert str(refusal.value) == text
