"""Tests of fcnet.diagnostics.diagnosis."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fcnet.functional as F
from fcnet.data.batches import Batches
from fcnet.diagnostics import activation_grads, diagnose, gradient_norms, idle_units, update_ratios
from fcnet.losses import CrossEntropy
from fcnet.models.layers import ACTIVATIONS
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError

LAYER = {
    *("layer", "units", "dead", "saturated", "activation_mean", "activation_std", "histogram"),
    *("weight_norm", "gradient_norm", "effective_rank"),
}


def make_model(**arguments: Any) -> MLP:
    settings: dict[str, Any] = {"hidden": (6, 6), "num_classes": 3} | arguments
    return MLP(20, generator=torch.Generator().manual_seed(1), **settings)


def get_layer(model: MLP, number: int) -> Any:
    """Layer ``number``, from 1; Any, since mypy takes its bias for optional."""
    return model.dense_layers()[number - 1]


def make_images(size: int = 37) -> Tensor:
    return torch.randn(size, 20, generator=torch.Generator().manual_seed(3))


def make_labels(size: int = 37) -> Tensor:
    return torch.arange(size) % 3


# --- idle units ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
def test_dead_units_are_those_that_are_0_for_every_image(residual: bool) -> None:
    model, batches = make_model(residual=residual, hidden=(8, 8)), Batches(make_images(), make_labels(), batch_size=10)
    z = [record.z for record in model.eval().trace(make_images())]
    before = int((z[0] <= 0).all(0).sum())
    with torch.no_grad():
        get_layer(model, 2).bias[2:5] -= z[1][:, 2:5].max(0).values + torch.tensor(
            [0.01, 1e4, -0.01]
        )  # two of these three units are dead
    model.train()
    first, second = idle_units(model, batches)
    assert first == (1, 8, before)
    assert second.num_idle == 2 + int((z[1][:, [0, 1, 5, 6, 7]] <= 0).all(0).sum())
    assert all(module.training for module in model.modules())


def test_saturated_units_are_those_that_are_0_or_1_for_every_image() -> None:
    model = make_model(activation="sigmoid")
    batches = Batches(make_images(), make_labels())
    assert [found.num_idle for found in idle_units(model, batches)] == [0, 0]
    with torch.no_grad():
        get_layer(model, 1).weight[:3].zero_()
        get_layer(model, 1).bias[:3] = torch.tensor([-4.7, 4.7, 4.5])
    assert [found.num_idle for found in idle_units(model, batches)] == [2, 0]  # s(4.5) = 0.989


@pytest.mark.parametrize("settings", [{"activation": "gelu"}, {"hidden": ()}])
def test_other_activations_and_linear_models_have_no_idle_units(settings: dict[str, Any]) -> None:
    assert idle_units(make_model(**settings), Batches(make_images(), make_labels())) == []


# --- gradients, layer by layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"])
def test_activation_grads_are_the_derivatives_by_autograd(activation: str) -> None:
    model = make_model(activation=activation, dropout=0.3)
    grads = activation_grads(model, make_images())
    assert all(module.training for module in model.modules())
    for grad, record in zip(grads, model.eval().trace(make_images())[:-1], strict=True):
        z = record.z.detach().requires_grad_()
        (expected,) = torch.autograd.grad(ACTIVATIONS[activation](z).sum(), z)
        assert_close(grad, expected)


def test_a_linear_model_has_no_activation_grads() -> None:
    assert activation_grads(make_model(hidden=()), make_images()) == []


@pytest.mark.parametrize("settings", [{}, {"hidden": ()}, {"num_classes": 2, "activation": "sigmoid"}])
def test_gradient_norms_are_of_the_mean_loss_and_leave_grad_unchanged(settings: dict[str, Any]) -> None:
    model, target = make_model(**settings), make_labels() % settings.get("num_classes", 3)
    found = gradient_norms(model, make_images(), target, CrossEntropy())
    assert all(parameter.grad is None for parameter in model.parameters())
    (CrossEntropy()(model(make_images()), target) / 37).backward()
    weights = [layer.weight.grad for layer in model.dense_layers()]
    assert found == pytest.approx(
        [float(gradient.square().sum().sqrt()) for gradient in weights if gradient is not None]
    )


def test_gradients_vanish_through_a_deep_sigmoid_network_and_not_through_relu() -> None:
    """Each sigmoid scales the gradient by at most 1/4, and by less where it is saturated."""
    first_over_last = {}
    for activation in ("sigmoid", "relu"):
        norms = gradient_norms(
            make_model(hidden=(20,) * 8, activation=activation), make_images(), make_labels(), CrossEntropy()
        )
        first_over_last[activation] = norms[0] / norms[-1]
    assert first_over_last["sigmoid"] < 1e-3
    assert first_over_last["relu"] > 1e-1


def test_the_gradient_through_a_saturated_layer_obeys_its_bound() -> None:
    model = make_model(activation="sigmoid")
    with torch.no_grad():
        get_layer(model, 2).bias += 20.0
    z = model.trace(make_images())[1].z
    assert (activation_grads(model, make_images())[1] <= F.saturation_bound(z)).all()
    assert gradient_norms(model, make_images(), make_labels(), CrossEntropy())[0] < 1e-6


# --- diagnose -----------------------------------------------------------------------------------------------------


def make_sequential(activation: type[nn.Module] = nn.ReLU) -> Any:
    """A network of torch's modules, in training mode."""
    return nn.Sequential(
        nn.Linear(20, 8),
        nn.BatchNorm1d(8),
        activation(),
        nn.Dropout(0.5),
        nn.Linear(8, 8),
        activation(),
        nn.Linear(8, 3),
    )


