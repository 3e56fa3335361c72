"""fcnet.functional.likelihood: the product, its logarithm and minus the cross-entropy have one maximizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import fcnet
import fcnet.functional as F
from fcnet.losses import CrossEntropy, ScoreLoss
from fcnet.models.mlp import LogisticRegression
from fcnet.optim.optimizers import LBFGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.losses import Loss

PROBABILITIES = st.floats(0.01, 0.99)


def problem(size: int = 14) -> tuple[Tensor, Tensor]:
    """Float64 points in the plane, with labels that no line separates."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(size, 2, dtype=torch.float64, generator=draws)
    y = (x[:, 0] + 0.8 * torch.randn(size, dtype=torch.float64, generator=draws) > 0).long()
    return x, y


def fit(x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """The minimizer w of the risk, without a bias."""
    model = LogisticRegression(2, bias=False, generator=torch.Generator().manual_seed(1)).double()
    optimizer = LBFGS(model.parameters())
    optimizer.param_groups[0] |= {"tolerance_grad": 0.0, "tolerance_change": 0.0}  # to the last digit
    fcnet.fit(model, (x, y), fcnet.GradientDescent(optimizer, epochs=20, loss=loss))
    return next(model.parameters()).detach().squeeze(0)


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=6))
def test_the_likelihood_is_the_product_of_the_labels_probabilities(rows: list[tuple[float, bool]]) -> None:
    p, y = (torch.tensor([row[k] for row in rows], dtype=torch.float64) for k in (0, 1))
    product = math.prod(p if second else 1.0 - p for p, second in rows)
    assert F.bernoulli_likelihood(p, y).item() == pytest.approx(product, rel=1e-12)
    both = torch.stack([1.0 - p, p], 1)
    assert F.categorical_likelihood(both, y.long()).item() == pytest.approx(product, rel=1e-12)
    if product > 1e-300:
        assert F.bernoulli_log_likelihood(p, y).item() == pytest.approx(math.log(product), rel=1e-9, abs=1e-12)
        assert F.categorical_log_likelihood(both, y.long()).item() == pytest.approx(
            math.log(product), rel=1e-9, abs=1e-12
        )


def test_the_gradients_of_the_products_are_those_of_finite_differences() -> None:
    p, y = torch.linspace(0.1, 0.9, 15, dtype=torch.float64).view(5, 3).requires_grad_(), torch.tensor([0, 1, 2, 1, 0])
    assert torch.autograd.gradcheck(lambda p: F.categorical_likelihood(p, y), p)
    assert torch.autograd.gradcheck(lambda p: F.bernoulli_likelihood(p[:, 0], y % 2), p)


@pytest.mark.parametrize(("label", "derivative"), [(1.0, 1.0), (0.0, -1.0)])
def test_a_probability_of_1_for_the_label_has_a_finite_gradient(label: float, derivative: float) -> None:
    p = torch.tensor([label], requires_grad=True)
    for function, value in ((F.bernoulli_likelihood, 1.0), (F.bernoulli_log_likelihood, 0.0)):
        likelihood = function(p, torch.tensor([label]))
        assert likelihood.item() == value
        assert torch.autograd.grad(likelihood, p)[0].item() == derivative
        assert function(1.0 - p, torch.tensor([label])).item() == (0.0 if value else -math.inf)


def test_a_tiny_probability_of_the_other_class_keeps_its_digits() -> None:
    assert_close(F.bernoulli_log_likelihood(torch.tensor([1e-20]), torch.tensor([0])).item(), -1e-20, rtol=1e-6, atol=0)


