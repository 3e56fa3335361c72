"""Rules of fcnet.models.mlp."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fcnet
import fcnet.functional as F
from fcnet.data.batches import Batches
from fcnet.models.batch_norm import BatchNorm
from fcnet.models.mlp import (
    ACTIVATIONS,
    MLP,
    ActivationName,
    Dense,
    Dropout,
    LogisticRegression,
    logits_to_classes,
    logits_to_probabilities,
    num_parameters,
)
from fcnet.runtime.errors import UserError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def torchs(model: MLP, activation: type[nn.Module]) -> nn.Sequential:
    """The same network from torch's own layers."""
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
def test_values_and_gradients_are_those_of_torchs_layers(
    name: str, module: type[nn.Module], hidden: tuple[int, ...]
) -> None:
    model = MLP(12, hidden, 4, activation=name, generator=seeded())  # type: ignore[arg-type]
    reference = torchs(model, module)
    x = inputs(9, 3, 2, 2)
    ours, theirs = model(x), reference(x)
    assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert_close(mine.grad, other.grad)


def test_parameters_run_from_the_first_layer_to_the_last_weights_before_biases() -> None:
    shapes = [tuple(p.shape) for p in MLP(6, (5, 4), 3).parameters()]
    assert shapes == [(5, 6), (5,), (4, 5), (4,), (3, 4), (3,)]
    assert [tuple(p.shape) for p in MLP(6, (5,), 3, bias=False).parameters()] == [(5, 6), (3, 5)]


def test_two_classes_have_one_output_node() -> None:
    model = LogisticRegression(6, generator=seeded())
    x = inputs(8, 6)
    logits = model(x)
    assert logits.shape == (8,)
    second = 1 / (1 + torch.exp(-logits))
    assert_close(model.predict_proba(x), torch.stack([1 - second, second], 1))
    assert_close(model.predict(x), (second > 0.5).long())


def test_more_classes_have_a_node_each_and_probabilities_that_add_up() -> None:
    model = MLP(6, (5,), 3, generator=seeded())
    x = inputs(8, 6)
    assert model(x).shape == (8, 3)
    assert_close(model.predict_proba(x), torch.softmax(model(x), 1))
    assert_close(model.predict(x), model(x).argmax(1))


def test_equal_probabilities_give_the_first_class() -> None:
    assert logits_to_classes(torch.zeros(2)).tolist() == [0, 0]
    assert logits_to_classes(torch.zeros(2, 3)).tolist() == [0, 0]


def test_a_tiny_probability_is_not_rounded_to_0() -> None:
    assert logits_to_probabilities(torch.tensor([80.0]))[0, 0].item() == pytest.approx(math.exp(-80), rel=1e-5)


def test_logistic_regression_is_the_mlp_without_a_hidden_layer() -> None:
    one, other = LogisticRegression(6, 3, generator=seeded()), MLP(6, (), 3, generator=seeded())
    x = inputs(4, 6)
    assert_close(one(x), other(x), rtol=0, atol=0)
    assert one.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_trace_follows_the_forward_pass(num_classes: int) -> None:
    model = MLP(6, (5, 4), num_classes, activation="sigmoid", generator=seeded())
    x = inputs(8, 6)
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


def test_residual_layers_add_their_input_where_widths_agree() -> None:
    model = MLP(6, (5, 5), 3, residual=True, generator=seeded())
    x = inputs(8, 6)
    first, second, _ = model.trace(x)
    assert_close(first.a, first.z.relu())
    assert_close(second.a, second.z.relu() + first.a)


def test_the_same_generator_gives_the_same_network_and_torchs_own_is_left_alone() -> None:
    before = torch.get_rng_state()
    one, other = MLP(6, (5,), 3, generator=seeded(3)), MLP(6, (5,), 3, generator=seeded(3))
    assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    third = MLP(6, (5,), 3, generator=seeded(4))
    assert not torch.equal(next(one.parameters()), next(third.parameters()))


@pytest.mark.parametrize(("activation", "gain"), [("relu", math.sqrt(2)), ("sigmoid", 1.0), ("identity", 1.0)])
def test_initial_weights_have_the_documented_variance_and_biases_are_0(activation: str, gain: float) -> None:
    layer = Dense(400, 300, activation=activation, generator=seeded())  # type: ignore[arg-type]
    # 120,000 draws: the sample's standard deviation is within 1 % with overwhelming probability
    assert layer.weight.std().item() == pytest.approx(gain / 20, rel=0.01)
    assert layer.bias is not None
    assert layer.bias.abs().max().item() == 0.0


