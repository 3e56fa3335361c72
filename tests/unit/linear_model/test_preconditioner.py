"""The approximate inverses are exact where the curvature is M ⊗ Σ, and close where the features are very wide."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fcnet.linear_model.feature_blocks import FeatureBlocks
from fcnet.linear_model.preconditioner import Curvature, Preconditioner

LAMBDA = torch.tensor([1e-3, 0.5], dtype=torch.float64)


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_features(n: int, d: int, factors: int, noise: float) -> tuple[FeatureBlocks, torch.Tensor]:
    """Returns features of a few factors, and weights."""
    x = draw(n, factors) @ draw(factors, d, seed=2) + noise * draw(n, d, seed=3)
    weight = draw(n, seed=4).abs() + 0.1
    return FeatureBlocks(x, weight, center=True, device=torch.device("cpu")), weight


def covariance(features: FeatureBlocks, weight: torch.Tensor) -> torch.Tensor:
    x = torch.cat([block.to_dense() for _, block in features.blocks(torch.float64)])
    return x.T @ (x * weight[:, None]) / weight.sum()


def draw_curvature(count: int, nodes: int) -> torch.Tensor:
    p = draw(count, 50, nodes, seed=5).softmax(2)
    return torch.diag_embed(p.mean(1)) - p.mT @ p / 50


def test_it_solves_with_the_curvature_of_nodes_and_features() -> None:
    features, weight = make_features(400, 6, 6, 0.5)
    scale = torch.linspace(0.5, 2.0, 6, dtype=torch.float64)
    preconditioner = Preconditioner(features, weight, scale)
    matrices = draw_curvature(2, 3) + 0.01 * torch.eye(3).double()
    grad = draw(2, 3, 7)
    found = preconditioner.multiply(grad, Curvature.of(matrices), LAMBDA)
    sigma = covariance(features, weight)
    for k in range(2):
        whole = torch.kron(matrices[k], sigma) + LAMBDA[k] * torch.eye(18).double() * scale.square().repeat(3)
        # The penalty is the same in the eigenbasis of M, and of Σ relative to the scales.
        expected = torch.linalg.solve(whole, grad[k, :, :-1].flatten()).view(3, 6)
        assert_close(found[k, :, :-1].double(), expected, rtol=1e-4, atol=1e-4)
        intercepts = torch.linalg.solve(matrices[k], grad[k, :, -1])
        assert_close(found[k, :, -1].double(), intercepts, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_diagonal_curvature_is_a_matrix_of_that_diagonal(nodes: int) -> None:
    features, weight = make_features(400, 6, 6, 0.5)
    preconditioner = Preconditioner(features, weight, torch.ones(6).double())
    diagonal = draw(2, nodes, 1).abs() + 0.1
    grad = draw(2, nodes, 7)
    found = preconditioner.multiply(grad, Curvature.of(diagonal), LAMBDA)
    values, basis = torch.linalg.eigh(torch.diag_embed(diagonal[..., 0]))
    assert_close(found, preconditioner.multiply(grad, Curvature(values, basis.float()), LAMBDA), rtol=1e-5, atol=1e-5)


def test_singular_curvature_is_held_above_0() -> None:
    curvature = Curvature.of(torch.zeros(1, 3, 3).double())
    assert (curvature.values > 0.0).all()
    assert (Curvature.of(torch.zeros(1, 3, 1).double()).values > 0.0).all()
    grad = draw(1, 3, 4)
    assert_close(curvature.rotate_back(curvature.rotate(grad)), grad.float())


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_it_solves_with_the_covariance_alone(scale: float) -> None:
    features, weight = make_features(400, 6, 6, 0.5)
    preconditioner = Preconditioner(features, weight, torch.full((6,), scale).double())
    grad = draw(2, 3, 6)
    expected = torch.linalg.solve(covariance(features, weight), grad, left=False)
    assert_close(preconditioner.solve_covariance(grad), expected, rtol=1e-4, atol=1e-4)


def test_very_wide_features_are_a_few_directions_and_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    features, weight = make_features(3000, 60, 5, 0.5)
    exact = Preconditioner(features, weight, torch.ones(60).double())
    monkeypatch.setattr("fcnet.linear_model.preconditioner._MOST_FEATURES", 20)
    monkeypatch.setattr("fcnet.linear_model.preconditioner._RANK", 5)
    wide = Preconditioner(features, weight, torch.ones(60).double())
    grad, curvature = draw(2, 3, 61), Curvature.of(draw_curvature(2, 3) + 0.01 * torch.eye(3).double())
    for found, expected in (
        (wide.multiply(grad, curvature, LAMBDA)[..., :-1], exact.multiply(grad, curvature, LAMBDA)[..., :-1]),
        (wide.solve_covariance(grad[..., :-1]), exact.solve_covariance(grad[..., :-1])),
    ):
        assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.7
        assert 0.5 < found.norm() / expected.norm() < 2.0
        assert ((found * grad[..., :-1]).sum((1, 2)) > 0.0).all()


def test_some_rows_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    features, weight = make_features(4000, 6, 6, 0.5)
    grad = draw(1, 1, 6)
    every = Preconditioner(features, weight, torch.ones(6).double()).solve_covariance(grad)
    monkeypatch.setattr("fcnet.linear_model.preconditioner._MOST_ROWS", 1000)
    some = Preconditioner(features, weight, torch.ones(6).double()).solve_covariance(grad)
    assert not torch.equal(some, every)
    assert (some - every).norm() < 0.2 * every.norm()


def test_equal_columns_do_not_overflow() -> None:
    x = draw(100, 1).expand(100, 4)
    weight = torch.ones(100).double()
    features = FeatureBlocks(x, weight, center=True, device=torch.device("cpu"))
    preconditioner = Preconditioner(features, weight, torch.ones(4).double())
    result = preconditioner.multiply(draw(1, 1, 5), Curvature.of(torch.ones(1, 1, 1).double()), torch.zeros(1).double())
    assert result.isfinite().all()
    assert preconditioner.solve_covariance(draw(1, 1, 4)).isfinite().all()