def test_the_numbers_of_the_slides() -> None:
    """−log of 0.2, 0.8, 0.9999 and 0.0001, from a probability and from its logit."""
    for probability, loss in ((0.2, 1.61), (0.8, 0.22), (0.9999, 1.0e-4), (0.0001, 9.21)):
        p = torch.tensor([probability], dtype=torch.float64)
        logit = (p / (1.0 - p)).log()
        for value in (
            -F.bernoulli_log_likelihood(p, torch.ones(1)),
            -F.categorical_log_likelihood(torch.stack([1.0 - p, p], 1), torch.ones(1, dtype=torch.int64)),
            F.binary_cross_entropy_with_logits(logit, torch.ones(1)),
            F.logistic_loss(logit, torch.ones(1)),
            CrossEntropy()(logit, torch.ones(1, dtype=torch.int64)),
        ):
            assert value.item() == pytest.approx(loss, abs=0.005 if loss > 0.1 else 1e-6)
            assert value.item() == pytest.approx(-math.log(probability), rel=1e-12)


@given(st.integers(0, 1000), st.integers(2, 5))
def test_minus_the_log_likelihood_per_example_is_the_cross_entropy(seed: int, num_classes: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    logits = 3.0 * torch.randn(8, num_classes, dtype=torch.float64, generator=draws)
    y = torch.randint(num_classes, (8,), generator=draws)
    assert_close(-F.categorical_log_likelihood(F.softmax(logits, 1), y) / 8, F.cross_entropy(logits, y))
    score, bits = logits[:, 0], (y > 0).double()
    assert_close(
        -F.bernoulli_log_likelihood(F.sigmoid(score), bits) / 8, F.binary_cross_entropy_with_logits(score, bits)
    )


def test_likelihood_its_logarithm_and_the_cross_entropy_have_one_maximiser() -> None:
    x, y = problem()
    best = fit(x, y, CrossEntropy())
    objectives: dict[str, Callable[[Tensor], Tensor]] = {
        "likelihood": lambda w: F.bernoulli_likelihood(F.sigmoid(x @ w), y),
        "log-likelihood": lambda w: F.bernoulli_log_likelihood(F.sigmoid(x @ w), y),
        "minus the cross-entropy": lambda w: -F.binary_cross_entropy_with_logits(x @ w, y.double()),
    }
    draws = torch.Generator().manual_seed(2)
    others = best + torch.randn(200, 2, dtype=torch.float64, generator=draws)
    for name, objective in objectives.items():
        gradient = torch.func.grad(objective)(best)
        assert gradient.abs().max() < 1e-9 * objective(best).abs(), name
        assert all(objective(other) < objective(best) for other in others), name


def test_both_label_conventions_give_the_same_loss_and_w() -> None:
    x, y = problem()
    w = torch.tensor([0.3, -2.0], dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(x @ w, y.double())
    assert_close(F.logistic_loss(x @ w, 2 * y - 1), expected, rtol=1e-14, atol=0)
    assert_close(fit(x, y, ScoreLoss("logistic")), fit(x, y, CrossEntropy()), rtol=1e-9, atol=0)


@given(PROBABILITIES, PROBABILITIES)
def test_the_log_loss_is_a_proper_score(truth: float, predicted: float) -> None:
    """Its expectation is smallest for p̂ = p; elsewhere it exceeds that by at least 2 (p − p̂)² (Pinsker)."""
    p, q = (torch.tensor([probability], dtype=torch.float64) for probability in (truth, predicted))
    expected, least = -F.bernoulli_log_likelihood(q, p), -F.bernoulli_log_likelihood(p, p)
    assert (expected - least).item() >= 2.0 * (truth - predicted) ** 2 - 1e-12
    gradient = torch.func.grad(lambda q: -F.bernoulli_log_likelihood(q, p))(p)
    assert gradient.abs().item() < 1e-12


@given(PROBABILITIES, PROBABILITIES)
def test_the_log_loss_falls_as_the_probability_of_the_label_rises(one: float, other: float) -> None:
    low, high = sorted((one, other))
    if high - low > 1e-9:
        p = torch.tensor([low, high], dtype=torch.float64)
        first, second = (-F.bernoulli_log_likelihood(q, torch.tensor(1)) for q in p)
        assert first > second > 0