def test_batch_norm_is_torchs_in_training_and_evaluation() -> None:
    ours, theirs = BatchNorm(5), nn.BatchNorm1d(5)
    with torch.no_grad():
        for parameter in (ours.weight, theirs.weight):
            parameter.copy_(torch.arange(1.0, 6.0))
    x = inputs(16, 5) * 3 + 2
    for _ in range(3):
        assert_close(ours(x), theirs(x))
    assert_close(ours.running_mean, theirs.running_mean)
    assert_close(ours.running_var, theirs.running_var)
    assert_close(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_over_ranks_is_torchs_with_one_rank_gradients_too() -> None:
    ours, theirs = BatchNorm(5), nn.BatchNorm1d(5)
    x = inputs(16, 5) * 3 + 2
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    left, right = ours._sync_forward(mine), theirs(other)
    assert_close(left, right)
    weights = inputs(16, 5, seed=1)
    (left * weights).sum().backward()
    (right * weights).sum().backward()
    # a batch-norm gradient is a difference of near-equal sums: absolute rounding counts
    assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert_close(ours.running_var, theirs.running_var)


def test_a_batch_of_one_image_trains() -> None:
    model = MLP(6, (5,), 3, normalization="batch", generator=seeded())
    model(inputs(1, 6)).sum().backward()
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_layer_normalisation_is_of_each_example_by_itself() -> None:
    layer = Dense(6, 50, normalization="layer", generator=seeded())
    z = layer.preactivation(torch.randn(4, 6, generator=seeded(1)) * 9.0)
    assert layer.bias is None
    assert_close(z.mean(1), torch.zeros(4), rtol=0, atol=1e-5)
    assert_close(z.var(1, unbiased=False), torch.ones(4), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "gelu"])
def test_initial_weights_keep_the_size_of_what_goes_through(name: ActivationName) -> None:
    layer = Dense(400, 400, activation=name, generator=seeded())
    a = ACTIVATIONS[name](torch.randn(500, 400, generator=seeded(1)))
    z = layer.preactivation(a)
    assert_close(z.square().mean(), torch.tensor(1.0), rtol=0.1, atol=0)  # of 200,000 values, 400 of them independent


def test_dropout_keeps_the_expectation_and_is_off_in_evaluation() -> None:
    layer = Dropout(0.25, generator=seeded())
    kept = layer(torch.ones(400, 500))
    assert_close(kept.unique(), torch.tensor([0.0, 1 / 0.75]))
    # 200,000 draws: standard error 0.1 %
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.005)
    assert_close(layer.eval()(torch.ones(3)), torch.ones(3))


def test_dropout_draws_from_its_generator_alone() -> None:
    before = torch.get_rng_state()
    model = MLP(6, (50,), 3, dropout=0.5, generator=seeded(1))
    again = MLP(6, (50,), 3, dropout=0.5, generator=seeded(1))
    assert_close(model(inputs(4, 6)), again(inputs(4, 6)), rtol=0, atol=0)
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