def test_frozen_weights_have_no_gradient_norm() -> None:
    model = make_model()
    get_layer(model, 1).weight.requires_grad = False
    norms = [figures.gradient_norm for figures in diagnose(model, make_images(), make_labels(), CrossEntropy()).layers]
    assert norms[0] is None
    assert all(norm is not None and norm > 0.0 for norm in norms[1:])
    assert gradient_norms(model, make_images(), make_labels(), CrossEntropy())[0] == 0.0
    for parameter in model.parameters():
        parameter.requires_grad = False
    assert gradient_norms(model, make_images(), make_labels(), CrossEntropy()) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("model", [make_model(normalization="batch", dropout=0.3), make_sequential()])
def test_diagnose_changes_neither_model_nor_random_state(model: nn.Module) -> None:
    model.train()
    model(make_images()).sum().backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    random_state = torch.get_rng_state()
    with torch.no_grad():
        diagnose(model, make_images(), make_labels(), CrossEntropy())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    after = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(gradients, after, strict=True))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_dead_inputs_are_those_that_are_the_same_in_every_image() -> None:
    x = make_images()
    x[:, :5] = 0.0
    x[:, 5] = 3.0
    x[1:, 6] = 3.0
    assert diagnose(make_model(), x, make_labels(), CrossEntropy()).dead_inputs == 6 / 20
    assert diagnose(make_model(), x[:1], make_labels(1), CrossEntropy()).dead_inputs is None


def test_warnings_come_from_inputs_and_layers() -> None:
    model = make_model(hidden=(10, 10))
    with torch.no_grad():
        get_layer(model, 2).bias[:4] -= 30.0
        get_layer(model, 2).bias[4:] += 30.0
    x = make_images()
    x[:, :11] = 0.0
    inputs, dead = diagnose(model, x, make_labels(), CrossEntropy()).warnings
    assert inputs.startswith("55% of the inputs are the same in every image; ")
    assert dead == "layer 2: 40% of the units are dead; try leaky_relu or a smaller learning rate"


def test_a_record_is_json_with_null_for_nonfinite_values() -> None:
    model = make_model()
    with torch.no_grad():
        get_layer(model, 2).weight[0, 0] = math.nan
    record = json.loads(
        json.dumps(diagnose(model, make_images(), make_labels(), CrossEntropy()).to_dict(), allow_nan=False)
    )
    assert set(record) == {"images", "dead_inputs", "layers", "warnings"}
    first, second, last = record["layers"]
    assert set(first) == LAYER
    assert set(first["histogram"]) == {"low", "high", "counts"}
    assert second["weight_norm"] is second["histogram"] is second["effective_rank"] is last["activation_mean"] is None
    assert record["warnings"][0] == "layer 2: activations contain NaN or inf; try a smaller learning rate"


@pytest.mark.parametrize("function", [diagnose, gradient_norms])
def test_an_empty_batch_is_refused(function: Any) -> None:
    with pytest.raises(UserError, match=r"^images must hold at least one image, got 0$"):
        function(make_model(), make_images(0), make_labels(0), CrossEntropy())


def test_update_ratios_are_relative_to_the_earlier_weights() -> None:
    model = make_sequential()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        model[0].weight.mul_(1.01)
        model[0].bias.mul_(5.0)
    assert update_ratios(model, before) == pytest.approx({"0.weight": 0.01, "4.weight": 0.0, "6.weight": 0.0}, rel=1e-4)
    assert update_ratios(model, {}) == {}
