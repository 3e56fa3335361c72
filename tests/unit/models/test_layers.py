"""Tests of fcnet.models.layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from fcnet.models.layers import ACTIVATION_GRADS, ACTIVATIONS, ActivationName, Dense, Dropout, flatten_inputs
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError
from tests.helpers import seeded


def inputs(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


@pytest.mark.parametrize(("activation", "gain"), [("relu", math.sqrt(2)), ("sigmoid", 1.0), ("identity", 1.0)])
def test_initial_weights_have_the_documented_variance_and_biases_are_0(activation: str, gain: float) -> None:
    layer = Dense(400, 300, activation=activation, generator=seeded())  # type: ignore[arg-type]
    # the standard deviation of 120,000 draws is within 1% with overwhelming probability
    assert layer.weight.std().item() == pytest.approx(gain / 20, rel=0.01)
    assert layer.bias is not None
    assert layer.bias.abs().max().item() == 0.0


def test_layer_norm_normalizes_each_example_by_itself() -> None:
    layer = Dense(6, 50, normalization="layer", generator=seeded())
    z = layer.preactivation(torch.randn(4, 6, generator=seeded(1)) * 9.0)
    assert layer.bias is None
    assert_close(z.mean(1), torch.zeros(4), rtol=0, atol=1e-5)
    assert_close(z.var(1, unbiased=False), torch.ones(4), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "gelu"])
def test_initial_weights_keep_the_mean_square_of_a_signal(name: ActivationName) -> None:
    layer = Dense(400, 400, activation=name, generator=seeded())
    a = ACTIVATIONS[name](torch.randn(500, 400, generator=seeded(1)))
    z = layer.preactivation(a)
    assert_close(z.square().mean(), torch.tensor(1.0), rtol=0.1, atol=0)  # 200,000 values, 400 of them independent


def test_dropout_keeps_the_expectation_and_is_off_in_evaluation() -> None:
    layer = Dropout(0.25, generator=seeded())
    kept = layer(torch.ones(400, 500))
    assert_close(kept.unique(), torch.tensor([0.0, 1 / 0.75]))
    # 200,000 draws, a standard error of 0.1%
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert_close(layer.eval()(torch.ones(3)), torch.ones(3))


def test_dropout_draws_from_its_own_generator_alone() -> None:
    before = torch.get_rng_state()
    model = MLP(6, (50,), 3, dropout=0.5, generator=seeded(1))
    again = MLP(6, (50,), 3, dropout=0.5, generator=seeded(1))
    assert_close(model(inputs(4, 6)), again(inputs(4, 6)), rtol=0, atol=0)
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_neuron_computes_a_weighted_sum_and_a_layer_is_the_matrix_of_its_neurons(bias: bool) -> None:
    """w_ij leads from node i to neuron j. W[l] is the transpose, with one row per neuron."""
    layer = Dense(4, 3, activation="sigmoid", bias=bias, generator=seeded())
    if layer.bias is not None:
        nn.init.normal_(layer.bias, generator=seeded(1))
    w, b = layer.weight.T.tolist(), [0.0] * 3 if layer.bias is None else layer.bias.tolist()
    x = inputs(5, 4)
    for row, z, a in zip(x.tolist(), layer.preactivation(x).tolist(), layer(x).tolist(), strict=True):
        sums = [sum(w[i][j] * row[i] for i in range(4)) + b[j] for j in range(3)]
        assert z == pytest.approx(sums, rel=1e-5, abs=1e-6)
        assert a == pytest.approx([1 / (1 + math.exp(-total)) for total in sums], rel=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_grads_equal_autograds(name: str) -> None:
    z = inputs(50).double().requires_grad_()
    upstream = inputs(50, seed=8).double()
    (expected,) = torch.autograd.grad(ACTIVATIONS[name](z), z, upstream)
    assert_close(ACTIVATION_GRADS[name](upstream, z.detach().clone()), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("num_outputs", [3, 10, 40])
@pytest.mark.parametrize("size", [1, 15, 16, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_equals_torchs_linear_for_any_width_and_batch(num_outputs: int, size: int, bias: bool) -> None:
    layer, x = Dense(30, num_outputs, bias=bias, generator=seeded()).double(), inputs(size, 30).double()
    if layer.bias is not None:
        nn.init.normal_(layer.bias, generator=seeded(1))
    assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias), rtol=1e-13, atol=1e-13)
    assert layer(x).is_contiguous()


def test_a_residual_layer_of_another_width_is_an_error() -> None:
    with pytest.raises(UserError, match="residual must be False for widths that differ, got 4 and 3"):
        Dense(4, 3, residual=True)


def test_inputs_of_any_trailing_shape_become_rows() -> None:
    x = inputs(5, 3, 2, 2)
    assert torch.equal(flatten_inputs(x, 12), x.reshape(5, 12))
    assert flatten_inputs(inputs(0, 12), 12).shape == (0, 12)
