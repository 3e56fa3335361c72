"""Rules of fcnet.diagnostics.hooks: the layers of any module, and what goes through them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fcnet.modules
from fcnet.diagnostics.hooks import trace_layers
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


class InFunctions(nn.Module):
    """A network whose activations are functions, and one of whose layers is called twice."""

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
def test_of_an_mlp_it_is_what_trace_says(activation: str, settings: dict[str, object]) -> None:
    arguments = {"hidden": (6, 6), "num_classes": 3, "activation": activation, "dropout": 0.2} | settings
    model = MLP(20, **arguments).eval()  # type: ignore[arg-type]
    layers, logits = trace_layers(model, images(7, 20))
    records = model.trace(images(7, 20))
    assert [layer.name for layer in layers] == ["layers.0", "layers.1", "layers.2"]
    assert [layer.weight for layer in layers] == [layer.weight for layer in model.dense_layers()]
    for layer, record in zip(layers[:-1], records, strict=False):
        assert_close(layer.activations(), record.a)
        assert layer.activation_output is not None
        assert_close(layer.activation_output, getattr(fcnet.functional, activation)(record.z))
        assert layer.activation == activation
    assert_close(layers[-1].activations(), records[-1].z)
    assert_close(logits, model(images(7, 20)))


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), fcnet.modules.ReLU()])
def test_activations_that_are_modules_belong_to_the_layer_before(relu: nn.Module) -> None:
    first, last = nn.Linear(20, 6), nn.Linear(6, 3)
    model = nn.Sequential(first, nn.BatchNorm1d(6), relu, nn.Dropout(0.5), nn.Sequential(last, nn.Softmax(1))).eval()
    layers, _ = trace_layers(model, images(7, 20))
    assert [(layer.name, layer.units, layer.activation) for layer in layers] == [("0", 6, "relu"), ("4.0", 3, None)]
    assert_close(layers[0].activations(), torch.relu(model[1](first(images(7, 20)))))


def test_activations_that_are_functions_are_what_the_next_layer_takes() -> None:
    model, x = InFunctions(), images(7, 20)
    layers, _ = trace_layers(model, x)
    first = torch.relu(model.first(x))
    middle = torch.relu(model.middle(torch.relu(model.middle(first))))
    assert [(layer.name, layer.activation) for layer in layers] == [("first", None), ("middle", None), ("last", None)]
    assert_close(layers[0].activations(), first)
    assert_close(layers[1].activations(), middle)  # of the last call
    assert_close(layers[2].activations(), model.last(middle))


def test_a_convolutions_units_are_its_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(20, 4))
    x = images(7, 3, 6, 6)
    layers, _ = trace_layers(model, x)
    assert [(layer.units, tuple(layer.activations().shape)) for layer in layers] == [(5, (7 * 16, 5)), (4, (7, 4))]
    assert_close(layers[0].activations().view(7, 4, 4, 5), torch.relu(model[0](x)).movedim(1, -1))


def test_what_looks_like_a_matrix_and_is_no_layer_is_left_out() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    layers, _ = trace_layers(model, torch.randint(9, (7, 3)))
    assert [layer.name for layer in layers] == ["2"]


def test_nothing_stays_behind_in_the_model() -> None:
    model = nn.Sequential(nn.Linear(20, 6), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError):
        trace_layers(model, images(7, 20))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_without_a_layer_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model must have a layer with a matrix of weights, got Flatten$"):
        trace_layers(nn.Flatten(), images(7, 20))
