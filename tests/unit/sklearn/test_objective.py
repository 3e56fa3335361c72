"""Tests of fcnet.sklearn.objective: value, gradient and second derivatives equal autograd's, dense and sparse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

from fcnet.sklearn.objective import DenseFeatures, Objective, SparseFeatures

CASES = [(classes, intercept) for classes in (2, 4) for intercept in (False, True)]


def make_problem(num_classes: int, *, intercept: bool, is_sparse: bool) -> tuple[Objective, Any]:
    """Returns an objective, and the same as a function for autograd, written from its definition."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3)) * [1.0, 100.0, 1.0] * (rng.random((30, 3)) < 0.6)
    mean, std, weight = rng.normal(size=3), np.array([0.5, 80.0, 2.0]), rng.uniform(0.5, 3.0, 30)
    labels, penalty = rng.integers(num_classes, size=30), np.append([0.1, 0.2, 0.3], [0.0] * intercept)
    make = SparseFeatures if is_sparse else DenseFeatures
    features = make(scipy.sparse.csr_array(x) if is_sparse else x, mean, std, intercept=intercept)
    standardized = torch.from_numpy(np.hstack([(x - mean) / std, np.ones((30, int(intercept)))]))

    def value(parameters: torch.Tensor) -> torch.Tensor:
        logits = standardized @ parameters.T
        if num_classes == 2:
            logits = torch.hstack([torch.zeros_like(logits), logits])
        losses = torch.logsumexp(logits, 1) - logits[torch.arange(30), torch.from_numpy(labels)]
        weighted = (torch.from_numpy(weight) * losses).sum() / weight.sum()
        penalized: torch.Tensor = weighted + 0.5 * (torch.from_numpy(penalty) * parameters**2).sum()
        return penalized

    return Objective(features, labels, num_classes, weight, penalty), value


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize(("num_classes", "intercept"), CASES)
def test_derivatives_equal_those_of_autograd(num_classes: int, intercept: bool, is_sparse: bool) -> None:
    objective, expected = make_problem(num_classes, intercept=intercept, is_sparse=is_sparse)
    rng = np.random.default_rng(1)
    point, direction = rng.normal(size=objective.shape), rng.normal(size=objective.shape)
    value, grad, logits = objective.value_and_grad(point)
    at = torch.from_numpy(point)
    hessian = torch.autograd.functional.hessian(expected, at).numpy()
    np.testing.assert_allclose(value, expected(at).item(), rtol=1e-12)
    np.testing.assert_allclose(grad, torch.autograd.functional.jacobian(expected, at).numpy(), rtol=1e-9, atol=1e-12)
    curvature = objective.curvature(logits)
    np.testing.assert_allclose(curvature.matrix().reshape(hessian.shape), hessian, rtol=1e-9, atol=1e-12)
    product = np.einsum("kdjc,jc->kd", hessian, direction)
    np.testing.assert_allclose(curvature.multiply(direction), product, rtol=1e-9, atol=1e-12)
    diagonal = np.diag(hessian.reshape(point.size, -1)).reshape(point.shape)
    np.testing.assert_allclose(curvature.diagonal(), diagonal, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_curvature_of_confident_examples_keeps_its_digits(num_classes: int) -> None:
    features = DenseFeatures(np.ones((1, 1)), np.zeros(1), np.ones(1), intercept=False)
    objective = Objective(features, np.zeros(1, np.int64), num_classes, np.ones(1), np.zeros(1))
    logits = np.array([[-50.0]]) if num_classes == 2 else np.array([[50.0, 0.0, -np.inf]])
    expected = np.exp(-50.0)
    np.testing.assert_allclose(objective.curvature(logits).diagonal()[0], expected, rtol=1e-12)