def test_a_model_can_be_copied() -> None:
    model = MLP(6, (5,), 3, dropout=0.5, normalization="batch", generator=seeded())
    twin = copy.deepcopy(model).eval()
    assert_close(twin(inputs(4, 6)), model.eval()(inputs(4, 6)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0}, "in_features must be at least 1, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"hidden": (3, 0)}, "each width of hidden must be at least 1, got 0"),
        (
            {"activation": "tanh"},
            "activation must be one of identity, sigmoid, relu, leaky_relu, elu, gelu, got 'tanh'",
        ),
        ({"normalization": "group"}, "normalization must be one of none, batch, layer, got 'group'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1, got 1.0"),
        (
            {"hidden": (3, 4), "residual": True},
            "hidden must have two neighbours of one width for residual=True, got [5, 3, 4]",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        MLP(**{"in_features": 5, "hidden": (3,), "num_classes": 3, **arguments})  # type: ignore[arg-type]
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4, 7), "expected a batch of inputs (B, …) with 6 values each, got (4, 7)"),
        (torch.zeros(6), "expected a batch of inputs (B, …) with 6 values each, got (6,)"),
        (torch.zeros(4, 6, dtype=torch.uint8), "expected inputs of a floating dtype, got torch.uint8"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        MLP(6, (5,), 3)(x)
    assert str(refusal.value) == message


# --- the lecture's claims of networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [(6, 1), (6, 3), (6, 5, 1), (6, 5, 4, 3), (3072, 32, 16, 10)])
def test_the_number_of_parameters_is_that_of_the_formula(widths: tuple[int, ...], bias: bool) -> None:
    model = MLP(widths[0], widths[1:-1], max(widths[-1], 2), bias=bias)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters(widths, bias=bias) == count
    by_layers = [nn.Linear(before, width, bias=bias) for before, width in itertools.pairwise(widths)]
    assert count == sum(parameter.numel() for layer in by_layers for parameter in layer.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_a_neuron_is_its_sum_and_a_layer_the_matrix_of_its_neurons(bias: bool) -> None:
    """w_ij leads from node i to neuron j: the transpose of W[l], whose row j is neuron j's."""
    layer = Dense(4, 3, activation="sigmoid", bias=bias, generator=seeded())
    if layer.bias is not None:
        nn.init.normal_(layer.bias, generator=seeded(1))
    w, b = layer.weight.T.tolist(), [0.0] * 3 if layer.bias is None else layer.bias.tolist()
    x = inputs(5, 4)
    for row, z, a in zip(x.tolist(), layer.preactivation(x).tolist(), layer(x).tolist(), strict=True):
        sums = [sum(w[i][j] * row[i] for i in range(4)) + b[j] for j in range(3)]
        assert z == pytest.approx(sums, rel=1e-5, abs=1e-6)
        assert a == pytest.approx([1 / (1 + math.exp(-total)) for total in sums], rel=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_without_a_non_linearity_a_deep_network_is_one_affine_map(num_classes: int) -> None:
    model = MLP(6, (5, 7, 4), num_classes, activation="identity", generator=seeded()).double()
    weight, shift = torch.eye(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    with torch.no_grad():
        for layer in model.dense_layers():
            assert layer.bias is not None
            layer.bias.normal_(generator=seeded(2))
            weight, shift = layer.weight @ weight, layer.weight @ shift + layer.bias
        single = LogisticRegression(6, num_classes).double()
        single.load_state_dict({"layers.0.weight": weight, "layers.0.bias": shift})
    x = inputs(20, 6).double()
    assert_close(single(x), model(x), rtol=1e-12, atol=1e-13)
    bent = copy.deepcopy(model)
    for layer in bent.dense_layers()[:-1]:
        layer.activation = "relu"
    assert (bent(x) - single(x)).abs().max() > 0.1


@pytest.mark.parametrize("bias", [True, False])
def test_only_a_bias_takes_the_boundary_away_from_the_origin(bias: bool) -> None:
    model = MLP(6, (5,), 2, bias=bias, generator=seeded())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 if parameter.ndim == 1 else 0.0)
    assert bool(model(torch.zeros(1, 6)) == 0) is not bias
    if not bias:  # ReLU keeps a positive factor
        assert_close(model(3.0 * inputs(4, 6)), 3.0 * model(inputs(4, 6)))


@pytest.mark.parametrize("num_classes", [2, 3])
def test_logistic_regression_and_the_network_without_hidden_layer_learn_alike_to_the_bit(num_classes: int) -> None:
    models = LogisticRegression(6, num_classes, generator=seeded()), MLP(6, (), num_classes, generator=seeded(1))
    models[1].load_state_dict(models[0].state_dict())
    x, labels = inputs(50, 6), torch.arange(50) % num_classes
    by_hand = torch.zeros(2 if num_classes == 2 else num_classes, 6)
    weight = models[0].dense_layers()[0].weight.detach()
    by_hand[-len(weight) :] = weight
    assert_close(models[0].predict_proba(x), torch.softmax(x @ by_hand.T, 1))  # a class of score 0 beside the node
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


def test_the_softmax_of_two_nodes_is_the_sigmoid_of_their_difference_so_one_node_does() -> None:
    two = LogisticRegression(6, 3, generator=seeded())
    two.layers[0] = Dense(6, 2, generator=seeded())
    one = LogisticRegression(6, generator=seeded())
    first, second = two.dense_layers()[0].weight.detach()
    with torch.no_grad():
        one.dense_layers()[0].weight.copy_(second - first)
    x = inputs(30, 6)
    assert_close(F.softmax(two(x), 1), one.predict_proba(x))
    assert_close(F.softmax(two(x), 1)[:, 1], F.sigmoid(two(x)[:, 1] - two(x)[:, 0]))


def test_one_export_serves_batches_of_every_size() -> None:
    model, x = MLP(6, (3,), 10, generator=seeded()), inputs(40, 6)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for size in (2, 15, 16, 40):
        assert_close(program(x[:size]), model(x[:size]))
