"""Rules of fcnet.diagnostics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import fcnet.functional as F
from fcnet.data.batches import Batches
from fcnet.diagnostics import gradient_norms, idle_units, slopes
from fcnet.losses import CrossEntropy
from fcnet.models import ACTIVATIONS, MLP


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
    assert second.idle == 2 + int((z[1][:, [0, 1, 5, 6, 7]] <= 0).all(0).sum())
    assert all(module.training for module in model.modules())


def test_saturated_units_are_those_that_are_0_or_1_for_every_image() -> None:
    model = network(activation="sigmoid")
    batches = Batches(images(), labels())
    assert [found.idle for found in idle_units(model, batches)] == [0, 0]
    with torch.no_grad():
        layer(model, 1).weight[:3].zero_()
        layer(model, 1).bias[:3] = torch.tensor([-4.7, 4.7, 4.5])
    assert [found.idle for found in idle_units(model, batches)] == [2, 0]  # s(4.5) = 0.989


@pytest.mark.parametrize("settings", [{"activation": "gelu"}, {"hidden": ()}])
def test_without_units_that_can_be_idle_there_are_none(settings: dict[str, Any]) -> None:
    assert idle_units(network(**settings), Batches(images(), labels())) == []


# --- slopes and gradients, layer by layer -----------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"])
def test_slopes_are_the_derivatives_of_the_activations(activation: str) -> None:
    model = network(activation=activation, dropout=0.3)
    found = slopes(model, images())
    assert all(module.training for module in model.modules())
    for slope, record in zip(found, model.eval().trace(images())[:-1], strict=True):
        z = record.z.detach().requires_grad_()
        (expected,) = torch.autograd.grad(ACTIVATIONS[activation](z).sum(), z)
        assert_close(slope, expected)


def test_without_hidden_layers_there_are_no_slopes() -> None:
    assert slopes(network(hidden=()), images()) == []


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
    assert (slopes(model, images())[1] <= F.saturation_bound(z)).all()
    assert gradient_norms(model, images(), labels(), CrossEntropy())[0] < 1e-6
