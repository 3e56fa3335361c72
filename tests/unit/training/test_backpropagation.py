"""Tests of fcnet.training.backpropagation: the gradient by hand equals autograd's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP, LogisticRegression
from fcnet.training.backpropagation import backpropagate, can_backpropagate, has_hooks
from tests.unit.training.helpers import HOOKS, register_hook

NETWORKS = st.fixed_dictionaries(
    {
        "in_features": st.integers(1, 6),
        "hidden": st.lists(st.integers(1, 5), max_size=3),
        "num_classes": st.integers(2, 5),
        "activation": st.sampled_from(["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"]),
        "bias": st.booleans(),
    }
)


def make_problem(network: dict[str, Any], size: int, seed: int) -> tuple[MLP, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    model = MLP(**network, generator=draws).double()
    x = torch.randn(size, network["in_features"], dtype=torch.float64, generator=draws)
    return model, x, torch.randint(network["num_classes"], (size,), generator=draws)


def by_autograd(model: MLP, x: Tensor, target: Tensor, loss: CrossEntropy, scale: float) -> tuple[Tensor, list[Tensor]]:
    total = loss(model(x), target)
    return total, list(torch.autograd.grad(total * scale, list(model.parameters())))


@given(NETWORKS, st.integers(1, 7), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 1000), st.booleans())
def test_loss_logits_and_gradients_equal_autograds(
    network: dict[str, Any], size: int, label_smoothing: float, seed: int, mixed: bool
) -> None:
    model, x, target = make_problem(network, size, seed)
    if mixed:
        target = torch.rand(size, network["num_classes"], generator=torch.Generator().manual_seed(seed)).double() + 0.1
    loss = CrossEntropy(label_smoothing)
    expected, gradients = by_autograd(model, x, target, loss, 1 / size)
    total, logits = backpropagate(model, x, target, loss, scale=1 / size)
    assert_close(total, expected, rtol=1e-12, atol=1e-14)
    assert_close(logits, model(x), rtol=0, atol=0)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        # sums in another order: their rounding error is relative to the terms, not to the sum
        assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-13)


def test_a_residual_layer_passes_the_gradient_around_its_weights() -> None:
    network = {"in_features": 4, "hidden": [4, 4, 3, 3], "num_classes": 3, "residual": True}
    model, x, labels = make_problem(network, 6, 0)
    _, gradients = by_autograd(model, x, labels, CrossEntropy(), 1.0)
    backpropagate(model, x, labels, CrossEntropy())
    assert_close([parameter.grad for parameter in model.parameters()], gradients, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_gradient_of_a_confident_prediction_keeps_its_digits(num_classes: int) -> None:
    """e⁻²⁰ = 2.06e-9 is far below the spacing of float32 numbers at 1."""
    model = LogisticRegression(1, num_classes)
    with torch.no_grad():
        model.dense_layers()[0].weight.copy_(torch.tensor([[20.0]] if num_classes == 2 else [[0.0], [20.0], [-80.0]]))
    total, _ = backpropagate(model, torch.ones(1, 1), torch.tensor([1]), CrossEntropy())
    bias = model.dense_layers()[0].bias
    assert bias is not None
    assert bias.grad is not None
    assert total.item() == pytest.approx(2.0611536e-09, rel=1e-6)
    true_class = bias.grad[0 if num_classes == 2 else 1].item()
    assert true_class == pytest.approx(-2.0611536e-09, rel=1e-6)


class Doubled(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_only_plain_dense_networks_are_differentiated_by_hand() -> None:
    assert can_backpropagate(MLP(4, (3,), 2))
    assert can_backpropagate(LogisticRegression(4, 3))
    assert not can_backpropagate(MLP(4, (3,), 2, normalization="batch"))
    assert not can_backpropagate(MLP(4, (3,), 2, dropout=0.1))
    assert not can_backpropagate(Doubled(4, (3,), 2))
    assert not can_backpropagate(nn.Linear(4, 3))
    frozen = MLP(4, (3,), 2)
    frozen.dense_layers()[0].weight.requires_grad_(False)
    assert not can_backpropagate(frozen)


@pytest.mark.parametrize("register", HOOKS)
def test_a_hook_rules_differentiation_by_hand_out_until_it_is_removed(register: str) -> None:
    model = MLP(4, (3,), 2)
    handle = register_hook(model.layers[0], register, lambda *_: None)
    assert has_hooks(model)
    assert not can_backpropagate(model)
    handle.remove()
    assert can_backpropagate(model)
