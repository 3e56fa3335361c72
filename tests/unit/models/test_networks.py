"""The lecture's claims about networks as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import fcnet
import fcnet.functional as F
from fcnet.losses import CrossEntropy


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_random_biases(model: fcnet.MLP) -> fcnet.MLP:
    """Returns the model in float64 with nonzero biases."""
    model.double()
    with torch.no_grad():
        for layer in model.dense_layers():
            if layer.bias is not None:
                layer.bias.normal_(generator=draws(1))
    return model


def test_the_trace_follows_the_lectures_recursion_from_layer_1_to_the_last() -> None:
    model = with_random_biases(fcnet.MLP(6, (5, 4), 3, activation="gelu", generator=draws()))
    x = torch.randn(7, 6, dtype=torch.float64, generator=draws(2))
    layers, a = model.dense_layers(), x
    trace = model.trace(x)
    assert len(trace) == len(layers) == 3
    assert [tuple(layer.weight.shape) for layer in layers] == [(5, 6), (4, 5), (3, 4)]
    for layer, (z, activation) in zip(layers, trace, strict=True):
        assert layer.bias is not None
        assert_close(z, torch.stack([layer.weight @ row + layer.bias for row in a]), rtol=1e-13, atol=1e-14)
        a = activation
        if layer is not layers[-1]:
            assert_close(a, F.gelu(z), rtol=0, atol=0)
    assert_close(a, F.softmax(model(x), 1), rtol=0, atol=0)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_without_biases_a_zero_input_gives_zero_logits(num_classes: int) -> None:
    x = torch.zeros(1, 6, dtype=torch.float64)
    plain = with_random_biases(fcnet.MLP(6, (5,), num_classes, bias=False, generator=draws()))
    assert [name for name, _ in plain.named_parameters()] == ["layers.0.weight", "layers.1.weight"]
    assert plain(x).abs().max() == 0.0
    assert with_random_biases(fcnet.MLP(6, (5,), num_classes, generator=draws()))(x).abs().max() > 0.0


def test_a_bias_is_the_weight_of_an_input_that_is_always_1() -> None:
    with_bias = with_random_biases(fcnet.LogisticRegression(4, 3, generator=draws()))
    without_bias = fcnet.LogisticRegression(5, 3, bias=False).double()
    with torch.no_grad():
        without_bias.dense_layers()[0].weight.copy_(torch.cat([p.view(3, -1) for p in with_bias.parameters()], dim=1))
    x = torch.randn(6, 4, dtype=torch.float64, generator=draws(2))
    assert_close(without_bias(torch.cat([x, torch.ones(6, 1)], dim=1)), with_bias(x), rtol=1e-13, atol=1e-14)


def test_logistic_regression_equals_the_formulas_on_the_slide() -> None:
    model = with_random_biases(fcnet.LogisticRegression(4, generator=draws()))
    w, b = (parameter.detach() for parameter in model.parameters())
    x, labels = torch.randn(8, 4, dtype=torch.float64, generator=draws(2)), torch.arange(8) % 2
    p = 1.0 / (1.0 + torch.exp(-(x @ w[0] + b)))
    assert_close(model.predict_proba(x)[:, 1], p, rtol=1e-13, atol=0)
    risk = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum()
    assert_close(CrossEntropy()(model(x), labels), risk, rtol=1e-12, atol=0)
    by_w, by_b = torch.autograd.grad(CrossEntropy()(model(x), labels), list(model.parameters()))
    assert_close(by_w[0], x.T @ (p - labels), rtol=1e-12, atol=1e-14)
    assert_close(by_b[0], (p - labels).sum(), rtol=1e-12, atol=1e-14)


def test_a_vector_added_to_every_row_of_softmax_weights_changes_nothing() -> None:
    model = with_random_biases(fcnet.LogisticRegression(4, 3, generator=draws()))
    x = torch.randn(5, 4, dtype=torch.float64, generator=draws(2))
    expected = model.predict_proba(x)
    with torch.no_grad():
        model.dense_layers()[0].weight.add_(torch.randn(4, dtype=torch.float64, generator=draws(3)))
    assert_close(model.predict_proba(x), expected, rtol=1e-12, atol=1e-14)


def test_swapping_two_hidden_units_changes_nothing_so_no_minimum_is_unique() -> None:
    model = with_random_biases(fcnet.MLP(4, (3,), 3, generator=draws()))
    x: Tensor = torch.randn(5, 4, dtype=torch.float64, generator=draws(2))
    expected = model(x)
    first, last = model.dense_layers()
    with torch.no_grad():
        order = [1, 0, 2]
        first.weight.copy_(first.weight[order].clone())
        first.bias.copy_(first.bias[order].clone())  # type: ignore[index,union-attr]
        last.weight.copy_(last.weight[:, order].clone())
    assert_close(model(x), expected, rtol=1e-13, atol=1e-14)
