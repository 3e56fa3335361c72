"""Tests of fcnet.models.mlp."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fcnet
import fcnet.functional as F
from fcnet.data.batches import Batches
from fcnet.models.layers import Dense
from fcnet.models.mlp import MLP, LogisticRegression, logits_to_classes, logits_to_probabilities, num_parameters
from fcnet.runtime.errors import UserError
from tests.helpers import random_tensor, seeded


def torch_network(model: MLP, activation: type[nn.Module]) -> nn.Sequential:
    """Returns the same network, built from torch's layers."""
    layers: list[nn.Module] = [nn.Flatten()]
    for layer in model.layers:
        assert isinstance(layer, Dense)
        linear = nn.Linear(layer.in_features, layer.out_features)
        linear.load_state_dict({"weight": layer.weight, "bias": layer.bias})
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("relu", nn.ReLU),
        ("sigmoid", nn.Sigmoid),
        ("identity", nn.Identity),
        ("leaky_relu", nn.LeakyReLU),
        ("elu", nn.ELU),
        ("gelu", nn.GELU),
    ],
)
@pytest.mark.parametrize("hidden", [(), (7,), (7, 5)])
def test_values_and_gradients_equal_those_of_torchs_layers(
    name: str, module: type[nn.Module], hidden: tuple[int, ...]
) -> None:
    model = MLP(12, hidden, 4, activation=name, generator=seeded())  # type: ignore[arg-type]
    reference = torch_network(model, module)
    x = random_tensor(9, 3, 2, 2)
    ours, theirs = model(x), reference(x)
    assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert_close(mine.grad, other.grad)


def test_parameters_run_from_the_first_layer_to_the_last_weight_before_bias() -> None:
    shapes = [tuple(p.shape) for p in MLP(6, (5, 4), 3).parameters()]
    assert shapes == [(5, 6), (5,), (4, 5), (4,), (3, 4), (3,)]
    assert [tuple(p.shape) for p in MLP(6, (5,), 3, bias=False).parameters()] == [(5, 6), (3, 5)]


def test_two_classes_have_one_output_node() -> None:
    model = LogisticRegression(6, generator=seeded())
    x = random_tensor(8, 6)
    logits = model(x)
    assert logits.shape == (8,)
    second = 1 / (1 + torch.exp(-logits))
    assert_close(model.predict_proba(x), torch.stack([1 - second, second], 1))
    assert_close(model.predict(x), (second > 0.5).long())


def test_more_classes_have_one_node_each_and_probabilities_that_sum_to_1() -> None:
    model = MLP(6, (5,), 3, generator=seeded())
    x = random_tensor(8, 6)
    assert model(x).shape == (8, 3)
    assert_close(model.predict_proba(x), torch.softmax(model(x), 1))
    assert_close(model.predict(x), model(x).argmax(1))


def test_equal_probabilities_give_the_first_class() -> None:
    assert logits_to_classes(torch.zeros(2)).tolist() == [0, 0]
    assert logits_to_classes(torch.zeros(2, 3)).tolist() == [0, 0]


def test_a_tiny_probability_does_not_round_to_0() -> None:
    assert logits_to_probabilities(torch.tensor([80.0]))[0, 0].item() == pytest.approx(math.exp(-80), rel=1e-5)


def test_logistic_regression_is_the_mlp_without_a_hidden_layer() -> None:
    one, other = LogisticRegression(6, 3, generator=seeded()), MLP(6, (), 3, generator=seeded())
    x = random_tensor(4, 6)
    assert_close(one(x), other(x), rtol=0, atol=0)
    assert one.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_trace_follows_the_forward_pass(num_classes: int) -> None:
    model = MLP(6, (5, 4), num_classes, activation="sigmoid", generator=seeded())
    x = random_tensor(8, 6)
    trace = model.trace(x)
    outputs = 1 if num_classes == 2 else 3
    assert [tuple(layer.a.shape) for layer in trace] == [(8, 5), (8, 4), (8, outputs)]
    before = x
    for layer, record in zip(model.layers, trace, strict=True):
        assert isinstance(layer, Dense)
        assert layer.bias is not None
        assert_close(record.z, before @ layer.weight.T + layer.bias)
        before = record.a
    assert_close(trace[0].a, torch.sigmoid(trace[0].z))
    assert_close(trace[-1].z.squeeze(1) if num_classes == 2 else trace[-1].z, model(x))
    last = model.predict_proba(x)
    assert_close(trace[-1].a, last[:, 1:] if num_classes == 2 else last)


def test_residual_layers_add_their_input_if_the_widths_agree() -> None:
    model = MLP(6, (5, 5), 3, residual=True, generator=seeded())
    x = random_tensor(8, 6)
    first, second, _ = model.trace(x)
    assert_close(first.a, first.z.relu())
    assert_close(second.a, second.z.relu() + first.a)


def test_the_generator_alone_determines_the_initial_weights() -> None:
    before = torch.get_rng_state()
    one, other = MLP(6, (5,), 3, generator=seeded(3)), MLP(6, (5,), 3, generator=seeded(3))
    assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    third = MLP(6, (5,), 3, generator=seeded(4))
    assert not torch.equal(next(one.parameters()), next(third.parameters()))


