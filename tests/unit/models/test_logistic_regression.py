"""The lecture's claims about logistic regression: its gradient, its convexity, and scikit-learn's minimum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression
from torch import Tensor
from torch.testing import assert_close

import fcnet
import fcnet.functional as F
from fcnet.data.batches import Batches
from fcnet.losses import CrossEntropy, empirical_risk
from fcnet.models.mlp import MLP, LogisticRegression
from fcnet.optim.optimizers import LBFGS, parameter_groups

DECAY = 0.05
scripting = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
"""torch's forward mode scripts its decompositions on first use (torch 2.9 to 2.15)."""


def random_problem(seed: int, size: int = 12, width: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Returns X (n, D), y (n,) of 0 and 1, and w (D,), float64."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(size, width, dtype=torch.float64, generator=draws)
    y = torch.randint(2, (size,), generator=draws).double()
    return x, y, 2.0 * torch.randn(width, dtype=torch.float64, generator=draws)


@given(st.integers(0, 1000))
def test_the_gradient_is_the_prediction_minus_the_label_times_x(seed: int) -> None:
    x, y, w = random_problem(seed)
    gradient = torch.func.grad(lambda w: F.binary_cross_entropy_with_logits(x @ w, y))(w)
    assert_close(gradient, x.T @ (F.sigmoid(x @ w) - y) / len(x))


@scripting
@given(st.integers(0, 1000))
def test_the_risk_is_convex_in_w(seed: int) -> None:
    x, y, w = random_problem(seed)
    hessian = torch.func.hessian(lambda w: F.binary_cross_entropy_with_logits(x @ w, y))(w)
    p = F.sigmoid(x @ w)
    assert_close(hessian, x.T @ torch.diag(p * (1.0 - p)) @ x / len(x))
    assert torch.linalg.eigvalsh(hessian).min() > -1e-12


@scripting
@given(st.integers(0, 1000))
def test_the_softmax_risk_is_convex_in_the_weights(seed: int) -> None:
    x, y, _ = random_problem(seed)
    weights = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    hessian = torch.func.hessian(lambda w: F.cross_entropy(x @ w.view(3, 4).T, y.long()))(weights.flatten())
    assert torch.linalg.eigvalsh(hessian).min() > -1e-12


@scripting
def test_the_risk_with_the_cauchy_cdf_as_s_is_not_convex_in_w() -> None:
    x, y = torch.tensor([[1.0]], dtype=torch.float64), torch.ones(1)

    def risk(w: Tensor) -> Tensor:
        return -F.bernoulli_log_likelihood(F.cauchy_cdf(x @ w), y)

    assert torch.func.hessian(risk)(torch.tensor([-5.0], dtype=torch.float64)) < -0.01


def test_the_risk_of_a_hidden_layer_is_not_convex() -> None:
    """Swapping two hidden units changes nothing. Halfway between, the units are equal and the function is constant."""
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    minima = [torch.tensor([[4.0, -4.0], [-4.0, 4.0]], dtype=torch.float64).roll(shift, 0) for shift in (0, 1)]

    def risk(first: Tensor) -> float:
        model = MLP(2, (2,), 2).double()
        with torch.no_grad():
            for parameter, value in zip(
                model.parameters(),
                (first, torch.zeros(2), torch.tensor([[2.0, 2.0]]), torch.tensor([-4.0])),
                strict=True,
            ):
                parameter.copy_(value)
        return empirical_risk(model, x, labels, CrossEntropy()).item()

    assert risk(minima[0]) == risk(minima[1]) < 0.02
    assert risk((minima[0] + minima[1]) / 2) > 0.69


def digits(*classes: int) -> tuple[Tensor, Tensor]:
    """Returns standardized pixels in float64, and labels."""
    data = load_digits()
    selected = torch.isin(torch.from_numpy(data.target), torch.tensor(classes or range(10)))
    pixels = torch.from_numpy(data.data)[selected]
    labels = torch.from_numpy(data.target)[selected]
    x = (pixels - pixels.mean(0)) / pixels.std(0).clamp(min=1.0)
    return x, torch.unique(labels, return_inverse=True)[1]


def fit_sklearn(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns W and b at the minimum of C Σ ℓ + ½ ‖W‖², with C = 1 / (n λ): 1 / λ times the mean loss + ½ λ ‖W‖²."""
    theirs = SklearnLogisticRegression(C=1.0 / (len(x) * DECAY), tol=1e-10, max_iter=10_000).fit(x.numpy(), y.numpy())
    return torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)


def fit_fcnet(x: Tensor, y: Tensor, optimizer: str, epochs: int) -> tuple[Tensor, Tensor]:
    model = LogisticRegression(x.shape[1], int(y.max()) + 1, generator=torch.Generator().manual_seed(0)).double()
    groups = parameter_groups(model, DECAY)
    made = LBFGS(groups) if optimizer == "lbfgs" else torch.optim.SGD(groups, lr=0.2, momentum=0.9)
    if isinstance(made, LBFGS):
        made.param_groups[0]["tolerance_change"] = 0.0  # torch's default stops at a change of 1e-9
    whole = Batches(x, y, batch_size=len(x))
    fcnet.fit(model, whole, fcnet.GradientDescent(made, epochs=epochs))
    weight, bias = (parameter.detach() for parameter in model.parameters())
    return weight, bias


@pytest.mark.parametrize(("classes", "epochs"), [((3, 8), 100), ((), 200)], ids=["one node", "softmax"])
@pytest.mark.parametrize("optimizer", ["lbfgs", "gradient descent"])
def test_the_fitted_weights_equal_scikit_learns(classes: tuple[int, ...], epochs: int, optimizer: str) -> None:
    x, y = digits(*classes)
    weight, bias = fit_fcnet(x, y, optimizer, epochs if optimizer == "lbfgs" else 6 * epochs)
    their_weight, their_bias = fit_sklearn(x, y)
    assert_close(weight, their_weight, rtol=0, atol=1e-5)
    assert_close(
        bias - bias.mean() * (len(bias) > 1), their_bias, rtol=0, atol=1e-4
    )  # a constant added to every bias changes nothing
