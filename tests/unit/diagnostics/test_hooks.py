"""Tests of fcnet.diagnostics.hooks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fcnet.modules
from fcnet.diagnostics.hooks import trace_layers
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError


def make_images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


class SharedLayer(nn.Module):
    """A network with functional activations that calls one of its layers twice."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.middle, self.first = nn.Linear(6, 3), nn.Linear(6, 6), nn.Linear(20, 6)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.first(x))
        a = torch.relu(self.middle(torch.relu(self.middle(a))))
        logits: Tensor = self.last(a)
        return logits


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "elu"])
@pytest.mark.parametrize("settings", [{}, {"normalization": "batch", "residual": True}, {"num_classes": 2}])
def test_records_of_an_mlp_agree_with_its_trace(activation: str, settings: dict[str, object]) -> None:
    arguments = {"hidden": (6, 6), "num_classes": 3, "activation": activation, "dropout": 0.2} | settings
    model = MLP(20, **arguments).eval()  # type: ignore[arg-type]
    layers, logits = trace_layers(model, make_images(7, 20))
    records = model.trace(make_images(7, 20))
    assert [layer.name for layer in layers] == ["layers.0", "layers.1", "layers.2"]
    assert [layer.weight for layer in layers] == [layer.weight for layer in model.dense_layers()]
    for layer, record in zip(layers[:-1], records, strict=False):
        assert_close(layer.activations(), record.a)
        assert layer.activation_output is not None
        assert_close(layer.activation_output, getattr(fcnet.functional, activation)(record.z))
        assert layer.activation == activation
    assert_close(layers[-1].activations(), records[-1].z)
    assert_close(logits, model(make_images(7, 20)))


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), fcnet.modules.ReLU()])
def test_an_activation_module_belongs_to_the_layer_before_it(relu: nn.Module) -> None:
    first, last = nn.Linear(20, 6), nn.Linear(6, 3)
    model = nn.Sequential(first, nn.BatchNorm1d(6), relu, nn.Dropout(0.5), nn.Sequential(last, nn.Softmax(1))).eval()
    layers, _ = trace_layers(model, make_images(7, 20))
    assert [(layer.name, layer.units, layer.activation) for layer in layers] == [("0", 6, "relu"), ("4.0", 3, None)]
    assert_close(layers[0].activations(), torch.relu(model[1](first(make_images(7, 20)))))


def test_a_functional_activation_is_the_input_of_the_next_layer() -> None:
    model, x = SharedLayer(), make_images(7, 20)
    layers, _ = trace_layers(model, x)
    first = torch.relu(model.first(x))
    middle = torch.relu(model.middle(torch.relu(model.middle(first))))
    assert [(layer.name, layer.activation) for layer in layers] == [("first", None), ("middle", None), ("last", None)]
    assert_close(layers[0].activations(), first)
    assert_close(layers[1].activations(), middle)  # the second call
    assert_close(layers[2].activations(), model.last(middle))


def test_the_units_of_a_convolution_are_its_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(20, 4))
    x = make_images(7, 3, 6, 6)
    layers, _ = trace_layers(model, x)
    assert [(layer.units, tuple(layer.activations().shape)) for layer in layers] == [(5, (7 * 16, 5)), (4, (7, 4))]
    assert_close(layers[0].activations().view(7, 4, 4, 5), torch.relu(model[0](x)).movedim(1, -1))


def test_an_embedding_is_not_a_layer() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    layers, _ = trace_layers(model, torch.randint(9, (7, 3)))
    assert [layer.name for layer in layers] == ["2"]


def test_all_hooks_are_removed_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(20, 6), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError):
        trace_layers(model, make_images(7, 20))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model must have a layer with a weight matrix, got Flatten$"):
        trace_layers(nn.Flatten(), make_images(7, 20))