def test_a_model_can_be_copied() -> None:
    model = MLP(6, (5,), 3, dropout=0.5, normalization="batch", generator=seeded())
    twin = copy.deepcopy(model).eval()
    assert_close(twin(random_tensor(4, 6)), model.eval()(random_tensor(4, 6)), rtol=0, atol=0)


def test_a_number_is_the_width_of_one_hidden_layer() -> None:
    assert MLP(64, 32, 10).arguments == MLP(64, [32], 10).arguments == MLP(64, (32,), 10).arguments
    assert MLP(64, 32, 10).widths == [64, 32, 10]


def test_print_shows_widths_and_probabilities() -> None:
    text = repr(MLP(64, 32, 10, normalization="batch", dropout=0.5))
    for part in ("64, 32, relu, bias=False", "BatchNorm(32, momentum=0.1, eps=1e-05)", "Dropout(p=0.5)", "32, 10"):
        assert part in text


@pytest.mark.parametrize(
    ("activation", "shown"),
    [
        ("leaky_relu", "leaky_relu(negative_slope=0.01)"),
        ("elu", "elu(alpha=1.0)"),
        ("gelu", "gelu(approximate='none')"),
        ("sigmoid", "sigmoid"),
    ],
)
def test_print_shows_constants_residuals_and_the_width_of_layer_norm(activation: Any, shown: str) -> None:
    text = repr(MLP(8, (8,), 3, activation=activation, normalization="layer", residual=True))
    assert f"8, 8, {shown}, residual=True, bias=False\n" in text
    assert "LayerNorm((8,), eps=1e-05" in text


def test_autocast_takes_inputs_of_another_dtype_than_the_weights() -> None:
    model, x = MLP(6, (5,), 3), random_tensor(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(model(x.bfloat16()), model(x))
        with pytest.raises(
            UserError, match=r"^expected inputs of the dtype of the weights, torch.float32, got torch.float64"
        ):
            model(x.double())
    with pytest.raises(
        UserError, match=r"^expected inputs of the dtype of the weights, torch.float32, got torch.bfloat16"
    ):
        model(x.bfloat16())
    with pytest.raises(
        UserError, match=r"^expected inputs of the dtype of the weights, torch.float64, got torch.float32"
    ):
        model.double()(x)


def test_an_array_in_place_of_a_tensor_is_an_error() -> None:
    inputs: Any = np.zeros((2, 4))
    with pytest.raises(UserError, match=r"^expected a tensor \(B, …\) of inputs, got a ndarray; pass torch.as_tensor"):
        MLP(4, 3, 2)(inputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "in_features must be at least 1, got 0"),
        ({"in_features": 3.5}, "in_features must be a whole number, got 3.5"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"hidden": "32"}, "hidden must be the widths of the hidden layers, such as (32,), got '32'"),
        ({"hidden": 0}, "each width of hidden must be at least 1, got 0"),
        ({"hidden": (3.0,)}, "each width of hidden must be a whole number, got 3.0"),
        (
            {"activation": "rely"},
            (
                "activation must be one of identity, sigmoid, relu, leaky_relu, elu, gelu, got 'rely'; "
                "did you mean 'relu'?"
            ),
        ),
        ({"dropout": ".5"}, "dropout must be at least 0 and less than 1, got '.5'"),
        ({"hidden": (3, 0)}, "each width of hidden must be at least 1, got 0"),
        (
            {"activation": "tanh"},
            "activation must be one of identity, sigmoid, relu, leaky_relu, elu, gelu, got 'tanh'",
        ),
        ({"normalization": "group"}, "normalization must be one of none, batch, layer, got 'group'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1, got 1.0"),
        (
            {"hidden": (3, 4), "residual": True},
            "hidden must have two equal widths in a row for residual=True, got [5, 3, 4]",
        ),
    ],
)
def test_an_argument_out_of_its_range_is_an_error(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        MLP(**{"in_features": 5, "hidden": (3,), "num_classes": 3, **arguments})  # type: ignore[arg-type]
    assert str(error.value) == message


FEATURES, FLOATING = (
    "expected a batch of inputs (B, …) with 6 values each, got",
    "expected inputs of a floating dtype, got",
)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4, 7), f"{FEATURES} (4, 7)"),
        (torch.zeros(6), f"{FEATURES} (6,); pass x[None] for one example"),
        (torch.zeros(2, 3), f"{FEATURES} (2, 3); pass x[None] for one example"),
        (torch.zeros(4, 6, dtype=torch.uint8), f"{FLOATING} torch.uint8; for pixels pass x.float() / 255"),
        (torch.ones(4, 6).long(), f"{FLOATING} torch.int64; pass x.float()"),
        (
            torch.zeros(4, 6).double(),
            "expected inputs of the dtype of the weights, torch.float32, got torch.float64; pass x.to(torch.float32)",
        ),
    ],
)
def test_inputs_of_another_size_or_dtype_are_an_error(x: Tensor, message: str) -> None:
    model = MLP(6, (5,), 3)
    for method in (model, model.predict, model.predict_proba, model.trace):
        with pytest.raises(UserError) as error:
            method(x)
        assert str(error.value) == message


