"""fcnet.functional.distributions: cross-entropy is entropy plus Kullback–Leibler divergence."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import fcnet.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

LOGITS = st.integers(1, 6).flatmap(
    lambda classes: st.lists(
        st.lists(st.floats(-30.0, 30.0), min_size=classes, max_size=classes), min_size=2, max_size=2
    )
)
EPS = torch.finfo(torch.float64).eps


def distributions(logits: list[list[float]]) -> tuple[Tensor, Tensor]:
    p, q = F.softmax(torch.tensor(logits, dtype=torch.float64), 1)
    return p, q


@given(LOGITS)
def test_cross_entropy_minus_entropy_is_the_divergence_and_none_is_negative(logits: list[list[float]]) -> None:
    p, q = distributions(logits)
    divergence = F.kl_divergence(p, q)
    assert_close(F.cross_entropy_between(p, q) - F.entropy(p), divergence, rtol=1e-12, atol=1e-13)
    assert divergence >= -8 * EPS
    assert F.entropy(p) >= 0.0
    assert F.entropy(p) <= math.log(len(p)) + 8 * EPS


@given(LOGITS)
def test_the_divergence_is_0_only_for_equal_distributions(logits: list[list[float]]) -> None:
    p, q = distributions(logits)
    assert F.kl_divergence(p, p).item() == 0.0
    # Pinsker's inequality: it is at least half the squared L1 distance.
    assert F.kl_divergence(p, q) >= (p - q).abs().sum().square() / 2 - 8 * EPS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_one_hot_label_gives_the_loss_of_its_index(dtype: torch.dtype) -> None:
    logits = torch.randn(5, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 2, 2, 1])
    one_hot = torch.eye(4, dtype=dtype)[labels]
    q = F.softmax(logits, 1)
    expected = F.cross_entropy(logits, labels, reduction="none")
    assert_close(F.cross_entropy_between(one_hot, q), expected)
    assert_close(F.cross_entropy_between(one_hot, q), -q[torch.arange(5), labels].log())
    assert F.entropy(one_hot).abs().tolist() == [0.0] * 5


def test_a_probability_vector_as_a_label_gives_the_loss_from_logits() -> None:
    draws = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 5, 4, dtype=torch.float64, generator=draws)
    p = F.softmax(other, 1)
    expected = F.cross_entropy(logits, p, reduction="none")
    assert_close(F.cross_entropy_between(p, F.softmax(logits, 1)), expected)


def test_the_numbers_of_the_lecture() -> None:
    q = torch.tensor([0.2, 0.8], dtype=torch.float64)
    losses = F.cross_entropy_between(torch.eye(2, dtype=torch.float64), q)
    assert losses.tolist() == pytest.approx([1.6094379124341003, 0.22314355131420976])
    uniform = torch.full((8,), 0.125, dtype=torch.float64)
    assert F.entropy(uniform).item() == pytest.approx(math.log(8))
    assert F.kl_divergence(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])).item() == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    )


def test_0_log_0_is_0_and_an_impossible_outcome_gives_infinity() -> None:
    p, q = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])
    for function in (F.cross_entropy_between, F.kl_divergence):
        assert function(p, q).item() == 0.0
        assert function(p, torch.tensor([1.0, 0.0])).item() == math.inf
        assert function(torch.tensor([0.5, 0.5]), q).item() == math.inf
    assert F.entropy(p).item() == 0.0


@pytest.mark.parametrize("function", [F.cross_entropy_between, F.kl_divergence])
def test_derivatives_hold_in_both_arguments_and_at_a_probability_of_0(function: Callable[..., Tensor]) -> None:
    p = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[0.6, 0.1, 0.3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (p, q))
    one_hot = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    predicted = torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(one_hot, predicted), predicted)
    assert gradient.tolist() == pytest.approx([0.0, -2.5, 0.0])


def test_half_precision_is_rounded_once_and_shapes_broadcast() -> None:
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.bfloat16)
    result = F.cross_entropy_between(p, torch.tensor([0.5, 0.5], dtype=torch.bfloat16))
    assert result.dtype == torch.bfloat16
    assert result.tolist() == torch.tensor([math.log(2)] * 2).bfloat16().tolist()


@pytest.mark.parametrize(
    ("p", "q", "name"), [(torch.ones(2).long(), torch.ones(2), "p"), (torch.ones(2), torch.ones(2).bool(), "q")]
)
def test_integers_are_refused(p: Tensor, q: Tensor, name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"^{name} must be of a floating dtype, got "):
        F.cross_entropy_between(p, q)
