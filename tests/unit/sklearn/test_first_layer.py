"""Tests of fcnet.sklearn.first_layer: another standardization changes nothing that the network computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fcnet.models.mlp import MLP
from fcnet.sklearn.first_layer import restandardize
from fcnet.sklearn.scaler import Statistics, compute_statistics


def scale(x: np.ndarray[tuple[int, int], np.dtype[np.float64]], statistics: Statistics) -> torch.Tensor:
    return torch.from_numpy((x - statistics.mean) / statistics.std)


@pytest.mark.parametrize("normalization", ["none", "batch"])
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_the_network_computes_the_same_of_new_statistics(normalization: str, hidden: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3)) * [1.0, 1e3, 1e-3] + [0.0, 1e4, 1.0]
    before, after = compute_statistics(x[:8]), compute_statistics(x)
    model = MLP(3, hidden, 3, normalization=normalization, generator=torch.Generator().manual_seed(0)).double()  # type: ignore[arg-type]
    for _ in range(3):
        model(torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    expected = model.eval()(scale(x, before))
    weight = model.dense_layers()[0].weight.clone()
    restandardize(model, before, after)
    torch.testing.assert_close(model(scale(x, after)), expected)
    assert not torch.equal(model.dense_layers()[0].weight, weight)


def test_a_feature_that_was_constant_keeps_its_weights_and_its_value() -> None:
    x = np.array([[1.0, 7.0], [2.0, 7.0], [3.0, 1e6]])
    before, after = compute_statistics(x[:2]), compute_statistics(x)
    model = MLP(2, (), 2, generator=torch.Generator().manual_seed(0)).double()
    expected, weight = model(scale(x[:2], before)), model.dense_layers()[0].weight[:, 1].clone()
    restandardize(model, before, after)
    torch.testing.assert_close(model(scale(x[:2], after)), expected)
    assert torch.equal(model.dense_layers()[0].weight[:, 1], weight)