# --- the lecture's claims about networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [(6, 1), (6, 3), (6, 5, 1), (6, 5, 4, 3), (3072, 32, 16, 10)])
def test_the_number_of_parameters_follows_the_formula(widths: tuple[int, ...], bias: bool) -> None:
    model = MLP(widths[0], widths[1:-1], max(widths[-1], 2), bias=bias)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters(widths, bias=bias) == count
    by_layers = [nn.Linear(before, width, bias=bias) for before, width in itertools.pairwise(widths)]
    assert count == sum(parameter.numel() for layer in by_layers for parameter in layer.parameters())


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_deep_network_with_identity_activations_is_one_affine_map(num_classes: int) -> None:
    model = MLP(6, (5, 7, 4), num_classes, activation="identity", generator=seeded()).double()
    weight, shift = torch.eye(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    with torch.no_grad():
        for layer in model.dense_layers():
            assert layer.bias is not None
            layer.bias.normal_(generator=seeded(2))
            weight, shift = layer.weight @ weight, layer.weight @ shift + layer.bias
        single = LogisticRegression(6, num_classes).double()
        single.load_state_dict({"layers.0.weight": weight, "layers.0.bias": shift})
    x = random_tensor(20, 6).double()
    assert_close(single(x), model(x), rtol=1e-12, atol=1e-13)
    nonlinear = copy.deepcopy(model)
    for layer in nonlinear.dense_layers()[:-1]:
        layer.activation = "relu"
    assert (nonlinear(x) - single(x)).abs().max() > 0.1


@pytest.mark.parametrize("bias", [True, False])
def test_only_a_bias_moves_the_boundary_off_the_origin(bias: bool) -> None:
    model = MLP(6, (5,), 2, bias=bias, generator=seeded())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 if parameter.ndim == 1 else 0.0)
    assert bool(model(torch.zeros(1, 6)) == 0) is not bias
    if not bias:  # a network of ReLUs without biases is positively homogeneous
        assert_close(model(3.0 * random_tensor(4, 6)), 3.0 * model(random_tensor(4, 6)))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_logistic_regression_and_an_mlp_without_hidden_layers_learn_alike_bit_for_bit(num_classes: int) -> None:
    models = LogisticRegression(6, num_classes, generator=seeded()), MLP(6, (), num_classes, generator=seeded(1))
    models[1].load_state_dict(models[0].state_dict())
    x, labels = random_tensor(50, 6), torch.arange(50) % num_classes
    by_hand = torch.zeros(2 if num_classes == 2 else num_classes, 6)
    weight = models[0].dense_layers()[0].weight.detach()
    by_hand[-len(weight) :] = weight
    assert_close(
        models[0].predict_proba(x), torch.softmax(x @ by_hand.T, 1)
    )  # the node and a second class with the score 0
    for model in models:
        nn.functional.softplus(model(x)).sum().backward()
    found = [[parameter.grad for parameter in model.parameters()] for model in models]
    assert_close(found[0], found[1], rtol=0, atol=0)
    paths = []
    for model in models:
        model.zero_grad()
        algorithm = fcnet.GradientDescent(torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9), epochs=3)
        batches = Batches(x, labels, batch_size=8)
        losses = [record.train_loss for record in fcnet.fit(model, batches, algorithm, seed=3)]
        paths.append((losses, [parameter.tolist() for parameter in model.parameters()]))
    assert paths[0] == paths[1]


def test_the_softmax_of_two_nodes_equals_the_sigmoid_of_one_node_with_their_difference() -> None:
    two = LogisticRegression(6, 3, generator=seeded())
    two.layers[0] = Dense(6, 2, generator=seeded())
    one = LogisticRegression(6, generator=seeded())
    first, second = two.dense_layers()[0].weight.detach()
    with torch.no_grad():
        one.dense_layers()[0].weight.copy_(second - first)
    x = random_tensor(30, 6)
    assert_close(F.softmax(two(x), 1), one.predict_proba(x))
    assert_close(F.softmax(two(x), 1)[:, 1], F.sigmoid(two(x)[:, 1] - two(x)[:, 0]))


def test_one_exported_program_takes_batches_of_every_size() -> None:
    model, x = MLP(6, (3,), 10, generator=seeded()), random_tensor(40, 6)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for size in (2, 15, 16, 40):
        assert_close(program(x[:size]), model(x[:size]))


@pytest.mark.parametrize("nodes", [1, 3])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_model_from_weights_has_them_and_draws_nothing(nodes: int, has_bias: bool) -> None:
    weight, bias = torch.randn(nodes, 4, dtype=torch.float64), torch.arange(nodes).double() if has_bias else None
    x, before = torch.randn(5, 4, dtype=torch.float64), torch.get_rng_state()
    model = LogisticRegression.from_weights(weight, bias)
    assert torch.equal(torch.get_rng_state(), before)
    expected = x @ weight.T + (0.0 if bias is None else bias)
    torch.testing.assert_close(model(x), expected[:, 0] if nodes == 1 else expected)
    assert len(list(model.parameters())) == 1 + has_bias
