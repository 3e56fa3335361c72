"""Rules of fcnet.diagnostics."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fcnet.functional as F
from fcnet.data.batches import Batches
from fcnet.diagnostics import activation_grads, diagnose, gradient_norms, idle_units, update_ratios
from fcnet.diagnostics.layers import Histogram
from fcnet.losses import CrossEntropy
from fcnet.models.layers import ACTIVATIONS
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError

LAYER = {
    *("layer", "units", "dead", "saturated", "activation_mean", "activation_std", "histogram"),
    *("weight_norm", "gradient_norm", "effective_rank"),
}


def network(**arguments: Any) -> MLP:
    settings: dict[str, Any] = {"hidden": (6, 6), "num_classes": 3} | arguments
    return MLP(20, generator=torch.Generator().manual_seed(1), **settings)


def layer(model: MLP, number: int) -> Any:
    """A layer, from 1, whose parts are known to be there."""
    return model.dense_layers()[number - 1]


def images(size: int = 37) -> Tensor:
    return torch.randn(size, 20, generator=torch.Generator().manual_seed(3))


def labels(size: int = 37) -> Tensor:
    return torch.arange(size) % 3


# --- units that say nothing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
def test_dead_units_are_those_that_are_0_for_every_image(residual: bool) -> None:
    model, batches = network(residual=residual, hidden=(8, 8)), Batches(images(), labels(), batch_size=10)
    z = [record.z for record in model.eval().trace(images())]
    before = int((z[0] <= 0).all(0).sum())
    with torch.no_grad():
        layer(model, 2).bias[2:5] -= z[1][:, 2:5].max(0).values + torch.tensor([0.01, 1e4, -0.01])  # two of three
    model.train()
    first, second = idle_units(model, batches)
    assert first == (1, 8, before)
    assert second.num_idle == 2 + int((z[1][:, [0, 1, 5, 6, 7]] <= 0).all(0).sum())
    assert all(module.training for module in model.modules())


def test_saturated_units_are_those_that_are_0_or_1_for_every_image() -> None:
    model = network(activation="sigmoid")
    batches = Batches(images(), labels())
    assert [found.num_idle for found in idle_units(model, batches)] == [0, 0]
    with torch.no_grad():
        layer(model, 1).weight[:3].zero_()
        layer(model, 1).bias[:3] = torch.tensor([-4.7, 4.7, 4.5])
    assert [found.num_idle for found in idle_units(model, batches)] == [2, 0]  # s(4.5) = 0.989


@pytest.mark.parametrize("settings", [{"activation": "gelu"}, {"hidden": ()}])
def test_without_units_that_can_be_idle_there_are_none(settings: dict[str, Any]) -> None:
    assert idle_units(network(**settings), Batches(images(), labels())) == []


# --- slopes and gradients, layer by layer -----------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"])
def test_slopes_are_the_derivatives_of_the_activations(activation: str) -> None:
    model = network(activation=activation, dropout=0.3)
    found = activation_grads(model, images())
    assert all(module.training for module in model.modules())
    for slope, record in zip(found, model.eval().trace(images())[:-1], strict=True):
        z = record.z.detach().requires_grad_()
        (expected,) = torch.autograd.grad(ACTIVATIONS[activation](z).sum(), z)
        assert_close(slope, expected)


def test_without_hidden_layers_there_are_no_slopes() -> None:
    assert activation_grads(network(hidden=()), images()) == []


@pytest.mark.parametrize("settings", [{}, {"hidden": ()}, {"num_classes": 2, "activation": "sigmoid"}])
def test_gradient_norms_are_those_of_the_mean_loss_and_leave_the_gradients_alone(settings: dict[str, Any]) -> None:
    model, target = network(**settings), labels() % settings.get("num_classes", 3)
    found = gradient_norms(model, images(), target, CrossEntropy())
    assert all(parameter.grad is None for parameter in model.parameters())
    (CrossEntropy()(model(images()), target) / 37).backward()
    weights = [layer.weight.grad for layer in model.dense_layers()]
    assert found == pytest.approx(
        [float(gradient.square().sum().sqrt()) for gradient in weights if gradient is not None]
    )


def test_gradients_vanish_through_a_deep_sigmoid_network_and_not_through_relu() -> None:
    """Every sigmoid divides by four at least, and its slope is less where it saturates."""
    first_over_last = {}
    for activation in ("sigmoid", "relu"):
        norms = gradient_norms(network(hidden=(20,) * 8, activation=activation), images(), labels(), CrossEntropy())
        first_over_last[activation] = norms[0] / norms[-1]
    assert first_over_last["sigmoid"] < 1e-3
    assert first_over_last["relu"] > 1e-1


def test_a_saturated_layer_passes_on_no_more_than_its_bound() -> None:
    model = network(activation="sigmoid")
    with torch.no_grad():
        layer(model, 2).bias += 20.0
    z = model.trace(images())[1].z
    assert (activation_grads(model, images())[1] <= F.saturation_bound(z)).all()
    assert gradient_norms(model, images(), labels(), CrossEntropy())[0] < 1e-6


# --- a whole network in figures ---------------------------------------------------------------------------------


def modules(activation: type[nn.Module] = nn.ReLU) -> Any:
    """A network of torch's own, as others build theirs, in training mode."""
    return nn.Sequential(
        nn.Linear(20, 8),
        nn.BatchNorm1d(8),
        activation(),
        nn.Dropout(0.5),
        nn.Linear(8, 8),
        activation(),
        nn.Linear(8, 3),
    )


