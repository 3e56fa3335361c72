"""Tests of fcnet.sklearn.newton: it reaches its tolerance, by a matrix or by products, and says how far it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris

from fcnet.sklearn import newton
from fcnet.sklearn.newton import minimize
from fcnet.sklearn.objective import DenseFeatures, Objective

if TYPE_CHECKING:
    from collections.abc import Callable


def make_objective(decay: float, load: Callable[..., Any] = load_iris, repeats: int = 1) -> Objective:
    x, y = load(return_X_y=True)
    x = np.hstack([x] * repeats)
    std = np.where(x.std(0) > 0.0, x.std(0), 1.0)
    features = DenseFeatures(x, x.mean(0), std, intercept=True)
    return Objective(features, y, len(np.unique(y)), np.ones(len(y)), np.append(np.full(x.shape[1], decay), 0.0))


@pytest.mark.parametrize("by_products", [False, True])
@pytest.mark.parametrize("decay", [1e-2, 1e-6])
def test_the_gradient_falls_to_the_tolerance_in_a_few_steps(
    decay: float, by_products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_products:
        monkeypatch.setattr(newton, "_LARGEST_MATRIX", 0)
    objective = make_objective(decay)
    found = minimize(objective, np.zeros(objective.shape), tol=1e-12, max_iter=100)
    assert found.gradient <= 1e-12
    assert 3 < found.iterations < 30
    np.testing.assert_allclose(found.parameters.sum(0), 0.0, atol=1e-9)  # of all equal minima, the centred one
    assert np.abs(objective.value_and_grad(found.parameters)[1]).max() == found.gradient


def test_matrix_and_products_find_the_same_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = make_objective(1e-3, load_digits)
    by_matrix = minimize(objective, np.zeros(objective.shape), tol=1e-10, max_iter=100)
    monkeypatch.setattr(newton, "_LARGEST_MATRIX", 0)
    by_products = minimize(objective, np.zeros(objective.shape), tol=1e-10, max_iter=100)
    np.testing.assert_allclose(by_products.parameters, by_matrix.parameters, atol=1e-6)


def test_equal_features_share_their_weight_without_a_penalty() -> None:
    objective = make_objective(0.0, repeats=2)
    found = minimize(objective, np.zeros(objective.shape), tol=1e-9, max_iter=100)
    assert found.gradient <= 1e-9
    np.testing.assert_allclose(found.parameters[:, :4], found.parameters[:, 4:8], rtol=1e-3)


def test_a_search_that_may_not_go_on_returns_where_it_is() -> None:
    objective = make_objective(1e-3)
    start = np.zeros(objective.shape)
    none = minimize(objective, start, tol=1e-12, max_iter=0)
    assert none.iterations == 0
    assert not none.parameters.any()
    one = minimize(objective, start, tol=1e-12, max_iter=1)
    two = minimize(objective, start, tol=1e-12, max_iter=2)
    assert (one.iterations, two.iterations) == (1, 2)
    assert one.gradient > two.gradient > 1e-12
    np.testing.assert_allclose(
        minimize(objective, one.parameters, tol=1e-12, max_iter=1).parameters, two.parameters, rtol=1e-9
    )


def test_a_tolerance_below_rounding_ends_the_search_early() -> None:
    objective = make_objective(1e-3)
    found = minimize(objective, np.zeros(objective.shape), tol=0.0, max_iter=1000)
    assert 0.0 < found.gradient < 1e-14
    assert found.iterations < 30


@pytest.mark.parametrize("size", [300.0, 3e4, 1e200])
def test_a_start_that_is_worse_than_zero_costs_no_steps(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for largest in (1000, 0):
        monkeypatch.setattr(newton, "_LARGEST_MATRIX", largest)
        objective = make_objective(1e-4)
        start = size * np.random.default_rng(0).normal(size=objective.shape)
        found = minimize(objective, start, tol=1e-8, max_iter=300)
        assert found.gradient <= 1e-8
        assert found.iterations < 30


def test_the_report_has_every_step_and_falling_values() -> None:
    objective = make_objective(1e-3)
    lines: list[tuple[int, float, float]] = []
    found = minimize(
        objective, np.zeros(objective.shape), tol=1e-8, max_iter=100, report=lambda *line: lines.append(line)
    )
    assert [line[0] for line in lines] == list(range(found.iterations + 1))
    values = [line[1] for line in lines]
    assert values == sorted(values, reverse=True)
    assert lines[-1][2] == found.gradient
