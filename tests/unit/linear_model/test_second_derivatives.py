"""Second derivatives of the cross-entropy equal autograd's, and keep the digits of confident examples."""

from __future__ import annotations

import pytest
import torch

from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.second_derivatives import product_sums, second_derivative_sums


def blocks(x: torch.Tensor) -> FeatureBlocks:
    """Returns features with the mean 0 and the standard deviation 1."""
    weight = torch.ones(len(x), dtype=torch.float64)
    return FeatureBlocks(x, weight, center=True, device=torch.device("cpu"))


@pytest.mark.parametrize("nodes", [1, 4])
def test_they_equal_those_of_autograd(nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnet.linear_model.feature_blocks._BLOCK_VALUES", 1)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 3, generator=g, dtype=torch.float64)
    weight = torch.rand(300, generator=g, dtype=torch.float64)
    points = torch.randn(2, nodes, 4, generator=g, dtype=torch.float64)
    features = blocks(x)
    ones = torch.ones(300, 1, dtype=torch.float64)
    standardized = torch.cat([(x - features.mean) / features.std, ones], 1)

    def losses(flat: torch.Tensor) -> torch.Tensor:
        logits = standardized @ flat.view(nodes, 4).T
        if nodes == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return (weight * (torch.logsumexp(logits, 1) - logits[:, 0])).sum()

    found = second_derivative_sums(features, weight, points)
    directions = torch.randn(points.shape, generator=g, dtype=torch.float64)
    products = (found @ directions.view(2, -1, 1)).view_as(points)
    torch.testing.assert_close(product_sums(features, weight, points, directions), products, rtol=1e-9, atol=1e-9)
    for matrix, point in zip(found, points, strict=True):
        expected = torch.autograd.functional.hessian(losses, point.flatten())
        torch.testing.assert_close(matrix, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nodes", [1, 3])
def test_confident_examples_keep_their_digits(nodes: int) -> None:
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    point = torch.zeros(1, nodes, 2, dtype=torch.float64)
    point[0, 0, 1] = 50.0 if nodes > 1 else -50.0
    found = second_derivative_sums(blocks(x), torch.ones(2, dtype=torch.float64), point)
    # p (1 − p) of the confident class, with 1 − p the sum of the others
    expected = torch.full((2,), 2.0 * max(nodes - 1, 1), dtype=torch.float64) * torch.tensor(-50.0).double().exp()
    torch.testing.assert_close(found[0].diagonal()[:2], expected, rtol=1e-12, atol=0.0)