class Functions(nn.Module):
    """The same with an activation that is a function, which has no name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(20, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.relu(self.first(x)))
        return logits


def test_dead_units_are_counted_as_idle_units_counts_them() -> None:
    for activation, figure in (("relu", "dead"), ("sigmoid", "saturated")):
        model = network(activation=activation, hidden=(8, 8), residual=True)
        with torch.no_grad():
            layer(model, 2).bias[1:4] -= 100.0
        seen = diagnose(model, images(), labels(), CrossEntropy()).layers
        expected = [idle.num_idle / 8 for idle in idle_units(model, Batches(images(), labels()))]
        assert expected[1] >= 3 / 8
        assert [getattr(figures, figure) for figures in seen[:-1]] == expected
        assert all(getattr(figures, {"dead": "saturated", "saturated": "dead"}[figure]) is None for figures in seen)
        assert (seen[-1].dead, seen[-1].saturated, seen[-1].activation) == (None, None, None)


@pytest.mark.parametrize("activation", ["identity", "leaky_relu", "elu", "gelu"])
def test_where_the_activation_has_no_idle_units_there_is_no_share_of_them(activation: str) -> None:
    seen = diagnose(network(activation=activation), images(), labels(), CrossEntropy()).layers
    assert all((figures.dead, figures.saturated) == (None, None) for figures in seen)


def test_modules_of_torchs_have_dead_and_saturated_units_too() -> None:
    for activation, expected in ((nn.ReLU, (0.25, None)), (nn.Tanh, (None, 0.25)), (nn.SiLU, (None, None))):
        model = modules(activation)
        with torch.no_grad():
            model[4].weight[2:4].zero_()
            model[4].bias.copy_(torch.tensor([9.0, 9.0, -9.0, -9.0, 9.0, 9.0, 9.0, 9.0]) * (activation is not nn.Tanh))
            model[4].bias[2:4] = -9.0
        figures = diagnose(model, images(), labels(), CrossEntropy()).layers[1]
        assert (figures.dead, figures.saturated) == expected


def test_of_an_activation_without_a_name_the_units_are_dead_that_always_say_the_same() -> None:
    model = Functions()
    with torch.no_grad():
        model.first.weight[:3].zero_()
        model.first.bias.copy_(torch.tensor([-1.0, -1.0, 0.7] + [9.0] * 5))
    first, last = diagnose(model, images(), labels(), CrossEntropy()).layers
    assert (first.dead, first.saturated, first.activation, last.dead) == (3 / 8, None, None, None)
    assert diagnose(model, images(1), labels(1), CrossEntropy()).layers[0].dead is None


def test_activations_are_told_by_their_mean_deviation_and_histogram() -> None:
    model = network(residual=True, normalization="layer")
    seen = diagnose(model, images(), labels(), CrossEntropy()).layers
    records = model.eval().trace(images())
    for figures, values in zip(seen, [records[0].a, records[1].a, records[2].z], strict=True):
        numbers = values.detach().double().numpy()
        assert figures.units == numbers.shape[1]
        assert figures.activation_mean == pytest.approx(numbers.mean(), abs=1e-6)
        assert figures.activation_std == pytest.approx(numbers.std(), rel=1e-5)
        assert figures.histogram is not None
        low, high, counts = figures.histogram.low, figures.histogram.high, figures.histogram.counts
        assert [low, high] == pytest.approx([numbers.min(), numbers.max()])
        assert (len(counts), sum(counts)) == (32, numbers.size)
        ours, theirs = np.cumsum(counts), np.cumsum(np.histogram(numbers, bins=32)[0])
        assert abs(ours - theirs).max() <= 1  # a value on a border may be rounded over it


def test_activations_of_modules_of_torchs_are_those_after_the_activation() -> None:
    model = modules(nn.Sigmoid)
    first = diagnose(model, images(), labels(), CrossEntropy()).layers[0]
    values = model.eval()[:3](images()).detach().double()
    assert first.activation_mean == pytest.approx(values.mean().item(), rel=1e-5)
    assert first.activation_std == pytest.approx(values.std(correction=0).item(), rel=1e-5)


def test_a_histogram_of_one_value_has_a_width() -> None:
    model = nn.Linear(20, 4)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.fill_(2.0)
    (figures,) = diagnose(model, images(), labels(), CrossEntropy()).layers
    assert figures.histogram == Histogram(1.5, 2.5, (0,) * 16 + (37 * 4,) + (0,) * 15)
    assert (figures.activation_std, figures.effective_rank) == (0.0, 0.0)


@pytest.mark.parametrize("model", [network(), network(normalization="batch", dropout=0.3), modules(), Functions()])
def test_weights_and_gradients_are_told_by_their_norms(model: nn.Module) -> None:
    seen = diagnose(model, images(), labels(), CrossEntropy()).layers
    assert [figures.gradient_norm for figures in seen] == gradient_norms(model, images(), labels(), CrossEntropy())
    model.eval()
    (CrossEntropy()(model(images()), labels()) / 37).backward()
    weights = dict(model.named_parameters())
    for figures in seen:
        weight = weights[f"{figures.name}.weight"]
        assert weight.grad is not None
        assert figures.weight_norm == pytest.approx(float(weight.detach().square().sum().sqrt()))
        assert figures.gradient_norm == pytest.approx(float(weight.grad.square().sum().sqrt()))
        spectrum = torch.linalg.svdvals(weight.detach())
        share = spectrum / spectrum.sum()
        assert figures.effective_rank == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-4)
        assert figures.stable_rank == pytest.approx(float((spectrum**2).sum() / spectrum[0] ** 2), rel=1e-4)
        assert figures.max_rank == min(weight.shape)
        weight.grad = None
    model.train()


def test_weights_that_are_not_trained_have_no_gradient() -> None:
    model = network()
    layer(model, 1).weight.requires_grad = False
    norms = [figures.gradient_norm for figures in diagnose(model, images(), labels(), CrossEntropy()).layers]
    assert norms[0] is None
    assert all(norm is not None and norm > 0.0 for norm in norms[1:])
    assert gradient_norms(model, images(), labels(), CrossEntropy())[0] == 0.0
    for parameter in model.parameters():
        parameter.requires_grad = False
    assert gradient_norms(model, images(), labels(), CrossEntropy()) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("model", [network(normalization="batch", dropout=0.3), modules()])
def test_looking_changes_nothing(model: nn.Module) -> None:
    model.train()
    model(images()).sum().backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    drawn = torch.get_rng_state()
    with torch.no_grad():
        diagnose(model, images(), labels(), CrossEntropy())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(gradients, after, strict=True))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_dead_inputs_are_those_that_are_the_same_in_every_image() -> None:
    x = images()
    x[:, :5] = 0.0
    x[:, 5] = 3.0
    x[1:, 6] = 3.0
    assert diagnose(network(), x, labels(), CrossEntropy()).dead_inputs == 6 / 20
    assert diagnose(network(), x[:1], labels(1), CrossEntropy()).dead_inputs is None


def test_what_is_wrong_is_said() -> None:
    model = network(hidden=(10, 10))
    with torch.no_grad():
        layer(model, 2).bias[:4] -= 30.0
        layer(model, 2).bias[4:] += 30.0
    x = images()
    x[:, :11] = 0.0
    inputs, dead = diagnose(model, x, labels(), CrossEntropy()).warnings
    assert inputs.startswith("55 % of the inputs are the same in every image; ")
    assert dead == "layer 2: 40 % of the units are dead; try leaky_relu or a smaller learning rate"


def test_a_record_is_json_and_has_null_for_what_is_no_number() -> None:
    model = network()
    with torch.no_grad():
        layer(model, 2).weight[0, 0] = math.nan
    record = json.loads(json.dumps(diagnose(model, images(), labels(), CrossEntropy()).to_dict(), allow_nan=False))
    assert set(record) == {"images", "dead_inputs", "layers", "warnings"}
    first, second, last = record["layers"]
    assert set(first) == LAYER
    assert set(first["histogram"]) == {"low", "high", "counts"}
    assert second["weight_norm"] is second["histogram"] is second["effective_rank"] is last["activation_mean"] is None
    assert record["warnings"][0] == "layer 2: NaN or inf among its activations; try a smaller learning rate"


@pytest.mark.parametrize("look", [diagnose, gradient_norms])
def test_without_images_there_is_nothing_to_see(look: Any) -> None:
    with pytest.raises(UserError, match=r"^a network can be looked into with at least one image, got 0$"):
        look(network(), images(0), labels(0), CrossEntropy())


def test_an_update_is_told_beside_the_weights_that_it_moved() -> None:
    model = modules()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        model[0].weight.mul_(1.01)
        model[0].bias.mul_(5.0)
    assert update_ratios(model, before) == pytest.approx({"0.weight": 0.01, "4.weight": 0.0, "6.weight": 0.0}, rel=1e-4)
    assert update_ratios(model, {}) == {}
