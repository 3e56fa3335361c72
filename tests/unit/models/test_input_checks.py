"""Tests of fcnet.models.input_checks; tests of fcnet.fit have the sentences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fcnet.models.graph import Graph
from fcnet.models.input_checks import count_classes, input_kind
from fcnet.models.mlp import MLP, LogisticRegression


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (MLP(4, (3,), 5), 5),
        (LogisticRegression(4), 2),
        (Graph(4, [(0, 4), (1, 4)], [4]), 2),
        (nn.Linear(4, 3), 3),
        (nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), 2),
        (nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)), 2),
    ],
)
def test_the_classes_of_a_model_are_counted_without_a_trace(model: nn.Module, expected: int) -> None:
    before, state = torch.get_rng_state(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert count_classes(model, torch.ones(1, 4), "data") == expected
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_a_model_tells_the_device_and_dtype_of_its_inputs() -> None:
    assert input_kind(MLP(4, (), 2).double()) == (torch.device("cpu"), torch.float64)
    assert input_kind(nn.Linear(4, 2, device="meta", dtype=torch.bfloat16)) == (torch.device("meta"), torch.bfloat16)
    assert input_kind(nn.Flatten()) == (torch.device("cpu"), torch.float32)
