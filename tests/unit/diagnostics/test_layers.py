"""Tests of fcnet.diagnostics.layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fcnet.data.batches import Batches
from fcnet.diagnostics import diagnose, gradient_norms, idle_units
from fcnet.diagnostics.layers import Histogram
from fcnet.losses import CrossEntropy
from fcnet.models.mlp import MLP


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


class FunctionalActivation(nn.Module):
    """A network whose activation is a function, so that its name is unknown."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(20, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.relu(self.first(x)))
        return logits


def test_dead_and_saturated_fractions_agree_with_idle_units() -> None:
    for activation, figure in (("relu", "dead"), ("sigmoid", "saturated")):
        model = make_model(activation=activation, hidden=(8, 8), residual=True)
        with torch.no_grad():
            get_layer(model, 2).bias[1:4] -= 100.0
        seen = diagnose(model, make_images(), make_labels(), CrossEntropy()).layers
        expected = [idle.num_idle / 8 for idle in idle_units(model, Batches(make_images(), make_labels()))]
        assert expected[1] >= 3 / 8
        assert [getattr(figures, figure) for figures in seen[:-1]] == expected
        assert all(getattr(figures, {"dead": "saturated", "saturated": "dead"}[figure]) is None for figures in seen)
        assert (seen[-1].dead, seen[-1].saturated, seen[-1].activation) == (None, None, None)


@pytest.mark.parametrize("activation", ["identity", "leaky_relu", "elu", "gelu"])
def test_other_activations_have_no_dead_or_saturated_fraction(activation: str) -> None:
    seen = diagnose(make_model(activation=activation), make_images(), make_labels(), CrossEntropy()).layers
    assert all((figures.dead, figures.saturated) == (None, None) for figures in seen)


def test_torch_modules_have_dead_and_saturated_fractions() -> None:
    for activation, expected in ((nn.ReLU, (0.25, None)), (nn.Tanh, (None, 0.25)), (nn.SiLU, (None, None))):
        model = make_sequential(activation)
        with torch.no_grad():
            model[4].weight[2:4].zero_()
            model[4].bias.copy_(torch.tensor([9.0, 9.0, -9.0, -9.0, 9.0, 9.0, 9.0, 9.0]) * (activation is not nn.Tanh))
            model[4].bias[2:4] = -9.0
        figures = diagnose(model, make_images(), make_labels(), CrossEntropy()).layers[1]
        assert (figures.dead, figures.saturated) == expected


def test_units_of_an_unknown_activation_are_dead_if_they_are_constant() -> None:
    model = FunctionalActivation()
    with torch.no_grad():
        model.first.weight[:3].zero_()
        model.first.bias.copy_(torch.tensor([-1.0, -1.0, 0.7] + [9.0] * 5))
    first, last = diagnose(model, make_images(), make_labels(), CrossEntropy()).layers
    assert (first.dead, first.saturated, first.activation, last.dead) == (3 / 8, None, None, None)
    assert diagnose(model, make_images(1), make_labels(1), CrossEntropy()).layers[0].dead is None


def test_mean_deviation_and_histogram_agree_with_numpy() -> None:
    model = make_model(residual=True, normalization="layer")
    seen = diagnose(model, make_images(), make_labels(), CrossEntropy()).layers
    records = model.eval().trace(make_images())
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


def test_torch_modules_are_measured_after_the_activation() -> None:
    model = make_sequential(nn.Sigmoid)
    first = diagnose(model, make_images(), make_labels(), CrossEntropy()).layers[0]
    values = model.eval()[:3](make_images()).detach().double()
    assert first.activation_mean == pytest.approx(values.mean().item(), rel=1e-5)
    assert first.activation_std == pytest.approx(values.std(correction=0).item(), rel=1e-5)


def test_a_histogram_of_one_value_has_a_width() -> None:
    model = nn.Linear(20, 4)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.fill_(2.0)
    (figures,) = diagnose(model, make_images(), make_labels(), CrossEntropy()).layers
    assert figures.histogram == Histogram(1.5, 2.5, (0,) * 16 + (37 * 4,) + (0,) * 15)
    assert (figures.activation_std, figures.effective_rank) == (0.0, 0.0)


@pytest.mark.parametrize(
    "model", [make_model(), make_model(normalization="batch", dropout=0.3), make_sequential(), FunctionalActivation()]
)
def test_norms_and_ranks_agree_with_torch(model: nn.Module) -> None:
    seen = diagnose(model, make_images(), make_labels(), CrossEntropy()).layers
    assert [figures.gradient_norm for figures in seen] == gradient_norms(
        model, make_images(), make_labels(), CrossEntropy()
    )
    model.eval()
    (CrossEntropy()(model(make_images()), make_labels()) / 37).backward()
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
